from __future__ import annotations

import pytest

from epsopt.optimize.schedule.gain_calibration import PATIENCE, Reliability, marginal_value_threshold


def test_a_kind_that_never_promised_is_believed() -> None:
    assert Reliability().of("run", 0.3) == 1.0
    assert Reliability().of("run", 0.0) == 1.0


def test_broken_promises_cost_trust_and_kept_ones_bring_it_back() -> None:
    credit = Reliability()
    credit.learn("run", 0.05, 0.0)
    broken = credit.of("run", 0.3)
    assert broken == pytest.approx(1 / 3), "half of the usual promise is in doubt"
    assert credit.of("merge", 0.3) == 1.0
    credit.learn("run", 0.05, 0.05)
    assert broken < credit.of("run", 0.3) < 1.0


def test_nobody_is_believed_more_than_twice() -> None:
    credit = Reliability()
    credit.learn("merge", 0.001, 0.2)
    assert credit.of("merge", 0.3) == 2.0


def test_a_failed_trifle_hardly_counts() -> None:
    credit = Reliability()
    credit.learn("merge", 1e-5, 0.0)
    assert credit.of("merge", 0.3) > 0.99


def test_what_is_enough_falls_with_the_epochs_that_were_spent() -> None:
    assert marginal_value_threshold(0.4, 100) == pytest.approx(PATIENCE * 0.004)
    assert marginal_value_threshold(0.0, 0) == 0.0


def test_a_kind_that_goes_on_failing_is_hardly_believed() -> None:
    credit = Reliability()
    for _ in range(10):
        credit.learn("run", 0.05, 0.0)
    assert credit.of("run", 0.3) < 0.08


def test_what_a_kind_is_believed_at_first_gives_way_to_what_it_brings() -> None:
    credit = Reliability(first={"beyond": 0.3})
    assert credit.of("beyond", 0.3) == pytest.approx(0.3)
    assert credit.of("between", 0.3) == 1.0
    credit.learn("beyond", 0.05, 0.05)
    assert credit.of("beyond", 0.3) == pytest.approx((0.05 + 0.025 * 0.3) / 0.075)
