"""What the commands that mix weights show alike: coefficients, files, and whether metrics are predicted or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.zoo.decoding.recombination import Recombination
    from epsopt.zoo.records import Checkpoint


def suffix_for(form: str | None, parents: Sequence[Checkpoint]) -> str:
    """Return the suffix of saved files: as asked, else like the parents'."""
    if form is not None:
        return f".{form}"
    return ".safetensors" if all(Path(p.path).suffix == ".safetensors" for p in parents) else ".pt"


def free_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return files in a folder, none of which is there yet: said before anything is computed.

    Raises:
        UsageError: one is there, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder to save checkpoints in")
    files = [folder / name for name in names]
    taken = [f for f in files if f.exists() or f.is_symlink()]
    if taken:
        raise UsageError(f"{taken[0]} is there already: name another folder, nothing is written over")
    return files


def new_folder(runs: Path, name: str) -> Path:
    """Return the first folder ``NAME_001``, ``NAME_002``, ... in a runs folder that is not there yet.

    Raises:
        UsageError: the runs lie behind a URL, where nothing is written.
    """
    from epsopt.zoo.reading.remote import RemotePath

    if isinstance(runs, RemotePath):
        raise UsageError(f"the runs lie behind a URL ({runs}): say with --save where checkpoints are written")
    number = 1
    while (runs / f"{name}_{number:03d}").exists():
        number += 1
    return runs / f"{name}_{number:03d}"


def recombination_json(recombination: Recombination, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return parents, coefficients and groups as JSON values."""
    return {
        "groups": list(recombination.groups),
        "parents": [
            {
                "checkpoint": labels.get(p.sha256),
                "path": p.path,
                "sha256": p.sha256,
                "coefficients": [row[i] for row in recombination.coefficients],
            }
            for i, p in enumerate(recombination.parents)
        ],
    }
