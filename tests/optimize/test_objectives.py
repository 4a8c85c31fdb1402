from __future__ import annotations

import math

import numpy as np
import pytest

from epsopt.optimize.objectives import Objective, Target, meets, parse_targets, worst_where_missing
from epsopt.zoo.errors import UsageError

KNOWN = [Objective("coverage", True), Objective("dist_corr", True), Objective("rad_hier", False)]
OBSERVED = {"coverage": (0.0, 0.98), "rad_hier": (-0.8, 0.1)}
BOUNDS = {"coverage": (0.0, 1.0), "rad_hier": (-1.0, 1.0)}


def parse(**pairs: float) -> list[Target]:
    return parse_targets(pairs, KNOWN, OBSERVED, BOUNDS)


def test_targets_keep_their_order_and_values():
    assert parse(rad_hier=-0.5, coverage=1) == [Target("rad_hier", -0.5), Target("coverage", 1.0)]
    assert parse() == []


def test_an_unknown_name_lists_the_known_ones_with_the_nearest_first():
    with pytest.raises(UsageError) as caught:
        parse(covrage=0.9)
    message = str(caught.value)
    assert message.index("did you mean coverage?") < message.index("dist_corr")
    assert "rad_hier" in message
    assert "\n" not in message


def test_a_name_like_no_other_lists_the_known_ones_without_a_guess():
    with pytest.raises(UsageError) as caught:
        parse(zzz=1)
    assert "did you mean" not in str(caught.value)
    assert "coverage, dist_corr, rad_hier" in str(caught.value)


def test_a_target_without_any_metric_says_what_to_do_first():
    with pytest.raises(UsageError, match="ingest"):
        parse_targets({"coverage": 1.0}, [], {}, {})


@pytest.mark.parametrize("value", [2, -0.001])
def test_a_value_that_the_metric_cannot_take_says_what_is_possible_and_what_was_seen(value):
    with pytest.raises(UsageError) as caught:
        parse(coverage=value)
    message = str(caught.value)
    assert f"{value:g}" in message
    assert "between 0 and 1" in message
    assert "0.98" in message


def test_a_range_with_one_end_is_said_by_that_end_and_so_is_what_changes_it():
    with pytest.raises(UsageError) as caught:
        parse_targets({"rad_hier": -1.0}, KNOWN, {}, {"rad_hier": (0.0, math.inf)})
    assert "rad_hier is at least 0" in str(caught.value)
    assert "change its bounds in epsopt.toml" in str(caught.value)


def test_the_best_of_a_minimised_metric_is_its_lowest():
    with pytest.raises(UsageError, match=r"-0\.8"):
        parse(rad_hier=-3)


def test_a_metric_without_bounds_takes_any_finite_value():
    assert parse(dist_corr=17) == [Target("dist_corr", 17.0)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.9", None])
def test_a_target_must_be_a_finite_number(value):
    with pytest.raises(UsageError, match="finite number"):
        parse(dist_corr=value)


def test_a_target_is_met_by_equality_and_in_the_metrics_own_direction():
    targets = [Target("coverage", 0.9), Target("rad_hier", -0.5)]
    assert meets({"coverage": 0.9, "rad_hier": -0.5}, targets, KNOWN)
    assert meets({"coverage": 0.95, "rad_hier": -0.6, "else": 1.0}, targets, KNOWN)
    assert not meets({"coverage": 0.95, "rad_hier": -0.4}, targets, KNOWN)
    assert not meets({"coverage": 0.85, "rad_hier": -0.6}, targets, KNOWN)


def test_a_missing_or_nan_metric_meets_no_target():
    assert not meets({}, [Target("coverage", 0.0)], KNOWN)
    assert not meets({"coverage": math.nan}, [Target("coverage", 0.0)], KNOWN)
    assert not meets({"rad_hier": math.nan}, [Target("rad_hier", 0.0)], KNOWN)
    assert meets({}, [], KNOWN)


def test_a_target_without_an_objective_is_an_error():
    with pytest.raises(UsageError, match="nonsense"):
        meets({"nonsense": 1.0}, [Target("nonsense", 0.0)], KNOWN)


def test_what_is_missing_counts_as_the_worst_that_is_no_outlier():
    losses = (Objective("loss", maximize=False), Objective("accuracy", maximize=True))
    table = np.array([[0.3 + 0.05 * i, 0.5 + 0.02 * i] for i in range(8)] + [[1e8, 0.5], [np.nan, 0.9]])
    filled = worst_where_missing(table, losses)
    assert filled[-1].tolist() == pytest.approx([0.65, 0.5])
    np.testing.assert_array_equal(filled[:-1], table[:-1])
    nothing = np.full((2, 2), np.nan)
    assert worst_where_missing(nothing, losses) is nothing
