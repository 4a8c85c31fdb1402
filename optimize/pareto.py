"""Exact Pareto fronts and hypervolumes for any directions, with NaN and infinities handled.

moocore's C code does the sorting. It is exact on finite doubles, but (0.3.2, measured) it crashes the process
on infinities with three objectives, answers wrongly on them with four or more, and knows nothing of NaN. So
it sees only finite doubles here: rows with NaN leave first, and where values are infinite or too long for a
double, ranks take their place, which dominance cannot tell from the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from epsopt.zoo.errors import UsageError

MOST_OBJECTIVES = 254  # moocore counts objectives in one byte
EXACT_INTEGER = 2**53  # up to here every integer is a double of its own


@dataclass(frozen=True)
class Front:
    """The non-dominated rows of an array.

    Attributes:
        indices: ``(k,)`` int64, rows of the input that no other row dominates, ascending; of identical rows the
            first stands for all.
        n_nan: number of rows that were left out because they hold NaN.
    """

    indices: NDArray[np.int64]
    n_nan: int


def non_dominated(values: ArrayLike, maximize: Sequence[bool]) -> Front:
    """Find the rows that are at least as good in everything as any other, and better in something.

    Args:
        values: (n, m) objective values in their own units, floats or integers; +-inf are ordinary (very good
            or very bad) values, a row with NaN anywhere is left out and counted. Left unchanged.
        maximize: m flags, whether more is better.

    Returns:
        The front; -0.0 and 0.0 are equal.

    Raises:
        UsageError: the shapes do not fit, or the values are no numbers.
    """
    points, directions = _checked(values, maximize)
    rows, n_nan = _without_nan(points)
    if len(rows) == 0:
        return Front(np.empty(0, dtype=np.int64), n_nan)
    import moocore

    kept = np.flatnonzero(moocore.is_nondominated(_finite(rows), maximise=directions))
    if n_nan:  # back to the numbering of the input
        kept = np.flatnonzero(~_nan_rows(points))[kept]
    return Front(kept.astype(np.int64, copy=False), n_nan)


def hypervolume(values: ArrayLike, reference: ArrayLike, maximize: Sequence[bool]) -> float:
    """Measure the space between a reference point and the front: the volume of what the rows dominate.

    Args:
        values: (n, m) objective values; rows with NaN count for nothing, and neither do rows that are not
            better than the reference in every objective.
        reference: (m,) finite, the point that is just not good enough.
        maximize: m flags, whether more is better.

    Returns:
        The volume in the product of the objectives' units; 0 without a row beyond the reference, inf when one
        of those is infinitely good.

    Raises:
        UsageError: the shapes do not fit, or the reference is not finite.
    """
    points, directions = _checked(values, maximize)
    corner = _numbers(reference, "reference").astype(np.float64)
    if corner.shape != (len(directions),):
        raise UsageError(f"reference: expected shape ({len(directions)},), got {corner.shape}")
    if not np.isfinite(corner).all():
        raise UsageError(f"reference: expected finite numbers, got {corner.tolist()}")
    sign = np.where(directions, 1.0, -1.0)
    beyond = _without_nan(points)[0].astype(np.float64) * sign
    beyond = beyond[(beyond > corner * sign).all(axis=1)]
    if len(beyond) == 0:
        return 0.0
    if np.isinf(beyond).any():
        return float("inf")
    import moocore

    return float(moocore.hypervolume(beyond, ref=corner * sign, maximise=True))


def joins_front(paths: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which of many sets of points have one that no known point equals or beats; larger is better.

    Args:
        paths: ``(n, q, m)`` finite, ``q`` points each.
        known: ``(k, m)`` finite.

    Returns:
        ``(n,)``.
    """
    front = known[non_dominated(known, [True] * known.shape[1]).indices]
    beaten = np.any(np.all(front[None, None] >= paths[:, :, None], axis=3), axis=2)
    return np.asarray(np.any(~beaten, axis=1))


def _checked(values: ArrayLike, maximize: Sequence[bool]) -> tuple[NDArray[Any], list[bool]]:
    directions = [bool(flag) for flag in maximize]
    points = _numbers(values, "values")
    if points.shape == (0,):  # what an empty list becomes
        points = points.reshape(0, len(directions))
    if points.ndim != 2:
        raise UsageError(f"values: expected shape (points, objectives), got {points.shape}")
    columns = points.shape[1]
    if columns != len(directions):
        raise UsageError(f"maximize: expected one flag for each of {columns} columns, got {len(directions)}")
    if not 1 <= len(directions) <= MOST_OBJECTIVES:
        raise UsageError(f"values: expected 1 to {MOST_OBJECTIVES} objectives, got {len(directions)}")
    return points, directions


def _numbers(array: ArrayLike, name: str) -> NDArray[Any]:
    try:
        numbers = np.asarray(array)
        if numbers.dtype.kind not in "fiub":
            numbers = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: expected an array of numbers, got {error}") from error
    return numbers


def _nan_rows(points: NDArray[Any]) -> NDArray[np.bool_]:
    rows: NDArray[np.bool_] = np.isnan(points[:, 0])
    for column in points.T[1:]:  # column by column: several times faster than any(axis=1) on few columns
        rows |= np.isnan(column)
    return rows


def _without_nan(points: NDArray[Any]) -> tuple[NDArray[Any], int]:
    if points.dtype.kind != "f" or points.size == 0 or not np.isnan(points.min()):
        return points, 0
    rows = _nan_rows(points)
    return points[~rows], int(rows.sum())


def _finite(points: NDArray[Any]) -> NDArray[np.float64]:
    """The same points as finite doubles: what doubles cannot hold or moocore cannot sort becomes ranks."""
    low, high = points.min(), points.max()
    if points.dtype.kind == "f" and points.dtype.itemsize <= 8:
        faithful = bool(np.isfinite(low) and np.isfinite(high))
    else:
        faithful = bool(low >= -EXACT_INTEGER and high <= EXACT_INTEGER)
    if faithful:
        return np.ascontiguousarray(points, dtype=np.float64)
    ranks = [np.unique(column, return_inverse=True)[1] for column in points.T]
    return np.stack(ranks, axis=1).astype(np.float64)
