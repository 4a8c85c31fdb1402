from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.schedule.unfreezing import learn_onsets
from epsopt.optimize.space import Parameter, Space
from epsopt.zoo.errors import UsageError

SPACE = Space((
    Parameter("trained", "categorical", choices=("none", "top", "all")),
    Parameter("schedule", "categorical", choices=("flat", "step")),
    Parameter("delay", "int", 0, 4),
    Parameter("warmup", "int", 0, 4),
))  # fmt: skip


def run(onsets: Sequence[float], *, trained: str = "all", schedule: str = "flat", delay: int = 0, warmup: int = 0,
        epochs: int = 5, still: float = 0.0) -> Curve:  # fmt: skip
    """A run whose blocks are where they were for so many epochs each."""
    steps = np.arange(1.0, epochs + 1)
    moved = np.where(steps[:, None] > np.array(onsets)[None, :], 0.1 * steps[:, None], still)
    config = {"trained": trained, "schedule": schedule, "delay": delay, "warmup": warmup}
    return Curve(config, steps, np.zeros((epochs, 1)), moved=moved)


NEVER = np.inf


def test_nothing_is_known_of_few_runs_nor_of_those_that_do_not_say_where_they_went() -> None:
    one, unknown = run([0, 0]), Curve({}, np.ones(1), np.zeros((1, 1)))
    assert learn_onsets(SPACE, [one, unknown]).groups == ()
    assert learn_onsets(SPACE, [run([NEVER]), run([NEVER])]).groups == (), "a block that never moved is no part of it"
    assert learn_onsets(SPACE, [one]).expected_trainable_share(one.config, 3.0) == 1.0


def test_runs_of_other_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match="how far 2 and 3 blocks moved"):
        learn_onsets(SPACE, [run([0, 0]), run([0, 0, 0])])


def test_a_choice_that_keeps_blocks_still_is_found() -> None:
    runs = [
        run([0, 0, NEVER], schedule="step"), run([0, NEVER, NEVER], trained="none"), run([0, 0, NEVER], trained="top"),
        run([0, NEVER, NEVER], trained="none", schedule="step"),
    ]  # fmt: skip
    found = learn_onsets(SPACE, runs)
    shares = {g.freezer: (g.share, dict(g.frozen)) for g in found.groups}
    assert shares == {None: (0.5, {}), "trained": (0.5, {"none": 2})}
    lively = {c: found.expected_trainable_share({"trained": c, "delay": 0}, 3.0) for c in ("none", "top", "all")}
    assert lively["none"] < lively["top"] == lively["all"]


def test_blocks_that_moved_by_no_more_than_rounding_are_still() -> None:
    runs = [run([0, 0]), run([0, NEVER], trained="none", still=5e-8), run([0, NEVER], trained="none", still=1e-9)]
    assert {g.freezer for g in learn_onsets(SPACE, runs).groups} == {None, "trained"}
    restless = [run([0, 0]), run([0, NEVER], trained="none", still=1e-5), run([0, NEVER], trained="none", still=1e-5)]
    assert {g.freezer for g in learn_onsets(SPACE, restless).groups} == {None}


def test_a_delay_is_found_from_one_run_that_it_kept_waiting() -> None:
    runs = [run([0, 3], delay=3, warmup=1), run([0, 0], warmup=2)]
    found = learn_onsets(SPACE, runs)
    assert {g.delay for g in found.groups} == {None, "delay"}
    assert (
        found.expected_trainable_share({"delay": 0}, 3.0)
        > found.expected_trainable_share({"delay": 2}, 3.0)
        > found.expected_trainable_share({"delay": 4}, 3.0)
    )
    assert found.expected_trainable_share({"delay": 2}, 6.0) > found.expected_trainable_share({"delay": 2}, 3.0)


@pytest.mark.parametrize(
    "contradiction",
    [run([0, 0], delay=2), run([0, 4], delay=2), run([0, NEVER], delay=2)],
    ids=["moved before", "moved after", "never moved"],
)
def test_a_delay_that_a_run_contradicts_is_none(contradiction: Curve) -> None:
    agreeing = [run([0, 3], delay=3, warmup=1), run([0, 1], delay=1, warmup=4)]
    assert {g.delay for g in learn_onsets(SPACE, agreeing).groups} == {None, "delay"}
    assert {g.delay for g in learn_onsets(SPACE, [*agreeing, contradiction]).groups} == {None}


def test_between_checkpoints_a_block_may_have_begun_at_any_epoch() -> None:
    def every_other(curve: Curve) -> Curve:
        assert curve.moved is not None
        return replace(curve, steps=curve.steps[1::2], values=curve.values[1::2], moved=curve.moved[1::2])

    sparse = [every_other(run([0, o], delay=o, warmup=4 - o, epochs=8)) for o in (3, 4, 2)]
    assert {g.delay for g in learn_onsets(SPACE, sparse).groups} == {None, "delay"}
    wrong = [every_other(run([0, 4], delay=d, epochs=8)) for d in (3, 6)]
    for contradiction in wrong:
        assert {g.delay for g in learn_onsets(SPACE, [*sparse, contradiction]).groups} == {None}


def test_a_run_that_ended_within_its_delay_contradicts_nothing() -> None:
    runs = [run([0, 3], delay=3, warmup=1), run([0, NEVER], delay=4, epochs=4), run([0, 0])]
    assert "delay" in {g.delay for g in learn_onsets(SPACE, runs).groups}


def test_two_parameters_that_say_the_same_say_nothing() -> None:
    runs = [run([0, 3], delay=3, warmup=3), run([0, 1], delay=1, warmup=1)]
    assert {g.delay for g in learn_onsets(SPACE, runs).groups} == {None}


def test_frozen_runs_tell_nothing_of_delays() -> None:
    runs = [run([0, 2], delay=2, warmup=1), run([0, 0]), run([0, NEVER], trained="none")]
    (group,) = [g for g in learn_onsets(SPACE, runs).groups if g.freezer]
    assert (group.freezer, group.delay, group.onsets) == ("trained", "delay", (2.0, 0.0))


def test_without_a_delay_blocks_are_expected_to_move_as_often_as_they_did() -> None:
    late = [run([0, 2], warmup=0), run([0, 2], warmup=3), run([0, 2], warmup=1)]
    (group,) = [g for g in learn_onsets(SPACE, late).groups if g.onsets[0] > 0.0]
    assert group.moves_by({}, 2.0) < 0.25
    assert group.moves_by({}, 3.0) > 0.75
