"""What the proposals of a project came to: predicted against measured, and how far the front moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from epsopt.optimize.forecast.evaluation import Accuracy, FrontGain, accuracy, front_gain
from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.studies.optuna_io.run_folders import folder_of, owners_of
from epsopt.studies.optuna_io.stored_trials import StudyDatabase, config_of, proposed_trials, recorded_objectives
from epsopt.studies.project.project import Project
from epsopt.studies.report.gain_report import (
    CompletedStep,
    StepsOfKind,
    ended_where_predicted,
    steps_by_kind,
    taken_steps,
)
from epsopt.studies.schedule.budget import Ledger, MeasuredMerge
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import EmptyCatalogue

WORDS = {"complete": "trained", "pruned": "stopped early", "fail": "failed"}
"""What states of trials are called where people read them."""


@dataclass(frozen=True)
class ProposalOutcome:
    """A proposal, what was predicted of it before it ran, and what it measured.

    Attributes:
        number: of its trial.
        params: its hyperparameters.
        point: predicted metrics.
        low: lower ends of their intervals.
        high: upper ends.
        level: what share of measurements the intervals are meant to hold.
        measured: metrics of the last checkpoint of a run that ended by itself; ``None`` while it has none.
        path: that checkpoint's file.
        state: ``waiting``, ``running``, ``complete``, ``pruned`` or ``fail``.
        init_from: the checkpoint that it started from; ``None`` from scratch.
        retry_of: number of the proposal that it repeats, because the worker of that one was lost.
        failure: why it failed or was stopped, in one line.
        finished: when.
        checkpoints: how many it wrote.
        control_probability: of a control run, the forecast for which the pruner would have stopped it;
            ``None``: it is no control run, or would not have been stopped.
        control_after: number of checkpoints that it had then.
        joins_front: probability that it joins the front, as it was predicted; ``None``: it was not.
        nearest_runs: past runs with the most similar hyperparameters, and how far they were.
        reason: why it was chosen, in one line; ``None`` where nobody said.
        step: what it came to as a step of the scheduler; ``None``: it is none, or has not ended.
        as_predicted: whether its last checkpoint is from the epoch that the prediction is of: one that was given less
            of a budget than it was chosen for does not say how good the prediction was.
        idle_seconds: seconds for which the slot of the worker that ran it had been empty before; ``None``: it was not
            started, or by another program.
    """

    number: int
    params: Mapping[str, Any]
    point: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    level: float
    measured: Mapping[str, float | None] | None
    path: str | None
    state: str
    init_from: str | None
    retry_of: int | None
    failure: str | None
    finished: datetime | None
    checkpoints: int
    control_probability: float | None = None
    control_after: int = 0
    joins_front: float | None = None
    nearest_runs: tuple[tuple[str, float], ...] = ()
    reason: str | None = None
    step: CompletedStep | None = None
    as_predicted: bool = True
    idle_seconds: float | None = None

    def compared(self, name: str) -> tuple[float, float, float, float] | None:
        """Return what was predicted of a metric and what was measured: ``(point, low, high, measured)``.

        ``None``: either is not known, or the run did not end where it was predicted to.
        """
        value = None if self.measured is None else self.measured.get(name)
        known = all(name in ends for ends in (self.point, self.low, self.high))
        if value is None or not known or not self.as_predicted:
            return None
        return self.point[name], self.low[name], self.high[name], float(value)


@dataclass(frozen=True)
class ControlRun:
    """A run that would have been stopped early, but was left to finish, so that the forecasts are held to account.

    Attributes:
        number: of its proposal.
        probability: that was forecast, of a later checkpoint on the front.
        joined: whether a later checkpoint of it is on the measured front.
    """

    number: int
    probability: float
    joined: bool


@dataclass(frozen=True)
class LoopReport:
    """How the rounds of proposals went.

    Attributes:
        proposals: every proposal, in order.
        gain: how the measured front of what was trained moved, counting every checkpoint of the proposed runs; ``None``
            while nothing is measured with every objective.
        merge_gain: how merged checkpoints moved it beyond that, from the same reference point; ``None`` likewise.
        accuracy: predictions against measurements of final checkpoints, one entry per predicted metric.
        over_time: the same after each run that ended, in the order in which they ended.
        hypervolumes: of the measured front after each of them, as ``gain`` measures it; none without one.
        old: checkpoints of earlier runs.
        new: checkpoints of proposed runs.
        merged: checkpoints that were merged, not trained.
        control_runs: runs that would have been stopped early, in order.
        steps: predicted and realized gain of the scheduler's steps, kind by kind; none where it was never followed.
        objectives: that the proposals were made for; the project file may name others by now.
        joined: numbers of the proposals with a checkpoint on the front of what was trained.
        widened: numbers of those that widened the front when they ended; they may have been beaten since.
    """

    proposals: tuple[ProposalOutcome, ...]
    gain: FrontGain | None
    merge_gain: FrontGain | None
    accuracy: tuple[Accuracy, ...]
    over_time: tuple[tuple[Accuracy, ...], ...]
    hypervolumes: tuple[float, ...]
    old: tuple[Checkpoint, ...]
    new: tuple[Checkpoint, ...]
    merged: tuple[Checkpoint, ...] = ()
    control_runs: tuple[ControlRun, ...] = ()
    steps: tuple[StepsOfKind, ...] = ()
    objectives: tuple[Objective, ...] = ()
    joined: frozenset[int] = frozenset()
    widened: frozenset[int] = frozenset()

    def idle_seconds(self) -> list[float]:
        """Return for how many seconds a slot was empty before each launch, in order."""
        return [p.idle_seconds for p in self.proposals if p.idle_seconds is not None]

    def measured(self) -> list[ProposalOutcome]:
        """Return the proposals whose runs ended by themselves, in the order in which they ended."""
        done = [p for p in self.proposals if p.measured is not None]
        return sorted(done, key=_when)


def loop_report(
    project: Project,
    storage: StudyDatabase,
    checkpoints: Sequence[Checkpoint],
    merges: Sequence[MeasuredMerge] = (),
) -> LoopReport:
    """Put together what was proposed and what it came to.

    A run that was stopped early counts for the front, with what it measured, but not for the accuracy: predictions are
    of where runs end. Neither does one that was given fewer epochs than its prediction is of. Fronts are those of the
    objectives that the study was made for, whatever the project file names by now.

    Args:
        project: names the study, and its objectives where the study does not.
        storage: where the study is.
        checkpoints: the catalogue's.
        merges: that were measured as steps of the scheduler (:class:`epsopt.studies.schedule.budget.Ledger`).

    Raises:
        EmptyCatalogue: nothing was proposed yet, and nothing merged.
    """
    trials = proposed_trials(storage, project.name)
    if not trials and not any(map(is_recombined, checkpoints)):
        raise EmptyCatalogue(f"{project.name} has no proposals yet: run 'epsopt propose' first")
    limits = {o.name: o.limit for o in project.objectives}
    made_for = recorded_objectives(storage, project.name) or project.objectives
    project = replace(project, objectives=tuple(replace(o, limit=limits.get(o.name)) for o in made_for))
    folders = {folder_of(project, t).resolve(): t.number for t in trials}
    proposed = owners_of(folders, checkpoints)
    taken = taken_steps(Ledger(tuple(trials), tuple(merges)), checkpoints, proposed, project.objectives)
    proposals = tuple(_outcome(t, taken.get(t.number)) for t in trials)
    merged = tuple(c for c in checkpoints if is_recombined(c) and c.id not in proposed)
    others = {c.id for c in merged}
    old = tuple(c for c in checkpoints if c.id not in proposed and c.id not in others)
    if not _complete(project, old):  # a project that began with proposals: the first that was measured is the start
        measured = {proposed[c.id] for c in checkpoints if c.id in proposed and _complete(project, [c])}
        ended = sorted((p for p in proposals if p.number in measured), key=_when)
        old += tuple(c for c in checkpoints if ended and proposed.get(c.id) == ended[0].number)
    known = {c.id for c in old} | others
    new = tuple(c for c in checkpoints if c.id not in known)
    gain, merge_gain = _gains(project, old, new, merged) if _complete(project, old) else (None, None)
    report = LoopReport(proposals, gain, merge_gain, (), (), (), old, new, merged)
    done = report.measured()
    names = sorted({name for p in done for name in p.point})
    steps = tuple(tuple(_accuracy(done[: i + 1], names)) for i in range(len(done)))
    hypervolumes, widened = _hypervolumes(project, report, proposed)
    return LoopReport(
        proposals=proposals,
        gain=gain,
        merge_gain=merge_gain,
        accuracy=steps[-1] if steps else (),
        over_time=steps,
        hypervolumes=hypervolumes,
        old=old,
        new=new,
        control_runs=_control_runs(proposals, [] if gain is None else [new[i] for i in gain.joined], proposed, new),
        merged=merged,
        steps=steps_by_kind(taken.values(), merges),
        objectives=project.objectives,
        joined=frozenset()
        if gain is None
        else frozenset(n for i in gain.joined if (n := proposed.get(new[i].id)) is not None),
        widened=widened,
    )


def _gains(
    project: Project, old: Sequence[Checkpoint], new: Sequence[Checkpoint], merged: Sequence[Checkpoint]
) -> tuple[FrontGain, FrontGain]:
    """How the front was moved by what was trained, and by merges beyond that."""
    before, after, beyond = (
        measured_table([c.metrics for c in group], project.objectives) for group in (old, new, merged)
    )
    gain = front_gain(before, after, project.objectives)
    return gain, _merge_gain(gain, np.vstack([before, after]), beyond, project.objectives)


def _merge_gain(
    gain: FrontGain, trained: NDArray[np.float64], merged: NDArray[np.float64], objectives: Sequence[Objective]
) -> FrontGain:
    """Compare the front of all that was trained with the front of that and merges, from the same reference point."""
    maximize = Objectives(objectives).maximize
    both = np.vstack([trained, merged])
    front = non_dominated(both, maximize).indices
    return FrontGain(
        before=gain.after,
        after=hypervolume(both, gain.reference, maximize),
        reference=gain.reference,
        joined=tuple(int(i) - len(trained) for i in front if i >= len(trained)),
    )


def _control_runs(
    proposals: Sequence[ProposalOutcome],
    joined: Sequence[Checkpoint],
    owner: Mapping[int, int],
    new: Sequence[Checkpoint],
) -> tuple[ControlRun, ...]:
    out = []
    for p in proposals:
        if p.control_probability is None or p.state == "running":
            continue
        later = {
            c.id for c in [c for c in new if owner[c.id] == p.number][p.control_after :]
        }  # by epoch, as catalogued
        out.append(ControlRun(p.number, p.control_probability, any(c.id in later for c in joined)))
    return tuple(out)


def _when(proposal: ProposalOutcome) -> tuple[datetime, int]:
    return proposal.finished or datetime.max, proposal.number  # noqa: DTZ901 - Optuna's have no time zone either


def _complete(project: Project, checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether any checkpoint has every objective measured."""
    table = measured_table([c.metrics for c in checkpoints], project.objectives)
    return bool((~np.isnan(table).any(axis=1)).any())


def _accuracy(done: Sequence[ProposalOutcome], names: Sequence[str]) -> list[Accuracy]:
    known = [[p for p in done if p.compared(name) is not None] for name in names]
    return [
        accuracy([(p.point, p.low, p.high) for p in mine], [p.measured or {} for p in mine], [name])[0]
        for name, mine in zip(names, known, strict=True)
    ]


def _hypervolumes(
    project: Project, report: LoopReport, proposed: Mapping[int, int]
) -> tuple[tuple[float, ...], frozenset[int]]:
    """Hypervolume of all that was measured after each proposed run, stopped and failed ones too; which widened it."""
    if report.gain is None:
        return (), frozenset()
    ended = [p for p in report.proposals if p.finished is not None and p.checkpoints]
    ended.sort(key=_when)
    maximize = Objectives(project.objectives).maximize
    tables = [
        measured_table([c.metrics for c in group], project.objectives)
        for group in [
            report.old,
            *([c for c in report.new if proposed[c.id] == p.number] for p in ended),
        ]
    ]
    known = [table[~np.isnan(table).any(axis=1)] for table in tables]
    reference = np.array(report.gain.reference)
    volumes = tuple(hypervolume(np.vstack(known[: i + 1]), reference, maximize) for i in range(len(known)))
    widened = (p.number for p, (before, after) in zip(ended, pairwise(volumes), strict=True) if after > before)
    return volumes, frozenset(widened)


def _outcome(trial: FrozenTrial, step: CompletedStep | None) -> ProposalOutcome:
    attributes = trial.user_attrs
    point = {k.removeprefix("predicted."): float(v) for k, v in attributes.items() if k.startswith("predicted.")}
    ends = {k.removeprefix("interval."): v for k, v in attributes.items() if k.startswith("interval.")}
    measured = {k.removeprefix("measured."): v for k, v in attributes.items() if k.startswith("measured.")}
    return ProposalOutcome(
        number=trial.number,
        params=config_of(trial),
        point=point,
        low={name: float(low) for name, (low, _) in ends.items()},
        high={name: float(high) for name, (_, high) in ends.items()},
        level=float(attributes.get("level", 0.9)),
        measured=measured if trial.state == TrialState.COMPLETE else None,
        path=attributes.get("path"),
        state=trial.state.name.lower(),
        init_from=attributes.get("init_from"),
        retry_of=attributes.get("retry_of"),
        failure=attributes.get("failure") or attributes.get("pruned.reason"),
        finished=trial.datetime_complete,
        checkpoints=len(attributes.get("checkpoints", ())),
        control_probability=attributes.get("control.probability"),
        control_after=int(attributes.get("control.checkpoints", 0)),
        joins_front=attributes.get("joins_front"),
        nearest_runs=tuple((n["run"], float(n["distance"])) for n in attributes.get("nearest_runs", ())),
        reason=attributes.get("reason"),
        step=step,
        as_predicted=ended_where_predicted(trial),
        idle_seconds=attributes.get("idle_seconds"),
    )
