"""Where the checkpoints of the kept map lie, read without the map itself: that takes torch, and seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.map_format import READABLE
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import DamagedArtifact

KINDS = {False: "surrogate", True: "surrogate-with-probes"}
"""Kinds of artifacts that maps are kept as, by whether they read anchor embeddings."""


@dataclass(frozen=True, eq=False)
class MapIndex:
    """The checkpoints that the newest map was trained on, and where they lie.

    Attributes:
        metric_names: metrics that the map learned.
        rows: row of each checkpoint's latent, by its SHA-256.
        latents: ``(n, latent)`` float32, finite.
    """

    metric_names: tuple[str, ...]
    rows: Mapping[str, int]
    latents: NDArray[np.float32]

    def distances(self, sha256: str) -> dict[str, float]:
        """Return the latent distance of every checkpoint from one, by SHA-256.

        Args:
            sha256: of one of :attr:`rows`.
        """
        away = np.sqrt(((self.latents - self.latents[self.rows[sha256]]) ** 2).sum(axis=1, dtype=np.float64))
        return {key: float(away[row]) for key, row in self.rows.items()}


def read_map_index(catalogue: Catalogue) -> MapIndex | None:
    """Read where the checkpoints of the newest map of weights only lie.

    Returns:
        The index; None where there is no map, or none that can be read so: who loads the whole map says why.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        kept = catalogue.get_artifact(KINDS[False])
        if kept is None or kept[1].get("format") not in READABLE or kept[1].get("digest") != digest(*kept):
            return None
        data, meta = kept
        latents = load(data)["memory.latents"]
        rows = {str(key): i for i, key in enumerate(meta["keys"])}
        names = tuple(str(name) for name in meta["metrics"])
    except (DamagedArtifact, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return MapIndex(names, rows, latents) if latents.ndim == 2 and len(latents) == len(meta["keys"]) else None


def digest(data: bytes, meta: Mapping[str, Any]) -> str:
    """Return the digest of a kept map, which its description holds beside all else."""
    about = json.dumps({k: v for k, v in meta.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(data + about.encode()).hexdigest()
