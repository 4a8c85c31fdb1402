"""Products of a matrix with a few columns, tile by tile: what most of a large block's fingerprint is spent on.

A general product packs its operands first, which with a few columns costs as much as multiplying. OpenBLAS (0.3.17
and later, AVX-512) leaves that out for products of up to a million multiplications, so the tiles are made as small:
24 columns then take 0.55 s per billion values where one call took 0.9 s (benchmarks/fingerprint.py's shapes).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_MULTIPLICATIONS = 1_000_000  # of a tile: 100 cubed, OpenBLAS's limit
_ACROSS = 320  # columns of a tile: with 24 columns on the other side, 130 rows, and both stay in the cache


def times(matrix: Array, right: Array) -> Array:
    """Return ``matrix @ right``.

    Args:
        matrix: ``(rows, columns)``, none empty.
        right: ``(columns, k)`` with k far below 1,000.

    Returns:
        ``(rows, k)``.
    """
    out = np.empty((len(matrix), right.shape[1]), dtype=np.float32)
    for rows, columns in _tiles(matrix, right):
        if columns.start:
            out[rows] += matrix[rows, columns] @ right[columns]
        else:
            np.matmul(matrix[rows, columns], right[columns], out=out[rows])
    return out


def add_transposed(out: Array, matrix: Array, left: Array) -> None:
    """Add ``matrix.T @ left`` to `out`.

    Args:
        out: ``(columns, k)``; changed.
        matrix: ``(rows, columns)``, none empty.
        left: ``(rows, k)`` with k far below 1,000.
    """
    for rows, columns in _tiles(matrix, left):
        out[columns] += matrix[rows, columns].T @ left[rows]


def _tiles(matrix: Array, other: Array) -> Iterator[tuple[slice, slice]]:
    """Give tiles of about one size, row of tiles by row of tiles."""
    rows, columns = matrix.shape
    across = -(-columns // -(-columns // _ACROSS))
    down = max(1, _MULTIPLICATIONS // (across * other.shape[1]))
    for top in range(0, rows, down):
        for left in range(0, columns, across):
            yield slice(top, top + down), slice(left, left + across)
