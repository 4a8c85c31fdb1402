"""Hypothetical checkpoints in the region that meets the targets.

Points are proposed between and around real checkpoints of the trust region, and where a search ends; they are kept when
the map finds them more likely than not to meet all targets, and thinned so that they lie far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.acquisition.confidence_bounds import TargetScorer
from epsopt.optimize.latent.engines.gradient import gradient_candidates
from epsopt.optimize.latent.neighbours import nearest
from epsopt.optimize.latent.search import LIKELY, Answer, learned_latents
from epsopt.optimize.latent.trust_region import TrustRegion, trust_region
from epsopt.optimize.objectives import Objective, Target
from epsopt.surrogate.nearest import distances
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

_PROPOSED = 4096
_SHORTLIST = 2048  # that are thinned: the cost grows with their number


@dataclass(frozen=True, eq=False)
class RegionSample:
    """What was sampled.

    Attributes:
        points: at most as many as were asked for, far apart, the most central first.
        share: of the proposed points of the trust region that met the targets; a rough size of the region.
        spacing: median latent distance from a point to the nearest other one; NaN for a single one.
        radius: of the trust region, to compare with.
        best: the highest probability of meeting the targets, the product over single ones, among all proposed points.
    """

    points: tuple[Answer, ...]
    share: float
    spacing: float
    radius: float
    best: float


def sample_region(
    surrogate: Surrogate,
    checkpoints: Sequence[Checkpoint],
    objectives: Sequence[Objective],
    targets: Sequence[Target],
    *,
    n: int = 100,
    neighbours: int = 3,
    probability: float = LIKELY,
    level: float = 0.9,
    seed: int = 0,
) -> RegionSample:
    """Sample hypothetical checkpoints that meet the targets.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's.
        objectives: with the targets' directions.
        targets: at least one.
        n: how many points are wanted.
        neighbours: real checkpoints named with each.
        probability: that all targets are met, at least; the product over single targets.
        level: coverage of the intervals.
        seed: the same seed gives the same points.

    Returns:
        The sample; without points when none is likely enough.

    Raises:
        UsageError: no target, ``n`` below one, a probability or level outside (0, 1).
    """
    if not targets:
        raise UsageError("a region is what meets targets: name at least one, such as --target-coverage 0.95")
    if n < 1:
        raise UsageError(f"the number of samples is {n}, expected at least 1")
    for name, value in (("probability", probability), ("interval level", level)):
        if not 0.0 < value < 1.0:
            raise UsageError(f"the {name} is {value}, expected a number between 0 and 1")
    latents, known = learned_latents(surrogate, checkpoints)
    region = trust_region(latents, np.array([c.run_id for c in known]))
    scorer = TargetScorer(surrogate, tuple(objectives), tuple(targets))
    generator = torch.Generator().manual_seed(seed)
    proposed = _propose(region, scorer, generator)
    # What a search would answer is in the region, too, however small that is.
    z = torch.cat([proposed, gradient_candidates(scorer, region, seed)[:, -1].float(), latents])
    likely = scorer.probability(z)
    inside = torch.nonzero(likely >= probability).reshape(-1)
    share, best = float((likely[: len(proposed)] >= probability).double().mean()), float(likely.max())
    if len(inside) == 0:
        return RegionSample((), share, float("nan"), region.radius, best)
    if len(inside) > _SHORTLIST:
        inside = inside[torch.randperm(len(inside), generator=generator)[:_SHORTLIST]]
    chosen = inside[_far_apart(z[inside], n)]
    points, odds = z[chosen], likely[chosen]
    predicted = surrogate.predict(points, level)
    names = surrogate.metric_names
    near = nearest(points, latents, known, neighbours)

    def named(values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(names, map(float, values), strict=True))

    answers = tuple(
        Answer(
            points[i],
            named(predicted.point[i]),
            named(predicted.low[i]),
            named(predicted.high[i]),
            float(odds[i]),
            tuple(near[i]),
            points[i : i + 1],
        )
        for i in range(len(points))
    )
    between = distances(points, points).fill_diagonal_(torch.inf).min(dim=1).values
    spacing = float(between.median()) if len(points) > 1 else float("nan")
    return RegionSample(answers, share, spacing, region.radius, best)


def _propose(region: TrustRegion, scorer: TargetScorer, generator: torch.Generator) -> Tensor:
    """``(b, latent)`` points of the region: half around all checkpoints, half around those predicted best."""
    centres = region.centres
    best = scorer.probability(centres).topk(min(64, len(centres))).indices
    half = _PROPOSED // 2
    start = torch.cat(
        [
            torch.randint(len(centres), (half,), generator=generator),
            best[torch.randint(len(best), (half,), generator=generator)],
        ]
    )
    # Part of the way to another checkpoint, and a step of the region's own size: along the data, and a little beside.
    other = torch.randint(len(centres), (_PROPOSED,), generator=generator)
    away = centres[other] - centres[start]
    length = away.norm(dim=1, keepdim=True).clamp(min=1e-12)
    along = away / length * torch.minimum(length, torch.tensor(region.radius))
    reach = region.reach if region.reach is not None else torch.full_like(centres[0], region.radius)
    step = torch.randn(_PROPOSED, centres.shape[1], generator=generator) * reach
    share = torch.rand(_PROPOSED, 2, generator=generator)
    return region.project(centres[start] + share[:, :1] * along + 0.5 * share[:, 1:] * step)


def _far_apart(z: Tensor, n: int) -> Tensor:
    """Greedy k-centre (Gonzalez 1985): the point nearest to the mean, then always the one furthest from all chosen."""
    chosen = [int((z - z.mean(dim=0)).norm(dim=1).argmin())]
    gap = distances(z, z[chosen])[:, 0]
    while len(chosen) < min(n, len(z)):
        chosen.append(int(gap.argmax()))
        gap = torch.minimum(gap, distances(z, z[chosen[-1:]])[:, 0])
    return torch.tensor(chosen)
