"""What merges of checkpoints measure: a Gaussian process over the weight spaces of a few lineages.

A merge is ``base + sum_i c_i (w_i - base)``, and where it lies follows from inner products of the differences alone: a
matrix of the checkpoints by themselves, whatever the size of the network. Every measured checkpoint of a lineage is
learned from, trained or merged. Checkpoints of different lineages share the level of a metric and nothing else.

Two weights are compared in three ways: by their distance, smoothly and roughly; and by how far they are from the base
and in which direction, where a logarithm draws together what lies far out. How much each way counts is learned from
what was measured, held near to a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from linear_operator.utils.cholesky import psd_safe_cholesky
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.forecast.learning_curve_gp import floor_scale
from epsopt.optimize.objectives import Objective
from epsopt.surrogate.ranges import metric_range, positive_floor
from epsopt.surrogate.relevance import matern
from epsopt.surrogate.transforms import MetricTransform, fit_transform

STEPS = 40
"""Of the ascent that fits the process."""

_NEAR = 0.3  # distance from the base, in the lineage's unit, below which distances count as they are
_RATE = 0.1
_JITTER = 1e-6
Floats = NDArray[np.float64]


class _Scales(NamedTuple):
    """What is learned, as logarithms: inverse squared lengths, variances of the signal's parts and of the noise."""

    smooth: float = 0.5
    smooth_variance: float = 0.5
    direction: float = 1.0
    radius: float = 0.5
    polar_variance: float = 0.5
    rough: float = 2.0
    rough_variance: float = 0.2
    level_variance: float = 0.3
    noise: float = 1e-3


@dataclass(frozen=True, eq=False)
class LineageSpace:
    """Where ``k`` checkpoints lie, each seen from the base of its lineage.

    Attributes:
        products: ``(k, k)`` inner products of differences from the base, zero between lineages; the unit of a lineage
            is the mean squared distance of its checkpoints from the centre of its front.
        centres: ``(lineages, k)`` coefficients of the centre of each front.
        lineages: ``(k,)`` lineage of each checkpoint.
    """

    products: Floats
    centres: Floats
    lineages: NDArray[np.int64]

    @classmethod
    def of(cls, products: Sequence[Floats], fronts: Sequence[NDArray[np.int64]]) -> LineageSpace:
        """Put lineages side by side.

        Args:
            products: ``(n, n)`` inner products of each lineage's differences from its base; finite.
            fronts: rows of each lineage that nothing of it dominates.
        """
        sizes = [len(p) for p in products]
        whole, centres = np.zeros((sum(sizes), sum(sizes))), np.zeros((len(sizes), sum(sizes)))
        lineages = np.repeat(np.arange(len(sizes)), sizes)
        for i, (own, front) in enumerate(zip(products, fronts, strict=True)):
            columns = np.flatnonzero(lineages == i)
            centres[i, columns[front]] = 1.0 / len(front)
            away = np.eye(len(own)) - centres[i, columns]
            # Of a lineage of one checkpoint, its distance from the base.
            unit = np.einsum("nk,kl,nl->n", away, own, away).mean() if len(own) > 1 else own[0, 0]
            whole[np.ix_(columns, columns)] = own / max(float(unit), 1e-20)
        return cls(whole, centres, lineages)

    def trained(self) -> Floats:
        """``(k, k + 1)`` points of the checkpoints themselves."""
        return np.column_stack([np.eye(len(self.lineages)), self.lineages])


class _Compared(NamedTuple):
    """Squared distances of points ``(..., n, m)``, of their directions and of their radii; 1 for one lineage."""

    apart: Tensor
    directions: Tensor
    radii: Tensor
    same: Tensor


class LineageGP(Model):  # type: ignore[misc]
    """One Gaussian process for each objective, over points ``(..., q, k + 1)``: coefficients, then the lineage.

    Args:
        space: where the checkpoints lie.
        points: ``(n, k + 1)`` what was measured.
        y: ``(n, m)`` on a scale where one is a usual difference.
    """

    def __init__(self, space: LineageSpace, points: Floats, y: Tensor) -> None:
        super().__init__()
        self._products, self._centres = torch.from_numpy(space.products), torch.from_numpy(space.centres)
        self._points = torch.from_numpy(points)
        self._heads = []
        compared = self._compare(self._points, self._points)
        for column in y.T:
            mean = column.mean()
            log = _learn(compared, column - mean)
            root = _root(log, compared)
            weights = torch.cholesky_solve((column - mean)[:, None], root).squeeze(1)
            self._heads.append((log, root, weights, mean))
        self._corrections = [(0.0, 1.0)] * len(self._heads)

    def correct(self, shifts: Floats, factors: Floats) -> None:
        """Correct what is predicted of merges from now on.

        Args:
            shifts: ``(m,)`` standard deviations that means are moved by.
            factors: ``(m,)`` of standard deviations, positive.
        """
        self._corrections = list(zip(shifts.tolist(), factors.tolist(), strict=True))

    @property
    def num_outputs(self) -> int:
        """``m``."""
        return len(self._heads)

    @property
    def batch_shape(self) -> torch.Size:
        """None: one process for each objective."""
        return torch.Size([])

    def posterior(self, X: Tensor, *_: Any, **__: Any) -> GPyTorchPosterior:  # noqa: N803
        """``(..., q, k + 1)`` to the joint posterior of ``q`` merges, measurement noise left out."""
        cross_compared = self._compare(X.reshape(-1, X.shape[-1]), self._points)
        among = self._compare(X, X)
        found = []
        for (log, root, weights, mean), (shift, factor) in zip(self._heads, self._corrections, strict=True):
            cross = _covariance(log, cross_compared)
            half = torch.linalg.solve_triangular(root, cross.T, upper=False).T.reshape(*X.shape[:-1], -1)
            covariance = _covariance(log, among) - half @ half.mT + _JITTER * torch.eye(X.shape[-2]).to(X)
            centre = (cross @ weights).reshape(X.shape[:-1]) + mean
            centre = centre + shift * covariance.diagonal(dim1=-2, dim2=-1).sqrt()
            found.append(MultivariateNormal(centre, factor**2 * covariance))
        joint = MultitaskMultivariateNormal.from_independent_mvns(found) if len(found) > 1 else found[0]
        return GPyTorchPosterior(joint)

    def _compare(self, a: Tensor, b: Tensor) -> _Compared:
        lineages = a[..., -1].long(), b[..., -1].long()
        places = a[..., :-1], b[..., :-1]
        inner, (first, second) = self._inner(*places)
        radii = [square.clamp(min=1e-20).sqrt() for square in (first, second)]
        cosine = (inner / (radii[0][..., :, None] * radii[1][..., None, :])).clamp(-1.0, 1.0)
        near, other = [(radius / _NEAR).log1p() for radius in radii]
        near, other = near[..., :, None], other[..., None, :]
        directions = (near.square() + other.square() - 2.0 * near * other * cosine).clamp(min=0.0)
        # Distances from the centre of the front: between points that lie close together, rounding counts less there.
        inner, (first, second) = self._inner(*(p - self._centres[i] for p, i in zip(places, lineages, strict=True)))
        apart = (first[..., :, None] + second[..., None, :] - 2.0 * inner).clamp(min=0.0)
        same = (lineages[0][..., :, None] == lineages[1][..., None, :]).double()
        return _Compared(apart, directions, (near - other).square(), same)

    def _inner(self, a: Tensor, b: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Inner products of points with one another, and of each with itself."""
        own = [((x @ self._products) * x).sum(dim=-1) for x in (a, b)]
        return a @ self._products @ b.mT, (own[0], own[1])


def _covariance(log: Tensor, compared: _Compared) -> Tensor:
    scales = _Scales(*log.exp())
    smooth = matern((scales.smooth * compared.apart + 1e-9).sqrt())
    rough = torch.exp(-(scales.rough * compared.apart + 1e-9).sqrt())
    direction = matern((scales.direction * compared.directions + 1e-9).sqrt())
    radius = matern((scales.radius * compared.radii + 1e-9).sqrt())
    polar = 0.35 * direction + 0.35 * radius + 0.6 * direction * radius
    shared = scales.smooth_variance * smooth + scales.polar_variance * polar + scales.rough_variance * rough
    return scales.level_variance + compared.same * shared


def _root(log: Tensor, compared: _Compared) -> Tensor:
    noise = _Scales(*log.exp()).noise + _JITTER
    covariance = _covariance(log, compared)
    root: Tensor = psd_safe_cholesky(covariance + noise * torch.eye(len(covariance), dtype=covariance.dtype))
    return root


def _learn(compared: _Compared, y: Tensor) -> Tensor:
    """Ascend the marginal likelihood and a prior about the guess; returns logarithms of the scales."""
    guess = torch.tensor([math.log(value) for value in _Scales()], dtype=torch.float64)
    log = guess.clone().requires_grad_()
    optimizer = torch.optim.Adam([log], lr=_RATE)
    for _ in range(STEPS):
        root = _root(log, compared)
        loss = 0.5 * (y @ torch.cholesky_solve(y[:, None], root).squeeze(1)) + root.diagonal().log().sum()
        loss = loss + 0.5 * (log - guess).square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            log.clamp_(-9.0, 5.0)
    return log.detach()


def fit_lineages(
    space: LineageSpace,
    points: Floats,
    values: Floats,
    known: Floats,
    objectives: Sequence[Objective],
    bounds: Mapping[str, tuple[float, float]],
) -> tuple[LineageGP, tuple[MetricTransform, ...]]:
    """Fit the process to what was measured.

    Args:
        space: where ``k`` checkpoints lie.
        points: ``(n, k + 1)`` checkpoints, bases and merges: coefficients, then the lineage.
        values: ``(n, m)`` what was measured on them; rows with NaN are not learned from.
        known: ``(r, m)`` what was measured on all checkpoints: what a metric has been says what it can be.
        objectives: the columns.
        bounds: lowest and highest possible values of metrics, by name; others are guessed.

    Returns:
        The process, and the scales of its outputs.

    Raises:
        NotPSDError: no matrix that could be computed has a root.
    """
    rows = np.isfinite(values).all(axis=1)
    table = values[rows]
    ranges = [metric_range(o.name, column, bounds) for o, column in zip(objectives, known.T, strict=True)]
    transforms = tuple(
        floor_scale(fit_transform(column, limits, positive_floor(o.name, column, bounds)))
        for o, column, limits in zip(objectives, table.T, ranges, strict=True)
    )
    y = torch.from_numpy(np.column_stack([t.forward(table[:, j]) for j, t in enumerate(transforms)]))
    return LineageGP(space, points[rows], y), transforms
