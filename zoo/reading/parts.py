"""Open each shard as the checkpoint that it is, and put what they describe together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import IO, Any, cast

import torch

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.reading.shards import FileSlice
from epsopt.zoo.reading.source import Limits, Source
from epsopt.zoo.reading.tensors import OpenCheckpoint, Record


def open_parts(source: Source, limits: Limits, opener: Callable[[Source, Limits], OpenCheckpoint]) -> OpenCheckpoint:
    """Open several files that are one checkpoint, each with the opener of its format.

    Raises:
        UnreadableCheckpoint: one of them cannot be read, or two hold the same tensor.
    """
    tree: dict[Any, Any] = {}
    records: dict[int, int] = {}
    checksums: list[Record] = []
    metadata: dict[str, str] | None = None
    moved: set[int] = set()
    for number, (start, length) in enumerate(source.parts, start=1):
        window = cast("IO[bytes]", FileSlice(source.file, start, length))
        part = opener(Source(source.path, window, replace(source.identity, size=length)), limits)
        if not isinstance(part.tree, Mapping):
            raise UnreadableCheckpoint(source.path, f"shard {number} holds a {type(part.tree).__name__}, not tensors")
        for name, value in part.tree.items():
            if name in tree:
                raise UnreadableCheckpoint(
                    source.path, f"corrupt: tensor {name!r} is in two of its {len(source.parts)} shards"
                )
            if isinstance(value, torch.Tensor) and value.is_meta:
                _move(value, start, moved)
            tree[name] = value
        for offset, held in part.records.items():
            records[start + offset] = max(held, records.get(start + offset, 0))
        checksums += [replace(r, name=f"{r.name} of shard {number}", start=start + r.start) for r in part.checksums]
        if part.metadata is not None:
            metadata = {**part.metadata, **(metadata or {})}
    if len(tree) > limits.entries:
        raise UnreadableCheckpoint(source.path, f"{len(tree):,} tensors, more than the {limits.entries:,} allowed")
    return OpenCheckpoint(source, tree, records, checksums, metadata)


def _move(tensor: torch.Tensor, start: int, moved: set[int]) -> None:
    """Count the place of a tensor's bytes from the first shard's start; tied tensors share one storage."""
    storage = tensor.untyped_storage()
    if storage._cdata not in moved:  # noqa: SLF001 - what the storage is, whoever holds it
        moved.add(storage._cdata)  # noqa: SLF001
        offset = getattr(storage, "_checkpoint_offset", None)
        if offset is not None:
            storage._checkpoint_offset = offset + start  # noqa: SLF001 - as torch.load does
