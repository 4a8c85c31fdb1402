"""Runs that start from a checkpoint instead of from scratch, with hyperparameters of their own (wish 5).

What such a run ends at is not known from runs that started from scratch. It is assumed to end somewhere on the way from
where it starts to where its hyperparameters alone lead: ``z = z_start + t (h(x) - z_start)`` with t uniform on [0, 1].
That is a wide prior, not something learned; `epsopt report` shows how it fares against what such runs measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.acquisition.confidence_bounds import TargetScorer
from epsopt.optimize.forecast.hyperparameter_model import Forecast
from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.objectives import Objectives
from epsopt.optimize.pareto import hypervolume
from epsopt.optimize.space import Config, Key, Space
from epsopt.zoo.catalogue.types import Checkpoint

_CONFIGS = 48
"""Configurations weighed with every start."""
_ROUGH = 32
_SAMPLES = 256


@dataclass(frozen=True, eq=False)
class Branch:
    """A run from a checkpoint.

    Attributes:
        start: the checkpoint.
        z: ``(latent,)`` of it.
        config: the run's own hyperparameters.
    """

    start: Checkpoint
    z: Tensor
    config: Config

    def key(self, space: Space) -> tuple[str, Key]:
        """Tell what makes two branches the same: what the start holds, and the configuration."""
        return self.start.sha256, space.key(self.config)

    def why(self, joins: float) -> str:
        """Say in one line why it is proposed."""
        place = self.start.run if self.start.epoch is None else f"{self.start.run}:{self.start.epoch}"
        return (
            f"starts from {place} of the front ({joins:.0%} to join the front, if it ends between there and where its "
            "hyperparameters lead from scratch)"
        )


def predict_branch(
    forecast: Forecast, branch: Branch, level: float, seed: int, samples: int = _SAMPLES
) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Predict the final metrics of a run from a checkpoint; arguments and return as ``Forecast.predict``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(forecast.space.encode([branch.config]))
    with torch.no_grad():
        posterior = forecast.model.posterior(x, observation_noise=True)
        noise = torch.randn(samples, len(forecast.directions), generator=generator, dtype=torch.float64)
        end = (posterior.mean + posterior.variance.sqrt() * noise) @ forecast.directions + forecast.centre
        share = torch.rand(samples, 1, generator=generator, dtype=torch.float64)
        start = branch.z.double()
        scaled = forecast.surrogate.posterior_mean(start + share * (end - start)) + forecast.bias * share
        scaled = scaled + forecast.spread * torch.randn(scaled.shape, generator=generator, dtype=torch.float64)
        values = forecast.surrogate.draws_to_metrics(scaled)
    low, middle, high = (np.quantile(values.numpy(), q, axis=0) for q in ((1 - level) / 2, 0.5, (1 + level) / 2))
    return values, low, middle, high


def best_branches(
    forecast: Forecast,
    scorer: TargetScorer,
    space: Space,
    starts: Sequence[Checkpoint],
    configs: Sequence[Config],
    front: NDArray[np.float64],
    n: int,
    tried: Collection[tuple[str, Key]] = (),
) -> list[Branch]:
    """Choose at most ``n`` runs from checkpoints, each from another one, by expected hypervolume improvement.

    With every start the first configurations are weighed that were not tried with it.

    Args:
        forecast: where hyperparameters lead.
        scorer: objectives and targets; an outcome that misses a target improves nothing.
        space: what may be launched.
        starts: checkpoints that the map knows.
        configs: valid configurations to choose from, each once.
        front: ``(k, objectives)`` what was measured, in the metrics' own units.
        n: how many at most.
        tried: branches that are not to be chosen (:meth:`Branch.key`).

    Returns:
        The best first; fewer where no more promise any improvement.
    """
    if not starts or n < 1:
        return []
    latents, known = known_latents(forecast.surrogate, starts)
    scored: list[tuple[float, Branch]] = []
    for start, z in zip(known, latents, strict=True):
        untried = (b for b in (Branch(start, z, c) for c in configs) if b.key(space) not in tried)
        mine = list(itertools.islice(untried, _CONFIGS))
        values = [(_improvement(forecast, scorer, branch, front), i) for i, branch in enumerate(mine)]
        if values:
            value, i = max(values)
            scored.append((value, mine[i]))
    scored.sort(key=lambda pair: -pair[0])
    return [branch for value, branch in scored[:n] if value > 0.0]


def _improvement(forecast: Forecast, scorer: TargetScorer, branch: Branch, front: NDArray[np.float64]) -> float:
    samples, *_ = predict_branch(forecast, branch, 0.9, 0, _ROUGH)
    values = samples[:, scorer.columns].numpy()
    maximize = Objectives(scorer.objectives).maximize
    reference = np.where(maximize, front.min(axis=0), front.max(axis=0))
    wanted = {t.name: t.value for t in scorer.targets}
    gains = []
    before = hypervolume(front, reference, maximize)
    for row in values:
        met = all(
            (row[i] >= wanted[o.name]) if o.maximize else (row[i] <= wanted[o.name])
            for i, o in enumerate(scorer.objectives)
            if o.name in wanted
        )
        gains.append(hypervolume(np.vstack([front, row]), reference, maximize) - before if met else 0.0)
    return float(np.mean(gains))
