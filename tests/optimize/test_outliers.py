"""Diverged values and penalties set the scale of nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize.forecast.evaluation import front_gain
from epsopt.optimize.objectives import Objective
from epsopt.optimize.outliers import bulk, outlying, reference_point, winsorised, winsorised_limits

HUGE = [1e3, 1e8, 1e10, 1e300, float(np.finfo(float).max), float("inf")]
some = st.lists(st.floats(0.0, 1.0), min_size=8, max_size=30, unique=True)


def losses(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 1.5, n)


@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize("share", [1 / 40, 0.3, 0.7])
@pytest.mark.parametrize("maximize", [False, True])
def test_penalties_leave_the_scale_to_the_others(huge: float, share: float, maximize: bool) -> None:
    sign = -1.0 if maximize else 1.0
    values = losses()
    bad = np.random.default_rng(1).permutation(40) < 40 * share
    values[bad] = huge
    worst, best = bulk(sign * values, maximize=maximize)
    assert (worst, best) == (sign * values[~bad].max(), sign * values[~bad].min())
    assert (outlying(sign * values, maximize=maximize) == bad).all()
    scaled = winsorised(sign * values, maximize=maximize) * sign
    assert (scaled[~bad] == values[~bad]).all()
    assert values[~bad].max() < scaled[bad].min() <= scaled[bad].max() < 3.0


def test_a_penalty_of_ten_among_values_near_one_is_one_too() -> None:
    assert outlying(np.append(losses(), [10.0, 10.0]), maximize=False)[-2:].all()


@pytest.mark.parametrize(
    "values",
    [
        np.geomspace(0.01, 1e4, 30), np.random.default_rng(0).lognormal(0.0, 1.0, 40), np.zeros(5),
        np.array([1.0, 5.0]), np.repeat([0.0, 1.0], 10), np.linspace(0.5, 0.6, 9),
        np.array([1.0, 1.0, 1.0, 1.0, 0.9, 0.8]),
    ],
)  # fmt: skip
def test_what_grows_steadily_or_lies_together_has_no_outliers(values: np.ndarray) -> None:
    assert outlying(values, maximize=False).sum() <= 1


KEPT = [0.9625, 0.9625, 0.9625, 0.9625, 0.9625, 0.9575, 0.9575, 0.955]  # of an old task, as the base had it
GIVEN_UP = [0.9275, 0.915, 0.91, 0.91, 0.9025, 0.9, 0.895, 0.8025, 0.78, 0.74, 0.715]  # for a new one


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_given_up_for_another_metric_is_no_divergence(times: int) -> None:
    values = np.array(KEPT * times + GIVEN_UP)
    assert not outlying(values, maximize=True).any()
    # Whole percents of few rows leave few different values, of which most lie near the best.
    kept = np.round(np.linspace(0.95, 0.9625, 8), 4)
    assert not outlying(np.concatenate([kept, [0.90, 0.86, 0.80, 0.74, 0.70, 0.62]]), maximize=True).any()


def test_the_accuracy_of_guessing_is_one() -> None:
    learned, guessing = np.linspace(0.8, 0.95, 12), np.array([0.098, 0.101, 0.11, 0.128, 0.113])
    assert outlying(np.concatenate([learned, guessing]), maximize=True).tolist() == [False] * 12 + [True] * 5


def test_a_run_far_better_than_all_others_is_no_outlier() -> None:
    values = np.append(np.random.default_rng(0).uniform(0.1, 0.12, 20), 0.95)
    assert bulk(values, maximize=True)[1] == 0.95
    assert winsorised(values, maximize=True)[-1] == 0.95


@given(some, st.sampled_from(HUGE[1:]), st.integers(1, 5))
def test_how_large_a_penalty_is_makes_no_difference(values: list[float], huge: float, times: int) -> None:
    table = np.array([[v, 1.0 - v] for v in values])
    penalty = np.full((times, 2), -min(huge, 1e299))
    both = [reference_point(np.vstack([-table, p])) for p in (penalty, np.full((times, 2), -1e6))]
    assert (both[0] == both[1]).all()
    assert np.isfinite(both[0]).all()


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=12), st.booleans())
def test_any_values_give_finite_ones(values: list[float], maximize: bool) -> None:
    table = np.array(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        out = winsorised(table, maximize=maximize)
    assert (np.isnan(out) | np.isfinite(out)).all()
    if (np.abs(table) < 1e300).any():
        assert (np.isnan(out) == np.isnan(table)).all()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=True), min_size=1, max_size=12))
def test_limits_stay_met_or_broken(values: list[float]) -> None:
    table = np.array(values)
    out = winsorised_limits(table)
    assert np.isfinite(out).all()
    assert ((out <= 0) == (table <= 0)).all()


def test_the_gain_of_a_front_is_measured_from_what_did_not_diverge() -> None:
    objectives = [Objective("loss", maximize=False), Objective("acc", maximize=True)]
    old = np.column_stack([losses(), 1.0 - losses() / 2.0])
    diverged = np.vstack([old, [1e8, 0.0], [float("inf"), 0.5]])
    new = np.array([[0.05, 0.99]])
    assert front_gain(diverged, new, objectives).relative == pytest.approx(
        front_gain(old, new, objectives).relative, rel=0.5
    )
    assert front_gain(diverged, new, objectives).reference[0] < 2.0
