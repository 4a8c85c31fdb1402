"""What a further budget is expected to add says when the front has settled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from epsopt.optimize.schedule.remaining_gain import RemainingGain, remaining_gain
from epsopt.optimize.schedule.run_model import RunModel, fit_run_model
from epsopt.zoo.errors import UsageError

from .test_scheduler import BASE, OBJECTIVES, SPACE, curve

CORNER = np.zeros(2)


def model_of(tried: float) -> RunModel:
    """Of runs whose `a`, of which more is better, went up to so much."""
    rng = np.random.default_rng(0)
    curves = [curve(float(a), float(b), 10) for a, b in rng.uniform((0.0, 0.0), (tried, 1.0), (14, 2))]
    return fit_run_model(SPACE, OBJECTIVES, curves, length=10.0, reference=CORNER)


@pytest.fixture(scope="module")
def open_end() -> RunModel:
    return model_of(0.6)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_effort_here")
def test_where_the_best_was_found_less_is_expected_than_where_it_was_not(open_end):
    there = remaining_gain(open_end, 20.0, reference=CORNER, base=BASE)
    rng = np.random.default_rng(1)
    curves = [curve(float(a), float(b), 10) for a, b in rng.uniform((0.97, 0.0), (1.0, 1.0), (6, 2))]
    settled = fit_run_model(SPACE, OBJECTIVES, [*open_end.curves.curves, *curves], length=10.0, reference=CORNER)
    here = remaining_gain(settled, 20.0, reference=CORNER, base=BASE)
    assert there.low <= there.gain <= there.high
    assert 0.0 < here.share(here.gain) < 0.3 * there.share(there.gain)


def test_more_epochs_are_expected_to_add_more_but_not_in_proportion(open_end):
    some, many = (remaining_gain(open_end, e, reference=CORNER, base=BASE) for e in (10.0, 40.0))
    assert some.gain < many.gain < 4.0 * some.gain
    assert some.volume == many.volume > 0.0


def test_what_runs_under_way_gain_is_not_predicted_again(open_end):
    from epsopt.optimize.schedule.run_acquisition import Candidate

    alone = remaining_gain(open_end, 10.0, reference=CORNER, base=BASE, reliability=lambda _: 1.0)
    doubted = remaining_gain(open_end, 10.0, reference=CORNER, base=BASE, reliability=lambda _: 0.5)
    assert doubted.gain == pytest.approx(0.5 * alone.gain, rel=0.2)
    busy = [Candidate({"a": 1.0, "b": 0.5}, BASE, 10.0)]
    assert remaining_gain(open_end, 10.0, reference=CORNER, base=BASE, running=busy).gain <= alone.gain * 1.05


def test_a_budget_of_nothing_and_a_level_that_is_none_are_refused(open_end):
    with pytest.raises(UsageError, match="0 epochs, expected more than none"):
        remaining_gain(open_end, 0.0, reference=CORNER)
    with pytest.raises(UsageError, match="between 0 and 1"):
        remaining_gain(open_end, 1.0, reference=CORNER, level=1.0)


def test_a_front_without_hypervolume_has_no_share():
    assert RemainingGain(1.0, 0.0, 0.1, 0.0, 0.2, 0.9).share(0.1) == float("inf")
    assert replace(RemainingGain(1.0, 0.5, 0.1, 0.0, 0.2, 0.9)).share(0.1) == pytest.approx(0.2)
