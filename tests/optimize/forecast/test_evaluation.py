from __future__ import annotations

import math

import numpy as np
import pytest

from epsopt.optimize import Objective
from epsopt.optimize.forecast.evaluation import accuracy, front_gain

UP_DOWN = (Objective("a", maximize=True), Objective("b", maximize=False))


def test_the_gain_is_the_volume_that_the_new_points_add() -> None:
    old = np.array([[0.0, 1.0], [1.0, 1.0], [0.5, 0.5]])  # reference (0, 1)
    gain = front_gain(old, np.array([[1.0, 0.0], [0.2, 0.9], [np.nan, 0.0]]), UP_DOWN)
    assert gain.reference == (0.0, 1.0)
    assert (gain.before, gain.after) == (pytest.approx(0.25), pytest.approx(1.0))
    assert gain.relative == pytest.approx(3.0)
    assert gain.joined == (0,)


def test_points_behind_the_front_or_none_at_all_move_nothing() -> None:
    old = np.array([[0.0, 1.0], [1.0, 0.0]])
    for new in (np.array([[0.5, 0.5]]), np.zeros((0, 2))):
        gain = front_gain(old, new, UP_DOWN)
        assert gain.relative == 0.0
        assert gain.joined == ()


def test_a_front_without_volume_gains_infinitely() -> None:
    assert math.isinf(front_gain(np.array([[0.0, 0.0]]), np.array([[1.0, -1.0]]), UP_DOWN).relative)


def test_accuracy_counts_what_lies_inside_and_leaves_out_what_was_not_measured() -> None:
    predicted = [({"a": 1.0}, {"a": 0.5}, {"a": 1.5}), ({"a": 2.0}, {"a": 1.9}, {"a": 2.1}), ({"a": 0.0},) * 3]
    (found,) = accuracy(predicted, [{"a": 1.5}, {"a": 3.0}, {"a": None}], ["a"])
    assert (found.inside, found.n) == (1, 2)
    assert found.error == pytest.approx(0.75)
    assert math.isnan(accuracy([], [], ["a"])[0].error)
