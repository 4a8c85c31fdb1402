"""Steps of the scheduler are stopped by their gain per epoch, compared with that when they were launched."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from epsopt.studies.project.project import Project
from epsopt.studies.prune.budget_pruner import BudgetPruner
from epsopt.studies.schedule.budget import Ledger, StepPlan
from epsopt.studies.schedule.study_snapshot import StudySnapshot

from .test_catalogue_pruner import OBJECTIVES, SPACE, checkpoints, past

PLAN = StepPlan(
    "run", 0.4, 0.05, 10.0, 10, 10.0, takes_epochs=True, epochs_parameter=None, short=False, reference_point=(-1.0, 3.0)
)


@dataclass
class Stepping:
    params: dict[str, float]
    plan: StepPlan | None = PLAN
    name: str = "new"
    number: int = 0
    init_from: str | None = None
    attributes: dict[str, object] = field(default_factory=dict)


@pytest.fixture
def pruner(tmp_path, monkeypatch) -> BudgetPruner:
    """One that has seen sixteen whole runs."""
    from epsopt.optimize.forecast.catalogue_curves import past_curves

    known = past()
    curves = past_curves(known, SPACE, OBJECTIVES)
    project = Project("p", tmp_path / "epsopt.toml", tmp_path / "runs", "sqlite://", OBJECTIVES, {}, SPACE, ("train",))
    snapshot = StudySnapshot(project, Ledger((), ()), tuple(known), SPACE, curves, None, None)
    monkeypatch.setattr(StudySnapshot, "read", staticmethod(lambda *_: snapshot))
    return BudgetPruner(project, None, None)


def test_a_run_is_stopped_whose_gain_per_epoch_is_less_than_half_of_its_steps(pruner):
    bad, good = checkpoints(99, 0.5, 0.9, 4), checkpoints(99, 1.0, 0.0, 4)
    decision = pruner.should_stop(Stepping({"a": 0.5, "b": 0.9}), bad)
    assert decision.stop
    assert "its remaining 6 epochs are expected to add" in decision.reason
    assert decision.reason.endswith("needed is 0.025"), "half of what was reliable then, not what a model predicts now"
    assert not pruner.should_stop(Stepping({"a": 1.0, "b": 0.0}, replace(PLAN, gain_per_epoch=1e-6)), good).stop
    assert not pruner.should_stop(Stepping({"a": 0.5, "b": 0.9}, replace(PLAN, gain_per_epoch=0.0)), bad).stop


def test_every_run_has_its_grace_and_some_are_left_to_finish(pruner):
    bad = Stepping({"a": 0.5, "b": 0.9})
    early = pruner.should_stop(bad, checkpoints(99, 0.5, 0.9, 1))
    assert (early.stop, early.reason) == (False, "within its first 2 epochs")
    decided = [
        pruner.should_stop(replace(bad, name=f"proposal_{i:03d}"), checkpoints(99, 0.5, 0.9, 4)) for i in range(60)
    ]
    assert 0 < sum(d.control for d in decided) < 12
    assert all(d.stop != d.control for d in decided)
    assert pruner.should_stop(bad, checkpoints(99, 0.5, 0.9, 10)).reason == "at its end"


@pytest.mark.parametrize(("probe", "epochs", "stop"), [(True, 1, False), (True, 2, True), (False, 4, False)])
def test_what_only_looks_around_is_stopped_as_a_probe_or_not_at_all(pruner, probe, epochs, stop):
    run = Stepping({"a": 0.5, "b": 0.9}, replace(PLAN, kind="exploration", short=probe))
    assert pruner.should_stop(run, checkpoints(99, 0.5, 0.9, epochs)).stop == stop


def test_what_is_no_step_and_what_says_no_epoch_goes_on(pruner):
    assert not pruner.should_stop(Stepping({"a": 0.5, "b": 0.9}, None), checkpoints(99, 0.5, 0.9, 4)).stop
    silent = [replace(c, epoch=None) for c in checkpoints(99, 0.5, 0.9, 4)]
    assert "which epoch" in pruner.should_stop(Stepping({"a": 0.5, "b": 0.9}), silent).reason


def test_with_few_other_runs_nothing_is_judged(pruner, monkeypatch):
    snapshot = StudySnapshot.read(None, None, None)
    few = replace(snapshot, curves=dict(list(snapshot.curves.items())[:3]))
    monkeypatch.setattr(StudySnapshot, "read", staticmethod(lambda *_: few))
    decision = pruner.should_stop(Stepping({"a": 0.5, "b": 0.9}), checkpoints(99, 0.5, 0.9, 4))
    assert (decision.stop, decision.reason) == (False, "only 3 other runs: at least 6 are needed to judge one")
    assert np.isnan(decision.probability)


def test_a_run_in_folders_within_its_own_is_not_among_those_that_it_is_judged_by(pruner, monkeypatch):
    snapshot, name = StudySnapshot.read(None, None, None), "new/lightning_logs/version_0"
    curves = dict(list(snapshot.curves.items())[:5]) | {99: snapshot.curves[9]}
    own = [replace(c, run=name) for c in checkpoints(99, 0.5, 0.9, 4)]
    known = (*snapshot.checkpoints, *own)
    monkeypatch.setattr(
        StudySnapshot, "read", staticmethod(lambda *_: replace(snapshot, checkpoints=known, curves=curves))
    )
    decision = pruner.should_stop(Stepping({"a": 0.5, "b": 0.9}), own)
    assert decision.reason == "only 5 other runs: at least 6 are needed to judge one"
