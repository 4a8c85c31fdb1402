"""Values that say nothing of how large others are: of diverged runs, and penalties for what failed.

One loss of 1e8 among losses near 1 must not set the scale of a model or the reference point of a front. Gaps
delimit the bulk: counted from the best, values belong to it up to the first gap that is several times as wide
as all that lies before it. A tail that grows steadily has no such gap and is kept; so is a broad one behind many values
that are nearly the same.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.pareto import non_dominated

Floats = NDArray[np.float64]

TOO_LARGE = 1e300
"""From here on a value counts as infinite: programs return the largest float for want of infinity."""

_WIDE = 3.0  # times the span of all better values
_FAR = 100.0  # times that span: whatever lies so far away, it is no tail
_FEW = 0.2  # of the values may lie beyond a wide gap, however they spread there
_VERY_WIDE = 1e3  # on the good side: a run may well be far better than all others before it
_LEAST = 3
_SHARE = 0.2  # of the values belong to the bulk at least
_BEYOND = 0.5  # of the front's range
_MARGIN = 0.5  # of the bulk's span, by which what is worse counts as worse


def bulk(values: Floats, *, maximize: bool) -> tuple[float, float]:
    """Find the worst and the best of the values that are no outliers.

    Args:
        values: ``(n,)``; what is NaN, infinite or beyond ``TOO_LARGE`` is passed over.
        maximize: whether more is better.

    Returns:
        ``(worst, best)``, both among the values; NaN where there is none.
    """
    known = values[np.abs(values) < TOO_LARGE]  # NaN is not
    if not len(known):
        return math.nan, math.nan
    known = np.unique(known)  # one penalty for many is one value
    from_best = known[::-1] if maximize else known
    worst = _before_gap(from_best, _WIDE)
    kept = from_best[: worst + 1]
    best = _before_gap(kept[::-1], _VERY_WIDE)
    return float(kept[-1]), float(kept[::-1][best])


def outlying(values: Floats, *, maximize: bool) -> NDArray[np.bool_]:
    """Tell which values are infinite, or so much worse than the bulk that they only say that something went wrong.

    Args:
        values: ``(n,)``; NaN is no outlier, nothing was measured there.
        maximize: whether more is better.
    """
    worst, _ = bulk(values, maximize=maximize)
    beyond = np.abs(values) >= TOO_LARGE
    if not math.isnan(worst):
        beyond |= values < worst if maximize else values > worst
    return np.asarray(beyond)


def winsorised(values: Floats, *, maximize: bool) -> Floats:
    """Bring outliers to just outside the bulk, so that they stay the worst and set no scale; NaN stays NaN."""
    worst, best = bulk(values, maximize=maximize)
    if math.isnan(worst):
        return np.where(np.isfinite(values), values, math.nan)
    margin = _MARGIN * abs(best - worst) or 1.0
    low, high = min(worst, best), max(worst, best)
    inside = (values >= low) & (values <= high)
    return np.where(inside | np.isnan(values), values, np.clip(values, low - margin, high + margin))


def winsorised_limits(values: Floats) -> Floats:
    """Bring values of a constraint to a common size; which are met, at zero or below, stays as it is."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0.0)])
    if not len(sizes):
        return np.where(np.isposinf(values), 1.0, np.where(np.isneginf(values), -1.0, values))
    most = 10.0 * float(np.quantile(sizes, 0.25))
    return np.asarray(np.clip(values, -most, most))


def reference_point(gains: Floats) -> Floats:
    """Return the point that is just not good enough: a tenth of the bulk's range beyond its worst.

    Args:
        gains: ``(n, m)`` measured, larger is better, at least one row.

    Returns:
        ``(m,)`` finite.
    """
    ends = np.array([bulk(column, maximize=True) for column in gains.T])
    worst, best = ends[:, 0], ends[:, 1]
    return np.asarray(worst - 0.1 * np.maximum(best - worst, 1e-9))


def front_reference(gains: Floats) -> Floats:
    """Return the reference point of a search that goes on: half of the front's range beyond its worst values.

    One run that diverged does not move it, as it would if it were simply the worst; and what goes somewhat farther than
    the ends of the front counts.

    Args:
        gains: ``(n, m)`` measured, larger is better; rows with NaN are passed over.

    Returns:
        ``(m,)`` finite; zeros where nothing was measured. Where all of the front have the same value of an objective,
        the worst value of it that is no outlier.
    """
    known = gains[np.isfinite(gains).all(axis=1)]
    if not len(known):
        return np.zeros(gains.shape[1])
    front = known[non_dominated(known, [True] * known.shape[1]).indices]
    span = front.max(axis=0) - front.min(axis=0)
    worst = np.array([bulk(column, maximize=True)[0] for column in known.T])
    return np.where(span > 0.0, front.min(axis=0) - _BEYOND * span, worst)


def _before_gap(ordered: Floats, wide: float) -> int:
    """Place of the last value before the first gap that is too wide; counted from one end."""
    n = len(ordered)
    first = max(_LEAST, math.ceil(_SHARE * n))
    if n <= first:
        return n - 1
    away = np.abs(ordered - ordered[0])
    span, gap = away[first - 1 : -1], np.diff(away)[first - 1 :]
    # Where all are equal so far, only another order of magnitude tells.
    wanted = np.where(span > 0.0, wide * span, 1e3 * max(1.0, abs(float(ordered[0]))))
    # Half of the runs may have kept the best value there is, and the others spread over what they gave up for another
    # metric: that is a tail. What went wrong is rare, or much the same (the accuracy of guessing), or very far away.
    beyond = n - first - np.arange(len(gap))
    alike = (away[-1] - away[first:] <= gap) & (2 * beyond < n)
    apart = alike | (beyond <= max(1.0, _FEW * n)) | (gap > _FAR * span)
    found = np.flatnonzero((gap > wanted) & apart)
    return first - 1 + int(found[0]) if len(found) else n - 1
