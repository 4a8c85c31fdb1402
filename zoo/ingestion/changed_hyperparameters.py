"""Runs whose checkpoints say different hyperparameters: changed half-way, or two trainings in one folder.

A run has one set of hyperparameters, that of its newest checkpoint. Where an earlier one says something else, what was
measured on it is learned from under values that it was not trained with, so the run is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sqlalchemy import func, select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.tables import checkpoints, runs
from epsopt.zoo.errors import Failure
from epsopt.zoo.layouts.parsed import RECOMBINED
from epsopt.zoo.reading.text import visible

_RESUMING = frozenset(
    """checkpoint ckpt date debug device devices dir directory epoch epochs file folder gpu gpus host hostname id init
    iter iteration iterations iters job log logger name note notes num output path pid port rank resume resumed root
    save seed start step steps tag tags time timestamp total version verbose wandb workers world""".split()
)
"""Words of what a training that goes on says anew."""
_WORD = re.compile(r"[A-Za-z]+")
_LISTED = 3


@dataclass(frozen=True)
class _Stated:
    epoch: int | None
    step: int | None
    path: str
    hyperparameters: Mapping[str, Any]


def changed_hyperparameters(catalogue: Catalogue, run_paths: Collection[str]) -> list[Failure]:
    """Name the runs whose checkpoints contradict each other about hyperparameters, with the first few of these.

    Args:
        catalogue: of the checkpoints.
        run_paths: folders of the runs to look at.
    """
    several = (
        select(checkpoints.c.run_id)
        .where(checkpoints.c.hyperparameters != "{}")
        .group_by(checkpoints.c.run_id)
        .having(func.count(checkpoints.c.hyperparameters.distinct()) > 1)
    )
    query = (
        select(
            runs.c.path,
            checkpoints.c.epoch,
            checkpoints.c.step,
            checkpoints.c.path.label("file"),
            checkpoints.c.hyperparameters,
        )
        .join(checkpoints, checkpoints.c.run_id == runs.c.id)
        .where(runs.c.id.in_(several))
        .order_by(checkpoints.c.path)
    )
    with catalogue.reading() as connection:
        rows = connection.execute(query).all()
    texts: dict[str, dict[str, _Stated]] = {}
    for row in rows:
        if row.path in run_paths and row.hyperparameters != "{}":
            # Of equal ones the newest stands for all.
            held = texts.setdefault(row.path, {})
            before = held.get(row.hyperparameters)
            stated = _Stated(row.epoch, row.step, row.file, json.loads(row.hyperparameters))
            if before is None or _moment(stated) > _moment(before):
                held[row.hyperparameters] = stated
    found = (_of_run(list(held.values())) for held in texts.values() if len(held) > 1)
    return [failure for failure in found if failure is not None]


def _moment(stated: _Stated) -> tuple[int, int, str]:
    epoch, step = (-1 if n is None else n for n in (stated.epoch, stated.step))
    return epoch, step, stated.path


def _of_run(everything: Sequence[_Stated]) -> Failure | None:
    stated = [s for s in everything if not s.hyperparameters.get(RECOMBINED)]  # a merge was not trained with any
    if len(stated) < 2:
        return None
    newest = max(stated, key=_moment)
    changed = []
    for name, value in newest.hyperparameters.items():
        if any(word.lower() in _RESUMING for word in _WORD.findall(name)):
            continue
        other = next((s for s in stated if name in s.hyperparameters and s.hyperparameters[name] != value), None)
        if other is not None:
            before = f"{_shown(other.hyperparameters[name])} in {visible(PurePath(other.path).name)}"
            changed.append(f"{visible(name)} ({before}, {_shown(value)} here)")
    if not changed:
        return None
    listed = ", ".join(changed[:_LISTED]) + (f" and {len(changed) - _LISTED} more" if changed[_LISTED:] else "")
    return Failure(
        newest.path,
        f"checkpoints of its run say other hyperparameters: {listed}; the run has those of this, its newest one: give "
        "each training a folder of its own, or leave out the checkpoints that were trained otherwise",
    )


def _shown(value: Any) -> str:
    text = visible(str(value))
    return text if len(text) <= 40 else f"{text[:37]}..."
