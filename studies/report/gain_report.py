"""What steps of the policy promised, and what they brought, kind by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from epsopt.optimize.objectives import Objective
from epsopt.studies.schedule.budget import Ledger, MeasuredMixture, plan_of, was_started, written
from epsopt.studies.schedule.study_snapshot import Measurements
from epsopt.zoo.catalogue.types import Checkpoint

KINDS = ("look", "run", "branch", "mixture")
"""Of steps, as they are shown."""


@dataclass(frozen=True)
class CompletedStep:
    """A step that has ended.

    Attributes:
        kind: ``look``, ``run``, ``branch`` or ``mixture``.
        promised: hypervolume that the epochs which it was given were expected to add, as the policy counts it: of a run
            that was stopped early, less.
        brought: that its checkpoints added to the front of all that was read before the last of them.
        epochs: that were paid for, in all of its attempts.
    """

    kind: str
    promised: float
    brought: float
    epochs: float


@dataclass(frozen=True)
class StepsOfKind:
    """All steps of a kind that were taken.

    Attributes:
        kind: ``look``, ``run``, ``branch`` or ``mixture``.
        count: how many.
        epochs: that they cost.
        promised: hypervolume that they were expected to add; ``None``: nothing is expected of this kind.
        brought: that they added.
    """

    kind: str
    count: int
    epochs: float
    promised: float | None
    brought: float


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
        share = min(max(epochs, 1) / plan.cost, 1.0)
        brought = measured.brought(mine, plan.reference)
        out[trial.number] = CompletedStep(plan.kind, share * plan.promised, brought, float(epochs))
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


def steps_by_kind(taken: Iterable[CompletedStep], mixtures: Sequence[MeasuredMixture]) -> tuple[StepsOfKind, ...]:
    """Sum them up, kinds of which none was taken left out."""
    steps = [*taken, *(CompletedStep("mixture", m.promised, m.brought, m.cost) for m in mixtures)]
    out = []
    for kind in KINDS:
        mine = [s for s in steps if s.kind == kind]
        if mine:
            promised = None if kind == "look" else sum(s.promised for s in mine)
            out.append(
                StepsOfKind(kind, len(mine), sum(s.epochs for s in mine), promised, sum(s.brought for s in mine))
            )
    return tuple(out)
