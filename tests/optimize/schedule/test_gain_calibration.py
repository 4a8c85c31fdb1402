from __future__ import annotations

import pytest

from epsopt.optimize.schedule.gain_calibration import PATIENCE, Reliability, marginal_value_threshold


def test_a_kind_without_a_prediction_is_fully_reliable() -> None:
    assert Reliability().of("run", 0.3) == 1.0
    assert Reliability().of("run", 0.0) == 1.0


def test_missed_predictions_cost_reliability_and_kept_ones_restore_it() -> None:
    reliability = Reliability()
    reliability.learn("run", 0.05, 0.0)
    broken = reliability.of("run", 0.3)
    assert broken == pytest.approx(1 / 3), "half of the usual prediction is in doubt"
    assert reliability.of("merge", 0.3) == 1.0
    reliability.learn("run", 0.05, 0.05)
    assert broken < reliability.of("run", 0.3) < 1.0


def test_no_kind_is_more_than_twice_as_reliable() -> None:
    reliability = Reliability()
    reliability.learn("merge", 0.001, 0.2)
    assert reliability.of("merge", 0.3) == 2.0


def test_a_failed_trifle_hardly_counts() -> None:
    reliability = Reliability()
    reliability.learn("merge", 1e-5, 0.0)
    assert reliability.of("merge", 0.3) > 0.99


def test_what_is_enough_falls_with_the_epochs_that_were_spent() -> None:
    assert marginal_value_threshold(0.4, 100) == pytest.approx(PATIENCE * 0.004)
    assert marginal_value_threshold(0.0, 0) == 0.0


def test_a_kind_that_goes_on_failing_is_hardly_reliable() -> None:
    reliability = Reliability()
    for _ in range(10):
        reliability.learn("run", 0.05, 0.0)
    assert reliability.of("run", 0.3) < 0.08


def test_the_first_reliability_gives_way_to_realized_gains() -> None:
    reliability = Reliability(first={"beyond": 0.3})
    assert reliability.of("beyond", 0.3) == pytest.approx(0.3)
    assert reliability.of("between", 0.3) == 1.0
    reliability.learn("beyond", 0.05, 0.05)
    assert reliability.of("beyond", 0.3) == pytest.approx((0.05 + 0.025 * 0.3) / 0.075)
