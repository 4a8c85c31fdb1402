from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize.forecast.calibration import Calibration, fit_calibration

SHARES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30)


def drawn(n: int, shift: float, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts, and what came of them where their logits are off by a shift and a slope."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, n)
    true = 1 / (1 + np.exp(-(shift + slope * logits)))
    return 1 / (1 + np.exp(-logits)), (rng.uniform(size=n) < true).astype(float)


def test_nothing_seen_changes_nothing() -> None:
    assert fit_calibration(np.empty(0), np.empty(0), np.empty(0)) == Calibration()
    assert [Calibration()(p) for p in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]


def test_of_many_forecasts_it_is_found_how_far_they_are_off() -> None:
    forecasts, outcomes = drawn(5000, -1.0, 0.5)
    found = fit_calibration(forecasts, outcomes, np.ones(5000))
    assert found.shift == pytest.approx(-1.0, abs=0.1)
    assert found.slope == pytest.approx(0.5, abs=0.05)


def test_few_forecasts_move_it_little() -> None:
    forecasts, outcomes = drawn(5000, -3.0, 1.0)
    table = [fit_calibration(forecasts[:n], outcomes[:n], np.ones(n))(0.5) for n in (2, 20, 5000)]
    assert 0.5 > table[0] > table[1] > table[2] > 0.03
    assert table[0] > 0.3
    assert table[2] == pytest.approx(1 / (1 + np.exp(3.0)), abs=0.01)


def test_what_came_true_in_half_counts_as_half() -> None:
    whole = fit_calibration(np.array([0.9, 0.9]), np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    half = fit_calibration(np.array([0.9]), np.array([0.5]), np.array([2.0]))
    assert whole(0.7) == pytest.approx(half(0.7))


@given(SHARES, st.data())
def test_it_is_a_probability_keeps_the_order_and_fits_no_worse_than_no_change(predicted, data) -> None:
    n = len(predicted)
    came = data.draw(st.lists(st.floats(0.0, 1.0), min_size=n, max_size=n))
    weights = data.draw(st.lists(st.floats(0.1, 10.0), min_size=n, max_size=n))
    found = fit_calibration(np.array(predicted), np.array(came), np.array(weights))
    table = [found(p) for p in np.linspace(0.0, 1.0, 21)]
    assert all(0.0 <= p <= 1.0 for p in table)
    assert (np.diff(table) >= 0.0).all()

    def loss(q: np.ndarray) -> float:
        return float(-(np.array(weights) * (np.array(came) * np.log(q) + (1 - np.array(came)) * np.log1p(-q))).sum())

    clipped = np.clip(predicted, 0.001, 0.999)
    calibrated = np.clip([found(p) for p in clipped], 1e-300, 1 - 1e-16)
    assert loss(calibrated) <= loss(clipped) + 1e-6
