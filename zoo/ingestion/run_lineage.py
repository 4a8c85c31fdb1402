"""Which lineage a run's earlier checkpoints are of, for one that has moved far from every lineage's reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import or_, select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.tables import checkpoints, runs, same_signature
from epsopt.zoo.fingerprints.lineage import ALIKE, COPIED, cosine

_COMPARED = 16  # of a run's checkpoints: its first one and its last ones


def lineage_of_run(
    catalogue: Catalogue, run_path: str, signature: str, sketch: NDArray[np.float32], *, numbered: bool
) -> int | None:
    """Return the lineage of that checkpoint of a run which weights most plainly come from; None: from none of them.

    Args:
        catalogue: that holds the run's earlier checkpoints.
        run_path: of the run.
        signature: of tensor names and shapes; others are not compared.
        sketch: ``(SKETCH,)`` of the weights; zeros, as NaN weights have, are of the run's last checkpoint's lineage.
        numbered: whether the checkpoint says its epoch or step. A folder may hold models that are no moments of one
            training: a file without is of the lineage only if it hardly differs.
    """
    query = (
        select(checkpoints.c.id, checkpoints.c.lineage_id)
        .join(runs, runs.c.id == checkpoints.c.run_id)
        .where(runs.c.path == run_path, same_signature(checkpoints.c.signature, signature))
        .where(or_(checkpoints.c.epoch.is_not(None), checkpoints.c.step.is_not(None)))
        .order_by(checkpoints.c.epoch, checkpoints.c.step, checkpoints.c.id)
    )
    with catalogue.reading() as connection:
        rows = connection.execute(query).all()
    if not rows:  # of most runs, at their first checkpoint; reading fingerprints takes torch
        return None
    if not sketch.any():
        return int(rows[-1].lineage_id)
    rows = [*rows[:1], *rows[1:][1 - _COMPARED :]]
    prints = catalogue.fingerprints([row.id for row in rows])
    alike = [(cosine(sketch, kept.sketch), row.lineage_id) for kept, row in zip(prints, rows, strict=True)]
    return max(((c, lineage) for c, lineage in alike if c > (ALIKE if numbered else COPIED)), default=(0.0, None))[1]
