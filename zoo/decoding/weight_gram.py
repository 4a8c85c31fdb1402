"""Where checkpoints of one lineage lie, seen from their base: inner products of their differences, block by block.

That is all that a model of merges needs to know of weights, whatever the size of the network. It is computed in a
reader's child process, a piece of one block of every file at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.decoding.compatibility import require_compatible, require_content
from epsopt.zoo.layouts.open_checkpoint import open_checkpoint
from epsopt.zoo.layouts.parsed import ParsedCheckpoint
from epsopt.zoo.layouts.plain import interpret
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Limits
from epsopt.zoo.reading.tensors import OpenCheckpoint

_PIECE = 1 << 18  # values of each file that are held at a time, twice: two megabytes as doubles
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WeightProducts:
    """Inner products of the differences of ``k`` checkpoints from their base.

    Attributes:
        names: of the blocks, in state-dict order; tensors that are not of floating point, or empty, are none.
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
        opened = []
        for said in [request["base"], *request["checkpoints"]]:
            checkpoint = stack.enter_context(
                open_checkpoint(location(said["path"]), limits, request.get("weights_key", ""))
            )
            require_content(checkpoint, said["sha256"])
            opened.append((checkpoint, interpret(checkpoint)))
        require_compatible(opened)
        weights = opened[0][1].weights
        names = [n for n, t in weights.items() if t.is_floating_point() and t.numel()]
        products = np.zeros((len(names), len(opened) - 1, len(opened) - 1))
        norms = np.zeros(len(names))
        for block, name in enumerate(names):
            for start in range(0, weights[name].numel(), _PIECE):
                base, *others = (_piece(c, r, name, start, start + _PIECE) for c, r in opened)
                differences = torch.stack(others).sub_(base) if others else base.new_zeros((0, len(base)))
                products[block] += (differences @ differences.mT).numpy()
                norms[block] += float(base @ base)
        norms = np.sqrt(norms)
    header = {
        "status": "compared",
        "names": names,
        "others": [n for n in weights if n not in set(names)],
        "count": len(opened) - 1,
    }
    return header, [products.astype("<f8").tobytes(), norms.astype("<f8").tobytes()]


def _piece(checkpoint: OpenCheckpoint, reading: ParsedCheckpoint, name: str, start: int, stop: int) -> torch.Tensor:
    """Values ``start`` to ``stop`` of a tensor, in the order of its indices, as doubles."""
    tensor = reading.weights[name]
    if tensor.is_contiguous():  # then its values lie one after the other in the file
        return checkpoint.read(name, tensor.view(-1)[start:stop]).double()
    return checkpoint.read(name, tensor).reshape(-1)[start:stop].double()
