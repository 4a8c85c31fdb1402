"""The way from one checkpoint to another: merged checkpoints where weights can be merged, else points of the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from epsopt.optimize.latent.interpolation import PathPoint, along, linear_metrics, shares, straight
from epsopt.studies.merge.decode import MergedCheckpoint, Progress, decode_merges
from epsopt.surrogate.hyperparameter_table import hyperparameters_of
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import recombination, require_one_lineage
from epsopt.zoo.errors import UsageError
from epsopt.zoo.fingerprints.fingerprint import Fingerprint


class PathEnd(Protocol):
    """An end of the way."""

    @property
    def shown(self) -> str:
        """What messages call it."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Its record."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Of its weights."""


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The way from one checkpoint to another.

    Attributes:
        steps: predicted points of the way, both ends included.
        merged: merged checkpoints, one a step; empty where weights were not merged.
        linear: metrics a step on the straight line between those measured at the ends; None where one is not known.
    """

    steps: list[PathPoint]
    merged: list[MergedCheckpoint]
    linear: list[dict[str, float | None]]


def why_not_mergeable(start: Checkpoint, end: Checkpoint) -> str | None:
    """Return why the weights of two checkpoints cannot be merged; None where they can."""
    try:
        require_one_lineage([start, end])
    except UsageError as error:
        return str(error)
    if start.lineage_id == 0:
        return f"{start.path} and {end.path} belong to no lineage that the catalogue knows"
    return None


def interpolate(
    decoder: WeightDecoder,
    catalogue: Catalogue,
    checkpoints: Sequence[Checkpoint],
    surrogate: Surrogate,
    ends: Sequence[PathEnd],
    steps: int,
    *,
    weights: bool = True,
    level: float = 0.9,
    evaluate: bool = False,
    progress: Progress | None = None,
) -> Interpolation:
    """Go from one checkpoint to another in even steps.

    Args:
        decoder: merges weights, and measures with the project's hook.
        catalogue: its lineages give the fingerprints their reference.
        checkpoints: of the catalogue; the nearest of them is named at each step.
        surrogate: the map.
        ends: where the way begins and ends.
        steps: number of points, both ends included.
        weights: whether weights are merged; otherwise points of the map are predicted.
        level: probability that the intervals hold, 0 to 1.
        evaluate: whether merged checkpoints are measured.
        progress: called with what is done and its share.

    Raises:
        UsageError: weights are not merged, and the map predicts nothing for an end.
    """
    start, end = (e.checkpoint for e in ends)
    between = linear_metrics(start.metrics, end.metrics, surrogate.metric_names, steps)
    unseen = any(e.checkpoint.signature not in surrogate.architectures for e in ends)
    if not weights:
        for one in ends:
            found = one.fingerprint
            if (refused := surrogate.refusal(found.signature, level, found.tensor_kinds)) is not None:
                raise UsageError(f"the way to {one.shown} cannot be predicted: {refused}")
        known = hyperparameters_of(e.checkpoint for e in ends)
        codes = surrogate.encode([e.fingerprint for e in ends], hyperparameters=known)
        z = straight(codes[0], codes[1], steps)
        return Interpolation(along(surrogate, checkpoints, z, level, unseen=unseen), [], between)
    recombinations = [recombination([start, end], [[1.0 - t, t]]) for t in shares(steps)]
    merged = decode_merges(
        decoder,
        catalogue,
        checkpoints,
        surrogate,
        recombinations,
        level=level,
        evaluate=evaluate,
        progress=progress,
    )
    way = along(surrogate, checkpoints, torch.stack([m.z for m in merged]), level, unseen=unseen)
    predicted = [
        replace(step, point=found.point, low=found.low, high=found.high)  # NaN where the map refuses the merge
        for step, found in zip(way, (m.assessment for m in merged), strict=True)
    ]
    return Interpolation(predicted, merged, between)
