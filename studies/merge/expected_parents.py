"""Parents of a merge, chosen by what their merges are expected to add to the measured front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from epsopt.optimize.merge.parent_choice import expected_parents
from epsopt.optimize.merge.weight_space_gp import WeightSpace
from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.studies.merge.merge_sources import choose_sources, only_finite
from epsopt.zoo.catalogue.types import Checkpoint, Lineage
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Parent


def parents_by_gain(
    decoder: WeightDecoder,
    checkpoints: Sequence[Checkpoint],
    lineages: Sequence[Lineage],
    objectives: Sequence[Objective],
    count: int,
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    seed: int = 0,
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Choose checkpoints of the lineage that holds most of the front, the expected gain of whose merges is largest.

    Up to 24 checkpoints and their base are read once, for inner products of their differences.

    Args:
        decoder: reads them.
        checkpoints: the catalogue's.
        lineages: likewise.
        objectives: what counts.
        count: how many to choose at most.
        bounds: declared bounds of objectives.
        seed: of the Monte-Carlo samples.

    Returns:
        The parents, and checkpoints that were left out since their weights are not finite.

    Raises:
        EmptyCatalogue: fewer than two measured checkpoints with finite weights besides the base.
        EpsoptError: one of them or the base is gone or has changed, or the base's weights are not finite.
    """
    sources = choose_sources(checkpoints, lineages, objectives)
    products = decoder.products([Parent(c.path, c.sha256) for c in sources.checkpoints], sources.base)
    sources, products = only_finite(sources, products)
    known = measured_table([c.metrics for c in checkpoints], objectives)
    known = known[np.isfinite(known).all(axis=1)]
    worst = np.where(Objectives(objectives).maximize, known.min(axis=0), known.max(axis=0))
    base = None
    if sources.base_checkpoint is not None:
        found = measured_table([sources.base_checkpoint.metrics], objectives)[0]
        base = found if np.isfinite(found).all() else None
    rows = expected_parents(
        WeightSpace(products.products, products.norms),
        measured_table([c.metrics for c in sources.checkpoints], objectives),
        objectives, count, base=base, reference=worst, bounds=bounds, seed=seed,
    )  # fmt: skip
    return [sources.checkpoints[i] for i in rows], list(sources.left_out)
