"""Write a .safetensors file tensor by tensor.

The safetensors library writes only what is in memory all at once, makes files of mode 0600 whatever the umask says,
and replaces symbolic links; it reads what is written here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch

from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.reading.safetensors_format import DTYPES, ORDER

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 4 << 20


@dataclass(frozen=True)
class TensorType:
    """A tensor without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * self.dtype.itemsize


def file_order(types: Mapping[str, TensorType]) -> list[str]:
    """Return the names in the order of the file: wide types first, so that every tensor is aligned."""
    return sorted(types, key=lambda name: -types[name].dtype.itemsize)


def header(types: Mapping[str, TensorType], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a .safetensors file, its length in front; it says in which order the state dict was.

    Raises:
        EpsoptError: a dtype that the format does not have.
    """
    entries: dict[str, object] = {"__metadata__": {**metadata, ORDER: json.dumps(list(types))}}
    at = 0
    for name in file_order(types):
        kind = types[name]
        if kind.dtype not in _NAMES:
            raise EpsoptError(f"tensor {name!r} is of type {kind.dtype}, which .safetensors cannot hold: save as .pt")
        entries[name] = {
            "dtype": _NAMES[kind.dtype],
            "shape": list(kind.shape),
            "data_offsets": [at, at + kind.nbytes],
        }
        at += kind.nbytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_tensors(
    file: IO[bytes],
    types: Mapping[str, TensorType],
    tensors: Iterable[tuple[str, torch.Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a .safetensors file.

    Args:
        file: open for writing, at its start.
        types: what the tensors are.
        tensors: name and values, in the order of :func:`file_order`; each is let go before the next is asked for.
        metadata: strings for the header.
    """
    file.write(header(types, metadata))
    for name, tensor in tensors:
        if (tensor.dtype, tuple(tensor.shape)) != (types[name].dtype, types[name].shape):
            raise RuntimeError(f"tensor {name!r} is not what the header says")
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(data), _PIECE):
            file.write(data[start : start + _PIECE].data)
        del tensor, data  # before the next one is asked for


def mapped_tensors(path: Path, types: Mapping[str, TensorType]) -> dict[str, torch.Tensor]:
    """Return the tensors of a .safetensors file that this program wrote and nobody else changes.

    They are mapped copy-on-write, each on a storage of its own: no more memory is taken than is looked at.
    """
    with path.open("rb") as file:
        at = 8 + struct.unpack("<Q", file.read(8))[0]
    out = {}
    for name in file_order(types):
        kind = types[name]
        if kind.nbytes == 0:
            out[name] = torch.empty(kind.shape, dtype=kind.dtype)
            continue
        raw = np.memmap(path, dtype=np.uint8, mode="c", offset=at, shape=(kind.nbytes,))
        out[name] = torch.from_numpy(raw).view(kind.dtype).reshape(kind.shape)
        at += kind.nbytes
    return {name: out[name] for name in types}
