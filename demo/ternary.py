"""The 19,683 ternary operations: nine trits each, and the 3-adic tree they live in.

Operation n is written in base 3, least significant trit first: ``trit_k = (n // 3**k) % 3 - 1``. Two
operations are the closer the more of their *low* trits agree: their 3-adic distance is ``3**-v(i - j)``,
where ``v`` is how many times 3 divides the difference.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

N_TRITS = 9
N_OPERATIONS = 3**N_TRITS
N_ANCHORS = 256
_ANCHOR_SEED = 256
_PAIR_SEED = 3


def trits(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The nine trits of each operation.

    Args:
        indices: (n,) operation numbers, 0 to 19,682.

    Returns:
        (n, 9) values in {-1, 0, 1}, least significant trit first.
    """
    powers = 3 ** np.arange(N_TRITS, dtype=np.int64)
    return (np.asarray(indices, dtype=np.int64)[:, None] // powers) % 3 - 1


def valuation(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many times 3 divides each number, at most nine; zero, which 3 divides for ever, counts as nine.

    Args:
        indices: (n,) integers of either sign, smaller than 3**9 in size.

    Returns:
        (n,) valuations, 0 to 9.
    """
    values = np.asarray(indices, dtype=np.int64)
    powers = 3 ** np.arange(1, N_TRITS + 1, dtype=np.int64)
    return np.asarray((values[:, None] % powers == 0).sum(axis=1), dtype=np.int64)


def target_distance(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """The 3-adic distance ``3**-v(left - right)`` that embeddings should show; 0 from an operation to itself.

    Args:
        left: (n,) operation numbers.
        right: (n,) operation numbers.

    Returns:
        (n,) distances in [0, 1].
    """
    difference = np.asarray(left, dtype=np.int64) - np.asarray(right, dtype=np.int64)
    return np.where(difference == 0, 0.0, 3.0 ** -valuation(difference))


@functools.cache
def operations() -> Tensor:
    """(19683, 9) float trits of every operation, the input of the encoders."""
    return torch.from_numpy(trits(np.arange(N_OPERATIONS)).astype(np.float32))


@functools.cache
def anchors() -> Tensor:
    """(256,) operation numbers whose embeddings describe a checkpoint; ascending, the same for every run."""
    chosen = np.random.default_rng(_ANCHOR_SEED).choice(N_OPERATIONS, N_ANCHORS, replace=False)
    return torch.from_numpy(np.sort(chosen).astype(np.int64))


def partners(indices: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A partner for each operation, so that every level of the tree, 0 to 8, is met equally often.

    Among partners drawn evenly from all operations two thirds would differ in the lowest trit, and a
    correlation would hardly notice the rest of the tree.

    Args:
        indices: (n,) operation numbers.
        rng: where the randomness comes from.

    Returns:
        (n,) operation numbers, none equal to its own.
    """
    count = len(indices)
    level = 3 ** rng.integers(0, N_TRITS, count)
    unit = 3 * rng.integers(0, N_OPERATIONS // 3, count) + rng.integers(1, 3, count)
    return np.asarray((indices + level * unit) % N_OPERATIONS, dtype=np.int64)


@functools.cache
def fixed_pairs(count: int = 20_000) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs on which distances are judged, the same for every checkpoint.

    Args:
        count: how many pairs to draw; an operation is never paired with itself.

    Returns:
        left (count,), right (count,) and their 3-adic distance (count,).
    """
    rng = np.random.default_rng(_PAIR_SEED)
    left = rng.integers(0, N_OPERATIONS, count)
    right = partners(left, rng)
    return torch.from_numpy(left), torch.from_numpy(right), torch.from_numpy(target_distance(left, right))
