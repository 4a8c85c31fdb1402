"""Where checkpoints of one lineage lie, seen from their base: inner products of their differences, block by block.

That is all that a model of merges needs to know of weights, whatever the size of the network. It is computed in a
reader's child process, a piece of one block of every file at a time; of low-rank updates from their factors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.decoding.compatibility import open_parent, require_compatible
from epsopt.zoo.fingerprints.lineage import ADAPTED
from epsopt.zoo.fingerprints.statistics_buffers import is_statistic
from epsopt.zoo.layouts.effective_weights import EffectiveWeights
from epsopt.zoo.reading.source import Limits

PIECE = 1 << 18  # values of each file that are held at a time, twice: two megabytes as doubles
_UPDATE = 0.1
"""Share of a weight's norm that a typical low-rank update counts as, where the weight itself is not known."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WeightProducts:
    """Inner products of the differences of ``k`` checkpoints from their base.

    Attributes:
        names: of the blocks, in state-dict order; tensors that are not of floating point, or empty, are none, nor are
            running statistics, which were not trained.
        products: ``(blocks, k, k)``; a row and column of NaN or infinities where a checkpoint has such weights.
        norms: ``(blocks,)`` norms of the base's blocks.
        others: names of the other tensors.
    """

    names: tuple[str, ...]
    products: Floats
    norms: Floats
    others: tuple[str, ...]

    @classmethod
    def from_message(cls, header: Mapping[str, Any], blobs: Sequence[bytes]) -> WeightProducts:
        """Read what :func:`weight_products` answered."""
        names, k = tuple(header["names"]), int(header["count"])
        products, norms = (np.frombuffer(b, dtype="<f8").astype(np.float64) for b in blobs)
        return cls(names, products.reshape(len(names), k, k), norms, tuple(header["others"]))


def weight_products(request: Mapping[str, Any], limits: Limits) -> tuple[dict[str, Any], list[bytes]]:
    """Compare checkpoints with their base, block by block; each file is read once, in pieces.

    In the older format of torch.save, which cannot be read in pieces, whole files are held.

    Raises:
        UnreadableCheckpoint: one is not what the catalogue says, or not like the base.
    """
    with contextlib.ExitStack() as stack:
        opened = [
            None
            if parent["path"].startswith(ADAPTED)
            else open_parent(stack, parent, limits, request.get("weights_key", ""))
            for parent in [request["base"], *request["checkpoints"]]
        ]
        there = [held for held in opened if held is not None]
        require_compatible(there)
        tensors = there[0].tensors
        names = [n for n, t in tensors.items() if t.is_floating_point() and t.numel() and not is_statistic(n)]
        products = np.zeros((len(names), len(opened) - 1, len(opened) - 1))
        norms = np.zeros(len(names))
        for block, name in enumerate(names):
            gram = _of_updates(opened, name) if name in there[0].updates else _of_values(opened, name)
            products[block], norms[block] = gram
    header = {
        "status": "compared",
        "names": names,
        "others": [n for n in tensors if n not in set(names)],
        "count": len(opened) - 1,
    }
    return header, [products.astype("<f8").tobytes(), norms.astype("<f8").tobytes()]


def _of_values(opened: Sequence[EffectiveWeights | None], name: str) -> tuple[Floats, float]:
    """Return inner products of differences from the base, and the base's norm; each file is read in pieces."""
    products, squares = np.zeros((len(opened) - 1, len(opened) - 1)), 0.0
    size = next(held for held in opened if held is not None).tensors[name].numel()
    for start in range(0, size, PIECE):
        pieces = [None if held is None else _piece(held, name, start, start + PIECE) for held in opened]
        others = [piece for piece in pieces[1:] if piece is not None]
        # What a base of adapters holds here nobody knows; differences from the first are as good.
        base = pieces[0] if pieces[0] is not None else others[0]
        differences = torch.stack(others).sub_(base) if others else base.new_zeros((0, len(base)))
        products += (differences @ differences.mT).numpy()
        squares += float(base @ base)
    return products, float(np.sqrt(squares))


def _of_updates(opened: Sequence[EffectiveWeights | None], name: str) -> tuple[Floats, float]:
    """Return the same of low-rank updates, from their factors alone: no product is formed."""
    pairs = [None if held is None else [f.double() for f in held.factors(name)] for held in opened]
    gram = np.zeros((len(pairs), len(pairs)))
    for i, one in enumerate(pairs):
        for j, other in enumerate(pairs[: i + 1]):
            if one is not None and other is not None:
                gram[i, j] = gram[j, i] = float(((one[0].T @ other[0]) * (one[1] @ other[1].T)).sum())
    products = gram[1:, 1:] - gram[1:, :1] - gram[:1, 1:] + gram[0, 0]
    # From a base without update a distance has no unit of its own: a typical update counts as a small share of it.
    typical = float(np.sqrt(np.mean(np.diagonal(gram)[1:])))
    return products, typical / _UPDATE if pairs[0] is None else max(float(np.sqrt(gram[0, 0])), typical / _UPDATE)


def _piece(held: EffectiveWeights, name: str, start: int, stop: int) -> torch.Tensor:
    """Values ``start`` to ``stop`` of a tensor, in the order of its indices, as doubles."""
    tensor = held.tensors[name]
    if tensor.is_contiguous():  # then its values lie one after the other in the file
        return held.checkpoint.read(name, tensor.view(-1)[start:stop]).double()
    return held.read(name).reshape(-1)[start:stop].double()
