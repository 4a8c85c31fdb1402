"""Guided initialisation: which checkpoint should the next run start from, with which hyperparameters.

The seeds ask for this as "where would I want to start" (epsilon_vae.md, guided initialisation); where training leads
from there is forecast in ``continuation_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.acquisition.confidence_bounds import TargetScorer
from epsopt.optimize.forecast.continuation_model import Continuation, Start
from epsopt.optimize.objectives import Objective, Objectives, Target, measured_table
from epsopt.optimize.space import Config, Space
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

_RANDOM, _LOCAL = 192, 192


@dataclass(frozen=True, eq=False)
class WarmStart:
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
        beyond: epochs behind it at its end, the start's own included, where no past run was trained for as many: it
            is forecast from what shorter training led to; None otherwise.
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
    beyond: int | None


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
) -> list[WarmStart]:
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
        UsageError: no start, no objective, one that the map does not know, or a level outside (0, 1).
    """
    if not starts or not objectives or not 0.0 < level < 1.0 or epochs < 1:
        raise UsageError("planning a run needs a start, an objective, a level between 0 and 1 and at least one epoch")
    surrogate, space = continuation.surrogate, continuation.space
    configs = _configs(space, checkpoints, objectives, np.random.default_rng(seed))
    ends = continuation.forecast(starts, configs, epochs)
    columns = TargetScorer(surrogate, tuple(objectives), tuple(targets)).columns
    measured = measured_table([c.metrics for c in checkpoints], objectives)
    signs: NDArray[Any] = Objectives(objectives).signs
    front = measured[Objectives(objectives).front(measured)] * signs
    wanted = {t.name: t.value for t in targets}
    limits = np.array([wanted.get(o.name, -np.inf if o.maximize else np.inf) for o in objectives]) * signs
    plans: list[tuple[float, WarmStart]] = []
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
        plan = WarmStart(
            start=start,
            params=configs[best],
            fixed=dict(space.fixed),
            epochs=epochs,
            point=point,
            low=low,
            high=high,
            probability=float(met[best].mean()) if targets else None,
            joins_front=float(free[best].mean()),
            beyond=whole if (whole := start.trained + epochs) > continuation.longest else None,
        )
        plans.append((float(score[best]), plan))
    plans.sort(key=lambda pair: -pair[0])
    return [plan for _, plan in plans]


def _configs(
    space: Space, checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective], rng: np.random.Generator
) -> list[Config]:
    """Random configurations and neighbours of those on the measured front."""
    table = measured_table([c.metrics for c in checkpoints], objectives)
    front = [checkpoints[i].hyperparameters for i in Objectives(objectives).front(table).tolist()]
    parents = [h for h in front if space.accepts(h)]
    near = [space.perturb(parents[int(rng.integers(len(parents)))], rng) for _ in range(_LOCAL if parents else 0)]
    return space.sample(_RANDOM, rng) + near
