"""Lineages: which checkpoints share an initialisation.

What is known comes first: the base that a run names, the same content in another run. Otherwise the distance of
sketches tells: to a lineage's reference, or, where a run has moved far from it, to earlier checkpoints of the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.fingerprints.sketch import without_directions

NEAR = 0.7
"""Relative sketch distance below which checkpoints are one lineage: fine-tunes of one base stay far below,
independent initialisations are about 1.4 apart (sketch_distance)."""


ALIKE = 0.3
"""Cosine of the sketches of two checkpoints of one run from which on the one plainly comes from the other: that of
independent initialisations is about 0, give or take .02 (2,048 buckets; .1 for a network of 100 weights)."""


COPIED = 0.9
"""The same of a file that says neither its epoch nor its step."""


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the cosine of two sketches ``(SKETCH,)``; 0 where one of them is zero."""
    a, b = _finite(one), _finite(other)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0.0 else 0.0


ADAPTED = "adapters of "
"""What the reference of a lineage of low-rank adapters begins with, instead of a path: the name of their base follows.
From the base all updates are zero, so that no file is needed to compare with."""


@dataclass(frozen=True, eq=False)
class KnownLineage:
    """A lineage as its members are compared with it.

    Attributes:
        id: of the row in the catalogue.
        signature: of its members.
        reference_path: the checkpoint file that deltas are taken from, or the base of adapters (:data:`ADAPTED`).
        reference_sha256: that file's content when the lineage was founded.
        declared: whether runs name the reference as their base.
        sketch: ``(SKETCH,)`` of the reference (of the founding member, if the reference has other tensors).
    """

    id: int
    signature: str
    reference_path: str
    reference_sha256: str
    declared: bool
    sketch: NDArray[np.float32]


class LineageBook:
    """The lineages known so far; those whose reference can no longer be read are closed to new members."""

    def __init__(self, known: Iterable[KnownLineage] = ()) -> None:
        self._known: dict[int, KnownLineage] = {}
        self._closed: set[int] = set()
        self._rows: dict[int, NDArray[np.float64]] = {}  # sketches without directions, by lineage
        self._stacks: dict[str, tuple[list[int], NDArray[np.float64]]] = {}
        for lineage in known:
            self.add(lineage)

    def __iter__(self) -> Iterator[KnownLineage]:
        return iter(self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def get(self, lineage_id: int) -> KnownLineage | None:
        """Return the lineage with this id, None when it is not in the book."""
        return self._known.get(lineage_id)

    def add(self, lineage: KnownLineage) -> None:
        """Add a lineage, or replace the one with its id; it is open."""
        self._closed.discard(lineage.id)
        self._known[lineage.id] = lineage
        self._rows.pop(lineage.id, None)
        self._stacks.pop(lineage.signature, None)

    def close(self, lineage_id: int) -> None:
        """Offer this lineage no longer: its reference is gone or holds something else."""
        self._closed.add(lineage_id)
        if lineage_id in self._known:
            self._stacks.pop(self._known[lineage_id].signature, None)

    def open_for(self, signature: str) -> bool:
        """Tell whether any lineage of this signature takes new members."""
        if signature in self._stacks:
            return len(self._stacks[signature][0]) > 0
        return any(k.signature == signature and k.id not in self._closed for k in self)

    def nearest(
        self, signature: str, sketch: NDArray[np.float32], directions: NDArray[np.float64] | None = None
    ) -> KnownLineage | None:
        """Return the nearest lineage of a signature, None when none is within NEAR; of equals the oldest.

        Args:
            signature: of a checkpoint.
            sketch: ``(SKETCH,)`` of its weights.
            directions: in which every checkpoint of this signature begins alike
                (:func:`epsopt.zoo.fingerprints.sketch.gain_directions`), which count for nothing.
        """
        ids, sketches = self._stack(signature, directions)
        if not ids:
            return None
        own = without_directions(_finite(sketch), directions)
        norms = np.maximum(np.linalg.norm(sketches, axis=1), np.linalg.norm(own))
        distances = np.linalg.norm(sketches - own, axis=1) / np.maximum(norms, 1e-12)
        best = int(np.argmin(distances))
        return self._known[ids[best]] if distances[best] < NEAR else None

    def of_reference(self, signature: str, sha256: str) -> KnownLineage | None:
        """Return the lineage that a reference file with this content founded."""
        return next((k for k in self if k.signature == signature and k.reference_sha256 == sha256), None)

    def _stack(
        self, signature: str, directions: NDArray[np.float64] | None = None
    ) -> tuple[list[int], NDArray[np.float64]]:
        if signature not in self._stacks:
            members = [k for k in self if k.signature == signature and k.id not in self._closed]
            members.sort(key=lambda k: k.id)
            for k in members:
                if k.id not in self._rows:
                    self._rows[k.id] = without_directions(_finite(k.sketch), directions)
            rows = np.stack([self._rows[k.id] for k in members]) if members else np.zeros((0, 0))
            self._rows.update(zip((k.id for k in members), rows, strict=True))  # held once
            self._stacks[signature] = ([k.id for k in members], rows)
        return self._stacks[signature]


def _finite(sketch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Widen, so that the squares of a diverged run's weights still have a sum."""
    return np.nan_to_num(sketch.astype(np.float64), posinf=1e39, neginf=-1e39)
