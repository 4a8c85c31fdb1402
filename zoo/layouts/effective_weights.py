"""The weights of a checkpoint as fingerprints, distances and merges see them: low-rank updates as their products.

Everything else is what the file holds. A product is formed when it is asked for, one at a time. Where it is large, and
nothing but its fingerprint is wanted, its rows and columns are added up with fixed random signs instead (a count sketch
of both sides: Charikar et al. 2002), which is linear in the product, keeps norms and inner products in expectation, and
never takes more than the factors do: an adapter of a model of seven billion weights is read like the small file it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from epsopt.zoo.fingerprints.fingerprint import Fingerprint, fingerprint
from epsopt.zoo.layouts.adapters import AdapterConfig, LowRank, adapter_config, factors_by_shape, low_rank
from epsopt.zoo.layouts.parsed import ParsedCheckpoint
from epsopt.zoo.layouts.registry import interpret
from epsopt.zoo.reading.source import Limits
from epsopt.zoo.reading.tensors import OpenCheckpoint

SIDE = 512
"""Rows and columns of a product up to which its fingerprint looks at every one of its values."""


@dataclass(frozen=True, eq=False)
class EffectiveWeights:
    """What a checkpoint's tensors come to.

    Attributes:
        checkpoint: the open file.
        reading: what it says.
        adapter: what lies beside an adapter; None: it is none.
        updates: the low-rank updates, by the names of the weights that they change.
        tensors: all tensors by name, in state-dict order, updates as their products; only described (meta) where the
            file's own are.
    """

    checkpoint: OpenCheckpoint
    reading: ParsedCheckpoint
    adapter: AdapterConfig | None
    updates: dict[str, LowRank]
    tensors: dict[str, torch.Tensor]

    def rank(self, name: str) -> int:
        """Return the rank of an update."""
        return int(self.reading.weights[self.updates[name].down].shape[0])

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor with its values; of an update the product, in single precision at least."""
        if name not in self.updates:
            scale = self._scale_of(name)
            return self._raw(name) if scale == 1.0 else self._raw(name) * scale
        up, down = self.factors(name)
        return (up @ down).reshape(self.tensors[name].shape)

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(outputs, rank)`` and ``(rank, inputs)`` of an update, in single precision at least.

        Their product is the update, its scale included; the inputs of a convolution are those of its whole kernel.
        """
        pair = self.updates[name]
        down, up = (self._raw(n).flatten(1) for n in (pair.down, pair.up))
        wide = torch.promote_types(torch.promote_types(down.dtype, up.dtype), torch.float32)
        scale = 1.0 if self.adapter is None else self.adapter.scale(pair.module, len(down))
        if pair.alpha is not None:
            scale = float(self._raw(pair.alpha).double()) / len(down)
        up, down = up.to(wide) * scale, down.to(wide)
        return (down.T, up.T) if pair.kind == "embedding" else (up, down)

    def signature(self) -> str:
        """Return the digest of names and shapes that the fingerprint of these weights has."""
        blocks = [(n, tuple(t.shape)) for n, t in self.tensors.items() if t.is_floating_point() and t.numel()]
        return Fingerprint.signature_of([n for n, _ in blocks], [s for _, s in blocks])

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Give the tensors of floating point that a fingerprint looks at, one after the other; large updates reduced.

        A tensor is let go before the next is asked for.
        """
        for name, described in self.tensors.items():
            if described.is_floating_point():
                yield name, self.looked_at(name)

    def looked_at(self, name: str) -> torch.Tensor:
        """Return a tensor as fingerprints look at it: large updates reduced."""
        return self._reduced(name) if name in self.updates else self.read(name)

    def fingerprint(
        self,
        reference: Callable[[str], torch.Tensor | None] | None = None,
        device: torch.device | None = None,
    ) -> Fingerprint:
        """Return the fingerprint; see :func:`epsopt.zoo.fingerprints.fingerprint.fingerprint`."""
        found = fingerprint(self.stream(), reference, device)
        return self._counted(found) if self.updates else found

    def _counted(self, found: Fingerprint) -> Fingerprint:
        """Say the shapes of whole products, and count the weights that were trained: those of the factors."""
        raw = {n: t for n, t in self.reading.weights.items() if t.is_floating_point() and t.numel()}
        broken = sum(int(torch.isnan(self._raw(name)).sum()) for name in raw)
        shapes = tuple(tuple(self.tensors[n].shape) for n in found.names)
        n_parameters = sum(t.numel() for t in raw.values())
        return replace(found, shapes=shapes, n_parameters=n_parameters, nan_weights=broken)

    def _reduced(self, name: str) -> torch.Tensor:
        shape = self.tensors[name].shape
        up, down = self.factors(name)
        if len(shape) > 2:  # a convolution: its kernel is small, its channels are what may be many
            kernel = int(np.prod(shape[2:]))
            down = _added_up(down.reshape(len(down), shape[1], kernel).movedim(1, 0)).movedim(0, 1)
            return (_added_up(up) @ down.flatten(1)).reshape(-1, down.shape[1], *shape[2:])
        return _added_up(up) @ _added_up(down.T).T

    def _raw(self, name: str) -> torch.Tensor:
        return self.checkpoint.read(name, self.reading.weights[name])

    def _scale_of(self, name: str) -> float:
        """Return what a bias beside an update's factors is multiplied with."""
        if not name.endswith(".lora_B.bias") or self.adapter is None:
            return 1.0
        module = name.removesuffix(".lora_B.bias")
        rank = next((self.rank(n) for n, pair in self.updates.items() if pair.module == module), 1)
        return self.adapter.scale(module, rank)


def effective_weights(
    checkpoint: OpenCheckpoint, limits: Limits, reading: ParsedCheckpoint | None = None
) -> EffectiveWeights:
    """Look at a checkpoint's weights as what they do.

    Args:
        checkpoint: an open file.
        limits: what the configuration beside it may cost.
        reading: what it says; read when None.
    """
    reading = interpret(checkpoint) if reading is None else reading
    adapter = adapter_config(checkpoint.source.path, limits)
    weights = reading.weights
    updates = {n: pair for n, pair in low_rank(weights, adapter).items() if n not in weights and _are(pair, weights)}
    first = {pair.down: n for n, pair in updates.items()}
    inside = {name for pair in updates.values() for name in (pair.down, pair.up, pair.alpha) if name is not None}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if name not in inside:
            tensors[name] = tensor
        elif name in first:
            pair = updates[first[name]]
            tensors[first[name]] = _described(pair, weights[pair.down], weights[pair.up])
    return EffectiveWeights(checkpoint, reading, adapter, updates, tensors)


def _are(pair: LowRank, weights: dict[str, torch.Tensor]) -> bool:
    """Tell whether two tensors are the factors of one update by their shapes."""
    down, up = weights[pair.down], weights[pair.up]
    floating = down.is_floating_point() and up.is_floating_point()
    if pair.alpha is not None and weights[pair.alpha].numel() != 1:
        return False
    return floating and factors_by_shape(down.shape, up.shape)


def _described(pair: LowRank, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(torch.promote_types(down.dtype, up.dtype), torch.float32)
    shape = (down.shape[1], len(up)) if pair.kind == "embedding" else (len(up), *down.shape[1:])
    return torch.empty(shape, dtype=wide, device="meta")


def _added_up(rows: torch.Tensor) -> torch.Tensor:
    """Add rows up to at most SIDE sums, with signs that depend on nothing but their number."""
    if len(rows) <= SIDE:
        return rows
    places, signs = places_and_signs(len(rows))
    return rows.new_zeros((SIDE, *rows.shape[1:])).index_add_(
        0, places, rows * signs.to(rows.dtype).reshape(-1, *[1] * (rows.dim() - 1))
    )


@lru_cache(maxsize=8)
def places_and_signs(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of the columns each of so many rows is added to, and with which sign; the same each time."""
    rng = np.random.default_rng(number)
    return torch.from_numpy(rng.permutation(number) % SIDE), torch.from_numpy(rng.choice([-1.0, 1.0], number))
