"""The statistics of one block, or of its difference from a reference (Unterthiner et al. 2020, extended).

A matrix is gone through in pieces that fit the processor's cache. A difference of up to 64 MB is formed once, in memory
that is kept from one block to the next; a larger one is never held whole, so that beside the matrices themselves little
is needed that grows with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.fingerprints.moments import CACHED, Moments
from epsopt.zoo.fingerprints.order_statistics import order_statistics
from epsopt.zoo.fingerprints.tiled_matmul import add_transposed, times

Array = NDArray[np.float32]
_Wide = NDArray[np.float64]

LARGEST = 1e9
"""Larger weights count as this: their squares must stay within single precision."""
SINGULAR = 8
QUANTILES = np.array([0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0])
NORM_QUANTILES = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
STATISTICS = 6 + len(QUANTILES) + 2 * len(NORM_QUANTILES) + SINGULAR + 1
"""Length of what :func:`statistics` returns."""
DELTA = STATISTICS + 2
"""Length of what :func:`delta` returns."""

SAMPLE = 1 << 17
"""Values that quantiles are read from when a block has more."""
_LOOKED = 1 << 17  # values of a piece that is looked at and multiplied, if that is rows enough
_ROWS = 128  # of it: with fewer, adding up the transposed products takes longer than multiplying
_MULTIPLIED = 1 << 19  # values of a piece that is multiplied with a few columns: two megabytes
MOST_VALUES_HELD = 1 << 24  # values of a difference that may be held whole
_PROBES = 24  # columns of the range finder
_KEPT_PROBES = 1 << 16  # rows of probes that are kept for the next block: 6 MB
DIRECT = 256
"""Up to this many rows (or columns) the spectrum is exact."""


class ScratchMemory:
    """Memory that differences are formed in, for one block after the other: fresh memory costs as much as they do."""

    def __init__(self) -> None:
        self._held = np.empty(0, dtype=np.float32)

    def matrix(self, rows: int, columns: int) -> Array:
        """Return a matrix of any content, good until the next is asked for."""
        if self._held.size < rows * columns:
            self._held = np.empty(0, dtype=np.float32)  # goes before the larger one comes
            self._held = np.empty(rows * columns, dtype=np.float32)
        return self._held[: rows * columns].reshape(rows, columns)


def statistics(matrix: Array, most: float = np.inf) -> tuple[Array, float]:
    """Return moments, quantiles, quantiles of row and column norms, leading singular values, effective rank.

    Args:
        matrix: ``(rows, columns)``, none empty; anything but finite numbers only with `most`.
        most: what the sum of squares may be. The first look at a block tells it, so no look is taken only to check.

    Returns:
        ``(STATISTICS,)``: mean, standard deviation and its logarithm, mean magnitude, skewness and kurtosis (signed
        logarithms); then as above. And the sum of squares.

    Raises:
        OverflowError: the sum of squares is above `most`, or not a number.
    """
    return _statistics(matrix, most)


def delta(
    matrix: Array, squares: float, base: Array, workspace: ScratchMemory | None = None, most: float = np.inf
) -> Array:
    """Return how far a block is from its reference: relative distance, cosine, and the difference's statistics.

    Args:
        matrix: ``(rows, columns)``, finite.
        squares: sum of its squares.
        base: the reference, of the same shape; anything but finite numbers only with `most`.
        workspace: what the difference of the block before was formed in; new memory when None.
        most: what the reference's sum of squares may be.

    Returns:
        ``(DELTA,)``.

    Raises:
        OverflowError: the reference's sum of squares is above `most`, or not a number.
    """
    products = _Products()
    whole = (workspace or ScratchMemory()).matrix(*matrix.shape) if matrix.size <= MOST_VALUES_HELD else None
    described, energy = _statistics(matrix, most, base, whole, products)
    return relative_to(described, energy, squares, products.base, products.across)


def relative_to(described: Array, energy: float, squares: float, former: float, across: float) -> Array:
    """Put a difference's relative size and the cosine before its statistics.

    Args:
        described: ``(STATISTICS,)`` of the difference.
        energy: sum of the difference's squares.
        squares: the same of the block.
        former: the same of the reference.
        across: scalar product of block and reference.

    Returns:
        ``(DELTA,)``.
    """
    norm = np.sqrt(former)
    cosine = across / (np.sqrt(squares) * norm + 1e-12)
    relative = np.log(np.sqrt(energy) / (norm + 1e-12) + 1e-6)
    return np.concatenate([[relative, cosine], described]).astype(np.float32)


@dataclass
class _Products:
    """Scalar products of a reference with itself, and with a block."""

    base: float = 0.0
    across: float = 0.0

    def add(self, piece: Array, base: Array) -> None:
        self.base += float(np.vdot(base, base))
        self.across += float(np.vdot(piece, base))


def _statistics(
    matrix: Array,
    most: float,
    base: Array | None = None,
    whole: Array | None = None,
    products: _Products | None = None,
) -> tuple[Array, float]:
    """Return the statistics of ``matrix - base``, which is left in `whole`, and the sum of all squares."""
    rows, columns = matrix.shape
    moments, finder = Moments(), _RangeFinder(rows, columns) if min(rows, columns) > DIRECT else None
    row_squares, column_squares = np.empty(rows, dtype=np.float32), np.zeros(columns, dtype=np.float64)
    looked = min(max(_LOOKED, _ROWS * columns), _MULTIPLIED)
    with np.errstate(over="ignore", invalid="ignore"):  # of weights that are too large, as the sum of squares tells
        for start, piece in _pieces(matrix, base, looked, whole, products):
            for at, part in _pieces(piece, None, CACHED):
                row_squares[start + at : start + at + len(part)], of_columns = moments.add(part)
                column_squares += of_columns
            if finder is not None:
                finder.begin(start, piece)
        energy = float(row_squares.sum(dtype=np.float64))
    squares = energy if products is None else products.base
    if not squares <= most:
        raise OverflowError(f"the sum of a block's squares is {squares:.3g}, expected at most {most:.3g}")
    if whole is not None:
        matrix, base = whole, None
    singular = _singular_values(matrix, base, energy, finder)
    return describe(moments, _sample(matrix, base), row_squares, column_squares, singular, energy), energy


def describe(
    moments: Moments, sample: Array, row_squares: Array, column_squares: Array | _Wide, singular: Array, energy: float
) -> Array:
    """Put a block's statistics together.

    Args:
        moments: of all its values.
        sample: values that quantiles are read from.
        row_squares: ``(rows,)`` sums of squares.
        column_squares: ``(columns,)`` sums of squares.
        singular: leading singular values, descending, at most eight.
        energy: sum of all squares.

    Returns:
        ``(STATISTICS,)``.
    """
    # Participation ratio of the leading spectrum: how many directions carry the block.
    effective = float(np.sum(singular) ** 2 / (np.sum(singular * singular) + 1e-12))
    leading = np.zeros(SINGULAR)
    leading[: len(singular)] = np.log(singular / (np.sqrt(energy) + 1e-12) + 1e-4) if energy > 0 else 0.0
    column_norms = np.sqrt(column_squares).astype(np.float32)
    return np.concatenate(
        [
            moments.summary(),
            _at_quantiles(sample, QUANTILES),
            np.log(_at_quantiles(np.sqrt(row_squares), NORM_QUANTILES) + 1e-6),
            np.log(_at_quantiles(column_norms, NORM_QUANTILES) + 1e-6),
            leading,
            [effective],
        ]
    ).astype(np.float32)


def _pieces(
    matrix: Array,
    base: Array | None,
    size: int = _MULTIPLIED,
    whole: Array | None = None,
    products: _Products | None = None,
) -> Iterator[tuple[int, Array]]:
    """Give what is looked at, about `size` values in whole rows at a time, each with the number of its first row.

    Pieces of a difference are left in `whole`; without it, the next piece overwrites the one before.
    """
    height = min(len(matrix), max(1, size // matrix.shape[1]))
    buffer = np.empty((height, matrix.shape[1]), dtype=np.float32) if base is not None and whole is None else None
    for start in range(0, len(matrix), height):
        piece = matrix[start : start + height]
        if base is not None:
            room = whole[start : start + height] if whole is not None else buffer
            reference = base[start : start + height]
            if products is not None:
                products.add(piece, reference)
            piece = np.subtract(piece, reference, out=None if room is None else room[: len(piece)])
        yield start, piece


def _sample(matrix: Array, base: Array | None) -> Array:
    flat = matrix.reshape(-1)
    step = 1 if flat.size <= SAMPLE else flat.size // SAMPLE + 1
    return np.ascontiguousarray(flat[::step]) if base is None else flat[::step] - base.reshape(-1)[::step]


def _at_quantiles(values: Array, quantiles: _Wide) -> Array:
    # The nearest order statistic: sixteen times faster than np.quantile on small arrays, and exact at both ends.
    at: Array = order_statistics(values[None], np.rint(quantiles * (len(values) - 1)).astype(np.int64))[0]
    return at


@lru_cache(maxsize=8)
def _probes(height: int) -> Array:
    """Return ``(height, _PROBES)`` random numbers: the first rows of any more."""
    probes = np.random.default_rng(0).standard_normal((height, _PROBES), dtype=np.float32)
    probes.setflags(write=False)
    return probes


def probes_for(height: int) -> Array:
    """Return ``(height, 24)`` random numbers: of one longer side the same in every process, not to be written to."""
    if height > _KEPT_PROBES:
        return _probes.__wrapped__(height)
    return _probes(1 << (height - 1).bit_length())[:height]


class _RangeFinder:
    """Leading singular values from 24 probes and one power iteration (Halko, Martinsson and Tropp 2011)."""

    def __init__(self, rows: int, columns: int) -> None:
        self._tall = rows > columns
        self._probe = probes_for(max(rows, columns))
        self._begun = np.zeros((columns, _PROBES), dtype=np.float32)

    def begin(self, start: int, piece: Array) -> None:
        """Take in rows from `start` on, as every row must be once."""
        answered = self._probe[start : start + len(piece)] if self._tall else times(piece, self._probe)
        add_transposed(self._begun, piece, answered)

    def gram(self, matrix: Array, base: Array | None) -> Array:
        """Return the matrix whose leading eigenvalues are the squares of the leading singular values."""
        if self._tall:
            basis, _ = np.linalg.qr(_there_and_back(matrix, base, self._begun))
            small = _times(matrix, base, basis)
        else:
            basis, _ = np.linalg.qr(_times(matrix, base, self._begun))
            small = _transposed_times(matrix, base, basis)
        gram: Array = small.T @ small
        return gram


def _singular_values(matrix: Array, base: Array | None, energy: float, finder: _RangeFinder | None) -> Array:
    """Leading singular values, descending, at most eight; exact where the matrix is small."""
    if min(matrix.shape) == 1:
        return np.array([np.sqrt(energy)], dtype=np.float32)
    return leading_values(_gram(matrix, base) if finder is None else finder.gram(matrix, base))


def leading_values(gram: Array) -> Array:
    """Return the roots of a symmetric matrix's largest eigenvalues, descending, at most eight."""
    eigenvalues = np.linalg.eigvalsh(gram)[::-1][:SINGULAR]
    return np.asarray(np.sqrt(np.maximum(eigenvalues, 0.0)), dtype=np.float32)


def _gram(matrix: Array, base: Array | None) -> Array:
    """Products of all rows, or of all columns, whichever are fewer."""
    rows, columns = matrix.shape
    if base is None:
        direct: Array = matrix.T @ matrix if rows > columns else matrix @ matrix.T
        return direct
    gram = np.zeros((min(rows, columns),) * 2, dtype=np.float32)
    if rows > columns:
        for _, piece in _pieces(matrix, base):
            gram += piece.T @ piece
        return gram
    width = max(1, _MULTIPLIED // rows)
    for start in range(0, columns, width):
        piece = matrix[:, start : start + width] - base[:, start : start + width]
        gram += piece @ piece.T
    return gram


def _times(matrix: Array, base: Array | None, right: Array) -> Array:
    return np.concatenate([times(piece, right) for _, piece in _pieces(matrix, base)])


def _transposed_times(matrix: Array, base: Array | None, left: Array) -> Array:
    out = np.zeros((matrix.shape[1], left.shape[1]), dtype=np.float32)
    for start, piece in _pieces(matrix, base):
        add_transposed(out, piece, left[start : start + len(piece)])
    return out


def _there_and_back(matrix: Array, base: Array | None, right: Array) -> Array:
    """Return ``M.T @ (M @ right)`` for ``M = matrix - base``, in one pass."""
    out = np.zeros(right.shape, dtype=np.float32)
    for _, piece in _pieces(matrix, base):
        add_transposed(out, piece, times(piece, right))
    return out
