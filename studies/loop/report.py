"""What the proposals of a project came to: predicted against measured, and how far the front moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from epsopt.optimize.outcome import Accuracy, FrontGain, accuracy, front_gain
from epsopt.optimize.scoring import measured_table
from epsopt.studies.loop.training import proposal_folder
from epsopt.studies.project.file import Project
from epsopt.zoo.errors import EmptyCatalogue
from epsopt.zoo.records import Checkpoint


@dataclass(frozen=True)
class ProposalOutcome:
    """A proposal, what was predicted of it before it ran, and what it measured.

    Attributes:
        number: of its trial.
        params: its hyperparameters.
        point: predicted metrics.
        low: lower ends of their intervals.
        high: upper ends.
        measured: metrics of its last checkpoint; ``None`` while it has none.
        path: that checkpoint's file.
        state: ``waiting``, ``running``, ``complete`` or ``fail``.
    """

    number: int
    params: Mapping[str, Any]
    point: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    measured: Mapping[str, float | None] | None
    path: str | None
    state: str


@dataclass(frozen=True)
class LoopReport:
    """How a round of proposals went.

    Attributes:
        proposals: every proposal, in order.
        gain: how the measured front moved, counting every checkpoint of the proposed runs.
        accuracy: predictions against measurements of final checkpoints, one entry per predicted metric.
        old: checkpoints of earlier runs.
        new: checkpoints of proposed runs.
    """

    proposals: tuple[ProposalOutcome, ...]
    gain: FrontGain
    accuracy: tuple[Accuracy, ...]
    old: tuple[Checkpoint, ...]
    new: tuple[Checkpoint, ...]


def loop_report(project: Project, storage: RDBStorage, checkpoints: Sequence[Checkpoint]) -> LoopReport:
    """Put together what was proposed and what it came to.

    Args:
        project: names the study and the objectives.
        storage: where the study is.
        checkpoints: the catalogue's.

    Raises:
        EmptyCatalogue: nothing was proposed yet, or no earlier run was measured.
    """
    try:
        study = optuna.load_study(study_name=f"{project.name}/proposals", storage=storage)
    except KeyError as error:
        raise EmptyCatalogue(f"{project.name} has no proposals yet: run 'epsopt propose' first") from error
    proposals = tuple(_outcome(t) for t in study.get_trials(deepcopy=False))
    folders = {proposal_folder(project, p.number).resolve() for p in proposals}
    new = tuple(c for c in checkpoints if not folders.isdisjoint(Path(c.path).parents))
    old = tuple(c for c in checkpoints if folders.isdisjoint(Path(c.path).parents))
    before = measured_table([c.metrics for c in old], project.objectives)
    if np.isnan(before).any(axis=1).all():
        raise EmptyCatalogue("no earlier checkpoint has every objective measured, so there is no front to compare with")
    done = [p for p in proposals if p.measured is not None]
    names = sorted({name for p in done for name in p.point})
    return LoopReport(
        proposals=proposals,
        gain=front_gain(before, measured_table([c.metrics for c in new], project.objectives), project.objectives),
        accuracy=tuple(accuracy([(p.point, p.low, p.high) for p in done], [p.measured or {} for p in done], names)),
        old=old,
        new=new,
    )


def _outcome(trial: FrozenTrial) -> ProposalOutcome:
    attributes = trial.user_attrs
    point = {k.removeprefix("predicted."): float(v) for k, v in attributes.items() if k.startswith("predicted.")}
    ends = {k.removeprefix("interval."): v for k, v in attributes.items() if k.startswith("interval.")}
    measured = {k.removeprefix("measured."): v for k, v in attributes.items() if k.startswith("measured.")}
    return ProposalOutcome(
        number=trial.number,
        params=trial.params or trial.system_attrs.get("fixed_params", {}),
        point=point,
        low={name: float(low) for name, (low, _) in ends.items()},
        high={name: float(high) for name, (_, high) in ends.items()},
        measured=measured if trial.state == TrialState.COMPLETE else None,
        path=attributes.get("path"),
        state=trial.state.name.lower(),
    )
