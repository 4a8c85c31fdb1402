"""How far an interval may go: not far beyond what runs of the zoo have measured.

A model that knows little about a point gives it a wide interval on its own scale, and where that scale is logarithmic
(:mod:`epsopt.surrogate.transforms`) the ends can be any number. But new runs seldom measure far beyond all others: an
interval may go beyond the range of everything measured by as much as the farthest run goes beyond all other runs, or by
a tenth of the range if that is more. The tenth was chosen on the development families of ``benchmarks/families.py``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEWEST_RUNS = 3
"""Runs with a measurement, of which less than that say nothing of how far another one may go."""

_SHARE = 0.1  # of the range

Floats = NDArray[np.float64]


def interval_reach(values: Floats, runs: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the lowest and the highest end that an interval may have, by metric.

    Args:
        values: ``(n, m)`` measured, in the metrics' own units; NaN where not measured or far out.
        runs: ``(n,)`` run of each.

    Returns:
        ``(m,)`` lowest and ``(m,)`` highest ends; infinite for a metric that fewer than :data:`FEWEST_RUNS` runs have.
    """
    low, high = np.full(values.shape[1], -np.inf), np.full(values.shape[1], np.inf)
    for j, column in enumerate(values.T):
        known = np.isfinite(column)
        own = [column[known & (runs == run)] for run in np.unique(runs[known])]
        if len(own) < FEWEST_RUNS:
            continue
        lows, highs = np.sort([v.min() for v in own]), np.sort([v.max() for v in own])
        least = _SHARE * (highs[-1] - lows[0])
        low[j] = lows[0] - max(lows[1] - lows[0], least)
        high[j] = highs[-1] + max(highs[-1] - highs[-2], least)
    return low, high


def cut(low: Floats, point: Floats, high: Floats, reach: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the ends of intervals, cut where they go too far; the prediction stays inside.

    Args:
        low: ``(..., m)`` lower ends.
        point: ``(..., m)`` predictions.
        high: ``(..., m)`` upper ends.
        reach: of :func:`interval_reach`, in the same units.
    """
    return np.maximum(low, np.minimum(reach[0], point)), np.minimum(high, np.maximum(reach[1], point))
