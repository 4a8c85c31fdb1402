"""The simple forecasts of a run's end that a better one is made of (``stacking.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.models import SingleTaskGP
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from epsopt.optimize.forecast.hyperparameter_model import Forecast, fit_forecast
from epsopt.optimize.forecast.run_features import RunSnapshot
from epsopt.optimize.gp import fit_process
from epsopt.optimize.latent.trajectory import RunPath
from epsopt.optimize.space import Space
from epsopt.surrogate.surrogate import Surrogate

Floats = NDArray[np.float64]

EXPERTS = ("hyperparameters", "late average", "h, then g", "carry-forward", "linear extrapolation", "curve", "map")
"""The forecasts that are weighed.

hyperparameters: Gaussian processes from hyperparameters to final metrics. late average: the same to their mean over the
last quarter of a run, which is less noisy. h, then g: hyperparameters to final z, and through the map to its metrics
(``forecast.py``). carry-forward: the metrics stay as they are. linear extrapolation: they go on as over the latest
checkpoints, within the zoo's range. curve: trees on the metrics so far. map: trees on the metrics so far, the place and
movement in the latent space, and the forecast from hyperparameters alone.
"""
BEFORE = 3
"""The first so many of them need no checkpoint."""
BASELINES = ("hyperparameters", "carry-forward", "linear extrapolation", "curve")

TREES = 60
"""Of each forecaster's forest."""

_LATE = 0.75


@dataclass(frozen=True, eq=False)
class HyperparameterForecaster:
    """Predicts from hyperparameters alone.

    Attributes:
        model: Gaussian processes of encoded configurations: final metrics, then their late average.
        chain: hyperparameters to final z to metrics.
        space: encodes configurations.
    """

    model: SingleTaskGP
    chain: Forecast
    space: Space

    def __call__(self, configs: Sequence[Mapping[str, Any]]) -> Floats:
        """``(n, BEFORE, m)`` on the model's scale."""
        x = torch.from_numpy(self.space.encode(configs))
        with torch.no_grad():
            both = self.model.posterior(x).mean.numpy()
            chained = self.chain.metrics(self.chain.model.posterior(x).mean).numpy()
        m = both.shape[1] // 2
        return np.stack([both[:, :m], both[:, m:], chained], axis=1)


@dataclass(frozen=True, eq=False)
class _Ended:
    """A past run's end, with what was not measured filled in."""

    config: Mapping[str, Any]
    z: torch.Tensor
    metrics: Mapping[str, float | None]


def fit_hyperparameter_forecaster(
    surrogate: Surrogate, space: Space, paths: Sequence[RunPath], curves: Sequence[Floats], seed: int
) -> HyperparameterForecaster:
    """Fit the forecast from hyperparameters alone to past runs.

    Args:
        surrogate: the map.
        space: encodes configurations.
        paths: ``n`` finished runs.
        curves: each run's ``(e, m)`` metrics on the model's scale, without gaps.
        seed: of the fit.
    """
    x = torch.from_numpy(space.encode([p.config for p in paths]))
    final = np.stack([c[-1] for c in curves])
    late = np.stack([c[p.epochs >= _LATE * p.epochs[-1]].mean(axis=0) for c, p in zip(curves, paths, strict=True)])
    ends = surrogate.to_metrics(torch.from_numpy(final)).tolist()
    names = surrogate.metric_names
    ended = [_Ended(p.config, p.z[-1], dict(zip(names, e, strict=True))) for p, e in zip(paths, ends, strict=True)]
    model = fit_process(x, torch.from_numpy(np.concatenate([final, late], axis=1)), seed)
    return HyperparameterForecaster(model, fit_forecast(surrogate, space, ended, seed), space)


@dataclass(frozen=True, eq=False)
class Trees:
    """The two forecasts that are learned from moments of past runs.

    Attributes:
        curve: trees on the metrics so far.
        map: trees on those, z and the forecast from hyperparameters.
    """

    curve: ExtraTreesRegressor
    map: ExtraTreesRegressor

    def __call__(self, moments: Sequence[RunSnapshot], by_hyperparameters: Floats) -> tuple[Floats, Floats]:
        """``(n, m)`` final metrics on the model's scale, of each forecast; every moment has a state."""
        m = by_hyperparameters.shape[2]
        state = np.stack([_known(q) for q in moments])
        curve = self.curve.predict(_curve_table(moments)).reshape(-1, m)
        mapped = self.map.predict(_map_table(moments, by_hyperparameters)).reshape(-1, m)
        return state + curve, state + mapped


def fit_trees(moments: Sequence[RunSnapshot], by_hyperparameters: Floats, final: Floats, seed: int) -> Trees:
    """Fit trees to moments that have a state.

    Args:
        moments: ``n`` of them.
        by_hyperparameters: ``(n, BEFORE, m)`` forecasts from hyperparameters alone, its own run left out.
        final: ``(n, m)`` final metrics on the model's scale.
        seed: of the trees.
    """
    gain = final - np.stack([_known(q) for q in moments])
    gain = gain[:, 0] if gain.shape[1] == 1 else gain

    def fitted(table: Floats) -> ExtraTreesRegressor:
        # Extremely randomised trees (Geurts et al. 2006): no tuning, seconds, and bounded outside the data.
        trees = ExtraTreesRegressor(TREES, min_samples_leaf=3, max_features=0.7, random_state=seed, n_jobs=1)
        return trees.fit(table, gain)

    return Trees(fitted(_curve_table(moments)), fitted(_map_table(moments, by_hyperparameters)))


def expert_table(
    moments: Sequence[RunSnapshot], by_hyperparameters: Floats, trees: Trees, limits: tuple[Floats, Floats]
) -> Floats:
    """``(n, experts, m)`` forecasts of final metrics on the model's scale, in the order of ``EXPERTS``.

    Args:
        moments: ``n`` of them; before a run's first checkpoint the forecasts that need one are those from
            hyperparameters alone.
        by_hyperparameters: ``(n, BEFORE, m)``.
        trees: the learned forecasts.
        limits: lowest and highest value ``(m,)`` that an extrapolation may reach.
    """
    waiting = np.repeat(by_hyperparameters[:, :1], len(EXPERTS) - BEFORE, axis=1)
    out = np.concatenate([by_hyperparameters, waiting], axis=1)
    rows = np.array([i for i, q in enumerate(moments) if q.state is not None], dtype=np.int64)
    if len(rows):
        begun = [moments[i] for i in rows.tolist()]
        curve, mapped = trees(begun, by_hyperparameters[rows])
        plain = np.stack([_plain(q, limits) for q in begun])
        out[rows, BEFORE:] = np.stack([plain[:, 0], plain[:, 1], curve, mapped], axis=1)
    return out


def _plain(moment: RunSnapshot, limits: tuple[Floats, Floats]) -> Floats:
    state = _known(moment)
    return np.stack([state, np.clip(state + (1.0 - moment.progress) * moment.slope, *limits)])


def _curve_table(moments: Sequence[RunSnapshot]) -> Floats:
    return np.stack([np.concatenate([[q.progress], _known(q), q.slope, q.step]) for q in moments])


def _map_table(moments: Sequence[RunSnapshot], by_hyperparameters: Floats) -> Floats:
    own = np.stack([np.concatenate([q.place, q.move]) for q in moments])
    state = np.stack([_known(q) for q in moments])
    gaps = (by_hyperparameters - state[:, None]).reshape(len(state), -1)
    return np.concatenate([_curve_table(moments), own, gaps], axis=1)


def _known(moment: RunSnapshot) -> Floats:
    assert moment.state is not None
    return moment.state
