from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate.interval_reach import cut, interval_reach
from epsopt.surrogate.transforms import MetricTransform


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_an_interval_may_go_as_far_beyond_all_as_the_farthest_run_does() -> None:
    low, high = interval_reach(column(0.0, 1.0, 2.0, 5.0, 9.0), np.array([0, 0, 1, 1, 2]))
    assert high == pytest.approx([9.0 + 4.0])
    assert low == pytest.approx([0.0 - 2.0])


def test_runs_that_end_alike_leave_a_tenth_of_the_range() -> None:
    low, high = interval_reach(column(0.0, 10.0, 0.0, 10.0, 0.0, 10.0), np.array([0, 0, 1, 1, 2, 2]))
    assert (low, high) == (pytest.approx([-1.0]), pytest.approx([11.0]))


@pytest.mark.parametrize("runs", [[0, 0, 1], [0, 1, 1]])
def test_what_two_runs_measured_says_nothing_of_a_third(runs: list[int]) -> None:
    low, high = interval_reach(column(1.0, 2.0, 3.0), np.array(runs))
    assert (low[0], high[0]) == (-np.inf, np.inf)


def test_what_was_not_measured_does_not_count() -> None:
    values = np.array([[0.0, np.nan], [1.0, np.nan], [2.0, 7.0], [3.0, np.nan]])
    low, high = interval_reach(values, np.arange(4))
    assert np.isfinite([low[0], high[0]]).all()
    assert (low[1], high[1]) == (-np.inf, np.inf)


def test_a_prediction_beyond_the_reach_stays_inside_its_interval() -> None:
    low, high = cut(np.array([-9.0, 4.0]), np.array([0.5, 5.0]), np.array([9.0, 9.0]), (np.array(-1.0), np.array(2.0)))
    assert (low.tolist(), high.tolist()) == ([-1.0, 4.0], [2.0, 5.0])


def test_no_interval_of_a_map_is_wider_than_what_runs_have_measured_allows(zoo, fitted) -> None:
    surrogate, _ = fitted
    far = surrogate.memory.latents[:20] * 40.0  # where nothing is known
    without_ends = tuple(MetricTransform(None, t.centre, t.scale) for t in surrogate.transforms)
    wide = tuple(torch.cat([50.0 * s[:1], s[1:]]) for s in surrogate.scores)
    unsure = replace(surrogate, transforms=without_ends, scores=wide)
    found = unsure.predict(far)
    measured = unsure.to_metrics(unsure.memory.metrics.double()).numpy()
    low, high = interval_reach(measured, unsure.memory.runs.numpy())
    spread = np.nanmax(measured, axis=0) - np.nanmin(measured, axis=0)
    assert (found.high <= np.maximum(high, found.point) + 1e-9).all()
    assert (found.low >= np.minimum(low, found.point) - 1e-9).all()
    assert np.isfinite([found.low, found.high]).all()
    assert (found.high - found.low > 0.2 * spread).all(), "they are cut, not gone"
