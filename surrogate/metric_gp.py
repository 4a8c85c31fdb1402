"""The metric head that answers: Gaussian processes over z, with hyperparameters chosen on held-out runs.

The network's own metric head shapes z while it trains. What is reported comes from an exact Gaussian process on z per
metric: it honours measurements where there are some, grows unsure away from them, and was the better predictor on
unseen runs (docs/decisions). Its length scale and noise must not be fitted to the training rows, whose z has already
seen their labels: they are chosen by the predictive density on held-out runs, and the residuals there make the
intervals (split conformal prediction grouped by run; Dunn et al. 2022, Barber et al. 2021).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from botorch.models import ModelListGP, SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean
from numpy.typing import NDArray
from torch import Tensor

from epsopt.surrogate.relevance import matern

_LENGTHS = (0.5, 0.7, 1.0, 1.5, 2.5)  # multiples of the lengths that the network learned
_NOISES = (1e-3, 3e-3, 1e-2, 0.05, 0.2, 0.8)  # in units of the signal variance
_UNKNOWN = 10.0  # standard deviations, for a metric without a single held-out measurement
MAX_ROWS = 800
"""Rows an exact Gaussian process is given; a larger zoo is thinned evenly, run by run."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GPHyperparameters:
    """Hyperparameters of one metric's Gaussian process.

    Attributes:
        length: multiple of the length scales that the network learned for the metric.
        noise: noise variance in units of the signal variance.
        variance: signal variance on the model's scale; positive.
    """

    length: float
    noise: float
    variance: float


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold as the head sees it: a network that never saw the held-out runs encoded both parts.

    Attributes:
        z_train: ``(n, latent)``.
        y_train: ``(n, m)`` on the model's scale; NaN where not measured.
        z_held: ``(k, latent)``.
        y_held: ``(k, m)``.
        runs_held: ``(k,)``.
        inverse_lengths: ``(m, latent)`` of the network.
    """

    z_train: Floats
    y_train: Floats
    z_held: Floats
    y_held: Floats
    runs_held: NDArray[np.int64]
    inverse_lengths: Floats


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions of one metric on one fold's held-out rows, for every setting of the grid.

    Attributes:
        mean: ``(settings, k)``.
        unit_variance: ``(settings, k)`` predictive variance for signal variance 1.
        residual: ``(settings, k)``; NaN where not measured.
        weight: ``(k,)`` so that every run with a measurement counts the same; 0 where not measured.
    """

    mean: Floats
    unit_variance: Floats
    residual: Floats
    weight: Floats


def grid() -> list[tuple[float, float]]:
    """Return the ``(length, noise)`` pairs that are tried."""
    return list(itertools.product(_LENGTHS, _NOISES))


def held_out(fold: Fold, metric: int) -> HeldOut:
    """Predict one metric of a fold's held-out rows with every setting of the grid."""
    known = np.flatnonzero(np.isfinite(fold.y_train[:, metric]))
    z, y = fold.z_train[known] * fold.inverse_lengths[metric], fold.y_train[known, metric]
    between, across = _distances(z, z), _distances(fold.z_held * fold.inverse_lengths[metric], z)
    means, variances = [], []
    for length in _LENGTHS:
        covariance, cross = _matern(between / length), _matern(across / length)
        # One eigendecomposition serves all noise levels.
        values, vectors = np.linalg.eigh(covariance)
        projected, target = cross @ vectors, vectors.T @ y
        for noise in _NOISES:
            inverse = 1.0 / (np.maximum(values, 0.0) + noise)
            means.append(projected @ (inverse * target))
            variances.append(np.maximum(1.0 - (projected**2) @ inverse, 1e-6) + noise)
    mean = np.stack(means)
    measured = np.isfinite(fold.y_held[:, metric])
    return HeldOut(mean, np.stack(variances), fold.y_held[:, metric] - mean, run_weights(fold.runs_held, measured))


def run_weights(runs: NDArray[np.int64], measured: NDArray[np.bool_]) -> Floats:
    """Weights by which every run counts once, however many of its checkpoints were measured.

    Args:
        runs: ``(k,)`` run of each checkpoint.
        measured: ``(k,)`` whether the metric was measured on it.

    Returns:
        ``(k,)`` one over the number of measured checkpoints of the same run; 0 where not measured. The sum is the
        number of runs with a measurement, which :func:`conformal_factor` takes for the number of independent residuals.
    """
    _, which = np.unique(runs, return_inverse=True)
    counts = np.bincount(which, weights=measured)
    return np.asarray(np.where(measured, 1.0 / np.maximum(counts[which], 1.0), 0.0))


def select_hyperparameters(parts: list[HeldOut]) -> tuple[int, GPHyperparameters]:
    """Choose the setting with the best predictive density on held-out rows.

    Args:
        parts: one metric's held-out predictions, fold by fold.

    Returns:
        Its place in :func:`grid` and the settings, signal variance included.
    """
    residual = np.concatenate([p.residual for p in parts], axis=1)
    variance = np.concatenate([p.unit_variance for p in parts], axis=1)
    weight = np.concatenate([p.weight for p in parts])
    known = np.isfinite(residual[0])
    if not known.any():
        length, noise = grid()[0]
        return 0, GPHyperparameters(length, noise, 1.0)
    residual, variance = residual[:, known], variance[:, known]
    share = weight[known] / weight[known].sum()
    scale = np.maximum((residual**2 / variance) @ share, 1e-8)
    density = -0.5 * np.log(scale) - 0.5 * np.log(variance) @ share
    # Mean error decides as well: a density alone prefers a vague head over a sharp one with a few outliers.
    score = density - np.log(np.maximum(np.abs(residual) @ share, 1e-9))
    best = int(np.argmax(score))
    length, noise = grid()[best]
    return best, GPHyperparameters(length, noise, float(scale[best]))


def standardised(parts: list[HeldOut], place: int, settings: GPHyperparameters) -> tuple[Floats, Floats]:
    """Return ``|residual| / standard deviation`` of the held-out rows and their weights, measured rows only."""
    residual = np.concatenate([p.residual[place] for p in parts])
    variance = np.concatenate([p.unit_variance[place] for p in parts]) * settings.variance
    weight = np.concatenate([p.weight for p in parts])
    known = np.isfinite(residual)
    return np.abs(residual[known]) / np.sqrt(variance[known]), weight[known]


def conformal_factor(scores: Floats, weights: Floats, level: float) -> float:
    """How many standard deviations an interval needs on either side to cover ``level`` of held-out rows.

    Args:
        scores: ``(k,)`` standardised absolute residuals.
        weights: ``(k,)`` weights of :func:`run_weights`, measured rows only.
        level: wanted coverage, between 0 and 1.

    Returns:
        The weighted quantile, at the level raised for the finite number of runs (the weight of one more run). With one
        residual a run this is the ``ceil((runs + 1) * level)``-th smallest of split conformal prediction.
    """
    if len(scores) == 0 or weights.sum() <= 0.0:
        return _UNKNOWN
    order = np.argsort(scores)
    runs = max(float(weights.sum()), 1.0)
    cumulative = np.cumsum(weights[order]) / weights.sum()
    # Less a hair: rounding must not ask for one residual more than the quantile is.
    place = int(np.searchsorted(cumulative, min(level * (1.0 + 1.0 / runs), 1.0) - 1e-9))
    return float(scores[order][min(place, len(scores) - 1)])


def build_model(z: Tensor, y: Tensor, settings: list[GPHyperparameters], inverse_lengths: Tensor) -> ModelListGP:
    """Build the BoTorch model: one exact Gaussian process per metric, hyperparameters fixed.

    Args:
        z: ``(n, latent)`` encoded checkpoints.
        y: ``(n, m)`` metrics on the model's scale; NaN rows of a metric are left out of its process.
        settings: one per metric.
        inverse_lengths: ``(m, latent)`` of the network.

    Returns:
        The model, in float64 and evaluation mode; ``posterior(X)`` takes ``(..., q, latent)``.
    """
    z = z.double()
    models = []
    for j, chosen in enumerate(settings):
        known = torch.isfinite(y[:, j])
        kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=z.shape[1]))
        likelihood = GaussianLikelihood()
        model = SingleTaskGP(
            z[known],
            y[known, j : j + 1].double(),
            covar_module=kernel,
            mean_module=ZeroMean(),
            likelihood=likelihood,
            outcome_transform=None,
        )
        kernel.base_kernel.lengthscale = chosen.length / inverse_lengths[j].double().clamp(min=1e-6)
        kernel.outputscale = chosen.variance
        likelihood.noise = max(chosen.noise * chosen.variance, 1.1e-4)
        models.append(model.double())
    out = ModelListGP(*models).eval()
    out.requires_grad_(requires_grad=False)
    return out


@dataclass(frozen=True, eq=False)
class CachedGP:
    """A process of :func:`build_model` with its linear system solved.

    BoTorch's posterior is joint over the points it is asked for and solves the system again for each batch; point by
    point, the same moments take a tenth of the time.

    Attributes:
        rows: ``(n, latent)`` training inputs in units of the length scales.
        inverse_lengths: ``(latent,)``.
        weights: ``(n,)`` the mean at z is ``matern(z, rows) @ weights``.
        cholesky: ``(n, n)`` lower factor of the training covariance, noise included.
        variance: signal variance.
        noise: noise variance.
    """

    rows: Tensor
    inverse_lengths: Tensor
    weights: Tensor
    cholesky: Tensor
    variance: float
    noise: float

    def mean(self, z: Tensor) -> Tensor:
        """``(k, latent)`` to ``(k,)`` predictive means, computed in z's precision; differentiable."""
        return self._correlation(z) @ self.weights.to(z.dtype)

    def posterior_moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``(k, latent)`` float64 to ``(k,)`` predictive means and variances, noise included; differentiable."""
        correlation = self._correlation(z)
        half = torch.linalg.solve_triangular(self.cholesky, self.variance * correlation.T, upper=False)
        return correlation @ self.weights, self.variance + self.noise - half.square().sum(dim=0)

    def _correlation(self, z: Tensor) -> Tensor:
        return matern(torch.cdist(z * self.inverse_lengths.to(z.dtype), self.rows.to(z.dtype)))


def solve(process: SingleTaskGP) -> CachedGP:
    """Solve one process of :func:`build_model`."""
    with torch.no_grad():
        inputs, kernel = process.train_inputs[0], process.covar_module
        inverse_lengths = 1.0 / kernel.base_kernel.lengthscale.reshape(-1)
        variance, noise = float(kernel.outputscale), float(process.likelihood.noise)
        rows = inputs * inverse_lengths
        covariance = variance * matern(torch.cdist(rows, rows)) + noise * torch.eye(len(rows), dtype=rows.dtype)
        cholesky = torch.linalg.cholesky(covariance)
        weights = torch.cholesky_solve(process.train_targets[:, None], cholesky).squeeze(1)
    return CachedGP(rows, inverse_lengths, variance * weights, cholesky, variance, noise)


def subsample_runs(runs: NDArray[np.int64], limit: int = MAX_ROWS) -> NDArray[np.int64]:
    """Return at most ``limit`` rows, spread evenly over rows sorted by run."""
    order = np.argsort(runs, kind="stable")
    if len(order) <= limit:
        return np.arange(len(runs))
    return np.sort(order[np.linspace(0, len(order) - 1, limit).astype(np.int64)])


def _distances(a: Floats, b: Floats) -> Floats:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def _matern(r: Floats) -> Floats:
    """Matérn 5/2."""
    scaled = np.sqrt(5.0) * r
    return np.asarray((1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled))
