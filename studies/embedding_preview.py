"""A checkpoint's anchor embeddings: real ones where they are known, beside what the map predicts from its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.latent.embedding_projection import Preview, preview
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import Failure, UnreadableCheckpoint
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.ingestion.ingest import read_fingerprints

_ASKED = 64
"""Checkpoints whose embeddings tell the space that they lie in."""


def real_embeddings(
    catalogue: Catalogue, checkpoint: Checkpoint, file: Path, hook: str | None
) -> NDArray[np.float32] | None:
    """Return a checkpoint's embeddings as they are.

    Args:
        catalogue: has them for checkpoints of its own.
        checkpoint: its record; the id 0 is that of one that the catalogue has not.
        file: of a checkpoint that the catalogue has not.
        hook: "package.module:function" that embeds it; None asks none.

    Returns:
        ``(anchors, dimensions)``, or None where they are not known.

    Raises:
        UnreadableCheckpoint: the file cannot be read, or the hook fails.
    """
    if checkpoint.id:
        (known,) = catalogue.embeddings([checkpoint.id])
        return known
    if hook is None:
        return None
    (read,) = read_fingerprints([file], catalogue, embed=hook)
    if isinstance(read, Failure):
        raise UnreadableCheckpoint(read.path, read.reason)
    return read.embedding


def in_unit_ball(catalogue: Catalogue, checkpoints: Sequence[Checkpoint]) -> bool:
    """Return whether embeddings are known and lie in the open unit ball, as those of hyperbolic models do.

    Args:
        catalogue: has the embeddings.
        checkpoints: an even sample of them is asked; NaN embeddings do not count.
    """
    asked = checkpoints[:: max(1, len(checkpoints) // _ASKED)]
    known = [e for e in catalogue.embeddings([c.id for c in asked]) if e is not None]
    return bool(known) and max(float(np.nanmax(np.linalg.norm(e, axis=1))) for e in known) < 1.0


def preview_embeddings(
    surrogate: Surrogate, fingerprint: Fingerprint, real: NDArray[Any] | None, *, ball: bool, seed: int
) -> Preview:
    """Predict embeddings from weights, and project them beside the real ones.

    Args:
        surrogate: the map.
        fingerprint: of the checkpoint's weights.
        real: ``(anchors, dimensions)``; those of another shape or with NaN count as not known.
        ball: whether embeddings lie in the unit ball.
        seed: RNG seed of the projection.

    Returns:
        The predicted embeddings and the real ones, where they are known, on two axes.
    """
    predicted = surrogate.decode_embeddings(surrogate.encode([fingerprint]))[0].double().numpy()
    if real is not None and (real.shape != predicted.shape or not np.isfinite(real).all()):
        real = None
    return preview(predicted, real, ball=ball, seed=seed)
