"""What a run did after one of its checkpoints is what a run from that checkpoint does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from epsopt.optimize.forecast import learning_curve_gp as module
from epsopt.optimize.forecast.learning_curve_gp import Curve, fit_curves
from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space

SPACE = Space((Parameter("a", "float", 0.0, 1.0),))
OBJECTIVES = (Objective("up", maximize=True),)
BASE = np.array([0.0])
STEPS = np.arange(1.0, 9.0)


def saturating(a: float) -> Curve:
    """Everyone approaches its own ceiling: who is near it already gains nothing more."""
    return Curve({"a": a}, STEPS, (5.0 + a) * (1.0 - np.exp(-STEPS[:, None])), BASE)


CURVES = [saturating(a) for a in np.linspace(0.0, 1.0, 8)]


def end_of_a_branch(curves: list[Curve]) -> float:
    model = fit_curves(SPACE, OBJECTIVES, curves, length=8.0)
    start = np.array([5.4])
    with torch.no_grad():
        mean = model.model.posterior(model.inputs([{"a": 0.5}], np.array([8.0]), [start], len(curves))).mean
    return float(model.untransform(mean))


def test_a_branch_from_where_runs_saturate_gains_no_more_than_they_did(monkeypatch):
    assert abs(end_of_a_branch(CURVES) - 5.5) < 0.7
    monkeypatch.setattr(module, "restart_places", lambda curve: [])
    assert end_of_a_branch(CURVES) > 6.5, "only of runs from the base, as many as ever are added"


def test_runs_of_which_nothing_is_known_where_they_start_or_that_are_short_are_learned_whole():
    assert module.restart_places(replace(CURVES[0], start=None)) == []
    assert module.restart_places(Curve({"a": 0.1}, STEPS[:2], np.ones((2, 1)), BASE)) == []
    unmeasured = replace(CURVES[0], values=np.where(STEPS[:, None] < 5.0, np.nan, 1.0))
    assert [STEPS[p] for p in module.restart_places(unmeasured)] == [6.0]
