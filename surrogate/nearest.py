"""Nearest checkpoints in the latent space, block by block: memory grows with their number, not with its square."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 2**22  # distances at a time: 16 MB in single precision


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


def nearest_of_other_runs(latents: Tensor, runs: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Find for each checkpoint the nearest one of another run; with a single run, the nearest other one.

    The same weights in two runs (an untrained epoch 0) lie at one place, which says nothing of how far apart runs are:
    they count once.

    Args:
        latents: ``(n, latent)`` encoded checkpoints.
        runs: ``(n,)`` the run of each.

    Returns:
        ``(k, latent)`` places, each once; ``(k,)`` distances, infinite where there is no other; ``(k,)`` places of the
        nearest among them.
    """
    kept = np.sort(np.unique(latents.detach().numpy(), axis=0, return_index=True)[1])
    latents, runs = latents[kept], runs[kept]
    groups = runs if len(np.unique(runs)) > 1 else np.arange(len(runs))
    nearest, which = nearest_rows(latents, latents, (groups, groups))
    return latents, nearest, which


def within_reach(latents: Tensor, runs: NDArray[np.int64], z: Tensor) -> NDArray[np.bool_]:
    """Tell which points lie no farther from a known checkpoint than half of the runs lie from each other.

    The distance is that of the trust region of a search (:mod:`epsopt.optimize.latent.trust_region`).

    Args:
        latents: ``(n, latent)`` known checkpoints.
        runs: ``(n,)`` the run of each.
        z: ``(b, latent)`` points.

    Returns:
        ``(b,)``; all true where known checkpoints say nothing of distances.
    """
    _, nearest, _ = nearest_of_other_runs(latents, runs)
    finite = nearest[torch.isfinite(nearest)]
    if not len(finite):
        return np.ones(len(z), dtype=bool)
    return np.asarray((nearest_rows(z, latents)[0] <= finite.median()).numpy())
