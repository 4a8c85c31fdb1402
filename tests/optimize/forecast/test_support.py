"""What no past run tried is distinguished choice by choice."""

from __future__ import annotations

import pytest

from epsopt.optimize.forecast.support import UNTRIED, Support
from epsopt.optimize.space import Parameter, Space

SPACE = Space((
    Parameter("optimizer", "categorical", choices=("adam", "sgd", "lion")),
    Parameter("lr", "float", 1e-4, 1.0, log=True),
    Parameter("momentum", "float", 0.0, 1.0, active_when=("optimizer", ("sgd",))),
))  # fmt: skip
TRIED = [{"optimizer": "adam", "lr": 10 ** (-4 + 0.1 * i)} for i in range(20)]
TRIED += [{"optimizer": "sgd", "lr": 10 ** (-2 + 0.1 * i), "momentum": 0.5} for i in range(20)]


def test_a_learning_rate_that_only_another_optimizer_had_is_not_supported():
    support = Support.of(SPACE, TRIED)
    assert support.beyond({"optimizer": "sgd", "lr": 0.5, "momentum": 0.5}) == 0.0
    assert support.beyond({"optimizer": "adam", "lr": 0.5}) == pytest.approx((3.7 - 1.9) / 4 - 1 / 21, abs=0.01)
    assert support.weight({"optimizer": "adam", "lr": 0.5}) < 0.2 < support.weight({"optimizer": "adam", "lr": 0.02})
    assert support.weight({"optimizer": "adam", "lr": 1e-3}) == 1.0


def test_a_choice_that_no_run_made_is_as_far_as_half_a_range():
    support = Support.of(SPACE, TRIED)
    assert support.beyond({"optimizer": "lion", "lr": 0.01}) == UNTRIED


def test_a_few_runs_cover_more_than_the_span_of_their_own_values():
    few = Support.of(SPACE, [{"optimizer": "adam", "lr": lr} for lr in (1e-3, 1e-2)])
    assert few.beyond({"optimizer": "adam", "lr": 0.1}) == 0.0
    many = Support.of(SPACE, [{"optimizer": "adam", "lr": lr} for lr in [1e-3, 1e-2] * 20])
    assert many.beyond({"optimizer": "adam", "lr": 0.1}) > 0.2


def test_a_space_without_choices_has_ranges_too_and_an_inactive_number_none():
    plain = Space((Parameter("x", "float", 0.0, 1.0),))
    support = Support.of(plain, [{"x": 0.1 + 0.01 * i} for i in range(30)])
    assert support.beyond({"x": 0.2}) == 0.0
    assert support.beyond({"x": 1.0}) > 0.5
    assert Support.of(SPACE, TRIED).beyond({"optimizer": "adam", "lr": 1e-3, "momentum": 0.99}) == 0.0
