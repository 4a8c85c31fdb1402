"""A few of many rows are spread evenly over them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epsopt.surrogate.thinning import evenly_spaced, learned_rows


@given(st.integers(0, 5000), st.integers(1, 300), st.sampled_from([np.rint, np.floor]))
def test_places_are_distinct_in_order_and_no_more_than_asked(n, most, rounding):
    found = evenly_spaced(n, most, rounding)
    assert len(found) == min(n, most)
    assert (np.diff(found) > 0).all()
    if n:
        assert found[0] == 0
        assert 0 <= found[-1] < n


@given(st.integers(2, 5000), st.integers(2, 300))
def test_the_last_place_is_kept_and_gaps_are_alike(n, most):
    found = evenly_spaced(n, most)
    assert found[-1] == n - 1
    gaps = np.diff(found)
    assert gaps.max() - gaps.min() <= 1


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 200), st.integers(0, 3))
def test_what_is_learned_from_is_chosen_once_each_and_no_more_than_asked(n, length, most, missing):
    rng = np.random.default_rng(n)
    metrics = rng.standard_normal((n, 3))
    metrics[:, :missing] = np.nan
    rows = learned_rows(np.arange(n) // length, metrics, most)
    assert len(rows) == min(n, most)
    assert (np.diff(rows) > 0).all()
    assert 0 <= rows[0] <= rows[-1] < n


def test_what_is_learned_from_holds_the_front_whichever_way_metrics_are_better():
    rng = np.random.default_rng(0)
    metrics = rng.standard_normal((20_000, 2))
    rows = set(learned_rows(np.arange(20_000) // 20, metrics, 2_000).tolist())
    for ways in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        front = np.flatnonzero(~_dominated(metrics * ways))
        assert np.mean([i in rows for i in front]) > 0.8


def test_what_is_learned_from_is_spread_over_runs_and_over_their_moments():
    runs, epochs = np.repeat(np.arange(500), 20), np.tile(np.arange(20), 500)
    metrics = np.random.default_rng(1).random((10_000, 1))
    rows = learned_rows(runs, metrics, 500)  # one in twenty: the same moment of each run, if it were every twentieth
    assert len(np.unique(runs[rows])) > 300
    assert np.bincount(epochs[rows], minlength=20).min() > 5


def _dominated(values):
    order = np.argsort(-values[:, 0])
    best = np.maximum.accumulate(values[order, 1])
    out = np.zeros(len(values), dtype=bool)
    out[order[1:]] = values[order[1:], 1] < best[:-1]
    return out
