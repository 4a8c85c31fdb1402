"""The trust region: candidates stay where the data is.

Free Gaussian z plus a network's mean is the classic failure of latent optimisation (Tripp et al. 2020; LOL-BO, Maus et
al. 2022): the optimiser finds the places where the network is wrong. Here the region is the union of balls around
encoded real checkpoints, so every candidate has a real checkpoint within one radius; and along no dimension does it
leave that checkpoint further than checkpoints of different runs typically lie apart, since z has dimensions in which
checkpoints hardly differ, and a step of one radius along those leads out of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.surrogate.nearest import nearest_of_other_runs, nearest_rows
from epsopt.surrogate.thinning import evenly_spaced

_MOST = 8192  # checkpoints that a region goes around: of more, each would be compared with each


@dataclass(frozen=True, eq=False)
class TrustRegion:
    """Union of balls of one radius.

    Attributes:
        centres: ``(n, latent)`` encoded real checkpoints.
        radius: of every ball, in latent units.
        reach: ``(latent,)`` furthest step from a centre along each dimension; None: only the radius limits it.
        furthest: largest distance of a checkpoint to the nearest one of another run; infinite if unknown.
    """

    centres: Tensor
    radius: float
    reach: Tensor | None = None
    furthest: float = math.inf

    def project(self, z: Tensor) -> Tensor:
        """Move points outside the region to the surface of the nearest ball.

        Args:
            z: ``(b, latent)`` points.

        Returns:
            ``(b, latent)`` points, each at most one radius from some centre; points inside stay (but for rounding).
            Differentiable in ``z`` (the choice of centre is held fixed).
        """
        centre = self.centres[nearest_rows(z.detach(), self.centres)[1]]
        offset = z - centre
        if self.reach is not None:
            offset = offset.clamp(-self.reach, self.reach)
        length = offset.norm(dim=1, keepdim=True)
        # A hair inside, so that rounding never leaves a projected point outside.
        limit = self.radius * (1.0 - 1e-5)
        return torch.where(length > limit, centre + offset * (limit / length.clamp(min=1e-12)), centre + offset)

    def distance(self, z: Tensor) -> Tensor:
        """(b, latent) -> (b,) distance to the nearest centre."""
        return nearest_rows(z, self.centres)[0]

    def contains(self, z: Tensor) -> Tensor:
        """(b, latent) -> (b,) whether each point lies in the region."""
        return self.distance(z) <= self.radius


def trust_region(latents: Tensor, runs: NDArray[np.int64]) -> TrustRegion:
    """Choose the region for a fitted map.

    The radius is the median distance from a checkpoint to the nearest one of *another* run: as far as the map has to
    reach anyway when it predicts a run that it has not seen, which is what its intervals were calibrated on.

    Args:
        latents: ``(n, latent)`` encoded checkpoints.
        runs: ``(n,)`` the run of each. Of more than 8,192 checkpoints as many are taken, evenly.

    Returns:
        The region; with a single run, the median distance to the nearest other checkpoint is its radius. Its reach is
        the root mean square, dimension by dimension, of the steps to those nearest checkpoints.
    """
    some = evenly_spaced(len(latents), _MOST)
    latents, runs = (latents, runs) if len(some) == len(latents) else (latents[some], runs[some])
    centres = latents
    latents, nearest, which = nearest_of_other_runs(latents, runs)
    finite = torch.isfinite(nearest)
    if not bool(finite.any()):
        return TrustRegion(centres, 1.0)
    radius = float(nearest[finite].median())
    near = nearest <= radius
    reach = (latents[near] - latents[which[near]]).square().mean(dim=0).sqrt()
    return TrustRegion(centres, radius, reach, float(nearest[finite].max()))
