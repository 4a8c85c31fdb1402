"""How far a fit says that it can be trusted."""

from __future__ import annotations

import numpy as np
import pytest

from epsopt.surrogate.validation import worst_tenth


def test_the_worst_tenth_is_of_runs_not_of_checkpoints():
    runs = np.repeat(np.arange(20), 5)
    inside = np.ones(100, dtype=bool)
    inside[runs == 3] = False
    inside[np.flatnonzero(runs == 7)[:2]] = False
    assert worst_tenth(inside, runs) == pytest.approx((0.0 + 0.6) / 2)
    assert worst_tenth(inside[runs != 3], runs[runs != 3]) == pytest.approx((0.6 + 1.0) / 2)


def test_of_few_runs_the_worst_one_counts():
    assert worst_tenth(np.array([True, True, False]), np.array([5, 5, 9])) == 0.0
