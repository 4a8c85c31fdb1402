"""The opened parents of a merge with their coefficients, and the sum of their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch

from epsopt.zoo.decoding.operator_names import LINEAR, OPERATORS
from epsopt.zoo.decoding.operators import apply_operator
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.fingerprints.statistics_buffers import is_statistic
from epsopt.zoo.layouts.effective_weights import EffectiveWeights

_PIECE = 1 << 18  # values that are merged at a time


@dataclass(frozen=True, eq=False)
class Parts:
    """What a merge is made of.

    Attributes:
        recombination: parents and coefficients.
        opened: the parents; None for the base of low-rank adapters, whose updates are all zero.
        base: what an operator of mergekit takes differences from.
    """

    recombination: Recombination
    opened: tuple[EffectiveWeights | None, ...]
    base: EffectiveWeights | None = None

    @cached_property
    def there(self) -> list[EffectiveWeights]:
        """The parents that are files."""
        return [held for held in self.opened if held is not None]

    @cached_property
    def leading(self) -> EffectiveWeights:
        """The parent that counts most: of its kind the merge is, where parents differ."""
        totals = [sum(abs(row[i]) for row in self.recombination.coefficients) for i in range(len(self.opened))]
        best = max((i for i, held in enumerate(self.opened) if held is not None), key=lambda i: totals[i])
        found = self.opened[best]
        assert found is not None
        return found

    def of(self, name: str, *, update: bool = False) -> list[tuple[EffectiveWeights, float]]:
        """Return the parents with a tensor's coefficients, the largest first.

        Args:
            name: of the tensor as the base has it.
            update: whether it is a low-rank update, which a base has as zero; what else a base of adapters holds is not
                known, so that of such tensors the others' coefficients count, scaled to sum to one.
        """
        row = self.recombination.row(name)
        pairs = [(held, c) for held, c in zip(self.opened, row, strict=True) if held is not None]
        total = sum(c for _, c in pairs)
        if not update and len(pairs) < len(row) and abs(total) > 1e-9:
            pairs = [(held, c / total) for held, c in pairs]
        return sorted(pairs, key=lambda pair: -pair[1])

    def dtype(self, name: str) -> torch.dtype:
        """Return the type that holds what every parent has in a tensor of the file: of bf16 and fp32 it is fp32."""
        return reduce(torch.promote_types, (held.reading.weights[name].dtype for held in self.there))

    @cached_property
    def widest(self) -> torch.dtype:
        """The widest type of floating point that a parent has, in which mergekit merges all tensors."""
        kinds = {self.dtype(n) for n, t in self.there[0].reading.weights.items() if t.is_floating_point()}
        return reduce(torch.promote_types, kinds)


def weighted_sum(name: str, parts: Sequence[tuple[EffectiveWeights, float]]) -> torch.Tensor:
    """``w_0 + sum_i c_i (w_i - w_0)``, w_0 of the largest coefficient, which comes first.

    So a parent that counts alone comes out bit by bit, and so does a tensor that all parents share.
    """
    first = parts[0][0].read(name)
    if not (first.is_floating_point() or first.is_complex()):  # counters and masks have no mean
        return first
    out = None
    kind, centre = first.dtype, first.reshape(-1)
    for other, coefficient in parts[1:]:
        if coefficient == 0.0:
            continue
        values = other.read(name).reshape(-1)
        kind = torch.promote_types(kind, values.dtype)
        wide = torch.promote_types(kind, torch.float32)
        out = (centre if out is None else out).to(wide, copy=out is None)
        for start in range(0, out.numel(), _PIECE):
            piece = slice(start, start + _PIECE)
            out[piece].add_(values[piece].to(wide) - centre[piece].to(wide), alpha=coefficient)
        del values
    return first if out is None else out.to(kind).reshape(first.shape)


def merged_tensor(parts: Parts, name: str) -> torch.Tensor:
    """Return a tensor of the merge; a variance that BatchNorm keeps never falls below every parent's.

    Between parents it does not by itself; beyond them it would soon be negative, and its root not a number. An operator
    of mergekit merges all tensors of floating point but the statistics of BatchNorm.
    """
    if parts.recombination.operator != LINEAR and not is_statistic(name):
        first = parts.there[0].reading.weights[name]
        if first.is_floating_point() and first.numel():
            return _operated(parts, name)
    found = parts.of(name)
    out = weighted_sum(name, found)
    if not is_statistic(name) or not name.endswith("var") or not out.is_floating_point():
        return out
    low: torch.Tensor | None = None
    for held, coefficient in found:
        if coefficient != 0.0:
            values = held.read(name).to(out.dtype)
            low = values if low is None else torch.minimum(low, values)
    return out if low is None else torch.maximum(out, low)


def _operated(parts: Parts, name: str) -> torch.Tensor:
    recombination = parts.recombination
    return apply_operator(
        OPERATORS[recombination.operator],
        name,
        [held.read(name) for held in parts.there],
        recombination.row(name),
        base=None if parts.base is None else parts.base.read(name),
        density=recombination.density,
        dtype=parts.widest,
    )
