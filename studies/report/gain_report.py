"""Predicted and realized gain of the scheduler's steps, kind by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from epsopt.optimize.objectives import Objective
from epsopt.studies.schedule.budget import Ledger, MeasuredMerge, plan_of, was_started, written
from epsopt.studies.schedule.measurements import Measurements
from epsopt.zoo.catalogue.types import Checkpoint

KINDS = ("exploration", "run", "branch", "merge")
"""Of steps, as they are shown."""


@dataclass(frozen=True)
class CompletedStep:
    """A step that has ended.

    Attributes:
        kind: ``exploration``, ``run``, ``branch`` or ``merge``.
        predicted_gain: hypervolume that its epochs were predicted to add to the front; of a run that was stopped
            early, a share of that; of one that failed, all of it.
        realized_gain: hypervolume that its checkpoints added to the front of all checkpoints read before its last.
        epochs: number that all of its attempts used.
        planned: number that it was planned to use; None: it had no plan.
    """

    kind: str
    predicted_gain: float
    realized_gain: float
    epochs: float
    planned: float | None = None


@dataclass(frozen=True)
class StepsOfKind:
    """All steps of a kind that were taken.

    Attributes:
        kind: ``exploration``, ``run``, ``branch`` or ``merge``.
        count: how many.
        epochs: that they cost.
        predicted_gain: hypervolume that they were predicted to add; ``None``: this kind has no prediction.
        realized_gain: hypervolume that they added.
    """

    kind: str
    count: int
    epochs: float
    predicted_gain: float | None
    realized_gain: float


def taken_steps(
    ledger: Ledger, checkpoints: Sequence[Checkpoint], owner: Mapping[int, int], objectives: Sequence[Objective]
) -> dict[int, CompletedStep]:
    """Return the steps that were runs, by the number of their trial: of an interrupted one, of its last attempt.

    Args:
        ledger: of the project.
        checkpoints: the catalogue's.
        owner: number of the trial of each checkpoint that a proposed run wrote, by the checkpoint's id.
        objectives: what counts.
    """
    measured = Measurements.of(checkpoints, objectives)
    own: dict[int, set[int]] = {}
    for checkpoint, number in owner.items():
        own.setdefault(number, set()).add(checkpoint)
    by_number = {t.number: t for t in ledger.trials}
    again = {n for t in ledger.trials for n in _earlier(t)}
    out = {}
    for trial in ledger.trials:
        plan = plan_of(trial.user_attrs)
        if plan is None or not trial.state.is_finished() or trial.number in again or not was_started(trial):
            continue
        attempts = [n for n in (*_earlier(trial), trial.number) if n in by_number]
        epochs = sum(ledger.used(by_number[n]) for n in attempts)
        mine = set[int]().union(*(own.get(n, ()) for n in attempts))
        share = 1.0 if trial.state == TrialState.FAIL else min(max(epochs, 1) / plan.cost, 1.0)
        realized_gain = measured.realized_gain(mine, plan.reference_point)
        out[trial.number] = CompletedStep(
            plan.kind, share * plan.predicted_gain, realized_gain, float(epochs), float(plan.epochs)
        )
    return out


def _earlier(trial: FrozenTrial) -> Sequence[int]:
    """Numbers of the attempts before it."""
    found: Sequence[int] = trial.system_attrs.get("retry_history", ())
    return found


def ended_where_predicted(trial: FrozenTrial) -> bool:
    """Whether the last checkpoint of a trial's run is from the epoch that its prediction is of.

    A run that was given less of the budget than it was chosen for is none of those; an ordinary proposal always is.
    """
    plan = plan_of(trial.user_attrs)
    return plan is None or abs(max(written(trial), default=0) - plan.ends) < 1.0


def steps_by_kind(taken: Iterable[CompletedStep], merges: Sequence[MeasuredMerge]) -> tuple[StepsOfKind, ...]:
    """Sum them up, kinds of which none was taken left out."""
    steps = [*taken, *(CompletedStep("merge", m.predicted_gain, m.realized_gain, m.cost) for m in merges)]
    out = []
    for kind in KINDS:
        mine = [s for s in steps if s.kind == kind]
        if mine:
            predicted_gain = None if kind == "exploration" else sum(s.predicted_gain for s in mine)
            out.append(
                StepsOfKind(
                    kind, len(mine), sum(s.epochs for s in mine), predicted_gain, sum(s.realized_gain for s in mine)
                )
            )
    return tuple(out)
