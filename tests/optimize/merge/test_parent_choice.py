"""Parents are chosen by what their merges are expected to gain."""

from __future__ import annotations

import numpy as np
import pytest

from epsopt.optimize import Objective
from epsopt.optimize.merge.parent_choice import POOL, expected_parents
from epsopt.optimize.merge.weight_space_gp import WeightSpace

from ...sweeps import sweep  # noqa: TID252

UP, RIGHT = Objective("up", maximize=True), Objective("right", maximize=True)


def space_of(places):
    places = np.asarray(places, dtype=float)
    return WeightSpace((places @ places.T)[None], np.array([1.0]))


def truth(place):
    """Each objective is best some way along a direction of its own, and suffers from the other a little."""
    x, y = place
    return [1.0 - (x - 0.8) ** 2 - 0.1 * y, 1.0 - (y - 0.8) ** 2 - 0.1 * x]


PLACES = [(0.8, 0.0), (0.82, 0.0), (0.78, 0.0), (0.0, 0.8), (0.3, 0.0), (0.0, 0.3), (0.1, 0.1)]
VALUES = np.array([truth(p) for p in PLACES])


def chosen(count, values=VALUES, **options):
    return expected_parents(space_of(PLACES), values, (UP, RIGHT), count, reference=np.zeros(2), **options)


def test_of_all_pairs_the_one_whose_merges_gain_most_is_chosen_and_not_two_that_are_alike():
    along_up = {0, 1, 2, 4}
    assert len(set(chosen(2)) & along_up) == 1, "one of either direction"
    minimized = (Objective("up", maximize=False), Objective("right", maximize=False))
    pair = expected_parents(space_of(PLACES), -VALUES, minimized, 2, reference=np.zeros(2))
    assert len(set(pair) & along_up) == 1


@pytest.mark.parametrize("count", sweep([3, 2, 4, 5]))
def test_as_many_as_are_asked_for_are_chosen_and_none_twice(count):
    rows = chosen(count)
    assert len(set(rows)) == len(rows) == count
    assert chosen(count) == rows, "the same seed chooses the same"


def test_checkpoints_without_a_value_are_not_chosen():
    values = VALUES.copy()
    values[[0, 3], 1] = np.nan
    assert not set(chosen(3, values)) & {0, 3}
    values[:-1] = np.nan
    assert chosen(3, values) == [6]


def test_where_many_are_measured_the_first_fronts_are_looked_at():
    rng = np.random.default_rng(0)
    places = np.abs(rng.normal(size=(3 * POOL, 2))) * 0.5
    values = np.array([truth(p) for p in places])
    rows = expected_parents(space_of(places), values, (UP, RIGHT), 3, reference=np.zeros(2))
    better = [((values >= values[i]).all(axis=1) & (values > values[i]).any(axis=1)).sum() for i in rows]
    assert max(better) < POOL
