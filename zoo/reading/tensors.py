"""An opened checkpoint: its structure, in which tensors are only described, and the way to read one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.reading.source import Source

_CHUNK = 4 << 20
EXPANSION = 4
"""Tensors may claim this many times the file's bytes: tied weights count twice, bombs by the thousand."""


@dataclass(frozen=True)
class Record:
    """One record of a zip file: its name, where its data starts, its length and CRC-32."""

    name: str
    start: int
    length: int
    crc: int


@dataclass(frozen=True)
class OpenCheckpoint:
    """What a file holds.

    Attributes:
        source: the open file.
        tree: dictionaries, lists and plain values; tensors on the ``meta`` device are descriptions, whose
            storage carries ``_checkpoint_offset``, the place of its bytes in the file.
        records: where the data of each tensor storage starts in the file, and its length (empty: held in
            memory).
        checksums: the records of a zip file, for :meth:`verify`.
        metadata: the strings of a ``.safetensors`` header, else None.
        weights_key: where the user says that the weights are, as keys joined with dots; empty to find them.
    """

    source: Source
    tree: Any
    records: dict[int, int]
    checksums: Sequence[Record] = ()
    metadata: dict[str, str] | None = None
    weights_key: str = ""

    def verify(self) -> None:
        """Compare the checksums of a zip file with its content: a flipped bit in a weight shows nowhere else.

        torch.save may write none (set_crc32_options): then not a single one agrees, and none counts.

        Raises:
            UnreadableCheckpoint: some agree and one does not; it is named.
        """
        wrong = [r for r in self.checksums if r.length and self._crc(r) != r.crc]
        if wrong and any(r.length and r not in wrong for r in self.checksums):
            raise UnreadableCheckpoint(self.source.path, f"corrupt: the checksum of record {wrong[0].name!r} is wrong")

    def _crc(self, record: Record) -> int:
        value = 0
        for start in range(0, record.length, _CHUNK):
            part = self.source.read(record.start + start, min(_CHUNK, record.length - start))
            value = zlib.crc32(part, value)
        return value

    def check(self, tensors: dict[str, torch.Tensor]) -> None:
        """Refuse tensors that claim more than the file can hold, before any of them is touched.

        Raises:
            UnreadableCheckpoint: names the tensor and the numbers.
        """
        total = 0
        for name, tensor in tensors.items():
            total += self._require_plain(name, tensor)
        if total > EXPANSION * self.source.size + (1 << 20):
            raise UnreadableCheckpoint(
                self.source.path, f"its tensors claim {total:,} bytes, the file has {self.source.size:,}"
            )

    def _require_plain(self, name: str, tensor: torch.Tensor) -> int:
        kind = type(tensor)
        if tensor.is_quantized:
            raise UnreadableCheckpoint(
                self.source.path,
                f"tensor {name!r} is a quantised tensor ({tensor.dtype}), not plain dense numbers: save it dense and "
                "unquantised",
            )
        if kind not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
            raise UnreadableCheckpoint(
                self.source.path,
                f"tensor {name!r} is not a plain dense tensor ({kind.__name__}, {tensor.layout}): "
                "save it dense and unquantised",
            )
        held = tensor.untyped_storage().nbytes()
        claimed = tensor.numel() * tensor.element_size()
        if claimed == 0:
            return 0
        if claimed > held or _end(tensor) * tensor.element_size() > held:
            raise UnreadableCheckpoint(
                self.source.path,
                f"tensor {name!r} of shape {tuple(tensor.shape)} claims {claimed:,} bytes, its storage has {held:,}",
            )
        if tensor.is_meta and self.records.get(self._offset(name, tensor), -1) < held:
            raise UnreadableCheckpoint(
                self.source.path,
                f"corrupt: tensor {name!r} claims {held:,} bytes that no record of the file holds",
            )
        return claimed

    def _offset(self, name: str, tensor: torch.Tensor) -> int:
        offset: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if offset is None or offset < 0:
            raise UnreadableCheckpoint(
                self.source.path, f"tensor {name!r} is a tensor without values: it has no data in the file"
            )
        return offset

    def read(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor with its values; only its own bytes are read. Call :meth:`check` first."""
        if not tensor.is_meta:
            return tensor.detach()
        if tensor.numel() == 0:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        size = tensor.element_size()
        begin = int(tensor.storage_offset()) * size
        data = self.source.read(self._offset(name, tensor) + begin, _end(tensor) * size - begin)
        values = torch.frombuffer(data, dtype=torch.uint8).view(tensor.dtype)
        return values.as_strided(tensor.shape, tensor.stride())

    def equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Tell whether two tensors of this file, of one type and shape, hold the same bytes; NaN is equal to itself."""
        if one is other or self._place(one) == self._place(other):
            return True
        self.check({"the first of two": one, "the second of two": other})
        first, second = (self.read("one of two", t).contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
        return torch.equal(first, second)

    def _place(self, tensor: torch.Tensor) -> tuple[object, ...]:
        storage = tensor.untyped_storage()
        where = getattr(storage, "_checkpoint_offset", None) if tensor.is_meta else storage.data_ptr()
        return (id(tensor) if where is None else where, tensor.storage_offset(), tensor.stride())


def _end(tensor: torch.Tensor) -> int:
    """Index, in elements of its storage, just past the last element that a non-empty tensor refers to."""
    reach = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset()) + int(reach) + 1
