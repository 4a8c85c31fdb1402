from __future__ import annotations

import pytest

from epsopt.optimize.loop.credit import PATIENCE, Credit, worth_staying


def test_a_kind_that_never_promised_is_believed() -> None:
    assert Credit().trust("run", 0.3) == 1.0
    assert Credit().trust("run", 0.0) == 1.0


def test_broken_promises_cost_trust_and_kept_ones_bring_it_back() -> None:
    credit = Credit()
    credit.learn("run", 0.05, 0.0)
    broken = credit.trust("run", 0.3)
    assert broken < 0.2
    assert credit.trust("mixture", 0.3) == 1.0
    credit.learn("run", 0.05, 0.05)
    assert broken < credit.trust("run", 0.3) < 1.0


def test_nobody_is_believed_more_than_twice() -> None:
    credit = Credit()
    credit.learn("mixture", 0.001, 0.2)
    assert credit.trust("mixture", 0.3) == 2.0


def test_a_failed_trifle_hardly_counts() -> None:
    credit = Credit()
    credit.learn("mixture", 1e-5, 0.0)
    assert credit.trust("mixture", 0.3) > 0.99


def test_what_is_enough_falls_with_the_epochs_that_were_spent() -> None:
    assert worth_staying(0.4, 100) == pytest.approx(PATIENCE * 0.004)
    assert worth_staying(0.0, 0) == 0.0
