"""What misses a limit of an objective is on no front, counts for no hypervolume, and is asked for by no search."""

from __future__ import annotations

import numpy as np

from epsopt.optimize import Objective, Target
from epsopt.optimize.measured_front import measured_front
from epsopt.optimize.objectives import limits_as_targets, measured_table, within_limits
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.studies.project.suggest_limits import suggest_limits
from epsopt.zoo.catalogue.types import Checkpoint

ACC, ECE = Objective("acc", maximize=True, limit=0.5), Objective("ece", maximize=False)
ROWS = [{"acc": 0.098, "ece": 0.005}, {"acc": 0.9, "ece": 0.1}, {"acc": 0.8, "ece": 0.05}, {"acc": 0.5, "ece": None}]


def test_what_misses_a_limit_is_on_no_front_and_in_no_hypervolume():
    table = measured_table(ROWS, [ACC, ECE])
    assert non_dominated(table, [True, False]).indices.tolist() == [1, 2]
    free = measured_table(ROWS, [Objective("acc", maximize=True), ECE])
    assert non_dominated(free, [True, False]).indices.tolist() == [0, 1, 2]
    assert hypervolume(table, [0.0, 1.0], [True, False]) < hypervolume(free, [0.0, 1.0], [True, False])


def test_a_value_at_the_limit_reaches_it_and_what_was_not_measured_stays_so():
    table = within_limits(np.array([[0.5, 0.2], [0.4, 0.2], [np.nan, 0.1]]), [ACC, ECE])
    assert np.isnan(table).all(axis=1).tolist() == [False, True, False]
    assert table[2, 1] == 0.1


def test_limits_are_targets_and_the_stricter_one_counts():
    assert limits_as_targets([ACC, ECE], []) == [Target("acc", 0.5)]
    assert limits_as_targets([ACC, ECE], [Target("acc", 0.9)]) == [Target("acc", 0.9)]
    at_most = Objective("ece", maximize=False, limit=0.1)
    assert limits_as_targets([ACC, at_most], [Target("ece", 0.3)]) == [Target("ece", 0.1), Target("acc", 0.5)]


def test_objectives_are_the_same_whatever_their_limits():
    assert Objective("acc", maximize=True) == ACC


def test_the_front_of_the_dashboard_keeps_to_limits():
    rows = [Checkpoint(i, i, f"r{i}", f"/{i}", str(i), 1, m, {}, "s", 1, 9) for i, m in enumerate(ROWS)]
    front, _ = measured_front([ACC, ECE], rows)
    assert [c.run for c in front] == ["r1", "r2"]


def test_a_limit_is_suggested_where_chance_would_be_on_the_front():
    free = [Objective("acc", maximize=True), ECE]
    assert suggest_limits(free, {"acc": (0.0, 1.0)}, ROWS) == {"acc": 0.45}
    assert suggest_limits(free, {"acc": (0.0, 1.0)}, ROWS[1:]) == {}
    assert suggest_limits(free[:1], {"acc": (0.0, 1.0)}, ROWS) == {}
    assert suggest_limits(free, {}, ROWS) == {}
