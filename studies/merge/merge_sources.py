"""Which checkpoints are merged by default: of one lineage, the measured front and the newest runs' ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.studies.merge.simplex_merge import front_lineage
from epsopt.surrogate.thinning import evenly_spaced
from epsopt.zoo.catalogue.types import Checkpoint, Lineage
from epsopt.zoo.decoding.provenance import labels
from epsopt.zoo.decoding.recombination import Parent, is_recombined
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EmptyCatalogue, EpsoptError
from epsopt.zoo.reading.remote import RemotePath, location

MOST_SOURCES = 24
"""Checkpoints that are merged: each is read once, and any of them may be read again for a merge."""

_FROM_FRONT = 16  # of the sources, where the front has more; ends of runs take the rest


@dataclass(frozen=True)
class Sources:
    """Checkpoints to merge.

    Attributes:
        base: the lineage's reference, which differences are taken from.
        base_checkpoint: the same in the catalogue; None: it is not there.
        checkpoints: others of the lineage, all measured; those of the front come first.
        n_front: how many those are.
        left_out: checkpoints that would be merged, if their weights were finite.
    """

    base: Parent
    base_checkpoint: Checkpoint | None
    checkpoints: tuple[Checkpoint, ...]
    n_front: int
    left_out: tuple[Checkpoint, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """Names of all, by content hash."""
        known = [*self.checkpoints, *([self.base_checkpoint] if self.base_checkpoint else [])]
        return {self.base.sha256: Path(self.base.path).name, **labels(known)}


def choose_sources(
    checkpoints: Sequence[Checkpoint], lineages: Sequence[Lineage], objectives: Sequence[Objective]
) -> Sources:
    """Choose checkpoints to merge, of the lineage that holds most of the front: its own front, its newest runs' ends.

    Args:
        checkpoints: the catalogue's.
        lineages: likewise.
        objectives: what counts.

    Raises:
        EmptyCatalogue: fewer than two measured checkpoints, the base left out.
    """
    lineage_id, rows = front_lineage(checkpoints, objectives)
    lineage = next(known for known in lineages if known.id == lineage_id)
    base = Parent(lineage.reference_path, lineage.reference_sha256)
    unique = {checkpoints[i].sha256: checkpoints[i] for i in rows if checkpoints[i].sha256 != base.sha256}
    own = [c for c in unique.values() if is_there(c)]
    table = measured_table([c.metrics for c in own], objectives)
    indices = Objectives(objectives).front(table)
    front = [own[i] for i in indices[np.argsort(table[indices, 0], kind="stable")]]
    ends = [c for c in _ends(own) if c not in front]
    most = max(_FROM_FRONT, MOST_SOURCES - len(ends))
    front = [front[i] for i in evenly_spaced(len(front), most)]
    chosen = [*front, *ends[: MOST_SOURCES - len(front)]]
    if len(chosen) < 2:
        raise EmptyCatalogue(
            f"there is only one measured checkpoint besides the base {base.path}, so there is nothing to merge: ingest "
            "more runs that start from it, or more checkpoints of this one"
        )
    base_checkpoint = next((c for c in checkpoints if c.sha256 == base.sha256), None)
    return Sources(base, base_checkpoint, tuple(chosen), len(front))


def is_there(checkpoint: Checkpoint) -> bool:
    """Whether a file was not removed since; behind a URL it is not asked."""
    place = location(checkpoint.path)
    return isinstance(place, RemotePath) or place.is_file()


def only_finite(sources: Sources, products: WeightProducts) -> tuple[Sources, WeightProducts]:
    """Leave out checkpoints of a run that diverged: anything that is merged with NaN is NaN.

    Raises:
        EmptyCatalogue: fewer than two are left.
        EpsoptError: the base is no better.
    """
    if not np.isfinite(products.norms).all():
        raise EpsoptError(f"the base {sources.base.path} holds weights that are not finite: nothing can be merged")
    kept = np.flatnonzero(np.isfinite(np.diagonal(products.products, axis1=1, axis2=2)).all(axis=0))
    if len(kept) < 2:
        raise EmptyCatalogue("fewer than two of the checkpoints hold finite weights, so there is nothing to merge")
    chosen = tuple(sources.checkpoints[i] for i in kept)
    left_out = tuple(c for c in sources.checkpoints if c not in chosen)
    n_front = int((kept < sources.n_front).sum())
    inner = products.products[:, kept[:, None], kept[None, :]]
    finite = replace(sources, checkpoints=chosen, n_front=n_front, left_out=left_out)
    return finite, replace(products, products=inner)


def left_out_sentences(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Say of checkpoints that they are not merged because their weights are not finite, a sentence each."""
    return [f"{c.path} is left out: not all of its weights are finite" for c in checkpoints]


def _ends(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the last checkpoint of each run that was trained, the newest runs first."""
    last: dict[int, Checkpoint] = {}
    for c in checkpoints:
        former = last.get(c.run_id)
        if not is_recombined(c) and (former is None or _age(c) > _age(former)):
            last[c.run_id] = c
    return sorted(last.values(), key=lambda c: c.id, reverse=True)


def _age(checkpoint: Checkpoint) -> tuple[int, int]:
    return (-1 if checkpoint.epoch is None else checkpoint.epoch, checkpoint.id)
