"""Guided initialisation: which checkpoint should the next run start from, with which hyperparameters.

Every run of the catalogue is many runs in one: from each of its checkpoints on, so many more epochs with these
hyperparameters led to what a later checkpoint measured. A forest learns that from where a segment starts (measured
metrics and place on the map), its hyperparameters and its length; what it gets wrong on held-out runs is the spread of
its forecasts. The seeds ask for this as "where would I want to start" (epsilon_vae.md, guided initialisation).
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

from epsopt.optimize.latent_search import known_latents
from epsopt.optimize.pareto import non_dominated
from epsopt.optimize.scoring import measured_table
from epsopt.optimize.space import Config, Space
from epsopt.optimize.targets import Objective, Target
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import EmptyCatalogue, UsageError
from epsopt.zoo.records import Checkpoint

Floats = NDArray[np.float64]
_SEGMENTS = 6000
_COMPONENTS = 8
_FEWEST_RUNS = 8
_FOLDS = 5
_TREES = 100
_RANDOM, _LOCAL = 192, 192
_DRAWS = 256


@dataclass(frozen=True, eq=False)
class Start:
    """Where a run could start.

    Attributes:
        label: what it is called.
        z: ``(latent,)`` of its weights.
        metrics: measured, or predicted where it was not evaluated; every metric that the map knows.
        measured: whether they were measured.
        kind: ``base``, ``checkpoint`` or ``mixture``.
        checkpoint: the real checkpoint; None for a mixture.
        mixture: the real checkpoints of a mixture with their coefficients.
    """

    label: str
    z: Tensor
    metrics: Mapping[str, float]
    measured: bool
    kind: str
    checkpoint: Checkpoint | None = None
    mixture: tuple[tuple[Checkpoint, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """A run from a start, and what it is forecast to reach.

    Attributes:
        start: where it starts.
        params: its hyperparameters, active ones only.
        fixed: constants of the past runs that it should get besides.
        epochs: how long it trains.
        point: forecast metrics at its end, by name.
        low: lower ends of their intervals.
        high: upper ends.
        probability: that all targets hold at its end; None without targets.
        joins_front: probability that no measured checkpoint dominates its end.
    """

    start: Start
    params: Config
    fixed: Mapping[str, Any]
    epochs: int
    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    probability: float | None
    joins_front: float


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
    latents, known = known_latents(surrogate, checkpoints)
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
    )


def plan_runs(
    continuation: Continuation,
    starts: Sequence[Start],
    checkpoints: Sequence[Checkpoint],
    objectives: Sequence[Objective],
    targets: Sequence[Target] = (),
    *,
    epochs: int,
    level: float = 0.9,
    seed: int = 0,
) -> list[Plan]:
    """Choose starts and hyperparameters for the next run.

    Args:
        continuation: what was learned.
        starts: where runs could start.
        checkpoints: the catalogue's, whose measured front is to be widened.
        objectives: what to push.
        targets: what must hold at the end.
        epochs: how long the run may train.
        level: coverage of the intervals.
        seed: of the configurations that are tried.

    Returns:
        The best plan of each start; first the one most likely to end where all targets hold and no measured checkpoint
        is better in everything.

    Raises:
        UsageError: no start, no objective, or a level outside (0, 1).
    """
    if not starts or not objectives or not 0.0 < level < 1.0 or epochs < 1:
        raise UsageError("planning a run needs a start, an objective, a level between 0 and 1 and at least one epoch")
    surrogate, space = continuation.surrogate, continuation.space
    configs = _configs(space, checkpoints, objectives, np.random.default_rng(seed))
    ends = continuation.forecast(starts, configs, epochs)
    columns = [surrogate.metric_names.index(o.name) for o in objectives]
    measured = measured_table([c.metrics for c in checkpoints], objectives)
    signs = np.array([1.0 if o.maximize else -1.0 for o in objectives])
    front = measured[non_dominated(measured, [o.maximize for o in objectives]).indices] * signs
    wanted = {t.name: t.value for t in targets}
    limits = np.array([wanted.get(o.name, -np.inf if o.maximize else np.inf) for o in objectives]) * signs
    plans: list[tuple[float, Plan]] = []
    for i, start in enumerate(starts):
        draws = ends[i][:, None, :] + continuation.residuals[None]
        turned = surrogate.to_metrics(torch.from_numpy(draws)).numpy()[..., columns] * signs
        met = (turned >= limits).all(axis=2)
        free = np.ones(met.shape, dtype=bool)
        for known in front:  # one by one: all at once would take gigabytes
            free &= ~(known >= turned).all(axis=2)
        score = (met & free).mean(axis=1) + 1e-3 * met.mean(axis=1) + 1e-4 * free.mean(axis=1)
        best = int(np.argmax(score))
        values = surrogate.to_metrics(torch.from_numpy(draws[best])).numpy()
        low, point, high = (
            dict(zip(surrogate.metric_names, np.quantile(values, q, axis=0).tolist(), strict=True))
            for q in ((1 - level) / 2, 0.5, (1 + level) / 2)
        )
        plan = Plan(
            start=start,
            params=configs[best],
            fixed=dict(space.fixed),
            epochs=epochs,
            point=point,
            low=low,
            high=high,
            probability=float(met[best].mean()) if targets else None,
            joins_front=float(free[best].mean()),
        )
        plans.append((float(score[best]), plan))
    plans.sort(key=lambda pair: -pair[0])
    return [plan for _, plan in plans]


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
        if not space.describes(first.hyperparameters):
            continue
        origin = places.get(str(first.hyperparameters.get("init_from", first.hyperparameters.get("base"))))
        rows = [(i, known[i].epoch or 0) for i in members]
        if origin is not None and np.isfinite(scaled[origin]).all():
            rows.append((origin, 0))
        for i, begin in rows:
            for j in members:
                length = (known[j].epoch or 0) - begin
                if length > 0:
                    pairs.append((i, j, length))
                    groups.append(run)
    return np.array(pairs, dtype=np.int64).reshape(-1, 3), np.array(groups, dtype=np.int64)


def _configs(
    space: Space, checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective], rng: np.random.Generator
) -> list[Config]:
    """Random configurations and neighbours of those on the measured front."""
    table = measured_table([c.metrics for c in checkpoints], objectives)
    front = [
        checkpoints[i].hyperparameters for i in non_dominated(table, [o.maximize for o in objectives]).indices.tolist()
    ]
    parents = [h for h in front if space.describes(h)]
    near = [space.perturb(parents[int(rng.integers(len(parents)))], rng) for _ in range(_LOCAL if parents else 0)]
    return space.sample(_RANDOM, rng) + near


def _scaled(surrogate: Surrogate, metrics: Sequence[Mapping[str, float | None]]) -> Floats:
    return np.array(
        [
            [np.nan if (v := m.get(n)) is None else surrogate.to_scale(n, v) for n in surrogate.metric_names]
            for m in metrics
        ]
    )


def _forest(seed: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(n_estimators=_TREES, min_samples_leaf=3, random_state=seed, n_jobs=1)
