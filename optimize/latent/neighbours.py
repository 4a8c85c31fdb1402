"""From a point of the latent space back to real checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from epsopt.zoo.catalogue.types import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Neighbour:
    """A real checkpoint near a point.

    Attributes:
        path: its file.
        run: its run's name.
        epoch: its epoch or step, if known.
        distance: latent distance from the point.
        metrics: its *measured* metrics.
        hyperparameters: its run's.
        sha256: of its file.
    """

    path: str
    run: str
    epoch: int | None
    distance: float
    metrics: dict[str, float | None]
    hyperparameters: dict[str, Any]
    sha256: str


def nearest(
    z: Tensor, latents: Tensor, checkpoints: Sequence[Checkpoint], k: int = 3, *, one_per_run: bool = False
) -> list[list[Neighbour]]:
    """Find the nearest real checkpoints of each point.

    Args:
        z: ``(b, latent)`` points, finite.
        latents: ``(n, latent)`` encoded checkpoints, finite.
        checkpoints: the same ``n`` checkpoints.
        k: how many.
        one_per_run: only the nearest checkpoint of each run.

    Returns:
        For each point at most ``k`` neighbours, nearest first; none twice that is the same file in two runs.
    """
    from epsopt.surrogate.nearest import blocks, distances

    rows = (row for some in blocks(len(z), len(latents)) for row in distances(z[some], latents).detach().numpy())
    return [nearest_by_distance(row, checkpoints, k, one_per_run=one_per_run) for row in rows]


def nearest_by_distance(
    distances: ArrayLike, checkpoints: Sequence[Checkpoint], k: int = 3, *, one_per_run: bool = False
) -> list[Neighbour]:
    """Return the checkpoints with the smallest latent distances.

    Args:
        distances: ``(n,)`` from a point, finite.
        checkpoints: the same ``n`` checkpoints.
        k: how many.
        one_per_run: only the nearest checkpoint of each run.

    Returns:
        At most ``k`` neighbours, nearest first; none twice that is the same file in two runs.
    """
    row = np.asarray(distances)
    found: list[Neighbour] = []
    runs: set[int] = set()
    contents: set[str] = set()
    for i in row.argsort(kind="stable").tolist():
        c = checkpoints[i]
        if c.sha256 in contents or (one_per_run and c.run_id in runs):
            continue
        runs.add(c.run_id)
        contents.add(c.sha256)
        found.append(Neighbour(c.path, c.run, c.epoch, float(row[i]), c.metrics, c.hyperparameters, c.sha256))
        if len(found) == k:
            break
    return found
