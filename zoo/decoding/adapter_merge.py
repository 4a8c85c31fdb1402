"""Merge low-rank adapters: the weighted sum of their updates is again an adapter, of any ranks side by side.

``sum_i c_i s_i B_i A_i`` has the factors ``[c_1 s_1 B_1, c_2 s_2 B_2, ...]`` and ``[A_1; A_2; ...]``. What these have
in common, as checkpoints of one run have and merges with their parents, is kept once: the factors are orthogonalised
and the small matrix between them decomposed, so that the rank is that of the sum. No product is ever formed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from epsopt.zoo.decoding.parents import Parts
from epsopt.zoo.decoding.tensor_file import TensorType
from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.layouts.adapters import LowRank

_NOTHING = 1e-6  # of the largest singular value: below it is rounding
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base, so that the update is no difference from it."""


@dataclass(frozen=True, eq=False)
class MergedAdapter:
    """What a merged adapter is to hold.

    Attributes:
        parts: parents and coefficients.
        types: of all tensors of the file, in the order of the first parent.
        config: of the ``adapter_config.json`` to be; None where parents have none.
        factors: for each tensor that is a factor the update that it belongs to.
        rank: of the file's factors; by update where nothing beside the file says one rank for all.
        alphas: for each tensor that scales an update the update that it belongs to.
        whole: whether the rank holds the sum, and nothing of it is left out.
    """

    parts: Parts
    types: dict[str, TensorType]
    config: dict[str, Any] | None
    factors: dict[str, str]
    rank: int | Mapping[str, int]
    alphas: dict[str, str] = field(default_factory=dict)
    whole: bool = True

    def alpha(self, name: str) -> torch.Tensor:
        """Return what scales an update: its rank, since its factors hold their scale."""
        kept = self.types[name]
        rank = self.rank if isinstance(self.rank, int) else self.rank[self.alphas[name]]
        return torch.full(kept.shape, float(rank), dtype=kept.dtype)

    def factor(self, name: str) -> torch.Tensor:
        """Return one factor of the merged update."""
        update = self.factors[name]
        pair = self.parts.there[0].updates[update]
        up, down = merged_factors(self.parts, update)
        rank = self.rank if isinstance(self.rank, int) else self.rank[update]
        up, down = _of_rank(up, rank), _of_rank(down.T, rank).T
        kept = self.types[name]
        found = down if (name == pair.down) == (pair.kind == "linear") else up
        found = found.T if pair.kind == "embedding" else found
        return found.to(kept.dtype).reshape(kept.shape).contiguous()


def merged_adapter(parts: Parts, rank: int | None = None) -> MergedAdapter | None:
    """Return what a merge of adapters is to hold; None for other checkpoints, and for a parent by itself.

    Args:
        parts: parents and coefficients.
        rank: at most so much, with the largest singular values; None keeps the sum exactly, where the parents say their
            rank in a configuration, and otherwise the first parent's rank, which is part of its architecture.

    Raises:
        UnreadableCheckpoint: parents whose updates cannot be added up.
    """
    first = parts.there[0]
    if not first.updates or (len(parts.opened) == 1 and rank is None):
        return None
    _require_addable(parts)
    config = None
    kept: int | dict[str, int]
    needed = {update: merged_factors(parts, update)[0].shape[1] for update in first.updates}
    if parts.leading.adapter is None:
        kept = {update: first.rank(update) for update in first.updates}
        for update, pair in first.updates.items():
            if pair.any_rank and len(first.tensors) == len(first.updates):
                kept[update] = needed[update] if rank is None else min(rank, needed[update])
    else:
        found = max(needed.values())
        kept = found if rank is None else min(rank, found)
        config = _config(parts.leading.adapter.values, kept)
    types, factors = {}, {}
    alphas = {pair.alpha: update for update, pair in first.updates.items() if pair.alpha is not None}
    for name, tensor in first.reading.weights.items():
        types[name] = TensorType(tensor.dtype if name in alphas else parts.dtype(name), tuple(tensor.shape))
    for update, pair in first.updates.items():
        size = kept if isinstance(kept, int) else kept[update]
        for name in (pair.down, pair.up):
            types[name] = TensorType(types[name].dtype, _shape(pair, name, types[name].shape, size))
            factors[name] = update
    whole = all(n <= (kept if isinstance(kept, int) else kept[update]) for update, n in needed.items())
    return MergedAdapter(parts, types, config, factors, kept, alphas, whole)


def merged_factors(parts: Parts, update: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(outputs, rank)`` and ``(rank, inputs)`` of the sum, of its own rank (at least 1), as doubles.

    Directions come by falling singular values, of which each factor has the root.
    """
    pairs = [(*held.factors(update), c) for held, c in parts.of(update, update=True)]
    up = torch.cat([b.double() * c for b, _, c in pairs], dim=1)
    down = torch.cat([a.double() for _, a, _ in pairs])
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    kept = max(int((s > _NOTHING * s[:1]).sum()), 1)
    root = s[:kept].sqrt()
    return q_up @ (u[:, :kept] * root), (root[:, None] * v[:kept]) @ q_down.T


def _of_rank(columns: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the first columns, and columns of zeros where there are fewer."""
    held = columns[:, :rank]
    return torch.cat([held, held.new_zeros((len(held), rank - held.shape[1]))], dim=1)


def _shape(pair: LowRank, name: str, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (rank, *shape[1:]) if name == pair.down else (shape[0], rank, *shape[2:])


def _config(values: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Return the configuration of an adapter of one rank whose factors hold their scale."""
    config = {**values, "r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}}
    config |= {"use_rslora": False, "init_lora_weights": True, "inference_mode": True}
    return config


def _require_addable(parts: Parts) -> None:
    configs = [held.adapter for held in parts.there]
    for held, config in zip(parts.there, configs, strict=True):
        path = held.checkpoint.source.path
        if (config is None) != (configs[0] is None):
            raise UnreadableCheckpoint(
                path,
                "of one parent adapter_config.json can be read and of another not: put both beside their adapters",
            )
        if config is None or configs[0] is None:
            continue
        begun = config.values.get("init_lora_weights")
        if isinstance(begun, str) and begun.lower().startswith(_OTHER_BASE):
            raise UnreadableCheckpoint(
                path,
                f"an adapter that began with init_lora_weights={begun!r}, which changes the base itself: save it with "
                "path_initial_model_for_weight_conversion, as a difference from the base, then ingest that",
            )
        if bool(config.values.get("use_dora")) != bool(configs[0].values.get("use_dora")):
            raise UnreadableCheckpoint(path, "use_dora is set for one of the parents and not for another")
