"""A Gaussian process on views and hyperparameters: what it predicts is, beside trees, part of what z says.

Where few runs are known, a smooth function often says more of a new run than steps do, and hyperparameters decide what
views count for (benchmarks/results/families.txt). How much each view and each hyperparameter tells about a metric is
learned so that whole runs are predicted from the others (:mod:`epsopt.surrogate.relevance`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.surrogate.metric_gp import subsample_runs
from epsopt.surrogate.relevance import learn_relevance, matern

MOST_ROWS = 400
"""Measured checkpoints that one process holds: of more, as many are spread evenly over them, run by run."""

_JITTER = 1e-5
_TOGETHER = 1024  # rows that are predicted together

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lengths:
    """What was learned of the processes of ``m`` metrics before they are given measurements.

    Attributes:
        inverse: ``(m, c)`` what each process multiplies its inputs with; 0 where an input says nothing.
        noise: ``(m,)`` noise variance in units of the signal variance.
    """

    inverse: Floats
    noise: Floats


@dataclass(frozen=True, eq=False)
class ViewProcess:
    """One process a metric, its linear system solved.

    Attributes:
        rows: ``(n, c)`` inputs that it was given measurements of.
        inverse_lengths: ``(m, c)``.
        weights: ``(m, n)``; a metric at x is ``centre + matern(|x - rows| inverse_lengths) @ weights``.
        centres: ``(m,)``; 0 of a metric that was hardly measured, of which it says nothing.
    """

    rows: Floats
    inverse_lengths: Floats
    weights: Floats
    centres: Floats

    def __call__(self, inputs: Floats) -> Floats:
        """Predict ``(k, c)`` inputs: ``(k, m)``."""
        out = np.tile(self.centres, (len(inputs), 1))
        for j, (inverse, weights) in enumerate(zip(self.inverse_lengths, self.weights, strict=True)):
            given = np.flatnonzero(weights)
            if len(given):
                used = np.flatnonzero(inverse)
                rows = torch.from_numpy(self.rows[np.ix_(given, used)] * inverse[used])
                for start in range(0, len(inputs), _TOGETHER):
                    part = slice(start, start + _TOGETHER)
                    scaled = torch.from_numpy(inputs[part][:, used] * inverse[used])
                    out[part, j] += matern(torch.cdist(scaled, rows)).numpy() @ weights[given]
        return out


def learn_lengths(
    inputs: Floats, slices: Sequence[slice], targets: Floats, runs: NDArray[np.int64], seed: int
) -> Lengths:
    """Learn what tells about each metric.

    Args:
        inputs: ``(n, c)``.
        slices: columns that count together: those of a view, or one hyperparameter; the total variance of each is one.
        targets: ``(n, m)`` metrics; NaN where not measured.
        runs: ``(n,)`` run of each row.
        seed: of the rows that are looked at.
    """
    with np.errstate(invalid="ignore"):
        known = np.isfinite(targets)
        centred = targets - _means(targets)
        spread = np.sqrt(np.where(known, centred**2, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
        standard = torch.from_numpy(centred / np.maximum(spread, 1e-12))
    views = [torch.from_numpy(np.ascontiguousarray(inputs[:, columns])) for columns in slices]
    found = learn_relevance(views, standard, runs, np.random.default_rng(seed))
    inverse = np.zeros((targets.shape[1], inputs.shape[1]))
    for columns, weight in zip(slices, found.weights.numpy().T, strict=True):
        inverse[:, columns] = np.sqrt(weight)[:, None]
    return Lengths(inverse, ((found.noise + _JITTER) / found.amplitude).numpy())


def condition(inputs: Floats, targets: Floats, runs: NDArray[np.int64], lengths: Lengths, fewest: int) -> ViewProcess:
    """Give processes measurements.

    Args:
        inputs: ``(n, c)``.
        targets: ``(n, m)``; NaN where not measured.
        runs: ``(n,)`` run of each row.
        lengths: what was learned before.
        fewest: measurements of a metric without which nothing is said of it.
    """
    held = subsample_runs(runs, MOST_ROWS)
    rows, targets = inputs[held].astype(np.float32).astype(np.float64), targets[held]
    centres, weights = _means(targets), np.zeros((targets.shape[1], len(held)))
    for j, (inverse, noise) in enumerate(zip(lengths.inverse, lengths.noise, strict=True)):
        known = np.flatnonzero(np.isfinite(targets[:, j]))
        if len(known) < fewest:
            centres[j] = 0.0
            continue
        scaled = torch.from_numpy(rows[known] * inverse)
        covariance = matern(torch.cdist(scaled, scaled)) + noise * torch.eye(len(known), dtype=torch.float64)
        residual = torch.from_numpy(targets[known, j] - centres[j])
        weights[j, known] = torch.cholesky_solve(residual[:, None], torch.linalg.cholesky(covariance))[:, 0].numpy()
    return ViewProcess(rows, lengths.inverse, weights, centres)


def _means(targets: Floats) -> Floats:
    """``(m,)`` mean of the measured ones; 0 without any."""
    known = np.isfinite(targets)
    return np.asarray(np.where(known, targets, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
