"""The metric head that answers: Gaussian processes over z, with hyperparameters chosen on held-out runs.

The network's own metric head shapes z while it trains. What is reported comes from an exact Gaussian process on z per
metric: it honours measurements where there are some, grows unsure away from them, and was the better predictor on
unseen runs (docs/decisions). Its length scale and noise must not be fitted to the training rows, whose z has already
seen their labels: they are chosen by the predictive density on held-out runs, and the residuals there make the
intervals (split conformal prediction grouped by run; Dunn et al. 2022, Barber et al. 2021).

The last coordinates of z are what trees on statistics of the weights predict (``statistics_trees.py``), one a metric.
How far a metric's process follows its own is chosen in the same way, from not at all to all the way: as its mean, from
which the rest of z corrects, and as one more dimension along which checkpoints are alike or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from botorch.models import ModelListGP, SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import Mean, ZeroMean
from numpy.typing import NDArray
from torch import Tensor

from epsopt.surrogate.neighbour_gp import NeighbourGP
from epsopt.surrogate.relevance import matern
from epsopt.surrogate.side_by_side import one_thread
from epsopt.surrogate.thinning import evenly_spaced

_LENGTHS = (0.5, 0.7, 1.0, 1.5, 2.5)  # multiples of the lengths that the network learned
_NOISES = (1e-3, 3e-3, 1e-2, 0.05, 0.2, 0.8)  # in units of the signal variance
# Share of the trees' prediction in the mean, and inverse length of its dimension, in units of the metric's deviation.
_TREES = ((0.0, 0.0), (0.5, 0.5), (0.5, 1.0), (0.8, 1.0), (0.8, 2.0))
# The same where the rest of z says nothing beyond what was measured at a point: from the median to trees alone.
_ALONE = (0.0, 0.5, 0.8, 1.0)
_POINTWISE = (0.15, 0.01)  # length and noise: measurements are honoured where they were made, and reach no further
# Standard errors over held-out runs by which anything has to be better than trees alone (Breiman et al. 1984: the
# simplest within one); chosen on the development families of benchmarks/families.py.
_BETTER = 0.5
CROSS_VALIDATED = 0.5
"""How far a level is raised (:func:`conformal_factor`) where residuals are those of folds.

What answers has learned from a quarter more runs than what these residuals are of, which makes up for the other half:
raised by one, intervals of 90 % held 97 % of new runs' checkpoints of the development families (docs/decisions).
"""
_UNKNOWN = 10.0  # standard deviations, for a metric without a single held-out measurement
MAX_ROWS = 800
"""Rows that one Gaussian process holds. A larger zoo is thinned for it, evenly, run by run.

Settings are chosen with it; answers come from processes of the rows near a point (``neighbour_gp.py``).
"""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GPHyperparameters:
    """Hyperparameters of one metric's Gaussian process.

    Attributes:
        length: multiple of the length scales that the network learned for the metric.
        noise: noise variance in units of the signal variance.
        variance: signal variance on the model's scale; positive.
        trees: share of the trees' prediction in the mean, 0 to 1.
        alike: inverse length of the trees' prediction as a dimension of the kernel; 0: it is none.
    """

    length: float
    noise: float
    variance: float
    trees: float = 0.0
    alike: float = 0.0


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold as the head sees it: a network that never saw the held-out runs encoded both parts.

    Attributes:
        z_train: ``(n, latent)``, the encoder's coordinates and then what trees predict of the metrics.
        y_train: ``(n, m)`` on the model's scale; NaN where not measured.
        z_held: ``(k, latent)``.
        y_held: ``(k, m)``.
        runs_held: ``(k,)``.
        inverse_lengths: ``(m, encoded)`` of the network.
        z_weights_alone: ``(k, latent)`` as `z_held`, where trees do not see hyperparameters; ``None``: they never do.
        z_all: ``(rows, latent)`` as `z_train`, where that is thinned; ``None``: it is not.
        y_all: ``(rows, m)`` as `y_train`, of `z_all`.
    """

    z_train: Floats
    y_train: Floats
    z_held: Floats
    y_held: Floats
    runs_held: NDArray[np.int64]
    inverse_lengths: Floats
    z_weights_alone: Floats | None = None
    z_all: Floats | None = None
    y_all: Floats | None = None


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions of one metric on one fold's held-out rows, for every setting of the grid.

    Attributes:
        mean: ``(settings, k)``.
        unit_variance: ``(settings, k)`` predictive variance for signal variance 1.
        residual: ``(settings, k)``; NaN where not measured.
        weight: ``(k,)`` so that every run with a measurement counts the same; 0 where not measured.
        runs: ``(k,)`` run of each.
        thinned: the same of a process of few rows, by which settings are chosen where answers come from all rows
            (:func:`from_all_rows`); ``None``: there are no more rows.
    """

    mean: Floats
    unit_variance: Floats
    residual: Floats
    weight: Floats
    runs: NDArray[np.int64]
    thinned: HeldOut | None = None


def grid() -> list[GPHyperparameters]:
    """Return the settings that are tried, with signal variance one."""
    return [
        *(
            GPHyperparameters(length, noise, 1.0, trees, alike)
            for (trees, alike), length, noise in itertools.product(_TREES, _LENGTHS, _NOISES)
        ),
        *(GPHyperparameters(*_POINTWISE, 1.0, trees) for trees in _ALONE),
    ]


@one_thread()
def held_out(
    fold: Fold, metric: int, device: str = "cpu", settings: Sequence[GPHyperparameters] | None = None
) -> HeldOut:
    """Predict one metric of a fold's held-out rows with every setting of the grid.

    Args:
        fold: what the head sees.
        metric: column of the metric.
        device: where to; in double precision on each.
        settings: others than those of the grid.
    """

    def there(values: Floats) -> Tensor:
        return torch.tensor(values, device=device)  # a copy: rounding depends on how numbers lie in memory

    known = np.flatnonzero(np.isfinite(fold.y_train[:, metric]))
    inverse_lengths = fold.inverse_lengths[metric]
    encoded = len(inverse_lengths)
    z, z_held = (there(part[:, :encoded] * inverse_lengths) for part in (fold.z_train[known], fold.z_held))
    tree, tree_held = (there(part[:, encoded + metric]) for part in (fold.z_train[known], fold.z_held))
    y = there(fold.y_train[known, metric])
    between, across = _squared_distances(z, z), _squared_distances(z_held, z)
    apart, apart_held = (tree[:, None] - tree).square(), (tree_held[:, None] - tree).square()
    settings = grid() if settings is None else settings
    mean, variance = torch.empty((2, len(settings), len(tree_held)), dtype=torch.float64, device=device)
    for alike, length in dict.fromkeys((s.alike, s.length) for s in settings):
        places = [i for i, s in enumerate(settings) if (s.alike, s.length) == (alike, length)]
        noises, shares = (
            torch.tensor([getattr(settings[i], of) for i in places], dtype=torch.float64, device=device)
            for of in ("noise", "trees")
        )
        covariance = matern((between + alike**2 * apart).sqrt() / length)
        cross = matern((across + alike**2 * apart_held).sqrt() / length)
        levels, which = torch.unique(noises, return_inverse=True)
        eye = torch.eye(len(y), dtype=torch.float64, device=device)
        factors = torch.linalg.cholesky(covariance + levels[:, None, None] * eye)
        # One solution of the system serves all shares of the trees: what is left to explain is linear in the share.
        given = torch.cat([cross.T, y[:, None], tree[:, None]], dim=1).expand(len(levels), -1, -1)
        solved = torch.linalg.solve_triangular(factors, given, upper=False)
        half = solved[..., :-2]
        of_metric, of_trees = (half.mT @ solved[..., -2:]).unbind(dim=2)  # (noises, k) each
        mean[places] = shares[:, None] * (tree_held - of_trees[which]) + of_metric[which]
        variance[places] = (1.0 - half.square().sum(dim=1)[which]).clamp(min=1e-6) + noises[:, None]
    guess, unit_variance = mean.cpu().numpy(), variance.cpu().numpy()
    measured = np.isfinite(fold.y_held[:, metric])
    weight = run_weights(fold.runs_held, measured)
    return HeldOut(guess, unit_variance, fold.y_held[:, metric] - guess, weight, fold.runs_held)


def from_all_rows(parts: Sequence[HeldOut], folds: Sequence[Fold], metric: int) -> list[HeldOut]:
    """Predict held-out rows as a map of many checkpoints answers, with the settings that may be chosen.

    Which of the grid is chosen is decided by processes of few rows, whose systems are solved for all settings at once.

    Args:
        parts: one metric's held-out predictions by processes of few rows, fold by fold.
        folds: the same folds.
        metric: column of the metric.

    Returns:
        `parts`, if no fold has more rows than these. Else predictions from all rows where a setting is chosen by all
        folds, or by all but one or two; where it is not, those of few rows.
    """
    if all(fold.z_all is None for fold in folds):
        return list(parts)
    numbers = range(len(parts))
    left_out = [set(some) for size in range(3) for some in itertools.combinations(numbers, size)]
    subsets = [[parts[i] for i in numbers if i not in some] for some in left_out if len(some) < len(parts)]
    places = sorted({select_hyperparameters(subset)[0] for subset in subsets})
    settings = grid()
    found = []
    for part, fold in zip(parts, folds, strict=True):
        mean, variance = part.mean.copy(), part.unit_variance.copy()
        answers = held_out_from_all_rows(fold, metric, [settings[i] for i in places])
        mean[places], variance[places] = answers.mean, answers.unit_variance
        found.append(replace(part, mean=mean, unit_variance=variance,
                             residual=fold.y_held[:, metric] - mean, thinned=part))  # fmt: skip
    return found


@one_thread()
def held_out_from_all_rows(fold: Fold, metric: int, settings: Sequence[GPHyperparameters]) -> HeldOut:
    """Predict one metric of a fold's held-out rows as the map would answer: from all rows of the others.

    Args:
        fold: what the head sees.
        metric: column of the metric.
        settings: of the head.
    """
    if fold.z_all is None or fold.y_all is None:
        return held_out(fold, metric, settings=settings)
    known = np.flatnonzero(np.isfinite(fold.y_all[:, metric]))
    encoded = fold.inverse_lengths.shape[1]
    z, z_held = torch.tensor(fold.z_all[known]), torch.tensor(fold.z_held)
    y = torch.tensor(fold.y_all[known, metric])
    means, variances = [], []
    for chosen in settings:
        inverse = _inverse_lengths(z.shape[1], torch.tensor(fold.inverse_lengths), metric, chosen) / chosen.length
        prior = TreeMean(encoded + metric, chosen.trees)
        near = NeighbourGP(z * inverse, y - prior(z), inverse, 1.0, chosen.noise, prior)
        mean, variance = near.posterior_moments(z_held)
        means.append(mean.numpy())
        variances.append(variance.clamp(min=1e-6).numpy())
    guess, unit_variance = np.stack(means), np.stack(variances)
    weight = run_weights(fold.runs_held, np.isfinite(fold.y_held[:, metric]))
    return HeldOut(guess, unit_variance, fold.y_held[:, metric] - guess, weight, fold.runs_held)


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
    """Choose the setting with the best predictive density and error on held-out rows.

    Among so many settings the best one is partly luck, the more the fewer runs there are. So it is trees alone, unless
    the other setting's mean error is smaller by more than the paired difference varies from run to run.

    Args:
        parts: one metric's held-out predictions, fold by fold.

    Returns:
        Its place in :func:`grid` and the settings, signal variance included.
    """
    parts = [p if p.thinned is None else p.thinned for p in parts]
    residual = np.concatenate([p.residual for p in parts], axis=1)
    variance = np.concatenate([p.unit_variance for p in parts], axis=1)
    weight = np.concatenate([p.weight for p in parts])
    known = np.isfinite(residual[0])
    if not known.any():
        return 0, grid()[0]
    residual, variance, weight = residual[:, known], variance[:, known], weight[known]
    share = weight / weight.sum()
    scale = np.maximum((residual**2 / variance) @ share, 1e-8)
    density = -0.5 * np.log(scale) - 0.5 * np.log(variance) @ share
    # Mean error decides as well: a density alone prefers a vague head over a sharp one with a few outliers.
    best = int(np.argmax(density - np.log(np.maximum(np.abs(residual) @ share, 1e-9))))
    settings = grid()
    trees = settings.index(GPHyperparameters(*_POINTWISE, 1.0, 1.0))
    _, runs = np.unique(np.concatenate([p.runs for p in parts])[known], return_inverse=True)
    worse = np.bincount(runs, weights=weight * (np.abs(residual[trees]) - np.abs(residual[best])))
    if len(worse) > 1 and worse.mean() <= _BETTER * worse.std(ddof=1) / np.sqrt(len(worse)):
        best = trees
    return best, replace(settings[best], variance=float(scale[best]))


def standardised(parts: list[HeldOut], place: int, settings: GPHyperparameters) -> tuple[Floats, Floats]:
    """Return ``|residual| / standard deviation`` of the held-out rows and their weights, measured rows only."""
    residual = np.concatenate([p.residual[place] for p in parts])
    variance = np.concatenate([p.unit_variance[place] for p in parts]) * settings.variance
    weight = np.concatenate([p.weight for p in parts])
    known = np.isfinite(residual)
    return np.abs(residual[known]) / np.sqrt(variance[known]), weight[known]


def calibration_scores(parts: list[HeldOut], scored: list[HeldOut] | None = None) -> tuple[Floats, Floats]:
    """Return standardised residuals of each fold by the settings that the *other* folds choose.

    The settings that suit these very residuals best leave them smaller than those of new runs, and intervals of few
    runs too narrow.

    Args:
        parts: one metric's held-out predictions, fold by fold; settings are chosen on them.
        scored: the same folds, rows that are not to be scored without residuals; None: all of `parts`.

    Returns:
        As :func:`standardised`. A fold where no other one measured the metric has the settings of all together.
    """
    found = []
    for k, part in enumerate(parts if scored is None else scored):
        others = [other for i, other in enumerate(parts) if i != k]
        measured = any(np.isfinite(other.residual[0]).any() for other in others)
        found.append(standardised([part], *select_hyperparameters(others if measured else parts)))
    return np.concatenate([scores for scores, _ in found]), np.concatenate([weights for _, weights in found])


def weights_alone_scores(parts: list[HeldOut], folds: Sequence[Fold], metric: int) -> tuple[Floats, Floats]:
    """Return standardised residuals of each fold as if its runs' hyperparameters were unknown.

    Args:
        parts: the metric's held-out predictions, fold by fold; settings are chosen on those of the other folds.
        folds: the same folds, with :attr:`Fold.z_weights_alone`.
        metric: column of the metric.

    Returns:
        As :func:`standardised`; empty where trees see no hyperparameters.
    """
    found = [(np.empty(0), np.empty(0))]
    for k, fold in enumerate(folds):
        if fold.z_weights_alone is None:
            continue
        others = [other for i, other in enumerate(parts) if i != k]
        measured = any(np.isfinite(other.residual[0]).any() for other in others)
        chosen = select_hyperparameters(others if measured else parts)[1]
        alone = held_out_from_all_rows(replace(fold, z_held=fold.z_weights_alone), metric, [chosen])
        found.append(standardised([alone], 0, chosen))
    return np.concatenate([scores for scores, _ in found]), np.concatenate([weights for _, weights in found])


def conformal_factor(scores: Floats, weights: Floats, level: float, raised: float = 1.0) -> float:
    """How many standard deviations an interval needs on either side to cover ``level`` of held-out rows.

    Args:
        scores: ``(k,)`` standardised absolute residuals.
        weights: ``(k,)`` weights of :func:`run_weights`, measured rows only.
        level: wanted coverage, between 0 and 1.
        raised: how far the level is raised for the finite number of runs, in units of the weight of one more run.

    Returns:
        The weighted quantile, at the level so raised. With one residual a run, and raised by one, this is the
        ``ceil((runs + 1) * level)``-th smallest of split conformal prediction.
    """
    if len(scores) == 0 or weights.sum() <= 0.0:
        return _UNKNOWN
    order = np.argsort(scores)
    runs = max(float(weights.sum()), 1.0)
    cumulative = np.cumsum(weights[order]) / weights.sum()
    # Less a hair: rounding must not ask for one residual more than the quantile is.
    place = int(np.searchsorted(cumulative, min(level * (1.0 + raised / runs), 1.0) - 1e-9))
    return float(scores[order][min(place, len(scores) - 1)])


def build_model(z: Tensor, y: Tensor, settings: list[GPHyperparameters], inverse_lengths: Tensor) -> ModelListGP:
    """Build the BoTorch model: one exact Gaussian process per metric, hyperparameters fixed.

    Args:
        z: ``(n, latent)`` encoded checkpoints: the encoder's coordinates, and then what trees predict of the metrics.
        y: ``(n, m)`` metrics on the model's scale; NaN rows of a metric are left out of its process.
        settings: one per metric.
        inverse_lengths: ``(m, encoded)`` of the network.

    Returns:
        The model, in float64 and evaluation mode; ``posterior(X)`` takes ``(..., q, latent)``.
    """
    z = z.double()
    encoded = inverse_lengths.shape[1]
    models = []
    for j, chosen in enumerate(settings):
        known = torch.isfinite(y[:, j])
        kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=z.shape[1]))
        likelihood = GaussianLikelihood()
        model = SingleTaskGP(
            z[known],
            y[known, j : j + 1].double(),
            covar_module=kernel,
            mean_module=TreeMean(encoded + j, chosen.trees) if chosen.trees else ZeroMean(),
            likelihood=likelihood,
            outcome_transform=None,
        )
        kernel.base_kernel.lengthscale = chosen.length / _inverse_lengths(z.shape[1], inverse_lengths, j, chosen)
        kernel.outputscale = chosen.variance
        likelihood.noise = max(chosen.noise * chosen.variance, 1.1e-4)
        models.append(model.double())
    out = ModelListGP(*models).eval()
    out.requires_grad_(requires_grad=False)
    return out


def _inverse_lengths(latent: int, of_network: Tensor, metric: int, chosen: GPHyperparameters) -> Tensor:
    """``(latent,)`` what a metric's kernel multiplies z with, before its length; ``of_network`` is ``(m, encoded)``."""
    encoded = of_network.shape[1]
    inverse = torch.zeros(latent, dtype=torch.float64)
    inverse[:encoded] = of_network[metric].double()
    if chosen.alike:
        inverse[encoded + metric] = chosen.alike
    return inverse.clamp(min=1e-6)


class TreeMean(Mean):  # type: ignore[misc]
    """A process's mean: a share of what trees predict, which is one of the coordinates of z."""

    def __init__(self, column: int, share: float) -> None:
        super().__init__()
        self.column, self.share = column, share

    def forward(self, x: Tensor) -> Tensor:
        """``(..., n, latent)`` to ``(..., n)``."""
        return self.share * x[..., self.column]


@dataclass(frozen=True, eq=False)
class CachedGP:
    """A process of :func:`build_model` with its linear system solved.

    BoTorch's posterior is joint over the points it is asked for and solves the system again for each batch; point by
    point, the same moments take a tenth of the time.

    Attributes:
        rows: ``(n, latent)`` training inputs in units of the length scales.
        inverse_lengths: ``(latent,)``.
        weights: ``(n,)`` the mean at z is ``prior(z) + matern(z, rows) @ weights``.
        cholesky: ``(n, n)`` lower factor of the training covariance, noise included.
        variance: signal variance.
        noise: noise variance.
        prior: the process's mean before any measurement.
    """

    rows: Tensor
    inverse_lengths: Tensor
    weights: Tensor
    cholesky: Tensor
    variance: float
    noise: float
    prior: Callable[[Tensor], Tensor]

    def mean(self, z: Tensor) -> Tensor:
        """``(k, latent)`` to ``(k,)`` predictive means, computed in z's precision; differentiable."""
        return self.prior(z) + self._correlation(z) @ self.weights.to(z.dtype)

    def posterior_moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``(k, latent)`` float64 to ``(k,)`` predictive means and variances, noise included; differentiable."""
        correlation = self._correlation(z)
        half = torch.linalg.solve_triangular(self.cholesky, self.variance * correlation.T, upper=False)
        mean = self.prior(z) + correlation @ self.weights
        return mean, self.variance + self.noise - half.square().sum(dim=0)

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
        residual = process.train_targets - process.mean_module(inputs)
        weights = torch.cholesky_solve(residual[:, None], cholesky).squeeze(1)
    return CachedGP(rows, inverse_lengths, variance * weights, cholesky, variance, noise, process.mean_module)


def subsample_runs(runs: NDArray[np.int64], limit: int | None = None) -> NDArray[np.int64]:
    """Return at most ``limit`` (:data:`MAX_ROWS`) rows, spread evenly over rows sorted by run."""
    order = np.argsort(runs, kind="stable")
    return np.sort(order[evenly_spaced(len(order), MAX_ROWS if limit is None else limit, np.floor)])


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    squared: Tensor = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2.0 * a @ b.T
    return squared.clamp(min=0.0)
