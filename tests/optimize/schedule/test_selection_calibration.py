"""Predictions of chosen runs are corrected by what came of such ones in the project's own history."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.objectives import Objective
from epsopt.optimize.schedule.run_acquisition import Candidate, Start
from epsopt.optimize.schedule.run_model import fit_run_model
from epsopt.optimize.schedule.run_prediction import expect
from epsopt.optimize.schedule.selection_calibration import FEWEST_RUNS, fit_selection_calibration
from epsopt.optimize.space import Parameter, Space

SPACE = Space((
    Parameter("a", "float", 0.0, 1.0),
    Parameter("mode", "categorical", choices=("x", "y")),
))  # fmt: skip
OBJECTIVES = (Objective("up", maximize=True), Objective("right", maximize=True))
BASE = np.array([0.5, 0.1])
STEPS = np.arange(1.0, 7.0)
CORNER = np.zeros(2)


def curve(a: float, mode: str = "x", noise: float = 0.0, rng: np.random.Generator | None = None) -> Curve:
    grown = np.log1p(STEPS) / np.log1p(6.0)
    values = np.column_stack([0.5 + 0.3 * a * grown, 0.1 + 0.6 * a * grown])
    if rng is not None:
        values = values + noise * rng.standard_normal(2)
    return Curve({"a": a, "mode": mode}, STEPS, values, BASE)


def history(noise: float, n: int = 24) -> list[Curve]:
    rng = np.random.default_rng(0)
    return [curve(a, "xy"[i % 2], noise, rng) for i, a in enumerate(rng.uniform(0.0, 0.6, n))]


@pytest.fixture(scope="module")
def sure() -> CurveModel:
    """Learned from runs that said nothing of how much later ones would differ."""
    return fit_curves(SPACE, OBJECTIVES, history(0.002)[:12], length=6.0)


def test_runs_that_err_more_than_was_said_stretch_intervals_and_those_that_do_not_leave_them(sure):
    calm = fit_selection_calibration(sure, history(0.002), reference=CORNER)
    wild = fit_selection_calibration(sure, [*history(0.002)[:12], *history(0.1)[12:]], reference=CORNER)
    assert max(calm.stretch) < 2.0
    assert min(wild.stretch) > 2.0 * max(1.0, min(calm.stretch))


def test_what_chosen_runs_gained_less_than_was_expected_is_taken_off_what_is_expected_of_the_next(sure):
    barren = [replace(c, values=np.broadcast_to(BASE, c.values.shape)) for c in history(0.002)[12:]]
    found = fit_selection_calibration(sure, [*history(0.002)[:12], *barren], reference=CORNER)
    assert 0.0 < found.gain("run") < 0.8
    assert found.gain("look") == 1.0, "nothing is known of it"
    assert fit_selection_calibration(sure, history(0.002), reference=CORNER).gain("run") <= 1.0


def test_few_runs_leave_the_corrections_that_are_usual(sure):
    found = fit_selection_calibration(sure, history(0.002)[: FEWEST_RUNS - 1], reference=CORNER)
    assert (found.stretch, found.gains) == ((), {})
    assert 0.0 < found.gain("branch") < found.gain("run") < 1.0
    assert 0.0 < found.joins(0.3) < 0.3


def test_without_a_branch_so_far_what_runs_did_after_their_checkpoints_stands_for_one(sure):
    assert set(fit_selection_calibration(sure, history(0.002), reference=CORNER).gains) == {"run", "branch"}
    apart = [replace(c, start=None) for c in history(0.002)]
    model = fit_curves(SPACE, OBJECTIVES, apart[:12], length=6.0)
    assert set(fit_selection_calibration(model, apart, reference=CORNER).gains) == {"run"}


def test_what_no_run_tried_with_its_choice_is_less_likely_and_wider():
    curves = [curve(a, mode) for mode, most in (("x", 0.3), ("y", 1.0)) for a in np.linspace(0.0, most, 12)]
    model = fit_run_model(SPACE, OBJECTIVES, curves, length=6.0, reference=CORNER)
    tried, not_tried = (model.expect(Candidate({"a": 1.0, "mode": m}, Start("", BASE), 6.0)) for m in ("y", "x"))
    assert not_tried.joins_front < 0.3 * max(tried.joins_front, 0.1)
    assert not_tried.high["right"] - not_tried.low["right"] > 2.0 * (tried.high["right"] - tried.low["right"])


def test_of_what_is_expected_of_the_next_run_up_to_half_is_how_often_late_ones_joined_the_front():
    begin = [curve(a, "x") for a in np.linspace(0.0, 1.0, 8)]
    barren = [replace(c, values=c.values - 0.5) for c in begin]
    better = [replace(begin[-1], values=begin[-1].values + 0.1 * i) for i in range(1, 9)]
    model = fit_run_model(SPACE, OBJECTIVES, [*begin, *barren], length=6.0, reference=CORNER)
    assert model.joined == {"run": (0, 8), "branch": (0, 0)}
    for later, expected in ((better, (8, 8)), ([*barren, *better], (8, 12))):
        other = replace(model, curves=model.curves.given([*begin, *later]))
        assert other.joined["run"] == expected
    branched = [replace(c, start=np.array([0.6, 0.2])) for c in better[:3]]
    other = replace(model, curves=model.curves.given([*begin, *barren, *branched]))
    assert other.joined == {"run": (0, 8), "branch": (2, 2)}
    assert (model.joins(0.9, "branch"), model.joins(0.9, "run")) == (0.9, pytest.approx(0.6 * 0.9 + 0.4 * 0.1))
    candidate = Candidate({"a": 0.5, "mode": "x"}, Start("", BASE), 6.0)
    alone = model.calibration.joins(expect(model.curves, candidate).joins_front)
    assert model.expect(candidate).joins_front == pytest.approx(model.joins(alone, "run"))


def test_a_model_that_goes_on_keeps_the_half_that_says_what_it_is_worth():
    curves = history(0.01, 12)
    first = fit_run_model(SPACE, OBJECTIVES, curves[:11], length=6.0, reference=CORNER)
    second = fit_run_model(SPACE, OBJECTIVES, curves, length=6.0, reference=CORNER, before=first)
    assert first.half is not None
    assert second.half is first.half
    assert len(second.curves.curves) == 12
    assert fit_run_model(SPACE, OBJECTIVES, curves[:8], length=6.0, reference=CORNER).half is None
