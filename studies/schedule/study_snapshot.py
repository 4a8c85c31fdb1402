"""What the database says of a project that spends a budget, at one moment: measured values, gains and costs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from epsopt.optimize.forecast.catalogue_curves import STARTS, objective_vector, past_curves, trained_runs
from epsopt.optimize.forecast.learning_curve_gp import Curve, PathMeasurements
from epsopt.optimize.objectives import Objectives, within_limits
from epsopt.optimize.outliers import front_reference
from epsopt.optimize.planned_epochs import length_parameter
from epsopt.optimize.schedule.run_acquisition import Start
from epsopt.optimize.space import Space
from epsopt.optimize.space_inference import infer_space_of
from epsopt.studies.optuna_io.run_folders import cut_off, folder_of
from epsopt.studies.optuna_io.stored_trials import recorded_objectives
from epsopt.studies.project.project import Project
from epsopt.studies.project.train_command import takes_epochs
from epsopt.studies.schedule.budget import Ledger, MeasuredMerge, begun_short, plan_of
from epsopt.studies.schedule.measurements import Measurements, whole_rows
from epsopt.studies.schedule.weight_geometry import LineageTree, front_lineage_tree, measured_once
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint, Lineage
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StudySnapshot:
    """What the database says of a project, at one moment.

    Attributes:
        project: objectives, train command, hooks.
        ledger: steps so far, with their predicted gains and costs.
        checkpoints: all of the catalogue.
        space: of the hyperparameters.
        curves: of every run with a measured checkpoint, by its id.
        lineage_tree: that the measured front is of; None: of several.
        base: the checkpoint that runs start from, if they share one and it was measured.
        asked_length: epochs of a whole run, where the user said it.
        starts: content hash of the checkpoint that each run started from, by its id, where that is known.
    """

    project: Project
    ledger: Ledger
    checkpoints: tuple[Checkpoint, ...]
    space: Space
    curves: Mapping[int, Curve]
    lineage_tree: LineageTree | None
    base: Start | None
    asked_length: float | None = None
    starts: Mapping[int, str] = field(default_factory=dict)

    @staticmethod
    def read(project: Project, storage: RDBStorage, catalogue: Catalogue, length: float | None = None) -> StudySnapshot:
        """Read it.

        Raises:
            UsageError: no space is declared, and nothing varies among past runs; or the project's proposals were made
                for other objectives.
        """
        made_for = recorded_objectives(storage, project.name)
        if made_for is not None and made_for != project.objectives:
            raise UsageError(
                f"the proposals of {project.name} were made for {', '.join(o.name for o in made_for)}, and the project "
                f"file names {', '.join(o.name for o in project.objectives)} since: start 'epsopt work' again, which "
                "takes the proposals over to them"
            )
        checkpoints = catalogue.checkpoints()
        ledger = Ledger.read(storage, catalogue, project.name)
        trained = [c for c in checkpoints if not is_recombined(c)]
        space = project.space or infer_space_of(trained, project.objectives)
        lineages = catalogue.lineages()
        lineage_tree = front_lineage_tree(checkpoints, lineages, project.objectives)
        base = None
        if lineage_tree is not None and lineage_tree.declared and lineage_tree.base_checkpoint is not None:
            values = objective_vector(lineage_tree.base_checkpoint.metrics, project.objectives)
            base = Start("", values) if np.isfinite(values).all() else None
        starts = _starts(project, ledger, checkpoints, lineages, lineage_tree)
        curves = _curves(project, ledger, checkpoints, space, starts)
        return StudySnapshot(project, ledger, tuple(checkpoints), space, curves, lineage_tree, base, length, starts)

    @cached_property
    def length(self) -> float:
        """Epochs of a whole run: as was said, or the median of those that ended by themselves.

        Raises:
            UsageError: neither is known.
        """
        if self.asked_length is not None:
            return self.asked_length
        whole = self._whole
        if whole:
            return float(np.median([c.steps[-1] for c in whole]))
        planned = [p.length for t in self.ledger.trials if (p := plan_of(t.user_attrs)) is not None]
        if planned:
            return planned[-1]
        raise UsageError("how long is a whole run? None that ended by itself is known yet: say it with --length EPOCHS")

    @cached_property
    def _whole(self) -> list[Curve]:
        """Curves of runs that were not cut off, nor begun as shorter ones."""
        short = cut_off(self.project, self.ledger.trials) | begun_short(self.project, self.ledger.trials)
        cut = {c.run_id for c in self.checkpoints if not short.isdisjoint(Path(c.path).parents)}
        return [curve for run_id, curve in self.curves.items() if run_id not in cut]

    @cached_property
    def spacing(self) -> float:
        """Epochs from one measured checkpoint of a whole run to the next, at least 1.

        A Trainer counts steps, and a run that is shorter leaves nothing to measure.
        """
        gaps = [np.diff(curve.steps) for curve in self._whole if len(curve.steps) > 1]
        return max(float(np.median(np.concatenate(gaps))), 1.0) if gaps else 1.0

    @cached_property
    def trained(self) -> dict[int, list[Checkpoint]]:
        """The checkpoints of each row of a curve, by the run's id."""
        return trained_runs(self.checkpoints, self.space)

    @cached_property
    def epochs_parameter(self) -> str | None:
        """The hyperparameter that says how many epochs a run has, if one does."""
        whole = [] if takes_epochs(self.project.command or ()) else self._whole
        return length_parameter(self.space, [c.config for c in whole], [c.steps[-1] for c in whole])

    @property
    def takes_epochs(self) -> bool:
        """Whether a run takes the number of its epochs."""
        named = any(p.name == "epochs" for p in self.space.parameters)  # the place is that hyperparameter's then
        return self.epochs_parameter is not None or (takes_epochs(self.project.command or ()) and not named)

    @property
    def can_merge(self) -> bool:
        """Whether checkpoints can be merged and the merges measured."""
        return self.project.evaluate is not None and (self.lineage_tree is not None or not self.curves)

    @cached_property
    def usable(self) -> list[Checkpoint]:
        """Measured checkpoints whose files are there, the base left out: what may be started from."""
        base = None if self.lineage_tree is None else self.lineage_tree.base.sha256
        return measured_once(self.checkpoints, self.project.objectives, base)

    @cached_property
    def measured(self) -> Floats:
        """``(k, m)`` all that was measured whole, in the order in which it was read."""
        rows = [
            objective_vector(c.metrics, self.project.objectives) for c in sorted(self.checkpoints, key=lambda c: c.id)
        ]
        table = np.stack(rows) if rows else np.zeros((0, len(self.project.objectives)))
        table = within_limits(table, self.project.objectives)
        return np.asarray(table[np.isfinite(table).all(axis=1)])

    @cached_property
    def reference(self) -> Floats:
        """``(m,)`` the reference point: :func:`~epsopt.optimize.outliers.front_reference`, within the bounds."""
        corner = front_reference(self.measured * self._signs) * self._signs
        bounds = np.array([self.project.bounds.get(o.name, (-np.inf, np.inf)) for o in self.project.objectives])
        return np.asarray(corner.clip(bounds[:, 0], bounds[:, 1]))

    def clipped_values(self, checkpoint: Checkpoint) -> Floats:
        """``(m,)`` what models learn of a checkpoint: of a merge, no worse than all that was trained.

        One far out may be worse by thousands where a metric has no bounds. On that scale what was trained is all alike,
        predicted gains are thousands of fronts, and nothing but merges would ever be worth its cost.
        """
        values = objective_vector(checkpoint.metrics, self.project.objectives)
        if not is_recombined(checkpoint):
            return values
        return np.asarray(np.maximum(values * self._signs, self._worst) * self._signs)

    @property
    def _signs(self) -> Floats:
        return Objectives(self.project.objectives).signs

    @cached_property
    def _worst(self) -> Floats:
        """``(m,)`` the worst of what was trained, larger is better; not better than what is just not good enough."""
        rows = [objective_vector(c.metrics, self.project.objectives) for c in self.checkpoints if not is_recombined(c)]
        table = whole_rows(np.stack(rows)) if rows else np.zeros((0, len(self._signs)))
        return np.asarray((np.vstack([table, self.reference]) * self._signs).min(axis=0))

    def volume(self, table: Floats, reference: Sequence[float]) -> float:
        """Hypervolume of what was measured."""
        return Objectives(self.project.objectives).hypervolume(table, np.asarray(reference))

    def realized_gain(self, trial: FrozenTrial, reference: Sequence[float]) -> float:
        """Return what a trial's checkpoints added to the front of all that was read before the last of them."""
        folder = folder_of(self.project, trial)
        own = {c.id for c in self.checkpoints if folder in Path(c.path).parents}
        return self._measurements.realized_gain(own, reference)

    @cached_property
    def _measurements(self) -> Measurements:
        return Measurements.of(self.checkpoints, self.project.objectives)


def _starts(
    project: Project,
    ledger: Ledger,
    checkpoints: Sequence[Checkpoint],
    lineages: Sequence[Lineage],
    lineage_tree: LineageTree | None,
) -> dict[int, str]:
    """Content of what each run started from: known from its trial, its own words, or because all start there."""
    started_from = {
        folder_of(project, t): path for t in ledger.trials if (path := t.user_attrs.get("init_from")) is not None
    }
    content = {path: c.sha256 for c in checkpoints for path in c.paths}
    declared = {known.id: known.reference_sha256 for known in lineages if known.declared}
    shared = lineage_tree.base.sha256 if lineage_tree is not None and lineage_tree.declared else None
    out = {}
    for c in checkpoints:
        path = next((started_from[f] for f in Path(c.path).parents if f in started_from), None) or named_start(
            c, content
        )
        start = declared.get(c.lineage_id, shared) if path is None else content.get(path)
        if start is not None:
            out[c.run_id] = start
    return out


def named_start(checkpoint: Checkpoint, content: Mapping[str, str]) -> str | None:
    """The catalogue's path of the checkpoint that one names as its start, in words or relative to its own folder."""
    for name in STARTS:
        stated = checkpoint.hyperparameters.get(name)
        if isinstance(stated, str):
            for path in (stated, os.path.normpath(Path(checkpoint.path).parent / stated)):
                if path in content:
                    return path
    return None


def _curves(
    project: Project,
    ledger: Ledger,
    checkpoints: Sequence[Checkpoint],
    space: Space,
    starts: Mapping[int, str],
) -> dict[int, Curve]:
    """Curves by run, with what was measured where it started and on the way from there."""
    values = {c.sha256: objective_vector(c.metrics, project.objectives) for c in checkpoints}
    trained = trained_runs(checkpoints, space)
    out = {}
    for run_id, curve in past_curves(checkpoints, space, project.objectives).items():
        begun = starts.get(run_id)
        start = None if begun is None else values.get(begun)
        if start is not None and not np.isfinite(start).all():
            start = None
        way = None if begun is None else _on_way(project, ledger.merges, checkpoints, trained[run_id], begun)
        out[run_id] = replace(curve, start=start, on_way=way)
    return out


def _on_way(
    project: Project,
    merges: Sequence[MeasuredMerge],
    checkpoints: Sequence[Checkpoint],
    own: Sequence[Checkpoint],
    start: str,
) -> PathMeasurements | None:
    """Merges that lie on the way from where a run started to one of its checkpoints, as they were measured."""
    epochs = {c.sha256: float(c.trained or 0) for c in own}
    by_path = {c.path: c for c in checkpoints}
    rows = []
    for merge in merges:
        found = merge.on_way(start)
        if found is not None and found[0] in epochs and merge.path in by_path:
            measured = objective_vector(by_path[merge.path].metrics, project.objectives)
            rows.append((epochs[found[0]], found[1], measured))
    if not rows:
        return None
    steps, shares, values = zip(*rows, strict=True)
    return PathMeasurements(np.array(steps), np.array(shares), np.stack(values))
