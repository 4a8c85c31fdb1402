"""Sketches: a linear summary of all weights, by which checkpoints of one initialisation are known.

A count sketch (Charikar et al. 2002): every weight is added, with a random sign, to one of :data:`SKETCH` buckets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SKETCH = 2048
"""Buckets."""

_SIGN_PERIOD = 65_521  # prime, so that it never lines up with a power-of-two row length
_LONG = 32  # weights of a bucket from which on BLAS adds them up faster
_SIGNED = 1 << 16  # weights that are given their signs at a time
_MOST_DIRECTIONS = 256
_BEGIN_AT_ZERO = frozenset({"bias", "beta", "running_mean", "num_batches_tracked"})
Array = NDArray[np.float32]


def sketch_distance(a: Array, b: Array) -> float:
    """Relative distance of two checkpoints of one signature, from their sketches.

    Args:
        a: ``(SKETCH,)`` sketch of the first; finite, as every sketch is.
        b: ``(SKETCH,)`` sketch of the second.

    Returns:
        ``|a - b| / max(|a|, |b|)``: about 1.4 for independent initialisations, far below 1 for fine-tunes of one base.
    """
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)), 1e-12)
    return float(np.linalg.norm(a - b)) / scale


@lru_cache(maxsize=256)
def gain_directions(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> NDArray[np.float64] | None:
    """Return the directions of a sketch in which every initialisation of a network begins at the same place.

    Gains of normalisation layers begin at one, whatever the seed. Of small transformers they are most of the weights'
    norm, so that with them independent initialisations look like one.

    Args:
        names: tuple of the tensors' names.
        shapes: tuple of their shapes.

    Returns:
        ``(SKETCH, directions)`` orthonormal columns; None where there are none, or where nothing else would be left.
    """
    sizes = {n: int(np.prod(s)) for n, s in zip(names, shapes, strict=True) if len(s) == 1}
    gains = [(n, size) for n, size in sizes.items() if n.rpartition(".")[2] not in _BEGIN_AT_ZERO and size]
    if not gains or len(sizes) == len(names):
        return None
    ones = np.stack([sketch_of(n, np.ones(size, dtype=np.float32)) for n, size in gains])
    some = [group.sum(axis=0) for group in np.array_split(ones, min(len(ones), _MOST_DIRECTIONS))]
    return np.asarray(np.linalg.qr(np.stack(some, axis=1))[0])


def without_directions(sketches: NDArray[np.float64], directions: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Take what lies in some directions out of sketches.

    Args:
        sketches: ``(..., SKETCH)``, finite.
        directions: as :func:`gain_directions` returns them.
    """
    return sketches if directions is None else sketches - (sketches @ directions) @ directions.T


@lru_cache(maxsize=1)
def _signs() -> Array:
    """Return the period of random signs, and as much of it again as one look may need."""
    signs = np.random.default_rng(20_250_101).choice(np.array([-1.0, 1.0], dtype=np.float32), _SIGN_PERIOD)
    return np.resize(signs, 2 * _SIGN_PERIOD + _SIGNED)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


class SketchPlan:
    """Where a tensor's weights go in a sketch, and with which signs.

    Args:
        name: of the tensor; other names use other buckets and signs.
    """

    def __init__(self, name: str) -> None:
        self._seed = _digest(name)
        self.first_sign = -self._seed % _SIGN_PERIOD

    @property
    def signs(self) -> Array:
        """The period of signs; the first weight of a part has that at :attr:`first_sign`."""
        return _signs()[:_SIGN_PERIOD]

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        """Cut ``size`` weights into parts: the first weight of each, and how many of it go into one bucket."""
        step = _SIGN_PERIOD * SKETCH
        return ((start, -(-min(step, size - start) // SKETCH)) for start in range(0, size, step))

    def placed(self, buckets: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(SKETCH,)`` sums of each bucket's weights, in the order of the weights -> the sketch."""
        return np.roll(buckets, self._seed % SKETCH)


def sketch_of(name: str, flat: Array) -> NDArray[np.float64]:
    """Add each weight of a tensor, with a random sign, to one of :data:`SKETCH` buckets.

    Args:
        name: of the tensor; other names use other buckets and signs.
        flat: its values.

    Returns:
        ``(SKETCH,)``; linear in the values, and with their norm in expectation.
    """
    plan, signs = SketchPlan(name), _signs()
    out = np.zeros(SKETCH, dtype=np.float64)
    for start, length in plan.parts(flat.size):  # rounded up: the last bucket may have fewer
        part = flat[start : start + length * SKETCH]
        full = part.size // length
        together = max(1, _SIGNED // length)  # buckets that are looked at together, while they are in the cache
        for bucket in range(0, full, together):
            n, at = min(together, full - bucket), bucket * length
            sign = (plan.first_sign + at) % _SIGN_PERIOD
            weights, signed = part[at : at + n * length], signs[sign : sign + n * length]
            if length < _LONG:
                out[bucket : bucket + n] += (weights * signed).reshape(n, length).sum(axis=1)
            else:  # products of a row and a column: BLAS takes a third of the time of multiplying, then adding up
                out[bucket : bucket + n] += (weights.reshape(n, 1, -1) @ signed.reshape(n, -1, 1))[:, 0, 0]
        rest = part[full * length :]
        if rest.size:
            sign = (plan.first_sign + full * length) % _SIGN_PERIOD
            out[full] += float((rest * signs[sign : sign + rest.size]).sum())
    return plan.placed(out)
