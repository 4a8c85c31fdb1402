"""Coefficients of real checkpoints that reconstruct a point of the latent space: the weight decoder's other half.

Locally linear reconstruction (Roweis and Saul 2000) with convex weights: among the nearest checkpoints, those merges
are sought whose own z comes nearest to the point, and of equal ones the one with the nearer parents. Convex, because a
merge outside of what was trained is a guess; sparse, because few parents bind at once.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CANDIDATES = 128
"""Nearest checkpoints that may take part."""
LOCALITY = 0.1
"""Weight of the parents' squared distances against the squared error of the reconstruction."""
_SMALLEST = 0.01
_STEPS = 5000
_PRECISION = 1e-6  # of the mean squared distance: finer than the coefficients that are dropped


def reconstruct(z: Tensor, latents: Tensor, parents: int = 8, locality: float = LOCALITY) -> Tensor:
    """Find convex coefficients with ``coefficients @ latents`` near ``z``.

    Minimises ``|z - sum_i c_i z_i|^2 + locality * sum_i c_i |z - z_i|^2`` over the simplex; a point that is one of
    the checkpoints is that checkpoint alone.

    Args:
        z: ``(n, latent)`` points.
        latents: ``(k, latent)`` encoded checkpoints, at least one.
        parents: at most so many coefficients of a point are not zero.
        locality: how much near parents are preferred, at least 0.

    Returns:
        ``(n, k)`` non-negative coefficients, float64, rows summing to one.
    """
    points, known = z.double().numpy(), latents.double().numpy()
    out = np.zeros((len(points), len(known)))
    for i, point in enumerate(points):
        offsets = known - point
        near = np.argsort((offsets**2).sum(axis=1), kind="stable")[:CANDIDATES]
        c = _solve(offsets[near], locality)
        if (c > 0.0).sum() > parents:
            # The few largest, and their best merge: cutting alone would leave a gap.
            near = near[np.argsort(-c, kind="stable")[:parents]]
            c = _solve(offsets[near], locality)
        c = np.where(c < _SMALLEST, 0.0, c)
        out[i, near] = c / c.sum()
    return torch.from_numpy(out)


def _solve(offsets: NDArray[np.float64], locality: float) -> NDArray[np.float64]:
    """``(k, latent)`` offsets of the candidates from a point, nearest first -> ``(k,)`` coefficients on the simplex.

    Pairwise Frank-Wolfe (Lacoste-Julien and Jaggi 2015): weight moves, by exact line search, from the candidate that it
    serves least to the one that it would serve best, until no move gains anything.
    """
    gram = offsets @ offsets.T
    own = np.diag(gram).copy()
    slope = 2.0 * gram[:, 0] + locality * own
    c = np.zeros(len(offsets))
    c[0] = 1.0
    enough = _PRECISION * max(float(own.mean()), 1e-30)
    for _ in range(_STEPS):
        to, away = int(np.argmin(slope)), int(np.argmax(np.where(c > 0.0, slope, -np.inf)))
        gain = slope[away] - slope[to]
        if gain <= enough:
            break
        curvature = own[to] + own[away] - 2.0 * gram[to, away]
        moved = min(c[away], gain / (2.0 * curvature)) if curvature > 0.0 else c[away]
        c[to] += moved
        c[away] = c[away] - moved if moved < c[away] else 0.0
        slope += 2.0 * moved * (gram[:, to] - gram[:, away])
    return c
