"""Merging finds what a fine grid finds, on trade-offs whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epsopt.optimize import Objective, hypervolume
from epsopt.optimize.merge.simplex_merge import choose_parents, merge, simplex_grid
from epsopt.zoo.errors import HookError, UsageError

from ...sweeps import examples  # noqa: TID252

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))


def truth(c):
    """Coverage falls as a sigmoid, structure rises with two parents and saturates: merges beat their parents."""
    far = c[1] + 2.0 * c[2]
    return {
        "coverage": float(1 / (1 + np.exp(10 * (far - 0.9)))),
        "structure": float(np.tanh(2 * c[1] + c[2])),
        "n": None,
    }


def volume(rows):
    table = np.array([[r["coverage"], r["structure"]] for r in rows])
    return hypervolume(table, [0.0, 0.0], [True, True])


@pytest.mark.slow
def test_few_evaluations_find_what_two_hundred_on_a_grid_find_and_predictions_come_true():
    calls = []

    def evaluate(c):
        calls.append(c)
        return truth(c[0])

    result = merge(evaluate, 3, OBJECTIVES, budget=18, bounds={"coverage": (0.0, 1.0)}, seed=0)
    assert len(calls) == len(result.evaluations) == 18
    grid = volume([truth(c) for c in simplex_grid(3, 200)])
    assert volume([e.measured for e in result.evaluations]) >= 0.97 * grid
    assert result.after > result.before
    assert all(np.isclose(c.sum(axis=1), 1.0).all() and (c >= -1e-9).all() for c in calls)
    later = result.evaluations[10:]  # made before they were evaluated
    errors = [abs(e.predicted["structure"]["value"] - e.measured["structure"]) for e in later]
    assert np.mean(errors) < 0.3 * np.std([e.measured["structure"] for e in result.evaluations])


@pytest.mark.parametrize("step", [0.0, 0.25])
def test_a_single_objective_is_pushed_to_what_a_grid_finds(step):
    def evaluate(c):
        value = 1.0 - (c[0][0] - 0.7) ** 2 - (c[0][1] - 0.2) ** 2
        return {"coverage": float(value - value % step if step else value)}

    result = merge(evaluate, 3, OBJECTIVES[:1], budget=16, seed=0)
    found = max(e.measured["coverage"] for e in result.evaluations)
    assert found >= max(evaluate(c[None])["coverage"] for c in simplex_grid(3, 200)) - 0.01
    assert result.after >= result.before


def test_the_soup_is_measured_where_the_budget_has_room_for_one_merge():
    result = merge(lambda c: truth(c[0]), 3, OBJECTIVES, budget=4, seed=0)
    assert [e.reason for e in result.evaluations][3] == "uniform soup"


def test_a_budget_beyond_what_lies_far_apart_is_spent_all_the_same():
    result = merge(lambda c: {"coverage": float(c[0][0])}, 2, OBJECTIVES[:1], budget=70, seed=0)
    assert len(result.evaluations) == 70


def test_a_merge_that_lacks_an_objective_has_failed_and_the_others_count():
    calls = []

    def evaluate(c):
        calls.append(c)
        return {"coverage": 0.5} if len(calls) == 5 else truth(c[0])

    result = merge(evaluate, 3, OBJECTIVES, budget=8, seed=0)
    assert [dict(e.measured) == {} for e in result.evaluations] == [False] * 4 + [True] + [False] * 3
    assert "not structure" in result.failures[0]


def test_merges_that_join_are_those_that_nothing_measured_dominates():
    known = np.array([[0.9, 0.5], [np.nan, 2.0]])
    result = merge(lambda c: truth(c[0]), 3, OBJECTIVES, known=known, budget=8, seed=0)
    rows = np.array([[e.measured["coverage"], e.measured["structure"]] for e in result.evaluations])
    everything = np.vstack([known[:1], rows])
    for i in range(3, 8):
        worse = ((everything >= rows[i]).all(axis=1) & (everything > rows[i]).any(axis=1)).any()
        assert (i in result.joined) == (not worse)


def test_one_seed_gives_one_merge():
    one, two = (merge(lambda c: truth(c[0]), 3, OBJECTIVES, budget=6, seed=5) for _ in range(2))
    assert [e.coefficients.tolist() for e in one.evaluations] == [e.coefficients.tolist() for e in two.evaluations]


def test_reach_leaves_the_simplex_a_little_and_no_more():
    seen = []
    merge(lambda c: seen.append(c) or truth(c[0]), 3, OBJECTIVES, budget=8, reach=0.3, seed=1)
    lowest = min(float(c.min()) for c in seen)
    assert -0.1 - 1e-9 <= lowest < 0.0
    assert all(np.isclose(c.sum(axis=1), 1.0).all() for c in seen)


def test_metrics_that_are_not_measured_are_borne_or_named():
    result = merge(
        lambda c: truth(c[0]) if c[0][2] < 0.5 else {"coverage": None, "structure": None}, 3, OBJECTIVES, budget=7
    )
    assert len(result.evaluations) == 7
    with pytest.raises(UsageError, match="not structure"):
        merge(lambda c: {"coverage": 1.0}, 3, OBJECTIVES, budget=9)


@pytest.mark.parametrize("nothing", [None, float("nan"), float("-inf")])
def test_a_hook_that_finds_no_value_on_any_parent_is_named_before_the_budget_is_spent(nothing):
    known, calls = np.array([[0.5, 0.5], [0.6, 0.4]]), []

    def evaluate(c):
        calls.append(c)
        return {"coverage": 0.5, "structure": nothing}

    with pytest.raises(UsageError, match=r"the evaluate hook returns NaN.* for structure on each of the 3 parents"):
        merge(evaluate, 3, OBJECTIVES, known=known, budget=9)
    assert len(calls) == 3


def test_objectives_that_no_merge_has_together_are_still_searched():
    def evaluate(c):
        values = truth(c[0])
        return {**values, ("coverage" if c[0][0] > 0.5 else "structure"): None}

    known = np.array([[0.5, 0.5]])
    assert len(merge(evaluate, 3, OBJECTIVES, known=known, budget=9, seed=0).evaluations) == 9


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"parents": 1}, "2 to 5"),
        ({"parents": 6}, "2 to 5"),
        ({"budget": 3}, "does not even measure"),
        ({"reach": -0.1}, "reach"),
        ({"objectives": ()}, "no objective"),
    ],
)
def test_what_cannot_be_merged_is_refused(arguments, reason):
    given_ = {"parents": 3, "objectives": OBJECTIVES, "budget": 10, **arguments}
    with pytest.raises(UsageError, match=reason):
        merge(lambda c: truth(c[0]), given_.pop("parents"), given_.pop("objectives"), **given_)


@given(st.integers(2, 5), st.integers(1, 300))
@settings(max_examples=examples(30), deadline=None)
def test_the_grid_is_uniform_and_fine_enough(parents, least):
    grid = simplex_grid(parents, least)
    assert len(grid) >= least
    assert len(np.unique(grid, axis=0)) == len(grid)
    assert np.allclose(grid.sum(axis=1), 1.0)
    assert (grid >= 0).all()
    assert {tuple(row) for row in np.eye(parents)} <= {tuple(row) for row in grid}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=examples(60), deadline=None)
def test_chosen_parents_are_different_points_of_the_front(points, count):
    table = np.array(points, dtype=float)
    chosen = choose_parents(table, OBJECTIVES, count)
    assert 1 <= len(chosen) <= count
    assert len(set(chosen)) == len(chosen)
    for i in chosen:
        assert not ((table >= table[i]).all(axis=1) & (table > table[i]).any(axis=1)).any()


def test_a_model_that_cannot_be_fitted_loses_nothing(monkeypatch):
    from botorch.exceptions.errors import ModelFittingError
    from linear_operator.utils.errors import NotPSDError

    from epsopt.optimize.merge import simplex_gp

    def refused(*_, **__):
        raise ModelFittingError("All attempts to fit the model have failed.")

    monkeypatch.setattr(simplex_gp, "fit_gpytorch_mll", refused)
    result = merge(lambda c: truth(c[0]), 3, OBJECTIVES, budget=9, seed=0)
    assert len(result.evaluations) == 9
    assert result.evaluations[-1].predicted is not None  # by what one would have guessed before

    def broken(*_, **__):
        raise NotPSDError("not positive definite")

    monkeypatch.setattr(simplex_gp, "expected_most", broken)
    result = merge(lambda c: truth(c[0]), 3, OBJECTIVES, budget=9, seed=0)
    assert len(result.evaluations) == 9
    assert result.evaluations[-1].predicted is None
    tried = np.stack([e.coefficients[0] for e in result.evaluations])
    apart = np.linalg.norm(tried[:, None] - tried[None], axis=-1) + 9.0 * np.eye(len(tried))
    assert apart.min() > 1e-3


@pytest.mark.parametrize(("broken", "measured", "stops"), [({4}, 9, False), ({5, 6, 7, 8}, 5, True)])
def test_an_evaluation_that_fails_loses_nothing(broken, measured, stops):
    calls = []

    def evaluate(c):
        calls.append(c)
        if len(calls) - 1 in broken:
            raise HookError("the evaluate hook 'a:b' failed: out of memory")
        return truth(c[0])

    result = merge(evaluate, 3, OBJECTIVES, budget=10, seed=0)
    assert sum(bool(e.measured) for e in result.evaluations) == measured
    assert len(result.failures) == len([i for i in broken if i < len(calls)])
    assert "out of memory" in result.failures[0]
    assert (result.stopped is not None) == stops
    assert not set(result.joined) & broken
    with pytest.raises(HookError):  # a parent that cannot be measured ends it: there is nothing yet to lose
        merge(lambda _: (_ for _ in ()).throw(HookError("no")), 3, OBJECTIVES, budget=9)
