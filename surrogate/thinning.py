"""Thin many rows to a few that are spread evenly over them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def evenly_spaced(n: int, most: int, rounding: Callable[..., NDArray[np.float64]] = np.rint) -> NDArray[np.int64]:
    """Return at most `most` places, spread evenly over ``n`` of them, the first and the last included.

    Args:
        n: number of places.
        most: how many are kept at most, at least one.
        rounding: of places between two of them.

    Returns:
        ``(k,)`` places in increasing order, each once; all of them where there are no more than `most`.
    """
    if n <= most:
        return np.arange(n)
    return np.unique(rounding(np.linspace(0, n - 1, most)).astype(np.int64))
