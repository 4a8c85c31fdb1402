"""What a fit says of measurements outside of what their metric can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from epsopt.studies import surrogate_store


@pytest.fixture
def beyond(zoo):
    """The synthetic zoo, three of its 70 coverages beyond 1, one not a number."""
    metrics = zoo[0].metrics.copy()
    metrics[:4, 0] = [1.3, 2.5, 1.0001, np.nan]
    return replace(zoo[0], metrics=metrics)


def test_measurements_beyond_declared_bounds_are_counted_once_a_metric(beyond):
    (doubt,) = surrogate_store.doubts_about_ranges(beyond, {"coverage": (0.0, 1.0), "structure": (0.0, 1.0)})
    assert doubt.startswith("coverage is declared to be between 0 and 1, but ")
    assert "to 2.5 were measured: 3 of 69 measurements count as the bound" in doubt
    assert doubt.endswith("change its bounds in epsopt.toml and run 'epsopt fit' again")
    assert surrogate_store.doubts_about_ranges(beyond, {"coverage": (0.0, 2.5), "structure": (0.0, 1.0)}) == ()


def test_a_map_is_not_refined_with_what_its_guess_excludes(zoo, beyond, fitted):
    surrogate, declared = fitted[0], {"coverage": (0.0, 1.0)}
    assert surrogate.transforms[0].bounds == (0.0, 1.0)
    assert surrogate_store.other_ranges(surrogate, zoo[0], {}) is None
    assert surrogate_store.other_ranges(surrogate, beyond, declared) is None, "what somebody declared holds"
    reason = surrogate_store.other_ranges(surrogate, beyond, {})
    assert reason == "coverage was taken to be between 0 and 1, and other values were measured since"
