"""Thin many rows to a few that are spread evenly over them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

MOST_CHECKPOINTS = 4000
"""Checkpoints that a map is learned from; the others are placed on it. Its Gaussian processes hold 800 of them.

Their fingerprints are in memory at once: a quarter of a megabyte each at most, mostly far less.
"""

_DIRECTIONS = 16  # weighted sums of metrics along which the outermost checkpoints are chosen


def evenly_spaced(n: int, most: int, rounding: Callable[..., NDArray[np.float64]] = np.rint) -> NDArray[np.int64]:
    """Return at most `most` places, spread evenly over ``n`` of them, the first and the last included.

    Args:
        n: number of places.
        most: how many are kept at most, at least one.
        rounding: of places between two of them.

    Returns:
        ``(k,)`` places in increasing order, each once; all of them where there are no more than `most`.
    """
    if n <= most:
        return np.arange(n)
    return np.unique(rounding(np.linspace(0, n - 1, most)).astype(np.int64))


def learned_rows(runs: NDArray[np.int64], metrics: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Choose which of many checkpoints a map is learned from: those at the ends of the metrics, and all the others.

    A tenth are those that lie furthest out along single metrics and along weighted sums of them: there the front is,
    whichever way a metric is better. The rest are spread over the runs: of each stretch of as many consecutive
    checkpoints one, at random, so that moments of training are taken as they come.

    Args:
        runs: ``(n,)`` run of each checkpoint; those of a run in the order of its training.
        metrics: ``(n, m)``; NaN where not measured.
        most: how many are chosen at most, at least one.

    Returns:
        ``(k,)`` rows in increasing order, each once; the same for the same arguments; all rows where there are no more
        than `most`.
    """
    n = len(runs)
    if n <= most:
        return np.arange(n)
    rng = np.random.default_rng(0)
    outer = _outermost(metrics, most // 10, rng)
    order = np.argsort(runs, kind="stable")
    rest = order[~np.isin(order, outer)]
    edges = np.linspace(0, len(rest), most - len(outer) + 1).astype(np.int64)
    return np.sort(np.concatenate([outer, rest[rng.integers(edges[:-1], edges[1:])]]))


def _outermost(metrics: NDArray[np.float64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at most `most` rows that lie furthest out along metrics and weighted sums of them, by rank."""
    n, m = metrics.shape
    ranks = rankdata(metrics, axis=0, nan_policy="omit") / n
    ranks = np.where(np.isfinite(ranks), ranks, 0.5)  # not measured: neither end
    directions = np.concatenate([np.eye(m), -np.eye(m), rng.standard_normal((_DIRECTIONS, m))])
    each = most // len(directions)
    if not each:
        return np.zeros(0, dtype=np.int64)
    return np.unique([np.argpartition(-(ranks @ d), each)[:each] for d in directions])
