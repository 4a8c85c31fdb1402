"""Early stopping by gain per epoch, of runs that are steps of the scheduler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from optuna.storages import RDBStorage

from epsopt.optimize.forecast.catalogue_curves import objective_vector
from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.objectives import Target
from epsopt.optimize.schedule.decision import Decision
from epsopt.optimize.schedule.pruner import Pruner
from epsopt.optimize.schedule.scheduler import FIRST_RUNS
from epsopt.studies.project.project import Project
from epsopt.studies.protocols import ActiveRun, Trained
from epsopt.studies.prune.catalogue_pruner import SILENT, curve_so_far, own_runs
from epsopt.studies.schedule.budget import StepPlan
from epsopt.studies.schedule.study_snapshot import StudySnapshot
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.decoding.recombination import is_recombined

GAIN_RATIO = 0.5
"""Share of the gain per epoch of the best step when the run was launched, below which the run is stopped."""

GRACE = 2.0
"""Epochs that every run is given."""


class BudgetPruner:
    """Stops a run whose predicted gain per epoch falls below half of its step's when it was launched.

    An exploration run goes on; or, where nothing can be merged, is stopped after its grace.

    Args:
        project: objectives and bounds.
        storage: where the study is.
        catalogue: of all runs.
        targets: if given, no run is stopped that may meet all of them.
        read_again: seconds until the database is read again.
    """

    def __init__(
        self,
        project: Project,
        storage: RDBStorage,
        catalogue: Catalogue,
        targets: Sequence[Target] = (),
        *,
        read_again: float = 30.0,
    ) -> None:
        self._project, self.targets, self._read_again = project, tuple(targets), read_again
        self._storage, self._catalogue = storage, catalogue
        self._read_at = -float("inf")
        self._snapshot: StudySnapshot | None = None
        self._model: CurveModel | None = None

    def should_stop(self, run: ActiveRun, checkpoints_so_far: Sequence[Trained]) -> Decision:
        """Decide; the checkpoints are the run's own, measured, oldest first."""
        plan = getattr(run, "plan", None)
        so_far = curve_so_far(run, checkpoints_so_far, self._project.objectives)
        if not isinstance(plan, StepPlan):
            return _go_on("it is no step of the scheduler")
        if so_far is None:
            return _go_on(SILENT)
        if plan.kind == "exploration":
            stop = plan.short and bool(so_far.steps[-1] >= GRACE)
            return Decision(stop=stop, probability=float("nan"), reason="it only explores")
        if so_far.steps[-1] < GRACE:
            return _go_on(f"within its first {GRACE:g} epochs")
        snapshot = self._now()
        mine = own_runs(snapshot.checkpoints, checkpoints_so_far)
        others = [curve for run_id, curve in snapshot.curves.items() if run_id not in mine]
        if len(others) < FIRST_RUNS:
            return _go_on(f"only {len(others)} other runs: at least {FIRST_RUNS} are needed to judge one")
        objectives = self._project.objectives
        start = next((c for c in snapshot.checkpoints if run.init_from in c.paths), None)
        base = None if snapshot.base is None else snapshot.base.values
        so_far = replace(so_far, start=base if start is None else objective_vector(start.metrics, objectives))
        pruner = Pruner(
            snapshot.space, objectives, plan.length, targets=self.targets, grace=GRACE,
            reference=np.array(plan.reference_point), bounds=self._project.bounds,
        )  # fmt: skip
        pruner.learn(others, model=self._learned(snapshot, others, plan.length))
        return pruner.should_stop(run.name, so_far, length=plan.ends, least_gain=GAIN_RATIO * plan.gain_per_epoch)

    def _now(self) -> StudySnapshot:
        if self._snapshot is None or time.monotonic() - self._read_at > self._read_again:
            self._snapshot = StudySnapshot.read(self._project, self._storage, self._catalogue)
            self._read_at = time.monotonic()
        return self._snapshot

    def _learned(self, snapshot: StudySnapshot, others: Sequence[Curve], length: float) -> CurveModel:
        """Learn again when there are a tenth more runs; what runs measured since is known anyway."""
        if self._model is None or len(others) > 1.1 * len(self._model.curves):
            self._model = fit_curves(
                snapshot.space, self._project.objectives, others, length=length, bounds=self._project.bounds
            )
        objectives = self._project.objectives
        merged = [objective_vector(c.metrics, objectives) for c in snapshot.checkpoints if is_recombined(c)]
        return replace(self._model, others=np.stack(merged) if merged else None)


def _go_on(reason: str) -> Decision:
    return Decision(stop=False, probability=float("nan"), reason=reason)
