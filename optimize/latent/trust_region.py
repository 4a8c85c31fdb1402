"""The trust region: candidates stay where the data is.

Free Gaussian z plus a network's mean is the classic failure of latent optimisation (Tripp et al. 2020; LOL-BO, Maus et
al. 2022): the optimiser finds the places where the network is wrong. Here the region is the union of balls around
encoded real checkpoints, so every candidate has a real checkpoint within one radius; and along no dimension does it
leave that checkpoint further than checkpoints of different runs typically lie apart, since z has dimensions in which
checkpoints hardly differ, and a step of one radius along those leads out of the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.surrogate.thinning import evenly_spaced

_MOST = 8192  # checkpoints that a region goes around: of more, each would be compared with each
_BLOCK = 2**22  # distances at a time: 16 MB in single precision


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


def distances(a: Tensor, b: Tensor) -> Tensor:
    """``(n, latent)`` and ``(k, latent)`` -> ``(n, k)`` Euclidean distances, exactly zero between equal rows.

    Not by matrix products, as PyTorch would for more than 25 rows: their rounding is as large as small distances are.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def blocks(n: int, k: int) -> Iterator[slice]:
    """Consecutive rows of ``n`` whose distances to ``k`` others fit into one block: memory grows as n, not as n * k."""
    size = max(_BLOCK // max(k, 1), 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def nearest_rows(
    a: Tensor, b: Tensor, groups: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
) -> tuple[Tensor, Tensor]:
    """Find the nearest row of ``b`` for each row of ``a``, block by block.

    Args:
        a: ``(n, latent)``; gradients flow back to it.
        b: ``(k, latent)``, at least one row.
        groups: ``(n,)`` and ``(k,)`` group of each row; rows of one group are no neighbours of each other.

    Returns:
        ``(n,)`` distances, infinite where every row of ``b`` is of the same group, and ``(n,)`` places in ``b``.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for rows in blocks(len(a), len(b)):
        distance = distances(a[rows], b)
        if groups is not None:
            same = torch.from_numpy(groups[0][rows, None] == groups[1][None, :])
            distance = distance.masked_fill(same, torch.inf)
        nearest = distance.min(dim=1)
        found.append((nearest.values, nearest.indices))
    if not found:
        return a.new_zeros(0), torch.zeros(0, dtype=torch.int64)
    return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])


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
    # The same weights in two runs (an untrained epoch 0) lie at one place: that says nothing of how far apart runs are.
    kept = np.sort(np.unique(latents.detach().numpy(), axis=0, return_index=True)[1])
    latents, runs = latents[kept], runs[kept]
    # A single run: its other checkpoints are the neighbours.
    groups = runs if len(np.unique(runs)) > 1 else np.arange(len(runs))
    nearest, which = nearest_rows(latents, latents, (groups, groups))
    finite = torch.isfinite(nearest)
    if not bool(finite.any()):
        return TrustRegion(centres, 1.0)
    radius = float(nearest[finite].median())
    near = nearest <= radius
    reach = (latents[near] - latents[which[near]]).square().mean(dim=0).sqrt()
    return TrustRegion(centres, radius, reach, float(nearest[finite].max()))
