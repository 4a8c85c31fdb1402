"""The trust region: candidates stay where the data is (D6).

Free Gaussian z plus a network's mean is the classic failure of latent optimisation (Tripp et al. 2020; LOL-BO, Maus et
al. 2022): the optimiser finds the places where the network is wrong. Here the region is the union of balls around
encoded real checkpoints, so every candidate has a real checkpoint within one radius; and along no dimension does it
leave that checkpoint further than checkpoints of different runs typically lie apart, since z has dimensions in which
checkpoints hardly differ, and a step of one radius along those leads out of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TrustRegion:
    """Union of balls of one radius.

    Attributes:
        centres: ``(n, latent)`` encoded real checkpoints.
        radius: of every ball, in latent units.
        reach: ``(latent,)`` furthest step from a centre along each dimension; None: only the radius limits it.
    """

    centres: Tensor
    radius: float
    reach: Tensor | None = None

    def project(self, z: Tensor) -> Tensor:
        """Move points outside the region to the surface of the nearest ball.

        Args:
            z: ``(b, latent)`` points.

        Returns:
            ``(b, latent)`` points, each at most one radius from some centre; points inside stay (but for rounding).
            Differentiable in ``z`` (the choice of centre is held fixed).
        """
        nearest = distances(z.detach(), self.centres).argmin(dim=1)
        centre = self.centres[nearest]
        offset = z - centre
        if self.reach is not None:
            offset = offset.clamp(-self.reach, self.reach)
        length = offset.norm(dim=1, keepdim=True)
        # A hair inside, so that rounding never leaves a projected point outside.
        limit = self.radius * (1.0 - 1e-5)
        return torch.where(length > limit, centre + offset * (limit / length.clamp(min=1e-12)), centre + offset)

    def distance(self, z: Tensor) -> Tensor:
        """(b, latent) -> (b,) distance to the nearest centre."""
        return distances(z, self.centres).min(dim=1).values

    def contains(self, z: Tensor) -> Tensor:
        """(b, latent) -> (b,) whether each point lies in the region."""
        return self.distance(z) <= self.radius


def distances(a: Tensor, b: Tensor) -> Tensor:
    """``(n, latent)`` and ``(k, latent)`` -> ``(n, k)`` Euclidean distances, exactly zero between equal rows.

    Not by matrix products, as PyTorch would for more than 25 rows: their rounding is as large as small distances are.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def trust_region(latents: Tensor, runs: NDArray[np.int64]) -> TrustRegion:
    """Choose the region for a fitted map.

    The radius is the median distance from a checkpoint to the nearest one of *another* run: as far as the map has to
    reach anyway when it predicts a run that it has not seen, which is what its intervals were calibrated on.

    Args:
        latents: ``(n, latent)`` encoded checkpoints.
        runs: ``(n,)`` the run of each.

    Returns:
        The region; with a single run, the median distance to the nearest other checkpoint is its radius. Its reach is
        the root mean square, dimension by dimension, of the steps to those nearest checkpoints.
    """
    distance = distances(latents, latents)
    same = torch.from_numpy(runs[:, None] == runs[None, :])
    if bool(same.all()):
        same = torch.eye(len(latents), dtype=torch.bool)
    nearest, which = torch.where(same, torch.inf, distance).min(dim=1)
    finite = torch.isfinite(nearest)
    if not bool(finite.any()):
        return TrustRegion(latents, 1.0)
    radius = float(nearest[finite].median())
    near = nearest <= radius
    reach = (latents[near] - latents[which[near]]).square().mean(dim=0).sqrt()
    return TrustRegion(latents, radius, reach)
