"""Coefficients of real checkpoints that reconstruct a point of the latent space: the weight decoder's other half (D5).

Locally linear reconstruction (Roweis and Saul 2000) with convex weights: among the nearest checkpoints, those mixtures
are sought whose own z comes nearest to the point, and of equal ones the one with the nearer parents. Convex, because a
mixture outside of what was trained is a guess; sparse, because few parents bind at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 128
"""Nearest checkpoints that may take part."""
LOCALITY = 0.1
"""Weight of the parents' squared distances against the squared error of the reconstruction."""
_SMALLEST = 0.01
_STEPS = 300


def reconstruct(z: Tensor, latents: Tensor, parents: int = 8, locality: float = LOCALITY) -> Tensor:
    """Find convex coefficients with ``coefficients @ latents`` near ``z``.

    Minimises ``|z - sum_i c_i z_i|^2 + locality * sum_i c_i |z - z_i|^2`` over the simplex by accelerated projected
    gradient (FISTA, Beck and Teboulle 2009); a point that is one of the checkpoints is that checkpoint alone.

    Args:
        z: ``(n, latent)`` points.
        latents: ``(k, latent)`` encoded checkpoints, at least one.
        parents: at most so many coefficients of a point are not zero.
        locality: how much near parents are preferred, at least 0.

    Returns:
        ``(n, k)`` non-negative coefficients, float64, rows summing to one.
    """
    points, known = z.double(), latents.double()
    distance = torch.cdist(points, known, compute_mode="donot_use_mm_for_euclid_dist")
    places = distance.topk(min(CANDIDATES, len(known)), dim=1, largest=False).indices
    offsets = known[places] - points[:, None, :]
    c = _solve(offsets, locality)
    kept = min(parents, c.shape[1])
    if kept < c.shape[1]:
        # The few largest, and their best mixture: cutting alone would leave a gap.
        which = c.topk(kept, dim=1).indices
        places = places.gather(1, which)
        c = _solve(offsets.gather(1, which[:, :, None].expand(-1, -1, offsets.shape[2])), locality)
    c = torch.where(c < _SMALLEST, 0.0, c)
    out = torch.zeros(len(points), len(known), dtype=torch.float64)
    return out.scatter(1, places, c / c.sum(dim=1, keepdim=True))


def _solve(offsets: Tensor, locality: float) -> Tensor:
    """``(n, k, latent)`` offsets of the candidates from each point -> ``(n, k)`` coefficients on the simplex."""
    gram = offsets @ offsets.transpose(1, 2)
    linear = 0.5 * locality * offsets.square().sum(dim=2)
    step = 1.0 / torch.linalg.matrix_norm(gram, 2).clamp(min=1e-12)[:, None]
    c = torch.full(linear.shape, 1.0 / linear.shape[1], dtype=torch.float64)
    ahead, momentum = c, 1.0
    for _ in range(_STEPS):
        slope = (gram @ ahead[:, :, None]).squeeze(2) + linear
        new = _onto_simplex(ahead - step * slope)
        following = (1.0 + (1.0 + 4.0 * momentum**2) ** 0.5) / 2.0
        ahead = new + (momentum - 1.0) / following * (new - c)
        c, momentum = new, following
    return c


def _onto_simplex(v: Tensor) -> Tensor:
    """Project rows onto the probability simplex (Duchi et al. 2008)."""
    ordered = v.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - 1.0
    counts = torch.arange(1, v.shape[1] + 1, dtype=v.dtype)
    n = (ordered - excess / counts > 0).sum(dim=1, keepdim=True)
    return (v - excess.gather(1, n - 1) / n).clamp(min=0.0)
