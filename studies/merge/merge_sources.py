"""Which checkpoints are merged by default: of a few lineages, the measured front and what lies behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.studies.merge.simplex_merge import front_lineage
from epsopt.surrogate.thinning import evenly_spaced
from epsopt.zoo.catalogue.types import Checkpoint, Lineage
from epsopt.zoo.decoding.provenance import labels
from epsopt.zoo.decoding.recombination import Parent, is_recombined
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EmptyCatalogue, EpsoptError
from epsopt.zoo.reading.remote import RemotePath, location

MOST_SOURCES = 32
"""Checkpoints that are merged: each is read once, and any of them may be read again for a merge."""

MOST_LINEAGES = 6
"""That these are of: those that hold most of the measured front."""

_NAMED = 3  # files in a sentence
_LEAST = 5  # checkpoints of a lineage, if it has so many
_FROM_FRONT = 2 / 3  # of a lineage's checkpoints, where its front has more; ends of runs take the rest
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """Checkpoints to merge.

    Attributes:
        base: the lineage's reference, which differences are taken from.
        base_checkpoint: the same in the catalogue; None: it is not there.
        checkpoints: others of the lineage, all measured; those of the front come first.
        n_front: how many those are.
        left_out: checkpoints that would be merged, if their weights were finite.
        gone: checkpoints of the lineage's front whose files are there no more.
    """

    base: Parent
    base_checkpoint: Checkpoint | None
    checkpoints: tuple[Checkpoint, ...]
    n_front: int
    left_out: tuple[Checkpoint, ...] = ()
    gone: tuple[Checkpoint, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """Names of all, by content hash."""
        known = [*self.checkpoints, *([self.base_checkpoint] if self.base_checkpoint else [])]
        return {self.base.sha256: Path(self.base.path).name, **labels(known)}


def choose_sources(
    checkpoints: Sequence[Checkpoint], lineages: Sequence[Lineage], objectives: Sequence[Objective]
) -> tuple[Sources, ...]:
    """Choose checkpoints to merge, of the lineages that hold most of the measured front.

    Of each lineage they are its own front, then the best ends of its runs, then the fronts behind its own.

    Args:
        checkpoints: the catalogue's.
        lineages: likewise.
        objectives: what counts.

    Returns:
        One for each lineage, the one that holds most of the front first.

    Raises:
        EmptyCatalogue: no lineage has two measured checkpoints.
    """
    front_lineage(checkpoints, objectives)  # says what is lacking
    table = measured_table([c.metrics for c in checkpoints], objectives)
    measured = [c for c, row in zip(checkpoints, table, strict=True) if np.isfinite(row).all()]
    on_front = Counter(checkpoints[i].lineage_id for i in Objectives(objectives).front(table).tolist())
    by_content = {c.sha256: c for c in measured}
    of_lineage: dict[int, list[Checkpoint]] = {}
    for c in by_content.values():
        of_lineage.setdefault(c.lineage_id, []).append(c)
    found = sorted(
        (lineage for lineage in lineages if lineage.id in of_lineage),
        key=lambda lineage: (-on_front[lineage.id], -len(of_lineage[lineage.id]), lineage.id),
    )
    best = [lineage for lineage in found if on_front[lineage.id]][:MOST_LINEAGES]
    room = max(MOST_SOURCES // max(len(best), 1), _LEAST)
    usable = Objectives(objectives)
    # Where no lineage of the front can be merged, any other is better than none.
    for some in (best, [lineage for lineage in found if lineage not in best]):
        of_each = [_of_lineage(of_lineage[k.id], k, by_content.get(k.reference_sha256), usable, room) for k in some]
        chosen = tuple(sources for sources in of_each if sources is not None)[:MOST_LINEAGES]
        if chosen:
            return chosen
    raise EmptyCatalogue(
        "no lineage has two measured checkpoints whose files are still there, so there is nothing to merge: ingest "
        "more runs that start from one base, or more checkpoints of a run"
    )


def _of_lineage(
    measured: Sequence[Checkpoint],
    lineage: Lineage,
    base_checkpoint: Checkpoint | None,
    objectives: Objectives,
    room: int,
) -> Sources | None:
    """Choose checkpoints of a lineage; None where nothing can be merged.

    Args:
        measured: checkpoints of the lineage.
        lineage: its reference is the base.
        base_checkpoint: the same, measured; None: it is not.
        objectives: what counts.
        room: how many to choose at most.
    """
    base = Parent(lineage.reference_path, lineage.reference_sha256)
    own = [c for c in measured if c.sha256 != base.sha256 and is_there(c)]
    if not own or len(own) + (base_checkpoint is not None) < 2:
        return None
    front = _best_first(own, objectives, 1)
    on_front = {c.id for c in front}
    ends = [c for c in _ends(own) if c.id not in on_front]
    kept = max(round(_FROM_FRONT * room), room - len(ends))
    front = [front[i] for i in evenly_spaced(len(front), kept)]
    ends = _best_first(ends, objectives, room - len(front))[: room - len(front)]
    taken = {c.id for c in ends} | on_front
    others = [c for c in own if c.id not in taken]
    others = _best_first(others, objectives, room - len(front) - len(ends))
    there = {c.id for c in own}
    gone = [c for c in measured if c.sha256 != base.sha256 and c.id not in there]
    best = {c.id for c in _best_first([*own, *gone], objectives, 1)} if gone else set()
    return Sources(
        base,
        base_checkpoint,
        tuple([*front, *ends, *others][:room]),
        len(front),
        gone=tuple(c for c in gone if c.id in best),
    )


def _best_first(checkpoints: Sequence[Checkpoint], objectives: Objectives, least: int) -> list[Checkpoint]:
    """Return at least so many checkpoints, if there are: front after front, each whole, by the first objective."""
    table = measured_table([c.metrics for c in checkpoints], objectives)
    left, out = np.arange(len(checkpoints)), list[Checkpoint]()
    while len(left) and len(out) < least:
        front = left[objectives.front(table[left])]
        out += [checkpoints[i] for i in front[np.argsort(table[front, 0], kind="stable")]]
        left = np.setdiff1d(left, front)
    return out


def is_there(checkpoint: Checkpoint) -> bool:
    """Whether a file was not removed since; behind a URL it is not asked."""
    place = location(checkpoint.path)
    return isinstance(place, RemotePath) or place.is_file()


def only_finite(sources: Sources, products: WeightProducts, least: int = 2) -> tuple[Sources, WeightProducts]:
    """Leave out checkpoints of a run that diverged: anything that is merged with NaN is NaN.

    Args:
        sources: checkpoints to merge.
        products: of their differences from the base.
        least: how many must be left.

    Raises:
        EmptyCatalogue: fewer are left.
        EpsoptError: the base is no better.
    """
    if not np.isfinite(products.norms).all():
        raise EpsoptError(f"the base {sources.base.path} holds weights that are not finite: nothing can be merged")
    kept = np.flatnonzero(np.isfinite(np.diagonal(products.products, axis1=1, axis2=2)).all(axis=0))
    if len(kept) < least:
        raise EmptyCatalogue("fewer than two of the checkpoints hold finite weights, so there is nothing to merge")
    chosen = tuple(sources.checkpoints[i] for i in kept)
    left_out = tuple(c for c in sources.checkpoints if c not in chosen)
    n_front = int((kept < sources.n_front).sum())
    inner = products.products[:, kept[:, None], kept[None, :]]
    finite = replace(sources, checkpoints=chosen, n_front=n_front, left_out=left_out)
    return finite, replace(products, products=inner)


def gone_sentences(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Say which checkpoints are not merged because their files are gone; of many, how many."""
    if not checkpoints:
        return []
    named = ", ".join(c.path for c in checkpoints[:_NAMED])
    more = f" and {len(checkpoints) - _NAMED} more" if len(checkpoints) > _NAMED else ""
    return [f"of their fronts, {named}{more} {'is' if len(checkpoints) == 1 else 'are'} gone, and not merged"]


def left_out_sentences(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Say of checkpoints that they are not merged because their weights are not finite, a sentence each."""
    return [f"{c.path} is left out: not all of its weights are finite" for c in checkpoints]


def _ends(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the last checkpoint of each run that was trained, where there are several runs."""
    last: dict[int, Checkpoint] = {}
    for c in checkpoints:
        former = last.get(c.run_id)
        if not is_recombined(c) and (former is None or _age(c) > _age(former)):
            last[c.run_id] = c
    return list(last.values()) if len(last) > 1 else []


def _age(checkpoint: Checkpoint) -> tuple[int, int]:
    return (-1 if checkpoint.epoch is None else checkpoint.epoch, checkpoint.id)
