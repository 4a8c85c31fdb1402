"""Where training leads from a checkpoint, with these hyperparameters, in so many epochs.

Every run of the catalogue is many runs in one: from each of its checkpoints on, so many more epochs with these
hyperparameters led to what a later checkpoint measured. A forest learns that from where a segment starts (measured
metrics and place on the map), its hyperparameters and its length; what it gets wrong on held-out runs is the spread of
its forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupKFold
from torch import Tensor

from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.space import Space
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import EmptyCatalogue

Floats = NDArray[np.float64]
TREES = 100
"""Of the forest that predicts how metrics change."""

_SEGMENTS = 6000
_COMPONENTS = 8
_FEWEST_RUNS = 8
_FOLDS = 5
_DRAWS = 256


@dataclass(frozen=True, eq=False)
class Start:
    """Where a run could start.

    Attributes:
        label: what it is called.
        z: ``(latent,)`` of its weights.
        metrics: measured, or predicted where it was not evaluated; every metric that the map knows.
        measured: whether they were measured.
        kind: ``base``, ``checkpoint`` or ``merge``.
        checkpoint: the real checkpoint; None for a merge.
        parents: the real checkpoints of a merge with their coefficients.
    """

    label: str
    z: Tensor
    metrics: Mapping[str, float]
    measured: bool
    kind: str
    checkpoint: Checkpoint | None = None
    parents: tuple[tuple[Checkpoint, float], ...] = ()

    @property
    def trained(self) -> int:
        """Epochs of training behind it, as far as its checkpoint or its parents say."""
        own = [self.checkpoint] if self.checkpoint is not None else [c for c, _ in self.parents]
        return max((c.epoch or 0 for c in own), default=0)


@dataclass(frozen=True, eq=False)
class Continuation:
    """Where training leads from a start: ``m`` metrics on the map's scale.

    Attributes:
        forest: features of start, hyperparameters and length to the change of the metrics.
        surrogate: gives the scale.
        space: encodes hyperparameters.
        centre: ``(latent,)``.
        directions: ``(latent, components)``.
        residuals: ``(draws, m)`` what the forest got wrong on held-out runs, measured minus forecast.
        error: ``(m,)`` mean absolute error on held-out runs, in the metrics' own units.
        carried: ``(m,)`` the same for saying that nothing changes.
        n_segments: how many it learned from.
        longest: epochs of the longest past run.
    """

    forest: ExtraTreesRegressor
    surrogate: Surrogate
    space: Space
    centre: Tensor
    directions: Tensor
    residuals: Floats
    error: Floats
    carried: Floats
    n_segments: int
    longest: int

    def forecast(self, starts: Sequence[Start], configs: Sequence[Mapping[str, Any]], epochs: int) -> Floats:
        """Forecast every start with every configuration: ``(starts, configs, m)`` on the map's scale."""
        scaled = _scaled(self.surrogate, [s.metrics for s in starts])
        place = ((torch.stack([s.z for s in starts]) - self.centre) @ self.directions).numpy()
        encoded = self.space.encode(configs)
        rows = np.concatenate(
            [
                np.repeat(np.hstack([scaled, place]), len(configs), axis=0),
                np.tile(encoded, (len(starts), 1)),
                np.full((len(starts) * len(configs), 1), np.log1p(epochs)),
            ],
            axis=1,
        )
        change = self.forest.predict(rows).reshape(len(starts), len(configs), -1)
        return np.asarray(scaled[:, None, :] + change)


def learn_continuation(
    surrogate: Surrogate, checkpoints: Sequence[Checkpoint], space: Space, *, seed: int = 0
) -> Continuation:
    """Learn from all segments of past runs.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's; runs whose hyperparameters the space describes count, and a run's start too
            where it is a checkpoint of the catalogue.
        space: of the hyperparameters.
        seed: of the forest and of which segments are taken when there are very many.

    Raises:
        EmptyCatalogue: fewer than eight runs with two measured checkpoints or more.
    """
    rng = np.random.default_rng(seed)
    latents, known = known_latents(surrogate, checkpoints, of_runs=True)
    centre = latents.mean(dim=0)
    _, _, right = torch.linalg.svd(latents - centre, full_matrices=False)
    directions = right[:_COMPONENTS].T
    place = ((latents - centre) @ directions).numpy()
    scaled = _scaled(surrogate, [c.metrics for c in known])
    pairs, groups = _segments(known, scaled, space)
    if len(set(groups.tolist())) < _FEWEST_RUNS:
        raise EmptyCatalogue(
            f"where training leads is learned from past runs: {len(set(groups.tolist()))} have two measured "
            f"checkpoints or more and every hyperparameter of the search space, at least {_FEWEST_RUNS} are needed"
        )
    if len(pairs) > _SEGMENTS:
        kept = np.sort(rng.choice(len(pairs), _SEGMENTS, replace=False))
        pairs, groups = pairs[kept], groups[kept]
    encoded = space.encode([known[j].hyperparameters for j in pairs[:, 1]])
    x = np.hstack([scaled[pairs[:, 0]], place[pairs[:, 0]], encoded, np.log1p(pairs[:, 2:])])
    y = scaled[pairs[:, 1]] - scaled[pairs[:, 0]]
    held = np.full_like(y, np.nan)
    for inside, outside in GroupKFold(min(_FOLDS, len(set(groups.tolist())))).split(x, y, groups):
        held[outside] = _forest(seed).fit(x[inside], y[inside]).predict(x[outside])
    residuals = y - held
    own = surrogate.to_metrics(torch.from_numpy(scaled[pairs[:, 1]])).numpy()
    guessed = surrogate.to_metrics(torch.from_numpy(scaled[pairs[:, 0]] + held)).numpy()
    before = surrogate.to_metrics(torch.from_numpy(scaled[pairs[:, 0]])).numpy()
    return Continuation(
        forest=_forest(seed).fit(x, y),
        surrogate=surrogate,
        space=space,
        centre=centre,
        directions=directions,
        residuals=residuals[rng.choice(len(residuals), _DRAWS)],
        error=np.abs(guessed - own).mean(axis=0),
        carried=np.abs(before - own).mean(axis=0),
        n_segments=len(pairs),
        longest=max(known[j].epoch or 0 for j in pairs[:, 1].tolist()),
    )


def _segments(known: Sequence[Checkpoint], scaled: Floats, space: Space) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``(n, 3)`` rows of start, end and epochs between, and the run of each; all metrics measured at both ends."""
    by_run: dict[int, list[int]] = {}
    for i, c in enumerate(known):
        if c.epoch is not None and np.isfinite(scaled[i]).all() and not is_recombined(c):
            by_run.setdefault(c.run_id, []).append(i)
    places = {c.path: i for i, c in enumerate(known)}
    pairs, groups = [], []
    for run, members in by_run.items():
        first = known[members[0]]
        if not space.accepts(first.hyperparameters):
            continue
        base = places.get(str(first.hyperparameters.get("init_from", first.hyperparameters.get("base"))))
        rows = [(i, known[i].epoch or 0) for i in members]
        if base is not None and np.isfinite(scaled[base]).all():
            rows.append((base, 0))
        for i, begin in rows:
            for j in members:
                length = (known[j].epoch or 0) - begin
                if length > 0:
                    pairs.append((i, j, length))
                    groups.append(run)
    return np.array(pairs, dtype=np.int64).reshape(-1, 3), np.array(groups, dtype=np.int64)


def _scaled(surrogate: Surrogate, metrics: Sequence[Mapping[str, float | None]]) -> Floats:
    return np.array(
        [
            [np.nan if (v := m.get(n)) is None else surrogate.to_scale(n, v) for n in surrogate.metric_names]
            for m in metrics
        ]
    )


def _forest(seed: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(n_estimators=TREES, min_samples_leaf=3, random_state=seed, n_jobs=1)
