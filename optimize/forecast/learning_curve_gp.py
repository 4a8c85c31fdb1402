"""Whole runs as curves: Gaussian processes over hyperparameters, where a run started, and how far it has come.

Every checkpoint of every run is learned from, not only the last one. What is learned is the change since the checkpoint
that a run started from, which grows from nothing: a run from a checkpoint of the front begins on the front. Inactive
conditional hyperparameters are masked (:meth:`epsopt.optimize.space.Space.encode`), bounded metrics are learned as
logits. What one run has and its hyperparameters do not explain (its random seed) is a process of its own, shared by the
checkpoints of that run.

How much each hyperparameter matters is learned by predicting every run from all *other* runs, in closed form, as the
map learns its views (:mod:`epsopt.surrogate.relevance`): the marginal likelihood would be content to predict an epoch
from its neighbours in the same run. On unseen runs of the demo that halves the error (docs/decisions). How a run's
own past binds its future is learned by the density of a left-out run's checkpoints together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.objectives import Objective, Objectives
from epsopt.optimize.outliers import winsorised, winsorised_limits
from epsopt.optimize.space import Space
from epsopt.surrogate.ranges import metric_range, positive_floor
from epsopt.surrogate.relevance import JOINTLY, ROWS, RunSampler, held_out_loss, matern
from epsopt.surrogate.thinning import evenly_spaced
from epsopt.surrogate.transforms import MetricTransform, fit_transform

MAX_ROWS = 400
"""Checkpoints that predictions build on; of more, each run keeps the last and others spread over it."""

LEAST_SCALE = 0.5
"""Of a bounded metric, in units of its logit: the logits of 0 and 1 are eight apart."""

STEPS = 80
"""Of the ascent that learns a process for each metric."""

_LEAST_EXPLAINED = 4.0  # runs that all stayed near, or of which a few were merged, say little of how others differ
_NEAR = 1.0  # of the model's scale: who went no farther stayed near
_SCALARS = 6  # of a process, beside the weights of views
_MOST_ON_WAY = 4  # merges of a run that are learned from
_MOST_AFTER = 2  # checkpoints of a run after one of its own that are learned as those of a run from there
_FEWEST_BEFORE_RESTART = 3
_FURTHER_STEPS = 20
_RATE = 0.1
_PRIOR = 0.2
_SPARSE = 0.02
_JITTER = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PathMeasurements:
    """Measured merges of the checkpoint that a run started from and one of its own.

    Attributes:
        steps: ``(k,)`` epochs that the run's own checkpoint is from.
        shares: ``(k,)`` of the way from the start to it, between 0 and 1.
        values: ``(k, m)`` objectives in their own units, as of a curve; NaN where not measured.
    """

    steps: Floats
    shares: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class Curve:
    """The measured checkpoints of one run.

    Attributes:
        config: its hyperparameters, active ones only.
        steps: ``(k,)`` epochs since it started, positive.
        values: ``(k, m)`` objectives in their own units, constraints after them; NaN where not measured.
        start: ``(m,)`` what was measured on the checkpoint that it started from; ``None`` when there was none, or
            nothing is known of it.
        on_way: what was measured between the start and one of its checkpoints, if anything.
        moved: ``(k, blocks)`` how far each block of its weights is from where the run started, relative to its norm;
            ``None`` where that is not known. All runs that say it have the same blocks, in the same order.
    """

    config: Mapping[str, Any]
    steps: Floats
    values: Floats
    start: Floats | None = None
    on_way: PathMeasurements | None = None
    moved: Floats | None = None

    def first(self, count: int) -> Curve:
        """Return the same run at its first checkpoints; what was measured on its way is left out.

        Args:
            count: how many of them, or all if there are fewer.
        """
        moved = None if self.moved is None else self.moved[:count]
        return replace(self, steps=self.steps[:count], values=self.values[:count], on_way=None, moved=moved)


@dataclass(frozen=True, eq=False)
class CurveModel:
    """What :func:`fit_curves` learned.

    Attributes:
        processes: one per objective and constraint, on the model's scale.
        curves: what predictions build on.
        space: encodes configurations.
        transforms: one per objective and constraint.
        objectives: in the order of the outputs; what comes after them are constraints, met at zero or below.
        length: epochs of a whole run.
        others: ``(k, m)`` what was measured on checkpoints that no run wrote (merges), in the objectives' own units:
            they count for the front and teach nothing about runs.
        stretch: one per output: what the standard deviation of a prediction is multiplied by, since predictions of runs
            that were chosen erred so much more, or less (:mod:`epsopt.optimize.schedule.selection_calibration`); none
            leaves it as it was learned.
    """

    processes: tuple[Process, ...]
    curves: tuple[Curve, ...]
    space: Space
    transforms: tuple[MetricTransform, ...]
    objectives: tuple[Objective, ...]
    length: float
    others: Floats | None = None
    stretch: tuple[float, ...] = ()

    @cached_property
    def model(self) -> CurveProcesses:
        """BoTorch model; one output per objective on the model's scale, inputs as :meth:`inputs` makes them."""
        layout = Layout.of(self.space, len(self.transforms))
        x, y = _rows(layout, self.space, self.curves, self.transforms, self.objectives, self.length)
        return CurveProcesses(self.processes, layout, x, y, self.stretch)

    def given(self, curves: Sequence[Curve]) -> CurveModel:
        """Build on other runs with what was learned from those it was fitted to: milliseconds, not seconds."""
        return replace(self, curves=tuple(curves))

    def inputs(
        self,
        configs: Sequence[Mapping[str, Any]],
        steps: Floats,
        starts: Sequence[Floats | None],
        runs: int | Sequence[int],
        shares: Floats | None = None,
    ) -> Tensor:
        """Make the model's inputs of runs that are not begun, or go on.

        Args:
            configs: ``n`` configurations.
            steps: ``(q,)`` epochs to look at, of each, or ``(n, q)``.
            starts: ``n`` values of the checkpoint that each starts from.
            runs: number of the first of them, where each is a run of its own, or the number of each.
            shares: ``(q,)`` of the way from the start to the checkpoint of that epoch; by default all of it.

        Returns:
            ``(n, q, width)`` float64.
        """
        heads = _heads(self.space, configs, starts, self.transforms)
        when = np.broadcast_to(steps / self.length, (len(configs), np.shape(steps)[-1]))
        way = np.broadcast_to(1.0 if shares is None else shares, when.shape)
        numbers = runs + np.arange(len(configs)) if isinstance(runs, int) else np.asarray(runs)
        return torch.from_numpy(Layout.of(self.space, len(self.transforms)).rows(heads, when, way, numbers))

    @cached_property
    def signs(self) -> Tensor:
        """``(m,)`` +1 to maximise, -1 to minimise."""
        return torch.from_numpy(Objectives(self.objectives).signs)

    def untransform(self, outputs: Tensor) -> Tensor:
        """Map ``(..., outputs)`` to ``(..., m)`` objectives in their own units, larger is better; differentiable.

        Draws beyond everything measured stay small enough to be averaged.
        """
        columns = [t.backward_draws(outputs[..., j]) for j, t in enumerate(self.transforms[: len(self.objectives)])]
        return torch.stack(columns, dim=-1) * self.signs

    def sample_futures(self, posterior: GPyTorchPosterior, samples: int, seed: int) -> Floats:
        """Draw what runs may measure yet, the same for the same seed; no generator of anybody else's is touched.

        Args:
            posterior: of ``n`` runs at ``q`` checkpoints, without noise.
            samples: how many.
            seed: of the draws, which all runs share.

        Returns:
            ``(n, samples, q, m)`` objectives in their own units, larger is better.
        """
        shape = posterior.base_sample_shape  # of each number of a draw; which is which, the posterior knows
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(samples, 1, *shape[1:], generator=generator, dtype=posterior.dtype)
        drawn = posterior.rsample_from_base_samples(torch.Size([samples]), noise.expand(samples, *shape))
        return np.asarray(self.untransform(drawn.transpose(0, 1)).numpy())

    @property
    def constraints(self) -> list[Callable[[Tensor], Tensor]]:
        """One function of ``(..., outputs)`` for each constraint, met at zero or below."""
        first = len(self.objectives)

        def at(place: int, transform: MetricTransform) -> Callable[[Tensor], Tensor]:
            return lambda outputs: transform.backward(outputs[..., place])

        return [at(first + i, t) for i, t in enumerate(self.transforms[first:])]

    def measured(self) -> Floats:
        """``(k, m)`` objectives of every feasible checkpoint, larger is better."""
        values = np.concatenate([c.values for c in self.curves])
        m = len(self.objectives)
        kept = np.isfinite(values).all(axis=1) & (values[:, m:] <= 0.0).all(axis=1)
        found = values[kept, :m]
        if self.others is not None and len(self.others):
            found = np.vstack([found, self.others[np.isfinite(self.others).all(axis=1)]])
        return np.asarray(found * self.signs.numpy())


@dataclass(frozen=True)
class Layout:
    """Which columns of an input say what: the configuration, where the run started, when, which run.

    Attributes:
        parameters: columns of each hyperparameter, the one that says whether it is active included.
        known: column that is 1 if something is known of where the run started.
        start: first column of what was measured there, one per output, 0 if nothing was.
    """

    parameters: tuple[slice, ...]
    known: int
    start: int
    outputs: int

    @staticmethod
    def of(space: Space, outputs: int) -> Layout:
        """Lay out the inputs of a model over a space."""
        edges = np.cumsum([0, *(p.columns for p in space.parameters)]).tolist()
        return Layout(tuple(slice(a, b) for a, b in pairwise(edges)), edges[-1], edges[-1] + 1, outputs)

    @property
    def views(self) -> tuple[slice, ...]:
        """What distances are weighed by: each hyperparameter, and the start as a whole."""
        return (*self.parameters, slice(self.known, self.start + self.outputs))

    def rows(self, heads: Floats, length: Floats, way: Floats, runs: NDArray[np.int64]) -> Floats:
        """Inputs ``(n, q, width)`` of ``n`` runs; `heads` end before the way.

        Args:
            heads: ``(n, heads)``.
            length: ``(n, q)`` epochs in shares of a whole length.
            way: ``(n, q)`` shares of the way from the start to the checkpoint of that epoch.
            runs: ``(n,)`` their numbers.
        """
        when = _time(length)
        repeated = np.broadcast_to(heads[:, None, :], (*length.shape, heads.shape[1]))
        numbers = np.broadcast_to(runs[:, None, None], (*length.shape, 1)).astype(np.float64)
        return np.concatenate([repeated, way[..., None], when[..., None], numbers], axis=-1)


def _time(length: Floats) -> Floats:
    """Early epochs change more than late ones."""
    return np.asarray(np.log1p(9.0 * length) / math.log(10.0))


@dataclass(frozen=True, eq=False)
class Process:
    """Covariance of one output's change since the start of the run: how far it has grown, times way, time, and run.

    Attributes:
        weights: ``(views,)`` of squared distances.
        common: variance that all runs share.
        explained: variance that hyperparameters and start explain.
        own: variance between runs of the same configuration.
        noise: variance of a measurement.
        time: length scale of time.
        way: length scale of the share of the way from the start to a checkpoint.
    """

    weights: Tensor
    common: Tensor
    explained: Tensor
    own: Tensor
    noise: Tensor
    time: Tensor
    way: Tensor

    @staticmethod
    def of(log: Tensor) -> Process:
        """Take apart a vector of logarithms: weights first, then the scalars in the order of the attributes."""
        values = log.exp()
        return Process(values[:-_SCALARS], *values[-_SCALARS:])

    def log(self) -> Tensor:
        """What :meth:`of` takes apart."""
        scalars = [self.common, self.explained, self.own, self.noise, self.time, self.way]
        return torch.cat([self.weights, torch.stack(scalars)]).log()

    def covariance(self, parts: Parts) -> Tensor:
        """Measurement noise not included."""
        distance = (torch.einsum("v,v...->...", self.weights, parts.squared) + 1e-9).sqrt()
        between = self.common + self.explained * matern(distance) + self.own * parts.same
        return parts.grown * matern(parts.way / self.way) * matern(parts.time / self.time) * between


@dataclass(frozen=True, eq=False)
class Parts:
    """What covariances of two sets of inputs are made of, ``(..., n, k)`` each.

    Attributes:
        squared: ``(views, ..., n, k)`` squared distances.
        way: absolute difference in shares of the way.
        time: absolute difference in time.
        same: 1 for the same run, else 0.
        grown: product of how far both may have changed since their start.
    """

    squared: Tensor
    way: Tensor
    time: Tensor
    same: Tensor
    grown: Tensor

    @staticmethod
    def of(layout: Layout, a: Tensor, b: Tensor) -> Parts:
        """Compare ``(..., n, width)`` with ``(..., k, width)``."""
        squared = torch.stack([torch.cdist(a[..., v], b[..., v]).square() for v in layout.views])
        way, when, run = -3, -2, -1
        grown = [
            torch.where(x[..., layout.known] > 0, (x[..., way] * x[..., when]).clamp(min=0.0).sqrt(), 1.0)
            for x in (a, b)
        ]
        return Parts(
            squared,
            (a[..., :, None, way] - b[..., None, :, way]).abs(),
            (a[..., :, None, when] - b[..., None, :, when]).abs(),
            (a[..., :, None, run] == b[..., None, :, run]).to(a),
            grown[0][..., :, None] * grown[1][..., None, :],
        )


class CurveProcesses(Model):  # type: ignore[misc]
    """The processes as a BoTorch model, solved once for everything that is asked.

    Args:
        processes: one per output.
        layout: of the inputs.
        x: ``(n, width)`` inputs.
        y: ``(n, outputs)``; NaN where not measured.
        stretch: of standard deviations, one per output; none leaves them.
    """

    def __init__(
        self,
        processes: Sequence[Process],
        layout: Layout,
        x: Tensor,
        y: Tensor,
        stretch: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self._processes, self._layout = tuple(processes), layout
        self._stretch = tuple(stretch) or (1.0,) * len(self._processes)
        self.train_x, self._changes, self._roots, self._weights = [], [], [], []
        for j, process in enumerate(processes):
            inputs = x[torch.isfinite(y[:, j])]
            change = y[torch.isfinite(y[:, j]), j] - inputs[:, layout.start + j]
            covariance = process.covariance(Parts.of(layout, inputs, inputs))
            root = torch.linalg.cholesky(covariance + (process.noise + _JITTER) * torch.eye(len(inputs)).to(x))
            self.train_x.append(inputs)
            self._changes.append(change)
            self._roots.append(root)
            self._weights.append(torch.cholesky_solve(change[:, None], root).squeeze(1))

    @property
    def num_outputs(self) -> int:
        """How many metrics."""
        return len(self._processes)

    @property
    def batch_shape(self) -> torch.Size:
        """None: one model."""
        return torch.Size([])

    def posterior(self, X: Tensor, *_: Any, **__: Any) -> GPyTorchPosterior:  # noqa: N803
        """``(..., q, width)`` to the joint posterior of ``q`` checkpoints, measurement noise left out."""
        found = []
        flat = X.reshape(-1, X.shape[-1])
        among = Parts.of(self._layout, X, X)
        for j, process in enumerate(self._processes):
            cross = process.covariance(Parts.of(self._layout, flat, self.train_x[j]))
            half = torch.linalg.solve_triangular(self._roots[j], cross.T, upper=False).T.reshape(*X.shape[:-1], -1)
            covariance = process.covariance(among) - half @ half.mT + _JITTER * torch.eye(X.shape[-2]).to(X)
            mean = (cross @ self._weights[j]).reshape(X.shape[:-1]) + X[..., self._layout.start + j]
            found.append(MultivariateNormal(mean, self._stretch[j] ** 2 * covariance))
        return _joint(found)


def _joint(found: Sequence[MultivariateNormal]) -> GPyTorchPosterior:
    """Outputs that are independent of each other."""
    return GPyTorchPosterior(MultitaskMultivariateNormal.from_independent_mvns(found) if len(found) > 1 else found[0])


@torch.inference_mode(False)
@torch.enable_grad()
def fit_curves(
    space: Space,
    objectives: Sequence[Objective],
    curves: Sequence[Curve],
    *,
    length: float,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    others: Floats | None = None,
    before: CurveModel | None = None,
    seed: int = 0,
) -> CurveModel:
    """Learn where runs go.

    Args:
        space: encodes configurations.
        objectives: ``m`` of them; further columns of the curves' values are constraints.
        curves: at least two runs with measurements.
        length: epochs of a whole run.
        bounds: declared bounds of objectives; others are guessed from the measurements.
        others: ``(k, m)`` measured objectives of checkpoints that no run wrote.
        before: what was learned from most of these runs: learning goes on from there, in a fraction of the time.
        seed: of the checkpoints that are looked at.
    """
    values = np.concatenate([c.values for c in curves])
    names, declared = [o.name for o in objectives], bounds or {}
    ranges = [metric_range(n, column, declared) for n, column in zip(names, values.T, strict=False)]
    floors = [positive_floor(n, column, declared) for n, column in zip(names, values.T, strict=False)]
    constraints = [None] * (values.shape[1] - len(names))
    transforms = tuple(
        floor_scale(fit_transform(column, known, floor))
        for column, known, floor in zip(
            _of_one_size(values, objectives).T, [*ranges, *constraints], [*floors, *constraints], strict=True
        )
    )
    layout = Layout.of(space, len(transforms))
    x, y = _rows(layout, space, curves, transforms, objectives, length)
    rng = np.random.default_rng(seed)
    known = [None] * y.shape[1] if before is None else list(before.processes)
    processes = tuple(_learn(layout, x, y[:, j], j, rng, known[j]) for j in range(y.shape[1]))
    return CurveModel(processes, tuple(curves), space, transforms, tuple(objectives), length, others)


def floor_scale(transform: MetricTransform) -> MetricTransform:
    """Return a transform that leaves room for more than was seen.

    A few runs that all kept a coverage of 1 say nothing against one that loses it: on their own standard deviation it
    would lie hundreds of units away, and no model would think of it.
    """
    return transform if not transform.both_ends else replace(transform, scale=max(transform.scale, LEAST_SCALE))


def _learn(
    layout: Layout, x: Tensor, y: Tensor, output: int, rng: np.random.Generator, before: Process | None
) -> Process:
    """Ascend the density of every run given all others; held near to a guess, which it begins from, or from before."""
    views = len(layout.views)
    guess = torch.full((views + _SCALARS,), math.log(4.0 / views), dtype=torch.float64)
    guess[views:] = torch.tensor([1.0, 1.0, 0.1, 0.003, 1.0, 0.5]).log()
    sampler = RunSampler(x[:, -1].numpy().astype(np.int64), torch.isfinite(y).numpy(), ROWS, rng)
    if sampler.n_runs < 2:
        return Process.of(guess)
    rows = torch.from_numpy(sampler.draw().reshape(-1))
    parts = Parts.of(layout, x[rows], x[rows])
    change = y[rows] - x[rows, layout.start + output]
    near = float(change.abs().max()) < _NEAR or bool((x[:, -3] < 1.0).any())
    floored = near and bool((x[:, layout.known] > 0).all())
    eye = torch.eye(len(rows), dtype=torch.float64)
    log = (guess.clone() if before is None else before.log()).requires_grad_()
    optimizer = torch.optim.Adam([log], lr=_RATE)
    for _ in range(STEPS if before is None else _FURTHER_STEPS):
        process = Process.of(log)
        covariance = process.covariance(parts) + (process.noise + _JITTER) * eye
        loss = len(rows) * held_out_loss(covariance, change, sampler.n_runs, JOINTLY)
        loss = loss + _PRIOR * (log - guess).square().sum() + _SPARSE * process.weights.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            log.clamp_(-9.0, 5.0)
            if floored:
                log[views + 1].clamp_(min=math.log(_LEAST_EXPLAINED))
    return Process.of(log.detach())


def _of_one_size(values: Floats, objectives: Sequence[Objective]) -> Floats:
    """Bring what diverged, and penalties, of ``(n, m)`` objectives and constraints to the size of the others."""
    columns = [winsorised(column, maximize=o.maximize) for column, o in zip(values.T, objectives, strict=False)]
    columns += [winsorised_limits(column) for column in values.T[len(objectives) :]]
    return np.column_stack(columns)


def _rows(
    layout: Layout,
    space: Space,
    curves: Sequence[Curve],
    transforms: Sequence[MetricTransform],
    objectives: Sequence[Objective],
    length: float,
) -> tuple[Tensor, Tensor]:
    """Inputs ``(n, width)`` and outputs ``(n, m)`` of the checkpoints that are learned from.

    What a run did after one of its checkpoints is what a run from that checkpoint does: it is learned as such, too.
    """
    heads = _heads(space, [c.config for c in curves], [c.start for c in curves], transforms)
    x, y = [], []
    for i, curve in enumerate(curves):
        kept = _spread(curve.steps, max(MAX_ROWS // len(curves), 2))
        steps, way, values = curve.steps[kept], np.ones(len(kept)), curve.values[kept]
        if curve.on_way is not None:
            merged = np.argsort(curve.on_way.shares, kind="stable")
            merged = merged[evenly_spaced(len(merged), _MOST_ON_WAY)]
            steps, way = np.append(steps, curve.on_way.steps[merged]), np.append(way, curve.on_way.shares[merged])
            values = np.concatenate([values, curve.on_way.values[merged]])
        x.append(layout.rows(heads[i : i + 1], steps[None] / length, way[None], np.array([i]))[0])
        y.append(values)
        for place in restart_places(curve):
            later = place + 1 + _spread(curve.steps[place + 1 :] - curve.steps[place], _MOST_AFTER)
            since = curve.steps[later] - curve.steps[place]
            head = _heads(space, [curve.config], [curve.values[place]], transforms)
            x.append(layout.rows(head, since[None] / length, np.ones((1, len(since))), np.array([i]))[0])
            y.append(curve.values[later])
    table = _of_one_size(np.concatenate(y), objectives)
    scaled = np.column_stack([t.forward(table[:, j]) for j, t in enumerate(transforms)])
    return torch.from_numpy(np.concatenate(x)), torch.from_numpy(scaled)


def restart_places(curve: Curve) -> list[int]:
    """Places of checkpoints after which a run is learned as one that started there."""
    if curve.start is None or len(curve.steps) < _FEWEST_BEFORE_RESTART:
        return []
    places = sorted({len(curve.steps) // 3, (2 * len(curve.steps)) // 3})
    return [p for p in places if p < len(curve.steps) - 1 and np.isfinite(curve.values[p]).all()]


def _heads(
    space: Space,
    configs: Sequence[Mapping[str, Any]],
    starts: Sequence[Floats | None],
    transforms: Sequence[MetricTransform],
) -> Floats:
    """``(n, width)``: configuration, whether something is known of the start, and what was measured there."""
    about = np.zeros((len(configs), 1 + len(transforms)))
    known = {i: start for i, start in enumerate(starts) if start is not None and np.isfinite(start).all()}
    if known:
        values = np.stack(list(known.values()))
        about[list(known), 0] = 1.0
        about[list(known), 1:] = np.column_stack([t.forward(values[:, j]) for j, t in enumerate(transforms)])
    return np.concatenate([space.encode(configs), about], axis=1)


def _spread(steps: Floats, most: int) -> NDArray[np.int64]:
    """At most so many places of ascending steps, the last one always, evenly on the logarithmic scale."""
    if len(steps) <= most:
        return np.arange(len(steps))
    wanted = np.geomspace(max(steps[0], 1e-9), steps[-1], most)
    return np.unique(np.abs(np.log(steps[:, None]) - np.log(wanted[None, :])).argmin(axis=0))
