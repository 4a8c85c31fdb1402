"""What a forecast missed by, at similar moments of similar runs: joint samples, and intervals that hold on past runs.

Localised conformal prediction (Guan 2023): a sample is the forecast plus a past miss, all metrics of a run together, so
that samples are skewed, bounded and correlated as misses were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.forecast.stacking import STAGES, alike, stage_of
from epsopt.surrogate.metric_gp import conformal_factor

Floats = NDArray[np.float64]

_LEVEL = 0.9
_SIMILAR = 0.4  # of the runs, at least, whose misses a sample is drawn from


@dataclass(frozen=True, eq=False)
class Misses:
    """Misses at moments of past runs, on the model's scale; every run was left out when its own were taken.

    Attributes:
        progress: ``(r,)`` of the moments.
        forecasts: ``(r, m)`` what was forecast then.
        misses: ``(r, m)`` final minus forecast.
        runs: ``(r,)`` run of each.
        stretch: ``(stages, m)`` what misses are multiplied by so that 90 % intervals cover 90 % of past runs.
    """

    progress: Floats
    forecasts: Floats
    misses: Floats
    runs: NDArray[np.int64]
    stretch: Floats

    def draw(self, progress: float, point: Floats, samples: int, seed: int) -> Floats:
        """Draw ``(samples, m)`` ends of a run that ``(m,)`` was forecast of."""
        likely = _likely(progress, point, self.progress, self.forecasts, self.runs)
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(likely), samples, p=likely)
        jitter = _jitter(self.misses, likely, self.runs) * rng.standard_normal((samples, len(point)))
        return np.asarray(point + self.stretch[stage_of(progress)] * (self.misses[rows] + jitter))


def fit_misses(
    progress: Floats,
    forecasts: Floats,
    final: Floats,
    runs: NDArray[np.int64],
    measured: NDArray[np.bool_] | None = None,
) -> Misses:
    """Calibrate misses.

    Args:
        progress: ``(r,)`` of past moments.
        forecasts: ``(r, m)`` of the runs' ends, on the model's scale, each run left out.
        final: ``(r, m)`` what came of them; the surrogate's mean where it was not measured.
        runs: ``(r,)`` run of each.
        measured: ``(r, m)`` whether ``final`` was measured; default: all of it. A value that the surrogate filled in is
            nearer to what the surrogate forecasts than a measurement is: intervals are calibrated without it.
    """
    misses = final - forecasts
    if measured is None:
        measured = np.ones(misses.shape, dtype=bool)
    return Misses(progress, forecasts, misses, runs, _stretch(progress, forecasts, misses, runs, measured))


def _likely(
    progress: float, point: Floats, moments: Floats, forecasts: Floats, runs: NDArray[np.int64], leave: int = -1
) -> Floats:
    """``(r,)`` probabilities of drawing each past moment's miss: similar moments whose forecasts were similar."""
    weight = alike(moments - progress) * (runs != leave)
    distance = np.square(forecasts - point).mean(axis=1)
    needed = _SIMILAR * (len(np.unique(runs)) - (leave >= 0))
    width = 0.1
    for _ in range(40):
        local = weight * np.exp(-0.5 * distance / width**2)
        per_run = np.bincount(runs, weights=local)
        total = per_run.sum()
        # In shares: the squares of weights that are all tiny are zero.
        if total > 0 and 1.0 / np.square(per_run / total).sum() >= needed:
            break
        width *= 1.25
    return np.asarray(local / local.sum())


def _jitter(misses: Floats, likely: Floats, runs: NDArray[np.int64]) -> Floats:
    """``(m,)`` bandwidth by Silverman's rule: a few dozen misses are too coarse to be drawn as they are."""
    mean = likely @ misses
    spread = np.sqrt(likely @ np.square(misses - mean))
    per_run = np.bincount(runs, weights=likely)
    effective = 1.0 / np.square(per_run).sum()
    return np.asarray(0.5 * spread * effective ** (-0.2))


def _stretch(
    progress: Floats, forecasts: Floats, misses: Floats, runs: NDArray[np.int64], measured: NDArray[np.bool_]
) -> Floats:
    """``(stages, m)`` factors on misses so that 90 % intervals, a run's own misses left out, cover 90 % of the runs.

    One for a metric that was measured at the end of no run: there is nothing to calibrate with.
    """
    scores = np.empty_like(misses)
    orders = np.argsort(misses, axis=0)
    for i in range(len(misses)):
        likely = _likely(progress[i], forecasts[i], progress, forecasts, runs, leave=int(runs[i]))
        for j, order in enumerate(orders.T):
            places = np.searchsorted(np.cumsum(likely[order]), (0.5 - 0.5 * _LEVEL, 0.5 + 0.5 * _LEVEL))
            low, high = misses[order[np.minimum(places, len(order) - 1)], j]
            scores[i, j] = abs(misses[i, j] - 0.5 * (low + high)) / max(0.5 * (high - low), 1e-9)
    out = np.ones((len(STAGES), misses.shape[1]))
    for j, known in enumerate(measured.T):
        if not known.any():
            continue
        n_runs = len(np.unique(runs[known]))
        for s, stage in enumerate(STAGES):
            near = alike(progress[known] - stage)
            out[s, j] = max(conformal_factor(scores[known, j], near * n_runs / near.sum(), _LEVEL), 1.0)
    return out
