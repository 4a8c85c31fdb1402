"""Multi-objective Bayesian search of the latent space with BoTorch's qLogNEHVI.

Daulton et al. 2021 (arXiv:2105.08195), in the logarithmic form of Ament et al. 2023 (arXiv:2310.20708).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from botorch.exceptions.warnings import BotorchWarning
from botorch.optim import optimize_acqf
from torch import Tensor

from epsopt.optimize.acquisition.confidence_bounds import TargetScorer
from epsopt.optimize.acquisition.noisy_ehvi import noisy_improvement
from epsopt.optimize.latent.trust_region import TrustRegion
from epsopt.optimize.pareto import non_dominated

PICKS = 8
"""Batches of points, one after another."""

_SAMPLES = 32
_BASELINE = 16  # points whose joint front counts as known; every evaluation pays for each of them
_RESTARTS = 3
_ITERATIONS = 10


class _Inside(torch.nn.Module):
    """An acquisition function of the projection of its input: its optimiser cannot leave the trust region."""

    def __init__(self, acquisition: torch.nn.Module, region: TrustRegion) -> None:
        super().__init__()
        self.acquisition = acquisition
        self.region = region

    def forward(self, x: Tensor) -> Tensor:
        inside = self.region.project(x.flatten(0, -2)).view_as(x)
        out: Tensor = self.acquisition(inside)
        return out

    def set_X_pending(self, pending: Tensor | None) -> None:  # noqa: N802 - BoTorch's name
        self.acquisition.set_X_pending(pending)  # type: ignore[operator]

    @property
    def X_pending(self) -> Tensor | None:  # noqa: N802 - BoTorch's name
        return self.acquisition.X_pending  # type: ignore[return-value]


def bayesian_candidates(scorer: TargetScorer, region: TrustRegion, seed: int) -> Tensor:
    """Pick points one after another, each for the hypervolume that it is expected to add to the front.

    Args:
        scorer: the objectives; targets become constraints on the sampled metrics.
        region: candidates stay inside.
        seed: of the samples and starts.

    Returns:
        ``(b, 1, latent)`` candidates inside the region, float32.
    """
    reach = None if region.reach is None else region.reach.double()
    wide = TrustRegion(region.centres.double(), region.radius, reach)
    columns, signs, thresholds = scorer.columns, scorer.signs, scorer.thresholds

    def objective(samples: Tensor) -> Tensor:
        return samples[..., columns] * signs

    def below(column: int, sign: Tensor, threshold: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda samples: threshold - sign * samples[..., column]

    constraints = [below(c, s, t) for c, s, t in zip(columns, signs, thresholds, strict=True) if torch.isfinite(t)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)
        mean, deviation = scorer.posterior_moments(region.centres)
        order = scorer.log_probability(mean, deviation).argsort(descending=True)
        front = non_dominated(mean.numpy(), [True] * mean.shape[1]).indices
        chosen = list(dict.fromkeys([*front.tolist(), *order.tolist()]))[:_BASELINE]
        baseline = wide.centres[chosen]
        spread = mean.std(dim=0).clamp(min=1e-6) if len(mean) > 1 else torch.ones(mean.shape[1])
        reference = mean[chosen].min(dim=0).values - 0.1 * spread
    improvement = noisy_improvement(
        scorer.surrogate.model, baseline, objective, reference.tolist(), constraints, samples=_SAMPLES, seed=seed
    )
    acquisition = _Inside(improvement, wide)
    bounds = torch.stack([wide.centres.min(dim=0).values, wide.centres.max(dim=0).values])
    bounds = bounds + region.radius * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    picks: list[Tensor] = []
    for _ in range(PICKS):
        # Starts near the known front: in 64 dimensions a random start is far from every real checkpoint.
        begin = baseline[torch.randint(len(baseline), (_RESTARTS,), generator=generator)]
        noise = torch.randn(begin.shape, generator=generator, dtype=torch.float64)
        start = wide.project(begin + 0.5 * region.radius * torch.nn.functional.normalize(noise, dim=1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BoTorch warns of every line search that stops early
            best, _ = optimize_acqf(
                acquisition,
                bounds,
                q=1,
                num_restarts=_RESTARTS,
                batch_initial_conditions=start.unsqueeze(1),
                options={"maxiter": _ITERATIONS, "batch_limit": _RESTARTS},
            )
        picks.append(wide.project(best.detach()))
        acquisition.set_X_pending(torch.cat(picks))
    return torch.cat(picks).float()[:, None]
