"""Gradient search from many starts at once.

Each start follows its own trade-off: the log-probability of meeting the targets, plus an augmented Chebyshev
scalarisation of the lower bounds with random weights, so that the starts spread over the front.
"""

from __future__ import annotations

import torch
from torch import Tensor

from epsopt.optimize.acquisition.confidence_bounds import Z90, TargetScorer
from epsopt.optimize.latent.trust_region import TrustRegion

_STARTS = 96
_STEPS = 40
_PUSH = 0.3  # weight of the trade-off beside the targets: the targets come first, the rest once they hold
_AUGMENTATION = 0.05


def gradient_candidates(scorer: TargetScorer, region: TrustRegion, seed: int) -> Tensor:
    """Climb from the best real checkpoints and from random points of the region.

    Args:
        scorer: what to climb.
        region: candidates are projected into it after every step.
        seed: of starts and weights.

    Returns:
        ``(b, k, latent)``: the way of each start, all points inside the region; the last ones are the candidates.
    """
    generator = torch.Generator().manual_seed(seed)
    n, m = len(region.centres), len(scorer.objectives)
    with torch.no_grad():
        mean, deviation = scorer.posterior_moments(region.centres)
        spread = mean.std(dim=0).clamp(min=1e-6) if n > 1 else torch.ones(m, dtype=torch.float64)
        best = mean.max(dim=0).values
    weights = _simplex(_STARTS, m, generator)

    def worth(mean: Tensor, deviation: Tensor, weight: Tensor) -> Tensor:
        gap = (mean - Z90 * deviation - best) / spread  # at most about 0, in deviations over the zoo
        weighted = weight * gap
        trade_off = weighted.min(dim=1).values + _AUGMENTATION * weighted.sum(dim=1)
        return scorer.log_probability(mean, deviation) + _PUSH * trade_off

    with torch.no_grad():
        # Two starts in three begin at the real checkpoint that is best for their weights, the others anywhere.
        values = torch.stack([worth(mean, deviation, w.expand(n, m)) for w in weights])
        begin = values.argmax(dim=1)
        anywhere = torch.arange(_STARTS) % 3 == 2
        begin[anywhere] = torch.randint(n, (int(anywhere.sum()),), generator=generator)
        noise = torch.randn(_STARTS, region.centres.shape[1], generator=generator)
        z = region.project(region.centres[begin] + 0.3 * region.radius * torch.nn.functional.normalize(noise, dim=1))
    z = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1 * region.radius / z.shape[1] ** 0.5)
    way = [z.detach().clone()]
    for _ in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = -worth(*scorer.posterior_moments(z), weights).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            z.copy_(region.project(z))
        way.append(z.detach().clone())
    return torch.stack(way, dim=1)


def _simplex(n: int, m: int, generator: torch.Generator) -> Tensor:
    """``(n, m)`` weights, uniform on the simplex, none of them exactly zero."""
    exponential = -torch.log(torch.rand(n, m, generator=generator, dtype=torch.float64).clamp(min=1e-12))
    return (exponential / exponential.sum(dim=1, keepdim=True)).clamp(min=0.02)
