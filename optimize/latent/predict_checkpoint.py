"""How a given checkpoint stands on the map: predicted metrics, nearest real checkpoint, and whether to trust that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.latent.neighbours import Neighbour, nearest
from epsopt.optimize.latent.search import known_latents, learned_latents
from epsopt.optimize.latent.trust_region import TrustRegion, trust_region
from epsopt.surrogate.hyperparameter_table import Hyperparameters
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.fingerprints.fingerprint import Fingerprint

_TOO_FAR = 2.0  # times the largest distance between runs: new runs may lie somewhat further out than all before


@dataclass(frozen=True)
class Assessment:
    """One checkpoint on the map.

    Attributes:
        point: predicted metrics by name; NaN if refused.
        low: lower ends of their intervals; NaN if refused.
        high: upper ends; NaN if refused.
        nearest: the nearest real checkpoint that the map knows.
        radius: radius of the trust region around known checkpoints.
        trusted: whether the checkpoint lies in it.
        known_architecture: whether the map was trained on checkpoints with these tensor names and shapes.
        refused: why its metrics are not predicted: nothing is known about how far off they would be; None: they are.
        weights_alone: whether the map goes by hyperparameters where it can, and knows none of these weights.
    """

    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    nearest: Neighbour
    radius: float
    trusted: bool
    known_architecture: bool
    refused: str | None = None
    weights_alone: bool = False


def assess(
    surrogate: Surrogate,
    checkpoints: Sequence[Checkpoint],
    fingerprints: Sequence[Fingerprint],
    *,
    embeddings: Sequence[NDArray[np.float32] | None] | None = None,
    hyperparameters: Sequence[Hyperparameters | None] | None = None,
    level: float = 0.9,
) -> list[Assessment]:
    """Predict checkpoints and say how far from known ones they lie.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's.
        fingerprints: of the checkpoints to assess, known to the catalogue or not.
        embeddings: anchor embeddings of the checkpoints, each (anchors, dim) or None, for a map with probes.
        hyperparameters: of the checkpoints' runs, each with the epoch
            (:func:`epsopt.surrogate.hyperparameter_table.with_epoch`) or None; where they are not known, intervals are
            as wide as held-out runs of unknown hyperparameters ask for.
        level: coverage of the intervals.

    Returns:
        One assessment per fingerprint.

    Raises:
        UsageError: the map knows none of the catalogue's checkpoints, or a level outside (0, 1).
    """
    latents, known = known_latents(surrogate, checkpoints)
    learned, of_learned = learned_latents(surrogate, checkpoints)
    region = trust_region(learned, np.array([c.run_id for c in of_learned]))
    z = surrogate.encode(fingerprints, stack_embeddings(embeddings or (), surrogate), hyperparameters)
    unseen = np.array([f.signature not in surrogate.architectures for f in fingerprints], dtype=bool)
    alone = surrogate.weights_alone(fingerprints, z, hyperparameters)
    prediction = surrogate.predict(z, level, unseen, alone)
    names = surrogate.metric_names
    out = []
    away = region.distance(z.to(learned.dtype)).tolist()
    for i, near in enumerate(nearest(z, latents, known, 1)):
        distance = away[i]
        refused = why_refused(surrogate, fingerprints[i], distance, region, level)
        point, low, high = (
            dict(zip(names, (float("nan") if refused else float(v) for v in values[i]), strict=True))
            for values in (prediction.point, prediction.low, prediction.high)
        )
        trusted = distance <= region.radius
        out.append(
            Assessment(point, low, high, near[0], region.radius, trusted, not unseen[i], refused, bool(alone[i]))
        )
    return out


def why_refused(
    surrogate: Surrogate, fingerprint: Fingerprint, distance: float, region: TrustRegion, level: float = 0.9
) -> str | None:
    """Say why a checkpoint's metrics cannot be predicted with honest intervals; None: they can.

    Args:
        surrogate: the fitted map.
        fingerprint: of the checkpoint.
        distance: latent distance to the nearest checkpoint that the map learned from.
        region: the trust region around those.
        level: coverage of the intervals.

    Returns:
        NaN weights, an unseen architecture (:meth:`epsopt.surrogate.Surrogate.refusal`), or a place far outside; or
        None.
    """
    refused = fingerprint.refusal or surrogate.refusal(fingerprint.signature, level, fingerprint.tensor_kinds)
    if refused is None and distance > _TOO_FAR * region.furthest:
        return (
            f"it lies {distance:.3g} from the nearest checkpoint that the map learned from, and none of those lies "
            f"further than {region.furthest:.3g} from another run's: intervals were never tested so far out"
        )
    return refused


def measured_at_ends(checkpoints: Sequence[Checkpoint], metrics: Sequence[str]) -> list[str]:
    """Name the metrics that runs of several checkpoints measured at their last one only, such as a test score.

    What a surrogate predicts of earlier checkpoints was then never compared with a measurement.

    Args:
        checkpoints: the catalogue's.
        metrics: names of metrics, in any order.

    Returns:
        Those of `metrics` that nine in ten of the measuring runs measured at the last checkpoint alone.
    """
    runs: dict[int, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        runs.setdefault(checkpoint.run_id, []).append(checkpoint)
    long = [sorted(run, key=lambda c: -1 if c.epoch is None else c.epoch) for run in runs.values() if len(run) > 1]
    found = []
    for metric in metrics:
        flags = [[c.metrics.get(metric) is not None for c in run] for run in long]
        measuring = [f for f in flags if any(f)]
        at_end = [f for f in measuring if f[-1] and not any(f[:-1])]
        if measuring and len(at_end) >= 0.9 * len(measuring):
            found.append(metric)
    return found


def usable(embedding: NDArray[np.float32] | None, surrogate: Surrogate) -> bool:
    """Whether an embedding can be compared with those that a map was trained on: finite, and of their shape."""
    if embedding is None:
        return False
    of_map = surrogate.embedding_scale
    fits = of_map is None or embedding.shape == tuple(of_map[0].shape)
    return fits and bool(np.isfinite(embedding).all())


def stack_embeddings(
    embeddings: Sequence[NDArray[np.float32] | None], surrogate: Surrogate
) -> NDArray[np.float32] | None:
    """(n, anchors, dim) with NaN where there is none or an unusable one; None without any, or without a use."""
    if surrogate.embedding_scale is None or all(e is None for e in embeddings):
        return None
    blank = np.full(tuple(surrogate.embedding_scale[0].shape), np.nan, dtype=np.float32)
    return np.stack([e if e is not None and usable(e, surrogate) else blank for e in embeddings])
