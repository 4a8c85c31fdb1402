"""Search of the latent space with an Optuna sampler: NSGA-II over the leading directions of the map."""

from __future__ import annotations

import optuna
import torch
from torch import Tensor

from epsopt.optimize.acquisition.confidence_bounds import Z90, TargetScorer
from epsopt.optimize.latent.trust_region import TrustRegion

_DIRECTIONS = 8
_GENERATIONS = 12
_POPULATION = 40


def evolutionary_candidates(scorer: TargetScorer, region: TrustRegion, seed: int) -> Tensor:
    """Evolve points for the lower bounds of their objectives; targets are constraints.

    A trial is a real checkpoint and a step from it along the map's leading principal directions, projected into the
    region.

    Args:
        scorer: what to maximise.
        region: candidates stay inside.
        seed: of the sampler.

    Returns:
        ``(b, 1, latent)`` candidates inside the region.
    """
    centres = region.centres
    k = min(_DIRECTIONS, *centres.shape)
    _, _, directions = torch.linalg.svd(centres - centres.mean(dim=0), full_matrices=False)
    directions = directions[:k]
    with torch.no_grad():
        mean, deviation = scorer.posterior_moments(centres)
        worth = scorer.log_probability(mean, deviation)
    # Checkpoints as one ordered axis, best last: neighbours on it are alike in what the search is after.
    first = (mean - Z90 * deviation).mean(dim=1) + worth.clamp(min=-50.0)
    order = first.argsort()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            directions=["maximize"] * len(scorer.objectives),
            sampler=optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=seed),
        )
        points: list[Tensor] = []
        for _ in range(_GENERATIONS):
            trials = [study.ask() for _ in range(_POPULATION)]
            batch = torch.stack([_point(t, centres, order, directions, region.radius) for t in trials])
            batch = region.project(batch)
            with torch.no_grad():
                mean, deviation = scorer.posterior_moments(batch)
                bound = mean - Z90 * deviation
                miss = -scorer.log_probability(mean, deviation) + torch.log(torch.tensor(0.5))
            for trial, values, constraint in zip(trials, bound.tolist(), miss.tolist(), strict=True):
                if scorer.targets:
                    trial.set_constraint("targets", constraint)
                study.tell(trial, values)
            points.append(batch)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return torch.cat(points)[:, None]


def _point(trial: optuna.Trial, centres: Tensor, order: Tensor, directions: Tensor, radius: float) -> Tensor:
    place = trial.suggest_int("checkpoint", 0, len(centres) - 1)
    step = torch.tensor([trial.suggest_float(f"direction_{i}", -radius, radius) for i in range(len(directions))])
    out: Tensor = centres[order[place]] + step @ directions
    return out
