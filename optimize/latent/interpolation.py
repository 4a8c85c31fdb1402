"""Interpolation: the way from one checkpoint to another on the map, and the merges of real weights along it.

The way is straight in the latent space (epsilon_vae.md, interpolation). Within one lineage each point of it also has
weights: the same share of the way between the two real checkpoints, ``(1 - t) w_A + t w_B``, which is the recombination
of a recombination with two parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from epsopt.optimize.latent.neighbours import Neighbour, nearest
from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.latent.trust_region import trust_region
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError


@dataclass(frozen=True, eq=False)
class PathPoint:
    """One point of the way.

    Attributes:
        share: how much of the way is behind it: 0 at A, 1 at B.
        z: ``(latent,)``.
        point: predicted metrics by name.
        low: lower ends of their intervals.
        high: upper ends.
        nearest: the nearest checkpoint that the map knows.
        trusted: whether the point lies in the trust region around such checkpoints.
    """

    share: float
    z: Tensor
    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    nearest: Neighbour
    trusted: bool


def shares(steps: int) -> list[float]:
    """Return evenly spaced shares of the way, both ends included.

    Raises:
        UsageError: fewer than two.
    """
    if steps < 2:
        raise UsageError(f"the number of steps is {steps}, expected at least 2: both ends count")
    return [i / (steps - 1) for i in range(steps)]


def straight(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return evenly spaced points between two: ``(steps, latent)``, the ends exactly as given."""
    t = torch.tensor(shares(steps), dtype=start.dtype)[:, None]
    return torch.where(t < 1.0, start + t * (end - start), end)


def along(
    surrogate: Surrogate, checkpoints: Sequence[Checkpoint], z: Tensor, level: float = 0.9, *, unseen: bool = False
) -> list[PathPoint]:
    """Predict the points of a way.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's.
        z: ``(steps, latent)``: points between two checkpoints, or encoded merges of their weights.
        level: coverage of the intervals.
        unseen: whether an end is of an architecture that the map was not trained on and does predict: intervals are
            then as wide as on architectures held out.

    Returns:
        One step per point.

    Raises:
        UsageError: the map knows none of the checkpoints, fewer than two steps, or a level outside (0, 1).
    """
    latents, known = known_latents(surrogate, checkpoints)
    region = trust_region(latents, np.array([c.run_id for c in known]))
    prediction = surrogate.predict(z, level, np.full(len(z), unseen))
    names = surrogate.metric_names
    inside = region.contains(z).tolist()
    near = nearest(z, latents, known, 1)
    out = []
    for i, share in enumerate(shares(len(z))):
        point, low, high = (
            dict(zip(names, map(float, values[i]), strict=True))
            for values in (prediction.point, prediction.low, prediction.high)
        )
        out.append(PathPoint(share, z[i], point, low, high, near[i][0], inside[i]))
    return out


def linear_metrics(
    start: dict[str, float | None], end: dict[str, float | None], names: Sequence[str], steps: int
) -> list[dict[str, float | None]]:
    """Interpolate two checkpoints' measured metrics linearly: what the map has to beat; None where one is missing."""
    out = []
    for t in shares(steps):
        row: dict[str, float | None] = {}
        for name in names:
            a, b = start.get(name), end.get(name)
            row[name] = None if a is None or b is None else (1.0 - t) * a + t * b
        out.append(row)
    return out
