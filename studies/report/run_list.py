"""Every run of a project: past ones, proposed ones whatever became of them, and merges."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial

from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.studies.optuna_io.run_folders import folder_of, owner_of
from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import is_recombined

PAST, MERGED = "past", "merged"


@dataclass(frozen=True)
class ListedRun:
    """A run, as far as the catalogue and the proposals tell.

    Attributes:
        run: its name; of a proposal that wrote no checkpoint yet the name of its folder.
        folder: absolute path; the proposal's, where it is one.
        state: ``past`` (epsopt did not launch it), ``merged`` (its checkpoints were merged, not trained), or the state
            of its proposal: ``waiting``, ``running``, ``complete``, ``pruned`` or ``fail``.
        proposal: number of its proposal; None: it is none.
        epoch: epoch (or step) of its last checkpoint; None: not known, or there is none.
        checkpoints: how many it has.
        metrics: of its last checkpoint with a measured objective, else of its last one; None where not finite.
        on_front: epochs of its checkpoints on the measured front; None where an epoch is not known.
    """

    run: str
    folder: str
    state: str
    proposal: int | None
    epoch: int | None
    checkpoints: int
    metrics: Mapping[str, float | None]
    on_front: tuple[int | None, ...]


def list_runs(
    project: Project, objectives: Sequence[Objective], checkpoints: Sequence[Checkpoint], trials: Sequence[FrozenTrial]
) -> list[ListedRun]:
    """List every run: those of the catalogue by name, ``run_2`` before ``run_10``, then proposals without a checkpoint.

    Args:
        project: says where proposals go.
        objectives: that the front is of; a checkpoint that misses one, or its limit, is not on it.
        checkpoints: the catalogue's.
        trials: the project's proposals.
    """
    folders = {folder_of(project, t).resolve(): t.number for t in trials}
    by_number = {t.number: t for t in trials}
    front = Objectives(objectives).front(measured_table([c.metrics for c in checkpoints], objectives))
    best = {checkpoints[i].id for i in front.tolist()}
    runs: dict[int, list[Checkpoint]] = {}
    for c in checkpoints:
        runs.setdefault(c.run_id, []).append(c)
    out, seen = [], set()
    for own in sorted(runs.values(), key=lambda own: _in_order(own[-1].run)):
        number = owner_of(folders, own[-1])
        seen.add(number)
        state = MERGED if all(map(is_recombined, own)) else PAST
        out.append(
            ListedRun(
                run=own[-1].run,
                folder=str(Path(own[-1].path).parent if number is None else folder_of(project, by_number[number])),
                state=state if number is None else by_number[number].state.name.lower(),
                proposal=number,
                epoch=own[-1].epoch,
                checkpoints=len(own),
                metrics=_last_measured(own, objectives).metrics,
                on_front=tuple(c.epoch for c in own if c.id in best),
            )
        )
    for t in trials:
        if t.number not in seen:
            place = folder_of(project, t)
            out.append(ListedRun(place.name, str(place), t.state.name.lower(), t.number, None, 0, {}, ()))
    return out


def _in_order(name: str) -> list[tuple[int, str]]:
    """Order names as people count: digits by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _last_measured(own: Sequence[Checkpoint], objectives: Sequence[Objective]) -> Checkpoint:
    names = [o.name for o in objectives]
    return next((c for c in reversed(own) if any(c.metrics.get(n) is not None for n in names)), own[-1])
