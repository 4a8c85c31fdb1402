"""How a given checkpoint stands on the map: predicted metrics, nearest real checkpoint, and whether to trust that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.latent_search import known_latents
from epsopt.optimize.neighbours import Neighbour, nearest
from epsopt.optimize.region import trust_region
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.fingerprints import Fingerprint
from epsopt.zoo.records import Checkpoint


@dataclass(frozen=True)
class Assessment:
    """One checkpoint on the map.

    Attributes:
        point: predicted metrics by name.
        low: lower ends of their intervals.
        high: upper ends.
        nearest: the nearest real checkpoint that the map knows.
        radius: radius of the trust region around known checkpoints.
        trusted: whether the checkpoint lies in it (D6).
        known_architecture: whether the map knows a checkpoint with these tensor names and shapes.
    """

    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    nearest: Neighbour
    radius: float
    trusted: bool
    known_architecture: bool


def assess(
    surrogate: Surrogate,
    checkpoints: Sequence[Checkpoint],
    fingerprints: Sequence[Fingerprint],
    *,
    embeddings: Sequence[NDArray[np.float32] | None] | None = None,
    level: float = 0.9,
) -> list[Assessment]:
    """Predict checkpoints and say how far from known ones they lie.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's.
        fingerprints: of the checkpoints to assess, known to the catalogue or not.
        embeddings: anchor embeddings of the checkpoints, each (anchors, dim) or None, for a map with probes.
        level: coverage of the intervals.

    Returns:
        One assessment per fingerprint.

    Raises:
        UsageError: the map knows none of the catalogue's checkpoints, or a level outside (0, 1).
    """
    latents, known = known_latents(surrogate, checkpoints)
    region = trust_region(latents, np.array([c.run_id for c in known]))
    signatures = {c.signature for c in known}
    z = surrogate.encode(fingerprints, _stacked(embeddings or ()))
    prediction = surrogate.predict(z, level)
    names = surrogate.metric_names
    out = []
    for i, near in enumerate(nearest(z, latents, known, 1)):
        point, low, high = (
            dict(zip(names, map(float, values[i]), strict=True))
            for values in (prediction.point, prediction.low, prediction.high)
        )
        seen = fingerprints[i].signature in signatures
        trusted = near[0].distance <= region.radius
        out.append(Assessment(point, low, high, near[0], region.radius, trusted, seen))
    return out


def _stacked(embeddings: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    """(n, anchors, dim) with NaN where there is none or one of another shape; None without any."""
    shapes = [e.shape for e in embeddings if e is not None]
    if not shapes:
        return None
    blank = np.full(max(set(shapes), key=shapes.count), np.nan, dtype=np.float32)
    return np.stack([blank if e is None or e.shape != blank.shape else e for e in embeddings])
