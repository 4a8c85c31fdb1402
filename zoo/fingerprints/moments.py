"""Moments of a block, from pieces that fit the processor's cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

CACHED = 1 << 16
"""Values of a piece that is looked at several times: a quarter of a megabyte."""
_ONES = np.ones(CACHED, dtype=np.float32)
_ROW = 1 << 10  # values that are added up together
_NEAR = 1 / 16  # of the variance: up to this squared mean, sums of powers give central moments without loss


class Moments:
    """Central moments, merged piece by piece (Pébay 2008, "Formulas for robust, one-pass parallel computation")."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._m2 = self._m3 = self._m4 = self._magnitude = 0.0
        self._room = np.empty(0, dtype=np.float32)  # fresh memory for every piece would cost as much as its squares

    @classmethod
    def of(cls, n: int, mean: float, m2: float, m3: float, m4: float, magnitude: float) -> Moments:
        """Take over what was counted elsewhere.

        Args:
            n: how many values.
            mean: of them.
            m2: sum of squared distances from the mean.
            m3: sum of cubes.
            m4: sum of fourth powers.
            magnitude: sum of the values' magnitudes.
        """
        moments = cls()
        moments._n, moments._mean, moments._m2, moments._m3, moments._m4 = n, mean, m2, m3, m4
        moments._magnitude = magnitude
        return moments

    def add(self, piece: Array) -> tuple[Array, Array]:
        """Take a piece in.

        Args:
            piece: ``(rows, columns)``, finite, none empty.

        Returns:
            The sums of squares of its rows and of its columns.
        """
        flat, n = piece.reshape(-1), piece.size
        if self._room.size < n:
            self._room = np.empty(n, dtype=np.float32)
        powers = self._room[:n]
        squares = np.multiply(flat, flat, out=powers).reshape(piece.shape)
        rows, columns = _row_sums(squares), _row_sums(squares.T)
        mean, second = _sum(flat) / n, float(rows.sum(dtype=np.float64))
        if n * mean * mean <= _NEAR * (second - n * mean * mean):
            third, m4 = float(np.vdot(powers, flat)), float(np.vdot(powers, powers))
            m2, m3 = second - n * mean**2, third - 3 * mean * second + 2 * n * mean**3
            m4 += -4 * mean * third + 6 * mean**2 * second - 3 * n * mean**4
        else:
            mean = float(np.dot(flat, _ONES[:n]) if n <= CACHED else flat.sum()) / n  # of equal values, more exactly
            centred = flat - np.float32(mean)
            np.multiply(centred, centred, out=powers)
            m2, m3, m4 = _sum(powers), float(np.vdot(powers, centred)), float(np.vdot(powers, powers))
        self._magnitude += _sum(np.abs(flat, out=powers))
        self._merge(n, mean, m2, m3, m4)
        return rows, columns

    def _merge(self, n: int, mean: float, m2: float, m3: float, m4: float) -> None:
        if not self._n:
            self._n, self._mean, self._m2, self._m3, self._m4 = n, mean, m2, m3, m4
            return
        a, total, d = self._n, self._n + n, mean - self._mean
        self._m4 += m4 + d**4 * a * n * (a * a - a * n + n * n) / total**3
        self._m4 += 6 * d * d * (a * a * m2 + n * n * self._m2) / total**2 + 4 * d * (a * m3 - n * self._m3) / total
        self._m3 += m3 + d**3 * a * n * (a - n) / total**2 + 3 * d * (a * m2 - n * self._m2) / total
        self._m2 += m2 + d * d * a * n / total
        self._mean += d * n / total
        self._n = total

    def summary(self) -> list[float]:
        """Return mean, standard deviation and its logarithm, mean magnitude, skewness and kurtosis (both squashed)."""
        variance = self._m2 / self._n
        std = float(np.sqrt(variance))
        scale = std + 1e-12
        skewness, kurtosis = self._m3 / self._n / scale**3, self._m4 / self._n / scale**4
        logs = [float(np.sign(x) * np.log1p(abs(x))) for x in (skewness, kurtosis)]
        return [self._mean, std, float(np.log(std + 1e-8)), self._magnitude / self._n, *logs]


def _sum(flat: Array) -> float:
    # BLAS adds up twice as fast as numpy's sum; row by row, so that no long row of ones takes room in the cache.
    whole = flat.size // _ROW * _ROW
    rows = flat[:whole].reshape(-1, _ROW) @ _ONES[:_ROW]
    return float(rows.sum(dtype=np.float64)) + float(np.dot(flat[whole:], _ONES[: flat.size - whole]))


def _row_sums(piece: Array) -> Array:
    rows: Array = piece @ _ONES[: piece.shape[1]] if piece.shape[1] <= CACHED else piece.sum(axis=1)
    return rows
