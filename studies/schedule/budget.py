"""What `epsopt work --budget` spends: epochs of training that runs of the study wrote, and merges at their cost.

Everything is read from the database: the predicted gain of a step is an attribute of its trial; the catalogue keeps
predicted gain, realized gain and cost of merges. So any worker on any machine computes the same figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from epsopt.studies.optuna_io.run_folders import folder_of
from epsopt.studies.optuna_io.stored_trials import NOT_STARTED, StudyDatabase, proposed_trials
from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.catalogue import Catalogue

if TYPE_CHECKING:
    from epsopt.optimize.merge.weight_space_gp import MergeKind

EVALUATION = 0.5
"""Epochs that measuring a merge costs, until it is known how long evaluations and epochs take."""

_ARTIFACT = "measured_merges"
_OPEN = (TrialState.WAITING, TrialState.RUNNING)


@dataclass(frozen=True)
class StepPlan:
    """A step of the scheduler that is a run, as the attribute ``step`` of its trial says.

    Attributes:
        kind: ``exploration``, ``run`` or ``branch``.
        predicted_gain: hypervolume that it was expected to add to the front.
        gain_per_epoch: the predicted gain, multiplied by the reliability of such steps then, for each epoch of cost.
        cost: epochs that the predicted gain is of.
        epochs: that it is to have.
        length: epochs of a whole run.
        takes_epochs: whether the program takes the number of epochs as an argument.
        epochs_parameter: the hyperparameter that it is passed as; None: ``{epochs}``, if the program takes it.
        short: whether it is stopped after its grace, whatever it looks like.
        reference_point: of the hypervolume then, in the objectives' own units.
    """

    kind: str
    predicted_gain: float
    gain_per_epoch: float
    cost: float
    epochs: int
    length: float
    takes_epochs: bool
    epochs_parameter: str | None
    short: bool
    reference_point: tuple[float, ...]
    reliability: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "reference_point": list(self.reference_point)}

    @property
    def ends(self) -> float:
        """The epoch after which its program ends by itself."""
        return self.epochs if self.takes_epochs else self.length


def plan_of(attributes: Mapping[str, Any]) -> StepPlan | None:
    """Return the plan that a trial's attributes hold; None: it is no step of the scheduler."""
    plan = attributes.get("step")
    return None if plan is None else StepPlan(**{**plan, "reference_point": tuple(plan["reference_point"])})


def begun_short(project: Project, trials: Iterable[FrozenTrial]) -> set[Path]:
    """Return the folders of runs that were given fewer epochs than a whole run has: how long one is they do not show.

    Args:
        project: says where proposals go.
        trials: of its proposals.
    """
    planned = ((t, p) for t in trials if (p := plan_of(t.user_attrs)) is not None and p.takes_epochs)
    return {folder_of(project, t) for t, p in planned if (epochs_of(t) or 0) < p.length}


@dataclass(frozen=True)
class MeasuredMerge:
    """A merge that was measured as a step of the scheduler.

    Attributes:
        predicted_gain: hypervolume that it was expected to add.
        realized_gain: what it added.
        cost: epochs that it counts as: what measuring one was known to cost when it was chosen.
        seconds: that decoding and measuring it took.
        kind: of a merge (:class:`epsopt.optimize.merge.weight_space_gp.MergeCandidate`).
        path: of its file.
        ends: content hashes of the two checkpoints that it lies between, whole network alike; None: it does not.
        share: of the way from the second of them to the first.
        reliability: that the predicted gain was multiplied by.
    """

    predicted_gain: float
    realized_gain: float
    cost: float
    seconds: float
    kind: MergeKind = "beyond"
    path: str | None = None
    ends: tuple[str, str] | None = None
    share: float | None = None
    reliability: float = 1.0

    def on_way(self, start: str) -> tuple[str, float] | None:
        """Return which checkpoint it lies on the way to from this one, and at what share of it; None: it does not."""
        if self.ends is None or self.share is None or start not in self.ends:
            return None
        end, other = self.ends
        return (end, self.share) if start == other else (other, 1.0 - self.share)


@dataclass(frozen=True)
class Ledger:
    """All steps so far.

    Attributes:
        trials: of the study of proposals, chosen by the scheduler or queued otherwise.
        merges: that the scheduler chose, in order.
    """

    trials: tuple[FrozenTrial, ...]
    merges: tuple[MeasuredMerge, ...]

    @staticmethod
    def read(storage: StudyDatabase, catalogue: Catalogue, project: str) -> Ledger:
        """Read it from the database."""
        return Ledger(tuple(proposed_trials(storage, project)), measured_merges(catalogue, project))

    @property
    def spent(self) -> float:
        """Epochs paid for, ever."""
        return sum(map(self.used, self.trials)) + sum(m.cost for m in self.merges)

    @property
    def under_way(self) -> list[FrozenTrial]:
        """Trials that wait, and those that a worker runs."""
        return [t for t in self.trials if t.state in _OPEN and (t.state == _OPEN[0] or "worker" in t.user_attrs)]

    def reserved(self, *, waiting: bool = True) -> float:
        """Epochs that runs under way are still to have, as far as it was said; those that wait are counted if asked."""
        found = [t for t in self.under_way if waiting or t.state == TrialState.RUNNING]
        return sum(max((epochs_of(t) or 0) - max(written(t), default=0), 0) for t in found)

    def available(self, end: float, *, waiting: bool = True) -> float:
        """Epochs until so many are spent that no run under way is to have; nor one that waits, if asked."""
        return end - self.spent - self.reserved(waiting=waiting) + 1e-9  # of rounding

    def used(self, trial: FrozenTrial) -> int:
        """Epochs that a trial's run wrote; what an interrupted attempt before it had written is not its own."""
        epochs = written(trial)
        if not epochs:  # it ran all the same, if it left its start behind: a step that costs nothing would never end
            return int(trial.state.is_finished() and bool(trial.user_attrs.get("checkpoints")))
        before = self.resumed(trial.user_attrs)
        return max(epochs) - (before if min(epochs) > before else 0)

    def resumed(self, attributes: Mapping[str, Any]) -> int:
        """Epochs of the interrupted attempt that a trial of these attributes may go on from."""
        path = attributes.get("resume_from")
        names = ("checkpoints", "checkpoints_after_loss")
        written_there = (c for t in self.trials for n in names for c in t.user_attrs.get(n, ()) if c["path"] == path)
        return next((_trained(c) or 0 for c in written_there), 0) if path else 0

    @property
    def evaluation(self) -> float:
        """Epochs that measuring a merge costs: by the median seconds of either."""
        epoch = self._seconds_per_epoch()
        if epoch is None or not self.merges:
            return EVALUATION
        return max(median(m.seconds for m in self.merges) / epoch, 1e-3)

    def _seconds_per_epoch(self) -> float | None:
        found = [
            (t.datetime_complete - t.datetime_start).total_seconds() / self.used(t)
            for t in self.trials
            if t.datetime_complete is not None and t.datetime_start is not None and self.used(t)
        ]
        return max(median(found), 1e-3) if found else None


def measured_merges(catalogue: Catalogue, project: str) -> tuple[MeasuredMerge, ...]:
    """Return the merges that were measured as steps of the scheduler, in order."""
    kept = catalogue.get_artifact(_ARTIFACT, project)
    return () if kept is None else tuple(_merge(row) for row in json.loads(kept[0]))


def save_measured_merge(catalogue: Catalogue, project: str, merge: MeasuredMerge) -> None:
    """Keep the predicted and realized gain of a merge beside what is kept by now, for whoever goes on."""
    row = asdict(merge)
    catalogue.update_artifact(_ARTIFACT, project, lambda kept: json.dumps([*json.loads(kept or b"[]"), row]).encode())


def _merge(row: Mapping[str, Any]) -> MeasuredMerge:
    found = MeasuredMerge(**row)
    return found if found.ends is None else replace(found, ends=(found.ends[0], found.ends[1]))


def was_started(trial: FrozenTrial) -> bool:
    """Whether a trial's program ever ran: one that cannot be started says nothing of its hyperparameters."""
    return trial.datetime_start is not None and not trial.user_attrs.get(NOT_STARTED)


def written(trial: FrozenTrial) -> list[int]:
    """Return the epochs behind a trial's checkpoints, from 1; where none says its epoch they are counted."""
    checkpoints = trial.user_attrs.get("checkpoints", ())
    epochs = [e for c in checkpoints if (e := _trained(c)) is not None]
    return [e for e in epochs if e > 0] if epochs else list(range(1, len(checkpoints) + 1))


def _trained(checkpoint: Mapping[str, Any]) -> int | None:
    """Epochs behind a checkpoint of a trial's attributes; earlier versions wrote what the file calls its epoch."""
    trained = checkpoint.get("trained", checkpoint["epoch"])
    return None if trained is None else int(trained)


def epochs_of(trial: FrozenTrial) -> int | None:
    """Return how many epochs a trial's run is to have; None: nobody said."""
    plan = plan_of(trial.user_attrs)
    return trial.user_attrs.get("epochs") or (None if plan is None else plan.epochs)


class Budget:
    """Epochs that may be spent from now on, by all workers together.

    Args:
        epochs: how many.
        storage: where the study is.
        catalogue: where merges are remembered.
        project: the project's name.
    """

    def __init__(self, epochs: float, storage: StudyDatabase, catalogue: Catalogue, project: str) -> None:
        self._storage, self._catalogue, self._project = storage, catalogue, project
        self.epochs, self._began = epochs, self._read()
        self.settled: str | None = None
        """Why no further step begins although epochs are left; ``None``: steps go on."""

    def _read(self) -> Ledger:
        return Ledger.read(self._storage, self._catalogue, self._project)

    @property
    def end(self) -> float:
        """What the ledger says is spent when the budget is."""
        return self._began.spent + self.epochs

    def settle(self, sentence: str) -> None:
        """Begin no further step, for this reason."""
        self.settled = sentence

    @property
    def spent(self) -> float:
        """Epochs that were spent of it."""
        return self._read().spent - self._began.spent

    @property
    def merges(self) -> int:
        """Merges that were measured of it."""
        return len(self._read().merges) - len(self._began.merges)

    def left(self) -> int:
        """Whole epochs that are not spent."""
        return math.floor(self.end - self._read().spent + 1e-9)

    def available(self, *, waiting: bool = False) -> int:
        """Whole epochs that no run under way is to have; nor one that waits, if asked."""
        return math.floor(self._read().available(self.end, waiting=waiting))

    def resumed(self, attributes: Mapping[str, Any]) -> int:
        """Epochs of the interrupted attempt that a trial of these attributes may go on from."""
        return self._read().resumed(attributes)
