"""Which checkpoints to merge: the pair or triple whose merges are expected to add most to the measured front.

What merges measure is foretold by the process over weight space (weight_space_gp.py), of all measured checkpoints of a
lineage, from inner products of their differences alone: nothing is merged to choose. A few merges of each set count
together, by the expected hypervolume improvement of all of them at once (qEHVI, Daulton et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.acquisition.ehvi import improvement_over_front
from epsopt.optimize.merge.weight_space_gp import WeightSpace, fit_weight_space
from epsopt.optimize.objectives import Objective, Objectives
from epsopt.optimize.pareto import non_dominated

Floats = NDArray[np.float64]
POOL = 14
"""Checkpoints of which sets are made: the measured front first, then the fronts behind it. 364 triples."""


def expected_parents(
    space: WeightSpace,
    values: Floats,
    objectives: Sequence[Objective],
    count: int,
    *,
    base: Floats | None = None,
    reference: Floats | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    seed: int = 0,
) -> list[int]:
    """Choose the set of checkpoints whose merges are expected to widen the measured front most.

    Args:
        space: where ``k`` checkpoints lie.
        values: ``(k, m)`` what was measured on them; rows with NaN are not chosen.
        objectives: the columns.
        count: size of the set, at least 2. Beyond 3 the best triple is extended by one after the other.
        base: ``(m,)`` what was measured on the base.
        reference: ``(m,)`` the objectives' values that are just not good enough.
        bounds: declared bounds of objectives; others are guessed.
        seed: of the Monte-Carlo samples.

    Returns:
        Rows of `values`, fewer than `count` where not so many are measured.
    """
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    if len(finite) <= min(count, 2):
        return [int(i) for i in finite]
    model = fit_weight_space(space, values, objectives, base, bounds or {}, finite)
    acquisition = improvement_over_front(model, reference, None, seed)
    pool = _pool(values, finite, Objectives(objectives).maximize)

    def best(sets: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        x = torch.from_numpy(np.stack([_merges(s, space) for s in sets]))
        with torch.no_grad():
            scores = torch.cat([acquisition(part) for part in torch.split(x, 64)])
        return sets[int(scores.argmax())]

    chosen = best(list(combinations(pool, min(count, 3, len(pool)))))
    while len(chosen) < min(count, len(pool)):
        chosen = best([(*chosen, i) for i in pool if i not in chosen])
    return list(chosen)


def _pool(values: Floats, finite: NDArray[np.int64], maximize: Sequence[bool]) -> list[int]:
    """Return the rows of the first fronts, one front after the other, an even part of the last one that has room."""
    out: list[int] = []
    left = finite
    while len(left) and len(out) < POOL:
        front = left[non_dominated(values[left], list(maximize)).indices]
        front = front[np.argsort(values[front, 0], kind="stable")]
        room = POOL - len(out)
        places = np.unique(np.linspace(0, len(front) - 1, min(room, len(front))).round().astype(int))
        out += [int(i) for i in front[places]]
        left = np.setdiff1d(left, front)
    return out


def _merges(parents: Sequence[int], space: WeightSpace) -> Floats:
    """Return ``(q, parts * k)`` merges that stand for all of a set.

    Of two they are three on the way; of more the mean, the middles of pairs, and three quarters of each with a quarter
    of the others.
    """
    n = len(parents)
    rows: list[tuple[float, ...]]
    if n == 2:
        rows = [(share, 1.0 - share) for share in (0.25, 0.5, 0.75)]
    else:
        rows = [tuple(1.0 / n for _ in parents)]
        rows += [tuple(0.5 if i in pair else 0.0 for i in range(n)) for pair in combinations(range(n), 2)]
        rows += [tuple(0.75 if i == j else 0.25 / (n - 1) for i in range(n)) for j in range(n)]
    out = np.zeros((len(rows), len(space.by_part), space.products.shape[1]))
    for place, row in enumerate(rows):
        out[place][:, list(parents)] = row
    return out.reshape(len(rows), -1)
