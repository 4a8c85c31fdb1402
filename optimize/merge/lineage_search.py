"""Which merge to measure next, of all checkpoints of a few lineages.

Every candidate gives each checkpoint one coefficient: the mean of a few, a soup of several, a step from something on
the front toward, or away from, something else. Coefficients of their own for parts of the network were tried and gained
no more (docs/decisions/merge-model.md). The candidate whose measurement is expected to widen the front most is next.

The best of a thousand predictions is biased upwards (the optimiser's curse, Smith and Winkler 2006). So the misses of
the merges that were chosen correct what is predicted of the next one: where they measured less than predicted, means
move by as many standard deviations; where misses were wider than the intervals, these widen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.acquisition.confidence_bounds import Z90
from epsopt.optimize.acquisition.ehvi import improvement_over_front
from epsopt.optimize.merge.lineage_gp import LineageSpace, fit_lineages
from epsopt.optimize.merge.merge_outcomes import MergeOutcomes
from epsopt.optimize.merge.simplex_gp import FIT_FAILURES
from epsopt.optimize.objectives import Objective, Objectives
from epsopt.optimize.pareto import non_dominated
from epsopt.surrogate.transforms import MetricTransform

CANDIDATES = 1024
"""Merges that are weighed before each measurement."""

_MEANS, _SOUPS = 0.5, 0.15  # of the candidates; the others are steps
_GOOD = 0.7  # of the means: of the first two fronts of their lineage alone
_SAME = 1e-3  # coefficients that differ by less are not measured twice
_PRIOR = 4.0  # chosen merges that count as predicted right before any was measured
_FADING = 0.9
_FARTHEST = 4.0  # standard deviations that a miss counts as at most
_FACTORS = (0.3, 2.0)
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LineageMerge:
    """A merge that was chosen, and what is expected of it.

    Attributes:
        point: ``(k + 1,)`` coefficients of the checkpoints' differences from the base, then the lineage.
        predicted: ``(m,)`` objectives, in their own units; None where no model could be fitted.
        low: ``(m,)`` lower ends of 90 % intervals; None likewise.
        high: ``(m,)`` upper ends; None likewise.
    """

    point: Floats
    predicted: Floats | None
    low: Floats | None
    high: Floats | None
    _uncorrected: tuple[Floats, Floats, tuple[MetricTransform, ...]] | None

    def miss(self, measured: Floats) -> Floats | None:
        """Return ``(m,)`` by how many standard deviations ``(m,)`` measurements exceed what the process predicted."""
        if self._uncorrected is None or not np.isfinite(measured).all():
            return None
        mean, spread, transforms = self._uncorrected
        y = np.array([float(t.forward(measured[j : j + 1])[0]) for j, t in enumerate(transforms)])
        return np.asarray(((y - mean) / spread).clip(-_FARTHEST, _FARTHEST))


def choose_lineage_merge(
    space: LineageSpace,
    points: Floats,
    values: Floats,
    known: Floats,
    objectives: Sequence[Objective],
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    reference: Floats | None = None,
    misses: Sequence[Floats] = (),
    rng: np.random.Generator,
) -> LineageMerge:
    """Choose the merge that is expected to widen the measured front most.

    Args:
        space: where ``k`` checkpoints lie.
        points: ``(n, k + 1)`` measured checkpoints, bases and merges: coefficients, then the lineage.
        values: ``(n, m)`` what was measured on them, in the objectives' own units; rows with NaN measured nothing.
        known: ``(r, m)`` all that was measured anywhere, finite.
        objectives: the columns.
        bounds: declared bounds of objectives; others are guessed.
        reference: ``(m,)`` the objectives' values that are just not good enough; see :func:`improvement_over_front`.
        misses: of the merges that were chosen so far (:meth:`LineageMerge.miss`), the newest last.
        rng: draws candidates.

    Returns:
        The merge. Where no process can be computed it is any candidate, of which nothing is predicted.

    Raises:
        ValueError: no row of `values` is finite.
    """
    candidates = candidate_merges(space, points, values, Objectives(objectives).maximize, rng)
    seed = int(rng.integers(2**31))
    try:
        process, transforms = fit_lineages(space, points, values, known, objectives, bounds or {})
        x = torch.from_numpy(candidates[:, None, :])
        outcomes = MergeOutcomes(process, tuple(objectives), transforms, known)
        if misses:
            process.correct(*corrections(np.stack(misses)))
        acquisition = improvement_over_front(outcomes, reference, None, seed)
        with torch.no_grad():
            gains = torch.cat([acquisition(part) for part in torch.split(x, 256)]).numpy()
            best = int(gains.argmax())
            corrected = process.posterior(x[best : best + 1])
            mean, spread = corrected.mean[0, 0], corrected.variance[0, 0].clamp(min=0.0).sqrt()
            middle, *ends = (outcomes.untransform(mean + k * spread) * outcomes.signs for k in (0.0, -Z90, Z90))
            process.correct(np.zeros(len(objectives)), np.ones(len(objectives)))
            plain = process.posterior(x[best : best + 1])
            uncorrected = plain.mean[0, 0].numpy(), plain.variance[0, 0].clamp(min=1e-12).sqrt().numpy(), transforms
    except FIT_FAILURES:
        return LineageMerge(candidates[0], None, None, None, None)
    low, high = np.sort(np.stack([e.numpy() for e in ends]), axis=0)
    return LineageMerge(candidates[best], middle.numpy(), low, high, uncorrected)


def corrections(misses: Floats) -> tuple[Floats, Floats]:
    """Turn the misses of chosen merges into corrections of what is predicted next.

    Args:
        misses: ``(n, m)`` in standard deviations, finite, the newest last.

    Returns:
        ``(m,)`` shifts of means, in standard deviations, and ``(m,)`` factors of standard deviations.
    """
    weights = _FADING ** np.arange(len(misses))[::-1, None]
    total = weights.sum() + _PRIOR
    shifts = (weights * misses).sum(axis=0) / total
    factors = np.sqrt(((weights * (misses - shifts) ** 2).sum(axis=0) + _PRIOR) / total)
    return shifts, factors.clip(*_FACTORS)


@dataclass(frozen=True, eq=False)
class _Lineage:
    """Places of one lineage.

    Attributes:
        columns: of its checkpoints.
        good: of those on its first two fronts.
        points: ``(n, k)`` coefficients of all that was measured.
        front: rows of these that nothing of the lineage dominates.
    """

    columns: NDArray[np.int64]
    good: NDArray[np.int64]
    points: Floats
    front: NDArray[np.int64]


def candidate_merges(
    space: LineageSpace, points: Floats, values: Floats, maximize: Sequence[bool], rng: np.random.Generator
) -> Floats:
    """Draw merges of any lineage, more of those that hold more of the front; none that was measured.

    Args:
        space: where ``k`` checkpoints lie.
        points: ``(n, k + 1)`` measured checkpoints, bases and merges.
        values: ``(n, m)`` what was measured on them; rows with NaN measured nothing.
        maximize: whether more is better, by column.
        rng: draws them.

    Returns:
        ``(c, k + 1)`` coefficients, then the lineage.
    """
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    of_rows = points[:, -1].astype(np.int64)
    front = of_rows[finite[non_dominated(values[finite], maximize).indices]]
    lineages = [_lineage(space, points, values, maximize, i) for i in range(len(space.centres))]
    usable = np.array([len(known.points) > 1 for known in lineages])
    shares = usable * (1.0 + np.bincount(front, minlength=len(lineages)))
    drawn = rng.choice(len(lineages), size=CANDIDATES, p=shares / shares.sum())
    made = np.stack([_candidate(lineages[i], len(space.lineages), rng) for i in drawn])
    distances = np.full(len(made), np.inf)
    for row, of_row in zip(points, of_rows, strict=True):
        own = drawn == of_row
        distances[own] = np.minimum(distances[own], np.abs(made[own] - row[:-1]).max(axis=1))
    new = distances > _SAME
    return np.column_stack([made, drawn])[new if new.any() else slice(None)]


def _lineage(space: LineageSpace, points: Floats, values: Floats, maximize: Sequence[bool], place: int) -> _Lineage:
    rows = np.flatnonzero((points[:, -1] == place) & np.isfinite(values).all(axis=1))
    columns = np.flatnonzero(space.lineages == place)
    front = non_dominated(values[rows], maximize).indices
    trained = np.flatnonzero((points[rows][:, columns] == 1.0).sum(axis=1) == 1)
    first = trained[non_dominated(values[rows[trained]], maximize).indices]
    rest = np.setdiff1d(trained, first)
    second = rest[non_dominated(values[rows[rest]], maximize).indices] if len(rest) else rest
    good = columns[points[np.ix_(rows[np.concatenate([first, second])], columns)].argmax(axis=1)]
    return _Lineage(columns, good, points[rows, :-1], front)


def _candidate(lineage: _Lineage, size: int, rng: np.random.Generator) -> Floats:
    """``(size,)`` coefficients."""
    row = np.zeros(size)
    kind = rng.random()
    if kind > _MEANS + _SOUPS:
        # A step toward something else that was measured, now and then away from it.
        start = lineage.points[rng.choice(lineage.front)]
        among = lineage.front if rng.random() < 0.6 and len(lineage.front) > 1 else np.arange(len(lineage.points))
        share = rng.choice([-1.0, 1.0], p=[0.3, 0.7]) * 10.0 ** rng.uniform(-1.7, -0.2)
        share *= 1.0 if rng.random() < 0.5 else rng.normal()
        return np.asarray(start + share * (lineage.points[rng.choice(among)] - start))
    pool = lineage.good if rng.random() < _GOOD and len(lineage.good) > 1 else lineage.columns
    count = int(rng.integers(2, 5) if kind <= _MEANS else rng.integers(2, 9))
    chosen = rng.choice(pool, size=min(count, len(pool)), replace=False)
    row[chosen] = rng.dirichlet(np.full(len(chosen), 1.0 if rng.random() < 0.5 else 0.4))
    if kind > _MEANS:
        row[chosen] = 1.0 / len(chosen)
    return row
