from __future__ import annotations

import numpy as np
import pytest

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.schedule.rungs import place_of_last, rank_at_rung

SIGNS = np.array([1.0, -1.0])


def run(steps: list[float], gain: list[float], cost: list[float]) -> Curve:
    return Curve({}, np.array(steps), np.array([gain, cost]).T)


def whole(level: float, length: int = 20) -> Curve:
    steps = np.arange(1.0, length + 1)
    return Curve({}, steps, np.column_stack([steps * level, 50.0 - steps * level]))


@pytest.mark.parametrize(("epochs", "rung"), [(2, 2), (3, 2), (5, 2), (6, 6), (17, 6), (18, 18)])
def test_a_run_is_ranked_at_the_last_rung_that_it_reached(epochs: int, rung: int) -> None:
    rank = rank_at_rung(whole(2.0, epochs), [whole(1.0), whole(3.0), whole(4.0)], SIGNS, 2.0)
    assert rank is not None
    assert (rank.epoch, rank.count, rank.place, rank.of) == (rung, rung, 3, 4)
    assert str(rank) == f"at epoch {rung} it ranks 3 of 4 runs"


def test_before_the_first_rung_and_where_nothing_was_measured_there_is_no_rank() -> None:
    assert rank_at_rung(whole(1.0, 1), [whole(2.0)], SIGNS, 2.0) is None
    assert rank_at_rung(Curve({}, np.zeros(0), np.zeros((0, 2))), [whole(2.0)], SIGNS, 0.0) is None
    nothing = run([1, 2, 3], [1, np.nan, 1], [1, np.nan, 1])
    assert rank_at_rung(nothing, [whole(2.0)], SIGNS, 2.0) is None


def test_who_did_not_come_as_far_or_measured_something_else_is_left_out() -> None:
    others = [whole(9.0, 5), whole(9.0), run([6], [100], [np.nan])]
    rank = rank_at_rung(whole(1.0, 6), others, SIGNS, 2.0)
    assert rank is not None
    assert (rank.place, rank.of) == (2, 2)
    # Of one objective alone, all that have it count.
    only_gain = run([6], [101], [np.nan])
    rank = rank_at_rung(only_gain, others, SIGNS, 2.0)
    assert rank is not None
    assert (rank.place, rank.of) == (1, 3)


def test_runs_of_rare_checkpoints_are_compared_at_the_first_one_after_the_rung() -> None:
    rare = run([5, 10], [1.0, 50.0], [49.0, 0.0])
    rank = rank_at_rung(run([4], [2.0], [48.0]), [rare, run([1], [9.0], [0.0])], SIGNS, 2.0)
    assert rank is not None
    assert (rank.epoch, rank.count, rank.place, rank.of) == (4, 1, 1, 2)


def test_only_those_beyond_the_best_third_are_outranked() -> None:
    others = [whole(float(level)) for level in range(1, 9)]
    outranked = [rank_at_rung(whole(level + 0.5, 2), others, SIGNS, 2.0) for level in range(9)]
    assert [rank is not None and rank.is_outranked for rank in outranked] == [True] * 5 + [False] * 4
    alone = rank_at_rung(whole(0.0, 2), [], SIGNS, 2.0)
    assert alone is not None
    assert not alone.is_outranked


def test_of_a_front_the_farthest_from_those_before_comes_next_whatever_the_units() -> None:
    # First comes the first; then its opposite end; then the middle, before what is near either.
    front = np.array([[0.0, 4.0], [0.1, 3.9], [3.9, 0.1], [4.0, 0.0], [2.0, 2.0]])
    assert [place_of_last(np.roll(front, -k, axis=0)) for k in (0, 2)] == [3, 5]
    dominated = np.vstack([front, [[0.0, 0.0]]])
    assert place_of_last(dominated) == 6
    curves = [run([2], [g * 1e6], [-c]) for g, c in front[:-1]]
    scaled = rank_at_rung(run([2], [2.0 * 1e6], [-2.0]), curves, SIGNS, 2.0)
    assert scaled is not None
    assert scaled.place == 3
