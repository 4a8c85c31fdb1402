"""What predicted paths missed by on runs left out: joint samples over epochs, and intervals that hold on past runs.

A sample is the whole course of what was missed from one moment of one past run on, so that it is correlated over
epochs, metrics and components of z as misses were (a localised conformal prediction: Guan 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.forecast.stacking import alike
from epsopt.surrogate.metric_gp import conformal_factor

Floats = NDArray[np.float64]

DISTANCES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
"""Shares of a whole run ahead, at which forecasts are weighed, judged and calibrated; in between they are blended."""

_LEVEL = 0.9
_EDGES = np.array([0.0, 0.075, 0.15, 0.3, 0.6, np.inf])  # shares of a run ahead that are calibrated together
_FEWEST_RUNS = 5  # whose misses reach as far as is asked


@dataclass(frozen=True, eq=False)
class PathMisses:
    """Misses of past moments, each run left out when its own were taken.

    Attributes:
        progress: ``(r,)`` share of a run behind each moment.
        runs: ``(r,)`` run of each.
        ahead: per moment ``(k + 1,)`` shares of a run ahead, from 0 on, increasing.
        metrics: per moment ``(k + 1, m)`` measured minus predicted, on the model's scale; 0 at the moment itself,
            NaN where not measured.
        places: per moment ``(k + 1, components)`` the same of the place on the map.
        stretch: ``(intervals of distance, m)`` what misses are multiplied by so that 90 % intervals cover 90 % of past
            runs.
    """

    progress: Floats
    runs: NDArray[np.int64]
    ahead: tuple[Floats, ...]
    metrics: tuple[Floats, ...]
    places: tuple[Floats, ...]
    stretch: Floats

    def draw(self, progress: float, ahead: Floats, samples: int, seed: int) -> tuple[Floats, Floats]:
        """Draw misses of metrics and of the place.

        Args:
            progress: share of a run that is behind.
            ahead: ``(h,)`` shares of a run ahead, increasing.
            samples: how many.
            seed: of the draws.

        Returns:
            ``(samples, h, m)`` and ``(samples, h, components)``.
        """
        reach = np.array([a[-1] for a in self.ahead])
        far = reach >= min(float(ahead[-1]), float(np.sort(reach)[-min(len(reach), _FEWEST_RUNS)]))
        if len(np.unique(self.runs[far])) < _FEWEST_RUNS:
            far = np.ones(len(reach), dtype=bool)
        weight = np.where(far, alike(self.progress - progress), 0.0)
        weight /= np.bincount(self.runs, weights=weight)[self.runs] + 1e-12 * weight.max()
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(reach), samples, p=weight / weight.sum())
        at = np.log(np.maximum(ahead, 1e-9))
        stretch = np.stack([np.interp(at, np.log(DISTANCES), column) for column in self.stretch.T], axis=1)
        metrics = np.stack([_course(self.ahead[i], self.metrics[i], ahead) for i in rows.tolist()])
        places = np.stack([_course(self.ahead[i], self.places[i], ahead) for i in rows.tolist()])
        return metrics * stretch, places


def fit_path_misses(
    progress: Floats,
    ahead: Floats,
    metrics: Floats,
    places: Floats,
    runs: NDArray[np.int64],
    moments: NDArray[np.int64],
    measured: NDArray[np.bool_],
) -> PathMisses:
    """Calibrate misses.

    Args:
        progress: ``(n,)`` share of a run behind the moment of each prediction.
        ahead: ``(n,)`` share of a run that it looked ahead.
        metrics: ``(n, m)`` measured minus predicted on the model's scale, each run left out.
        places: ``(n, components)`` the same of the place on the map.
        runs: ``(n,)`` run of each.
        moments: ``(n,)`` moment of each; those of one moment in order of distance.
        measured: ``(n, m)`` whether what came of it was measured: what the map filled in is nearer to what the map
            predicts than a measurement is, and intervals are calibrated without it.
    """
    groups = [np.flatnonzero(moments == k) for k in np.unique(moments)]

    def courses(values: Floats) -> tuple[Floats, ...]:
        return tuple(np.concatenate([np.zeros((1, values.shape[1])), values[rows]]) for rows in groups)

    first = np.array([rows[0] for rows in groups])
    return PathMisses(
        progress=progress[first],
        runs=runs[first],
        ahead=tuple(np.concatenate([[0.0], ahead[rows]]) for rows in groups),
        metrics=courses(np.where(measured, metrics, np.nan)),
        places=courses(places),
        stretch=_stretch(ahead, metrics, runs, measured),
    )


def _stretch(ahead: Floats, misses: Floats, runs: NDArray[np.int64], measured: NDArray[np.bool_]) -> Floats:
    """``(intervals of distance, m)`` factors at which intervals of the other runs' misses cover 90 % of runs."""
    out = np.ones((len(_EDGES) - 1, misses.shape[1]))
    place = np.searchsorted(_EDGES, ahead, side="right") - 1
    for b in np.unique(place).tolist():
        for j, known in enumerate(measured.T):
            mine = np.flatnonzero((place == b) & known)
            _, index = np.unique(runs[mine], return_inverse=True)
            if len(mine) == 0 or index.max() < 1:
                continue
            weight = 1.0 / np.bincount(index)[index]
            scores = np.empty(len(mine))
            values = misses[mine, j]
            order = np.argsort(values)
            for run in range(index.max() + 1):
                others = order[index[order] != run]
                shares = np.cumsum(weight[others]) / weight[others].sum()
                places = np.searchsorted(shares, (0.5 - 0.5 * _LEVEL, 0.5 + 0.5 * _LEVEL))
                low, high = values[others[np.minimum(places, len(others) - 1)]]
                own = index == run
                scores[own] = np.abs(values[own] - 0.5 * (low + high)) / max(0.5 * (high - low), 1e-9)
            out[b, j] = max(conformal_factor(scores, weight, _LEVEL), 1.0)
    return out


def _course(at: Floats, values: Floats, ahead: Floats) -> Floats:
    """``(h, k)`` misses at given distances, between what was measured; beyond the last one it stays."""
    known = np.isfinite(values)
    return np.stack(
        [np.interp(ahead, at[use], column[use]) for column, use in zip(values.T, known.T, strict=True)], axis=1
    )
