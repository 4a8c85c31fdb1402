"""Where the next run could start: the bases, the measured front, and merges of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.optimize.proposals.warm_start import Start
from epsopt.studies.merge.decode import MergedCheckpoint, Progress, decode_merges
from epsopt.studies.training_data import measured_contents
from epsopt.surrogate.surrogate import Surrogate
from epsopt.surrogate.thinning import evenly_spaced
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import recombination

_MOST_REAL = 24
_MOST_MERGED = 8


def real_starts(metric_names: Sequence[str], catalogue: Catalogue, objectives: Sequence[Objective]) -> list[Start]:
    """Return the lineages' bases and the measured front, those of which every one of some metrics was measured.

    They need not be on the map: what is predicted of a run from there rests on what they measured. A checkpoint that
    weights are compared with for want of a base is a start like others: nothing declares it the base.

    Args:
        metric_names: metrics that a start must have.
        catalogue: of the checkpoints.
        objectives: of the front.
    """
    known = measured_contents(catalogue)
    references = {lineage.reference_path for lineage in catalogue.lineages()}
    declared = {lineage.reference_path for lineage in catalogue.lineages() if lineage.declared}
    bases = [i for i, c in enumerate(known) if c.path in references]
    front = _front(known, objectives)
    out = []
    for i in dict.fromkeys([*bases, *(front[j] for j in evenly_spaced(len(front), _MOST_REAL))]):
        c = known[i]
        metrics = {n: v for n in metric_names if (v := c.metrics.get(n)) is not None}
        if len(metrics) == len(metric_names):
            label = c.run if c.epoch is None else f"{c.run}:{c.epoch}"
            kind = "base" if c.path in declared else "checkpoint"
            out.append(Start(label, metrics, measured=True, kind=kind, checkpoint=c))
    return out


def merged_starts(
    decoder: WeightDecoder,
    catalogue: Catalogue,
    surrogate: Surrogate,
    objectives: Sequence[Objective],
    *,
    progress: Progress | None = None,
    left_out: Callable[[str, str], object] | None = None,
) -> list[tuple[Start, MergedCheckpoint]]:
    """Return the means of neighbours on the measured front, measured where the project has an evaluate hook.

    Args:
        decoder: decodes, and measures.
        catalogue: of the parents.
        surrogate: predicts what is not measured.
        objectives: of the front.
        progress: called as ``progress(what, share done)``.
        left_out: called with the label of each mean that is neither measured nor predicted, and the reason: from there
            nothing is predicted of a run.

    Returns:
        Each start with its decoded weights.
    """
    checkpoints = catalogue.checkpoints()
    _, known = known_latents(surrogate, checkpoints)
    pairs = []
    for lineage in dict.fromkeys(c.lineage_id for c in known):
        mine = [c for c in known if c.lineage_id == lineage]
        front = [mine[i] for i in _front(mine, objectives)]
        pairs += [(a, b) for a, b in pairwise(front) if a.run_id != b.run_id]
    pairs = [pairs[i] for i in evenly_spaced(len(pairs), _MOST_MERGED)]
    merges = [recombination(pair, [[0.5, 0.5]]) for pair in pairs]
    if not merges:
        return []
    found = decode_merges(
        decoder, catalogue, checkpoints, surrogate, merges, evaluate=decoder.hook is not None, progress=progress
    )
    out = []
    for pair, merged in zip(pairs, found, strict=True):
        names = [c.run if c.epoch is None else f"{c.run}:{c.epoch}" for c in pair]
        measured = merged.measured or {}
        # What the hook did not measure is predicted, and what it did is not.
        found_out = {n: v for n in surrogate.metric_names if (v := measured.get(n)) is not None}
        label = " + ".join(names)
        if len(found_out) < len(surrogate.metric_names) and merged.assessment.refused is not None:
            if left_out is not None:
                left_out(label, merged.assessment.refused)
            continue
        metrics = {**merged.assessment.point, **found_out}
        start = Start(
            label, metrics, measured=all(o.name in found_out for o in objectives),
            kind="merge", parents=tuple((c, 0.5) for c in pair),
        )  # fmt: skip
        out.append((start, merged))
    return out


def _front(checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]) -> list[int]:
    """Rows of the measured front, in the order of the first objective."""
    table = measured_table([c.metrics for c in checkpoints], objectives)
    rows = Objectives(objectives).front(table)
    return [int(i) for i in rows[np.argsort(table[rows, 0], kind="stable")]]
