"""Measured values that no surrogate should be bent by: those of diverged or penalised checkpoints.

One loss of 1e8 among losses of .3 says that a run diverged, and nothing about how much better .29 is than .31. A value
more than 23 deviations from all others is learned from if checkpoints like it have such values in several other runs
(the untrained start of every run, the end of many runs): then it is predictable, and the surrogate learns that it is
bad. Otherwise it is set aside, as if it had not been measured, and so are runs that have no other values: two of forty
that diverged alike bend the surrogate more than they tell. Views and z are learned without either kind, and neither is
scored: errors and intervals are those of all others. What lies less far out, where runs merely went badly, is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.transforms import KNEES, MetricTransform

_NEIGHBOURS = 5  # nearest other runs: three of them must lie as far out
_FEW = 0.25  # of all runs: up to that share scales are not those of the far-out values (transforms.robust_scale)
_TOGETHER = 256

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Screened:
    """A training set whose far-out values are marked.

    Attributes:
        usual: what views and z are learned from, and what errors and intervals are counted on: without any far-out
            value, checkpoints with one marked as diverged.
        answered: what the Gaussian processes answer with: far-out values are NaN if set aside, otherwise pulled in to
            the end of the model's scale.
        far_out: ``(n, m)`` bool, the values in which the two differ from what was measured.
    """

    usual: TrainingSet
    answered: TrainingSet
    far_out: NDArray[np.bool_]


def screen(train: TrainingSet, transforms: Sequence[MetricTransform], points: Callable[[], Tensor]) -> Screened:
    """Tell far-out values of a training set apart.

    Args:
        train: ``n`` checkpoints.
        transforms: one per metric.
        points: gives ``(n, d)`` where the checkpoints lie, near ones being alike; called only if a value lies far out.
    """
    scaled = with_tails(train, transforms)
    if not lies_far_out(scaled).any():
        return Screened(train, train, np.zeros(train.metrics.shape, dtype=bool))
    alone = unlike_neighbours(scaled, points(), train.runs)
    beyond = np.abs(scaled) > KNEES[1]
    learned = train.metrics.copy()
    for j, transform in enumerate(transforms):
        rows = np.flatnonzero(beyond[:, j])
        ends = torch.from_numpy(np.sign(scaled[rows, j]) * KNEES[1])
        learned[rows, j] = transform.backward(ends).numpy()
    learned[alone] = np.nan
    far_out = alone | beyond
    scored = np.where(far_out, np.nan, train.metrics)
    usual = replace(train, metrics=scored, diverged=np.asarray(far_out.any(axis=1)))
    return Screened(usual, replace(train, metrics=learned), far_out)


def pull_in(
    metrics: Tensor, points: Tensor, runs: NDArray[np.int64], transforms: Sequence[MetricTransform], first: int
) -> Tensor:
    """Set aside or pull in, in place, the far-out values of rows that were added to others.

    Args:
        metrics: ``(n, m)`` on the model's scale; NaN where not measured.
        points: ``(n, d)`` where the checkpoints lie.
        runs: ``(n,)`` run of each.
        transforms: one per metric.
        first: place of the first row that was added.

    Returns:
        ``(n - first, m)`` bool, the values that were changed.
    """
    scaled = metrics.double().numpy().copy()
    scaled[:, [t.both_ends for t in transforms]] = np.nan
    added = np.arange(first, len(scaled))
    alone = unlike_neighbours(scaled, points, runs, added)[first:]
    beyond = np.abs(scaled[first:]) > KNEES[1]
    mine = metrics[first:]
    mine[torch.from_numpy(beyond)] = mine[torch.from_numpy(beyond)].clamp(-KNEES[1], KNEES[1])
    mine[torch.from_numpy(alone)] = torch.nan
    return torch.from_numpy(alone | beyond)


def with_tails(train: TrainingSet, transforms: Sequence[MetricTransform]) -> Floats:
    """``(n, m)`` metrics on the model's scale; NaN where not measured, and for a metric with two ends: it has no tail.

    A share of 0 where most are 1 is a collapse that is to be learned, not a number without meaning.
    """
    out = np.full(train.metrics.shape, np.nan)
    for j, transform in enumerate(transforms):
        if not transform.both_ends:
            out[:, j] = transform.forward(train.metrics[:, j])
    return out


def lies_far_out(scaled: Floats) -> NDArray[np.bool_]:
    """Which values on the model's scale lie beyond any that runs have that merely went badly; NaN does not.

    Those of collapsed runs (an autoencoder that says nothing) may be ten deviations of all others away and are learned.
    """
    return np.asarray(np.abs(scaled) >= KNEES[1])


def unlike_neighbours(
    scaled: Floats, points: Tensor, runs: NDArray[np.int64], rows: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Find values that lie far out, and far from those of the most similar checkpoints of other runs.

    Args:
        scaled: ``(n, m)`` metrics on the model's scale; NaN where not measured.
        points: ``(n, d)`` where the checkpoints lie.
        runs: ``(n,)`` run of each.
        rows: only values of these rows are looked at; default: all.

    Returns:
        ``(n, m)`` bool; never true of a metric that a single run measured at most once, or of a NaN.
    """
    out = np.zeros(scaled.shape, dtype=bool)
    looked_at = np.zeros(len(scaled), dtype=bool)
    looked_at[slice(None) if rows is None else rows] = True
    pulled = np.clip(scaled, -KNEES[1], KNEES[1])
    for j, column in enumerate(pulled.T):
        known = np.flatnonzero(np.isfinite(column))
        suspects = np.flatnonzero(lies_far_out(column) & looked_at)
        for start in range(0, len(suspects), _TOGETHER):
            some = suspects[start : start + _TOGETHER]
            distance = torch.cdist(points[some].double(), points[known].double()).numpy()
            distance[runs[some, None] == runs[None, known]] = np.inf
            for row, away in zip(some.tolist(), distance, strict=True):
                others = column[known][_nearest_of_each(away, runs[known])]
                # Without another run there is nobody to confirm it.
                typical = float(np.median(others)) if len(others) else 0.0
                out[row, j] = abs(column[row] - typical) > KNEES[0]
        out[:, j] |= _of_lost_runs(column, runs) & looked_at
    return out


def _of_lost_runs(column: Floats, runs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which values are of runs that have none but far-out ones, several of them, where few runs are like that.

    Nothing leads from such a run to the others. However many confirm each other, they bend what is learned of those.
    """
    far, known = lies_far_out(column), np.isfinite(column)
    measured, which = np.unique(runs[known], return_inverse=True)
    counts, far_ones = np.bincount(which), np.bincount(which, weights=far[known])
    lost = measured[(counts > 1) & (far_ones == counts)]
    return np.asarray(np.isin(runs, lost) & far) if len(lost) <= _FEW * len(measured) else np.zeros_like(far)


def _nearest_of_each(away: Floats, runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the nearest row of each of the nearest runs; infinitely far ones are none.

    A run counts once: one other run that diverged says five times over what it says once.
    """
    order = np.argsort(away, kind="stable")
    order = order[np.isfinite(away[order])]
    first = np.unique(runs[order], return_index=True)[1]
    return np.asarray(order[np.sort(first)[:_NEIGHBOURS]])
