"""Which of many runs a model learns from: the front, the newest, and others that cover what was tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from epsopt.optimize.forecast.learning_curve_gp import Curve, Floats
from epsopt.optimize.objectives import Objective, Objectives
from epsopt.optimize.space import Space
from epsopt.surrogate.thinning import evenly_spaced

MOST_RUNS = 200
"""Runs that a model learns from; a model of more answers too slowly for a trial of seconds."""

_FRONT = 0.5  # of them lie on the front at most
_NEWEST = 0.25


def thinned(
    space: Space, objectives: Sequence[Objective], curves: Sequence[Curve], most: int = MOST_RUNS
) -> tuple[list[Curve], Floats]:
    """Keep as many runs as a model can learn from, and the measured front of all.

    Args:
        space: encodes configurations.
        objectives: ``m`` of them; further columns of the curves' values are constraints, met at zero or below.
        curves: of all runs, oldest first.
        most: how many are kept.

    Returns:
        The runs that are kept, in their order: those with a checkpoint on the front (more than half of `most` are
        thinned evenly along it), the newest, and others that lie far from all that is kept. And ``(k, m)`` what the
        others have on the front, in the objectives' own units: it counts though nothing is learned from it.
    """
    m = len(objectives)
    if len(curves) <= most:
        return list(curves), np.empty((0, m))
    rows = np.concatenate([c.values for c in curves])
    owner = np.repeat(np.arange(len(curves)), [len(c.values) for c in curves])
    feasible = np.flatnonzero(np.isfinite(rows).all(axis=1) & (rows[:, m:] <= 0.0).all(axis=1))
    front = feasible[Objectives(objectives).front(rows[feasible, :m])]
    along = front[np.lexsort(rows[front, :m].T[::-1])]
    ends = np.concatenate([rows[along, :m].argmin(axis=0), rows[along, :m].argmax(axis=0)]) if len(along) else along
    even = evenly_spaced(len(along), max(int(_FRONT * most), 1))
    kept = list(dict.fromkeys(owner[along[[*ends, *even]]].tolist())) if len(along) else []
    newest = range(len(curves) - 1, len(curves) - 1 - int(_NEWEST * most), -1)
    kept = list(dict.fromkeys([*kept[:most], *newest]))[:most]
    encoded = space.encode([c.config for c in curves])
    near = np.full(len(curves), np.inf)
    for place in kept:
        near = np.minimum(near, np.square(encoded - encoded[place]).sum(axis=1))
    while len(kept) < most:  # farthest first (Gonzalez 1985)
        near[kept] = -1.0
        place = int(np.argmax(near))
        kept.append(place)
        near = np.minimum(near, np.square(encoded - encoded[place]).sum(axis=1))
    chosen = sorted(kept)
    others = rows[front[~np.isin(owner[front], chosen)], :m]
    return [curves[i] for i in chosen], others
