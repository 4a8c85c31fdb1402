"""Files that tell of one checkpoint beside it: ``model_3.json``, ``epoch_3.yaml``, ``metrics_epoch_3.json``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.log_rows import flat, rows_of
from epsopt.zoo.layouts.parsed import Row, RunMetadata
from epsopt.zoo.layouts.training_state import HYPERPARAMETERS, METRICS

_CHECKPOINT = re.compile(r"(.+)\.(?:pt|pth|ckpt|safetensors)(?:\.tar)?", re.IGNORECASE)
_SIDE = re.compile(r"(.+)\.(?:json|ya?ml)", re.IGNORECASE)
_SET = r"(?:val|valid|validation|dev|test|eval|train|training)"
_WORD = rf"(?:{_SET}[_.-])?(?:metrics?|results?|scores?|evaluation|eval|stats)"
_MOMENT = r"(?:(epoch|ep|step|iter|iteration|checkpoint|ckpt)[_=.-]?)?(\d{1,15})"
_NUMBERED = re.compile(rf"{_WORD}[_=.-]?{_MOMENT}|{_MOMENT}[_=.-]{_WORD}", re.IGNORECASE)
_LOSSES = "loss_dict"
_MOMENT_OF_STATE = frozenset("epoch step tag lr lrs cv_loss save_time save_interval".split())
_STEPS = frozenset(("step", "iter", "iteration"))


def own_files(held: Sequence[Path], folders: Folders, taken: Collection[str]) -> list[Path]:
    """Return the files in folders of checkpoints that are named as one of these is, or by its number.

    Args:
        held: folders that hold a run's checkpoints.
        folders: what lies where.
        taken: names that mean something else.
    """
    found = []
    for folder in held:
        names = sorted(folders.names(folder))
        stems = {m[1] for name in names if (m := _CHECKPOINT.fullmatch(name))}
        numbers = {int(n) for stem in stems for n in re.findall(r"\d{1,15}", stem)}
        for name in names:
            stem = _SIDE.fullmatch(name)
            if stem is None or name in taken:
                continue
            place = moment_of(Path(name))
            if stem[1] in stems or (place is not None and place[1] in numbers):
                found.append(folder / name)
    return found


def moment_of(file: Path) -> tuple[bool, int] | None:
    """Return whether a file's name counts steps, and its number; None where its name is not that of a measurement."""
    found = _NUMBERED.fullmatch(file.stem)
    if found is None:
        return None
    word, number = (found[1], found[2]) if found[2] else (found[3], found[4])
    return (word or "").lower() in _STEPS, int(number)


def take(metadata: RunMetadata, file: Path, tree: Any) -> None:
    """Take what such a file says: metrics of the checkpoint that its name tells, and hyperparameters of the run.

    Args:
        metadata: of the run.
        file: as :func:`own_files` returned it.
        tree: what it holds.
    """
    if not isinstance(tree, Mapping):
        return
    configs = [key for key in tree if key in HYPERPARAMETERS and isinstance(tree[key], Mapping)]
    for key in configs:
        metadata.hyperparameters = {**flat(tree[key]), **metadata.hyperparameters}
    name = next((key for key in (*METRICS, _LOSSES) if isinstance(tree.get(key), Mapping)), None)
    measured = None if name is None else tree[name]
    rest = {key: value for key, value in tree.items() if key not in configs}
    if name is not None and any(isinstance(value, Mapping) for key, value in rest.items() if key != name):
        # A whole configuration with what was measured in it, as WeNet keeps one for each checkpoint.
        setup = {key: value for key, value in rest.items() if key not in _MOMENT_OF_STATE and key != name}
        metadata.hyperparameters = {**flat(setup), **metadata.hyperparameters}
    place = moment_of(file)
    for row in rows_of([rest if measured is None else measured]):
        if place is None:
            metadata.own.setdefault(str(file.with_suffix("")), {}).update(row.metrics)
        else:
            by_step, number = place
            metadata.rows.append(Row(None if by_step else number, number if by_step else row.step, row.metrics))
