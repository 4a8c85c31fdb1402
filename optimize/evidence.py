"""What is known of a run at some moment, as numbers; and the simple forecasts that a better one is made of.

A moment is a run with its first few checkpoints. Its state is on the model's scale (logits for bounded metrics); a
metric that was not measured is what the map predicts from the checkpoint's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.models import SingleTaskGP
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from epsopt.optimize.gaussian import fit_process
from epsopt.optimize.space import Space
from epsopt.optimize.trajectory import RunPath
from epsopt.surrogate.surrogate import Surrogate

Floats = NDArray[np.float64]

EXPERTS = ("carry-forward", "linear extrapolation", "hyperparameters", "late average", "curve", "map")
"""The forecasts that are weighed; the first three and "curve" are the baselines too.

carry-forward: the metrics stay as they are. linear extrapolation: they go on as over the latest checkpoints, within the
zoo's range. hyperparameters: a Gaussian process from hyperparameters to final metrics. late average: the same to their
mean over the last quarter of a run, which is less noisy. curve: trees on the metrics so far. map: trees on the metrics
so far, the place and movement in the latent space, and what the hyperparameters promise.
"""
BASELINES = ("carry-forward", "linear extrapolation", "hyperparameters", "curve")

_COMPONENTS = 6  # of z that the trees see: 8 were no better, and 64 runs hold no more
_TREES = 60
_LATE = 0.75
_LATEST = 4  # checkpoints that a slope is taken over


@dataclass(frozen=True, eq=False)
class Moment:
    """One run at one moment.

    Attributes:
        progress: share of its epochs that are done.
        state: ``(m,)`` metrics on the model's scale; None: not begun, and nothing known of where it starts.
        slope: ``(m,)`` change over the latest checkpoints, per whole run.
        step: ``(m,)`` change over the last step.
        place: ``(components,)`` of z.
        move: ``(components,)`` change of that over the last step.
    """

    progress: float
    state: Floats | None
    slope: Floats
    step: Floats
    place: Floats
    move: Floats


@dataclass(frozen=True, eq=False)
class Reader:
    """Turns a run's checkpoints into moments.

    Attributes:
        surrogate: scales, and fills in what was not measured.
        centre: ``(latent,)``.
        directions: ``(components, latent)``; components have unit variance over the zoo.
    """

    surrogate: Surrogate
    centre: Floats
    directions: Floats

    def curves(self, path: RunPath) -> tuple[Floats, Floats]:
        """``(e, m)`` metrics on the model's scale without gaps, and ``(e, components)`` of z."""
        z = path.z.double().numpy()
        scaled = np.stack(
            [t.forward(path.metrics[:, j]) for j, t in enumerate(self.surrogate.transforms)], axis=1
        ).reshape(len(path), len(self.surrogate.transforms))
        gaps = ~np.isfinite(scaled)
        if gaps.any():
            scaled = np.where(gaps, self.surrogate.means(path.z).detach().numpy(), scaled)
        return scaled, (z - self.centre) @ self.directions.T

    def moment(self, epochs: Floats, curves: tuple[Floats, Floats], total: float) -> Moment:
        """Describe a run after its first ``len(epochs)`` checkpoints, given its curves up to there."""
        values, places = curves
        m, k = values.shape[1], places.shape[1]
        if len(epochs) == 0:
            return Moment(0.0, None, np.zeros(m), np.zeros(m), np.zeros(k), np.zeros(k))
        shares = epochs / total
        step, move, slope = np.zeros(m), np.zeros(k), np.zeros(m)
        if len(epochs) > 1:
            step, move = values[-1] - values[-2], places[-1] - places[-2]
            at = shares[-_LATEST:] - shares[-_LATEST:].mean()
            slope = at @ values[-_LATEST:] / (at @ at)
        return Moment(float(min(shares[-1], 1.0)), values[-1], slope, step, places[-1], move)


def reader(surrogate: Surrogate, paths: Sequence[RunPath]) -> Reader:
    """Choose the components of z that the zoo's runs vary along."""
    z = torch.cat([p.z for p in paths]).double().numpy()
    centre = z.mean(axis=0)
    _, singular, right = np.linalg.svd(z - centre, full_matrices=False)
    k = min(_COMPONENTS, len(singular))
    scale = np.maximum(singular[:k] / np.sqrt(len(z)), 1e-6)
    return Reader(surrogate, centre, right[:k] / scale[:, None])


@dataclass(frozen=True, eq=False)
class Promise:
    """What hyperparameters alone promise: final metrics, and their average over the last quarter.

    Attributes:
        model: Gaussian processes of encoded configurations.
        space: encodes them.
    """

    model: SingleTaskGP
    space: Space

    def __call__(self, configs: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
        """``(n, m)`` each, on the model's scale."""
        with torch.no_grad():
            both = self.model.posterior(torch.from_numpy(self.space.encode(configs))).mean.numpy()
        return both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]


def fit_promise(
    space: Space, configs: Sequence[Mapping[str, Any]], curves: Sequence[Floats], shares: Sequence[Floats], seed: int
) -> Promise:
    """Fit what hyperparameters promise to past runs.

    Args:
        space: encodes configurations.
        configs: of ``n`` runs.
        curves: each run's ``(e, m)`` metrics on the model's scale.
        shares: each run's ``(e,)`` progress, ending at 1.
        seed: of the fit.
    """
    x = torch.from_numpy(space.encode(configs))
    final = np.stack([c[-1] for c in curves])
    late = np.stack([c[s >= _LATE].mean(axis=0) for c, s in zip(curves, shares, strict=True)])
    return Promise(fit_process(x, torch.from_numpy(np.concatenate([final, late], axis=1)), seed), space)


@dataclass(frozen=True, eq=False)
class Trees:
    """The two forecasts that are learned from moments of past runs.

    Attributes:
        curve: trees on the metrics so far.
        map: trees on those, z and the promise.
    """

    curve: ExtraTreesRegressor
    map: ExtraTreesRegressor

    def __call__(self, moments: Sequence[Moment], promised: Floats, late: Floats) -> tuple[Floats, Floats]:
        """``(n, m)`` final metrics on the model's scale, of each forecast; every moment has a state."""
        m = promised.shape[1]
        state = np.stack([q.state for q in moments if q.state is not None])
        curve = self.curve.predict(_curve_table(moments)).reshape(-1, m)
        mapped = self.map.predict(_map_table(moments, promised, late)).reshape(-1, m)
        return state + curve, state + mapped


def fit_trees(moments: Sequence[Moment], promised: Floats, late: Floats, final: Floats, seed: int) -> Trees:
    """Fit trees to moments that have a state.

    Args:
        moments: ``n`` of them.
        promised: ``(n, m)`` what each one's hyperparameters promise, its own run left out.
        late: ``(n, m)`` likewise, the late average.
        final: ``(n, m)`` final metrics on the model's scale.
        seed: of the trees.
    """
    gain = final - np.stack([q.state for q in moments if q.state is not None])
    gain = gain[:, 0] if gain.shape[1] == 1 else gain

    def fitted(table: Floats) -> ExtraTreesRegressor:
        # Extremely randomised trees (Geurts et al. 2006): no tuning, seconds, and bounded outside the data.
        trees = ExtraTreesRegressor(_TREES, min_samples_leaf=3, max_features=0.7, random_state=seed, n_jobs=1)
        return trees.fit(table, gain)

    return Trees(fitted(_curve_table(moments)), fitted(_map_table(moments, promised, late)))


def expert_table(
    moments: Sequence[Moment], promised: Floats, late: Floats, trees: Trees, limits: tuple[Floats, Floats]
) -> Floats:
    """``(n, experts, m)`` forecasts of final metrics on the model's scale, in the order of ``EXPERTS``.

    Args:
        moments: ``n`` of them; where nothing is known of the state, every forecast is what hyperparameters promise.
        promised: ``(n, m)``.
        late: ``(n, m)``.
        trees: the learned forecasts.
        limits: lowest and highest value ``(m,)`` that an extrapolation may reach.
    """
    out = np.stack([promised, promised, promised, late, promised, promised], axis=1)
    rows = np.array([i for i, q in enumerate(moments) if q.state is not None], dtype=np.int64)
    if len(rows):
        begun = [moments[i] for i in rows.tolist()]
        curve, mapped = trees(begun, promised[rows], late[rows])
        plain = np.stack([np.stack(_plain(q, limits)) for q in begun])
        out[rows, 0], out[rows, 1], out[rows, 4], out[rows, 5] = plain[:, 0], plain[:, 1], curve, mapped
    return out


def _plain(moment: Moment, limits: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    state = moment.state
    assert state is not None
    return state, np.clip(state + (1.0 - moment.progress) * moment.slope, *limits)


def _curve_table(moments: Sequence[Moment]) -> Floats:
    return np.stack([np.concatenate([[q.progress], _known(q), q.slope, q.step]) for q in moments])


def _map_table(moments: Sequence[Moment], promised: Floats, late: Floats) -> Floats:
    own = np.stack([np.concatenate([q.place, q.move]) for q in moments])
    state = np.stack([_known(q) for q in moments])
    return np.concatenate([_curve_table(moments), own, promised - state, late - state], axis=1)


def _known(moment: Moment) -> Floats:
    assert moment.state is not None
    return moment.state
