"""What to merge next: sums of weight differences of checkpoints that share a base, chosen part by part.

A run leaves a direction in weight space, and how far it went along it is only one of the places worth looking at
(task arithmetic, Ilharco et al. 2023; WiSE-FT, Wortsman et al. 2022). A merge is ``base + sum_i c_i (w_i - base)``
with coefficients of its own for each *part* of the network: blocks that move alike while training, found from how far
they moved. Measuring one costs an evaluation instead of a run, so they are tried where that gains more for its cost.

Which one is chosen by a Gaussian process over weight space: in each part, how far from the base, and in which
direction. It needs inner products of the differences alone (one small matrix for each block), so that it works for
models of any size; every measured checkpoint is learned from, trained or merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.acquisition.ehvi import improvement_over_front
from epsopt.optimize.forecast.learning_curve_gp import floor_scale
from epsopt.optimize.merge.merge_outcomes import MergeOutcomes
from epsopt.optimize.objectives import Objective, Objectives
from epsopt.optimize.pareto import non_dominated
from epsopt.surrogate.ranges import metric_range, positive_floor
from epsopt.surrogate.relevance import matern
from epsopt.surrogate.transforms import fit_transform

MOST_ROWS = 128
"""Measured checkpoints that the process is fitted to: the front, then the newest."""

CANDIDATES = 512
"""Merges that are weighed before each measurement."""

STEPS = 30
"""Of the ascent that fits the process."""

_NEAR = 0.1  # relative distance from the base below which distances count as they are, and beyond as logarithms
_APART = 0.5  # two parts differ when their blocks' mean decimal logarithms of movement do, by more than this
_STILL = 1e-6  # relative movement of a block that was not trained
_RATE = 0.1
_JITTER = 1e-5
Floats = NDArray[np.float64]
MergeKind = Literal["between", "beyond"]


@dataclass(frozen=True, eq=False)
class WeightSpace:
    """Where ``k`` checkpoints of one lineage lie, seen from their base.

    Attributes:
        products: ``(blocks, k, k)`` inner products of their differences from the base, block by block; finite.
        norms: ``(blocks,)`` norms of the base's blocks.
    """

    products: Floats
    norms: Floats

    @cached_property
    def moved(self) -> Floats:
        """``(k, blocks)`` distance of each block from the base, relative to the base's norm."""
        squared = np.diagonal(self.products, axis1=1, axis2=2).T
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)) / np.maximum(self.norms, 1e-12))

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """``(blocks,)`` part of each block: 0 where blocks moved little, 1 where much; all 0 if all moved alike."""
        logs = np.log10(self.moved + 1e-4).mean(axis=0)
        labels = np.zeros(len(logs), dtype=np.int64)
        live = np.flatnonzero(self.moved.max(axis=0) > _STILL)
        if len(live) < 2:
            return labels
        order = live[np.argsort(logs[live], kind="stable")]
        # The split into two whose own spreads are smallest (natural breaks, in one dimension exact).
        costs = [len(s) * s.var() + len(t) * t.var() for i in range(1, len(order))
                 for s, t in [(logs[order[:i]], logs[order[i:]])]]  # fmt: skip
        cut = int(np.argmin(costs)) + 1
        if logs[order[cut:]].mean() - logs[order[:cut]].mean() > _APART:
            labels[order[cut:]] = 1
        return labels

    @cached_property
    def by_part(self) -> Floats:
        """``(parts, k, k)`` inner products in each part, in units of the base's norm there."""
        out = []
        for part in range(int(self.parts.max()) + 1):
            inside = self.parts == part
            out.append(self.products[inside].sum(axis=0) / max(float((self.norms[inside] ** 2).sum()), 1e-24))
        return np.stack(out)


@dataclass(frozen=True, eq=False)
class MergeCandidate:
    """A merge that was chosen, and what is expected of it.

    Attributes:
        coefficients: ``(parts, k)`` of the checkpoints' differences from the base, finite; a block's row is that of
            its part (:attr:`WeightSpace.parts`).
        improvement: expected hypervolume improvement, in the product of the objectives' units.
        predicted: ``(m,)`` objectives, in their own units.
        low: ``(m,)`` lower ends of 90 % intervals.
        high: ``(m,)`` upper ends.
        kind: ``"between"`` checkpoints and their base, all of the network alike, or ``"beyond"``: parts of it apart, or
            farther out than anything that was trained.
    """

    coefficients: Floats
    improvement: float
    predicted: Floats
    low: Floats
    high: Floats
    kind: MergeKind


def choose_merge(
    space: WeightSpace,
    values: Floats,
    objectives: Sequence[Objective],
    *,
    base: Floats | None = None,
    reference: Floats | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    reliability: Callable[[MergeKind], float] | None = None,
    rng: np.random.Generator,
) -> MergeCandidate | None:
    """Choose the merge that is expected to widen the measured front most.

    Args:
        space: where the checkpoints lie.
        values: ``(k, m)`` what was measured on them, in the objectives' own units; rows with NaN may be merged, but are
            not learned from.
        objectives: what counts.
        base: ``(m,)`` what was measured on the base.
        reference: ``(m,)`` the objectives' values that are just not good enough; see :func:`improvement_over_front`.
        bounds: declared bounds of objectives; others are guessed.
        reliability: factor of the predicted gain of either kind
            (:class:`epsopt.optimize.schedule.gain_calibration.Reliability`); by default 1 for both.
        rng: draws candidates.

    Returns:
        The merge; None where fewer than two checkpoints were measured, or none of them moved.
    """
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    if len(finite) < 2 or not float(space.moved.max()) > _STILL:
        return None
    model = fit_weight_space(space, values, objectives, base, bounds or {}, finite)
    candidates = _candidates(space, values, objectives, finite, rng)
    x = torch.from_numpy(candidates.reshape(len(candidates), 1, -1))
    acquisition = improvement_over_front(model, reference, None, int(rng.integers(2**31)))
    with torch.no_grad():
        scores = torch.cat([acquisition(part) for part in torch.split(x, 256)])
        kinds = [_kind(c) for c in candidates]
        weight = {kind: 1.0 if reliability is None else reliability(kind) for kind in set(kinds)}
        best = int((scores * torch.tensor([weight[k] for k in kinds])).argmax())
        posterior = model.model.posterior(x[best : best + 1])
        mean, spread = posterior.mean[0, 0], posterior.variance[0, 0].clamp(min=0.0).sqrt()
        middle, *ends = (model.untransform(mean + k * spread) * model.signs for k in (0.0, -1.645, 1.645))
    low, high = np.sort(np.stack([e.numpy() for e in ends]), axis=0)
    return MergeCandidate(candidates[best], float(scores[best]), middle.numpy(), low, high, kinds[best])


@dataclass(frozen=True, eq=False)
class _Compared:
    """Squared distances between points, ``(parts, ..., n, k)`` each.

    Attributes:
        places: between places, of which far ones are drawn nearer to the base, direction kept.
        radii: between distances from the base.
    """

    places: Tensor
    radii: Tensor

    @staticmethod
    def of(products: Tensor, a: Tensor, b: Tensor) -> _Compared:
        """Compare coefficients ``(..., n, parts, k)`` with ``(..., m, parts, k)``."""
        a, b = a.movedim(-2, 0), b.movedim(-2, 0)
        products = products.reshape(len(products), *[1] * (a.ndim - 3), *products.shape[1:])
        inner = a @ products @ b.mT
        far = [(((x @ products) * x).sum(dim=-1)).clamp(min=1e-20).sqrt() for x in (a, b)]
        near = [(x / _NEAR).log1p() for x in far]
        cosine = (inner / (far[0][..., :, None] * far[1][..., None, :])).clamp(-1.0, 1.0)
        first, second = near[0][..., :, None], near[1][..., None, :]
        places = (first.square() + second.square() - 2.0 * first * second * cosine).clamp(min=0.0)
        return _Compared(places, (first - second).square())


class _Processes(Model):  # type: ignore[misc]
    """One Gaussian process for each objective, over coefficients ``(..., q, parts * k)``; hyperparameters by MAP."""

    def __init__(self, products: Floats, points: Floats, y: Tensor) -> None:
        super().__init__()
        self._products, self._points = torch.from_numpy(products), torch.from_numpy(points)
        self._logs, self._roots, self._weights, self._means = [], [], [], []
        compared = _Compared.of(self._products, self._points, self._points)
        eye = torch.eye(len(y), dtype=torch.float64)
        for j in range(y.shape[1]):
            centre = y[:, j].mean()
            log = self._learn(compared, y[:, j] - centre, eye)
            root = torch.linalg.cholesky(_covariance(log, compared) + (log[-1].exp() + _JITTER) * eye)
            self._logs.append(log)
            self._roots.append(root)
            self._weights.append(torch.cholesky_solve((y[:, j] - centre)[:, None], root).squeeze(1))
            self._means.append(centre)

    @staticmethod
    def _learn(compared: _Compared, y: Tensor, eye: Tensor) -> Tensor:
        """Logarithms: weights of places and of radii, part by part; signal variance; noise variance."""
        parts = len(compared.places)
        guess = torch.zeros(2 * parts + 2, dtype=torch.float64)
        guess[parts : 2 * parts], guess[-1] = math.log(0.5), math.log(0.003)
        log = guess.clone().requires_grad_()
        optimizer = torch.optim.Adam([log], lr=_RATE)
        for _ in range(STEPS):
            root = torch.linalg.cholesky(_covariance(log, compared) + (log[-1].exp() + _JITTER) * eye)
            loss = 0.5 * (y @ torch.cholesky_solve(y[:, None], root).squeeze(1)) + root.diagonal().log().sum()
            loss = loss + 0.5 * (log - guess).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                log.clamp_(-8.0, 5.0)
                # Checkpoints that all stayed near the base say nothing of how much can change farther out.
                log[-2].clamp_(min=0.0)
        return log.detach()

    @property
    def num_outputs(self) -> int:
        return len(self._logs)

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size([])

    def posterior(self, X: Tensor, *_: Any, **__: Any) -> GPyTorchPosterior:  # noqa: N803
        """``(..., q, parts * k)`` to the joint posterior of ``q`` merges, measurement noise left out."""
        points = X.reshape(*X.shape[:-1], len(self._products), -1)
        flat = points.reshape(-1, *points.shape[-2:])
        cross_parts = _Compared.of(self._products, flat, self._points)
        among = _Compared.of(self._products, points, points)
        found = []
        for log, root, weights, centre in zip(self._logs, self._roots, self._weights, self._means, strict=True):
            cross = _covariance(log, cross_parts)
            half = torch.linalg.solve_triangular(root, cross.T, upper=False).T.reshape(*X.shape[:-1], -1)
            covariance = _covariance(log, among) - half @ half.mT + _JITTER * torch.eye(X.shape[-2]).to(X)
            found.append(MultivariateNormal((cross @ weights).reshape(X.shape[:-1]) + centre, covariance))
        joint = MultitaskMultivariateNormal.from_independent_mvns(found) if len(found) > 1 else found[0]
        return GPyTorchPosterior(joint)


def _covariance(log: Tensor, compared: _Compared) -> Tensor:
    """What all share, what places share, what radii share, and what both do."""
    parts, values = len(compared.places), log.exp()
    place = matern((torch.einsum("p,p...->...", values[:parts], compared.places) + 1e-9).sqrt())
    radius = matern((torch.einsum("p,p...->...", values[parts : 2 * parts], compared.radii) + 1e-9).sqrt())
    return values[-2] * (0.3 + 0.35 * place + 0.35 * radius + 0.6 * place * radius)


def fit_weight_space(
    space: WeightSpace,
    values: Floats,
    objectives: Sequence[Objective],
    base: Floats | None,
    bounds: Mapping[str, tuple[float, float]],
    finite: NDArray[np.int64],
) -> MergeOutcomes:
    """Fit the process to what was measured.

    Args:
        space: where ``k`` checkpoints lie.
        values: ``(k, m)`` what was measured on them.
        objectives: the columns.
        base: ``(m,)`` what was measured on the base; None where nothing was.
        bounds: declared bounds of objectives; others are guessed.
        finite: rows of `values` without NaN, at least two.
    """
    n_parts, k = len(space.by_part), len(values)
    front = finite[Objectives(objectives).front(values[finite])]
    newest = [i for i in finite[::-1].tolist() if i not in set(front.tolist())]
    rows = np.array([*front.tolist(), *newest][:MOST_ROWS])
    points = np.zeros((len(rows), n_parts, k))
    points[np.arange(len(rows)), :, rows] = 1.0
    table = values[rows]
    if base is not None:
        points, table = np.concatenate([np.zeros((1, n_parts, k)), points]), np.vstack([base, table])
    transforms = tuple(
        floor_scale(fit_transform(y, metric_range(o.name, y, bounds), positive_floor(o.name, y, bounds)))
        for y, o in zip(table.T, objectives, strict=True)
    )
    y = torch.from_numpy(np.column_stack([t.forward(table[:, j]) for j, t in enumerate(transforms)]))
    return MergeOutcomes(_Processes(space.by_part, points, y), tuple(objectives), transforms, values[finite])


def on_way(coefficients: Floats) -> tuple[int, int | None, float] | None:
    """Tell which way a merge lies on: places of the end and of the start (None: the base), share of the way.

    Args:
        coefficients: ``(parts, k)`` of checkpoints, finite.

    Returns:
        Of two checkpoints the later one counts as the end; None when it is no such merge.
    """
    if _kind(coefficients) != "between":
        return None
    row = coefficients[0]
    used = np.flatnonzero(row).tolist()
    if len(used) == 1:
        return used[0], None, float(row[used[0]])
    if len(used) == 2 and abs(float(row.sum()) - 1.0) < 1e-9:
        return used[1], used[0], float(row[used[1]])
    return None


def _kind(coefficients: Floats) -> MergeKind:
    """Which kind a merge is; coefficients ``(parts, k)``."""
    alike = bool((coefficients == coefficients[:1]).all())
    inside = bool((coefficients >= 0.0).all()) and float(coefficients[0].sum()) <= 1.0 + 1e-9
    return "between" if alike and inside else "beyond"


def _candidates(
    space: WeightSpace,
    values: Floats,
    objectives: Sequence[Objective],
    finite: NDArray[np.int64],
    rng: np.random.Generator,
) -> Floats:
    """``(n, parts, k)``: checkpoints of the first two fronts, and others, of which something is changed."""
    maximize = Objectives(objectives).maximize
    first = finite[non_dominated(values[finite], maximize).indices]
    rest = np.setdiff1d(finite, first)
    second = rest[non_dominated(values[rest], maximize).indices] if len(rest) else rest
    good = np.concatenate([first, second])
    out = np.zeros((CANDIDATES, len(space.by_part), len(values)))
    for place in range(CANDIDATES):
        row = out[place]
        from_good = rng.random() < 0.7
        row[:, rng.choice(good if from_good else finite)] = 1.0
        other, part = int(rng.integers(len(values))), int(rng.integers(len(row)))
        match int(rng.integers(5)):
            case 4:  # all of it nearer to the base
                row *= rng.uniform(0.05, 0.95)
                continue
            case 0:  # a part of it nearer to the base, or farther
                row[part] *= math.exp(rng.normal(0.0, 0.7 if rng.random() < 0.5 else 2.0))
            case 1:  # a part of another one in the place of its own
                row[part] = 0.0
                row[part, other] = math.exp(rng.normal(0.0, 0.5))
            case 2:  # on the line between two
                other = int(rng.choice(good)) if rng.random() < 0.5 else other
                share = rng.uniform(0.1, 0.9)
                row[:] = (1.0 - share) * row
                row[:, other] += share
                continue
            case _:  # another one's part on top
                row[part, other] += rng.uniform(0.2, 1.0)
        if rng.random() < 0.3:
            row[int(rng.integers(len(row)))] *= math.exp(rng.normal(0.0, 0.5))
    return out
