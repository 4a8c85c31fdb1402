"""Which checkpoint runs started from, as their configurations name it: a file that is there, outside their folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit

from epsopt.studies.project.model_folder import model_of
from epsopt.zoo.layouts.plain import BASE, RESUMED

if TYPE_CHECKING:
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.types import Checkpoint, Lineage

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pt.tar", ".pth.tar", ".ckpt.tar")
_FOLDERS = frozenset(
    (*BASE, "base_model", "model_name_or_path", "pretrained_model_name_or_path", "pretrained_path", "from_pretrained")
) - frozenset(RESUMED)
_ABOVE = 3  # folders above a checkpoint that a relative path may start from
_MOST = 0.5  # of the runs name it, at least: fewer, and it is not what runs start from


@dataclass(frozen=True)
class FoundBase:
    """A checkpoint that runs name.

    Attributes:
        path: of the file, absolute.
        key: of the configuration that names it.
        runs: how many runs do.
    """

    path: Path
    key: str
    runs: int


def find_base(
    configurations: Sequence[Mapping[str, Any]], checkpoints: Sequence[Path], runs: Path, folder: Path
) -> list[FoundBase]:
    """Find the checkpoints that runs name in their configurations and that lie outside the folder of runs.

    Args:
        configurations: of each run, flattened with dots.
        checkpoints: one of each of the same runs; a path may be relative to a folder above it.
        runs: the folder of runs.
        folder: of the project; a path may be relative to it, or to the current folder.

    Returns:
        Those that are there, the one that most runs name first; none is what fewer than half of the runs name in all.
    """
    named: Counter[tuple[Path, str]] = Counter()
    inside = runs.resolve()
    for configuration, checkpoint in zip(configurations, checkpoints, strict=True):
        for key, value in configuration.items():
            names_file = isinstance(value, str) and value.lower().endswith(SUFFIXES)
            # A folder of save_pretrained is a base under a name that says so; others are data, or the run's own.
            if names_file or (isinstance(value, str) and value and re.split(r"[./]", key)[-1] in _FOLDERS):
                found = _file(value, checkpoint, folder)
                if found is not None and not found.is_relative_to(inside):
                    named[found, key] += 1
    best: dict[Path, FoundBase] = {}
    for (path, key), times in named.most_common():
        best.setdefault(path, FoundBase(path, key, times))
    enough = sum(b.runs for b in best.values()) >= _MOST * len(configurations)
    return list(best.values()) if enough else []


def lack_of_base(project: Project) -> str | None:
    """Say what is wrong with the base that the project file names; None: nothing, or it names none."""
    base = project.base
    if base is None or base.is_file():
        return None
    if base.is_dir():
        return f"{base} is a folder without a checkpoint that stands for it: name the file of the base checkpoint"
    return f"{base} is no file, expected the base checkpoint"


def base_to_name(
    project: Project | None, checkpoints: Sequence[Checkpoint], known: Sequence[Lineage]
) -> FoundBase | None:
    """Return the base that runs name, where neither the project file says it nor their lineages go by it.

    Args:
        project: what epsopt.toml says; None: there is none.
        checkpoints: of the catalogue.
        known: lineages of the catalogue.

    Returns:
        None, too, where runs name several: one of them is not what all start from.
    """
    if project is None or project.base is not None or not isinstance(project.runs, type(Path())):
        return None
    runs = list({c.run_id: c for c in checkpoints}.values())
    found = find_base([c.hyperparameters for c in runs], [Path(c.path) for c in runs], project.runs, project.folder)
    likely = [b for b in found if b.key.rpartition(".")[2] in BASE] or found
    declared = {k.reference_path for k in known if k.declared}
    return likely[0] if len(likely) == 1 and str(likely[0].path) not in declared else None


def base_line(found: FoundBase, folder: Path) -> str:
    """Return the line of epsopt.toml that names a base, relative to the project's folder when it lies below it."""
    path, folder = found.path, folder.resolve()
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    return f"[lineage] base = {tomlkit.item(name).as_string()}"


def _file(value: str, checkpoint: Path, folder: Path) -> Path | None:
    places = (*checkpoint.parents[:_ABOVE], folder, Path.cwd())
    for candidate in (place / value for place in places):
        try:
            model = model_of(candidate)
            if model.is_file():
                return model.resolve()
        except (OSError, ValueError):
            return None
    return None
