"""Read the header of a .safetensors file; the library itself would memory-map the file (see source.py)."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import replace
from typing import Any

import torch

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.forward_order import alphabetical_order, forward_order
from epsopt.zoo.reading.magic import HEAD, foreign, is_torch
from epsopt.zoo.reading.parts import open_parts
from epsopt.zoo.reading.source import Limits, Source
from epsopt.zoo.reading.tensors import OpenCheckpoint

ORDER = "state_dict_order"
"""Key of the header's metadata under which this program keeps the order of the state dict, as a JSON list of names."""
FORMER_ORDER = "tensor_order"
"""The same key in earlier versions, which took the alphabet's order for that of state dicts in safetensors files."""
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "C128": torch.complex128,
}
"""Types of values that are read, by their names in the format."""
_TYPE = re.compile(r"[A-Z]{1,8}\d[A-Z0-9_]{0,24}")
"""What a name of a type looks like that is not known yet; everything else is damage."""


def open_safetensors(source: Source, limits: Limits) -> OpenCheckpoint:
    """Open a .safetensors file: 8 bytes of header length, a JSON header, then the tensors without gaps.

    Raises:
        UnreadableCheckpoint: the header is damaged or over budget, or does not describe the file exactly.
    """
    if source.parts:
        whole = open_parts(source, limits, open_safetensors)
        return replace(whole, tree={n: whole.tree[n] for n in forward_order(whole.tree)})
    if source.size < 8:
        raise _corrupt(source, "truncated: shorter than its header length")
    head = bytes(source.read(0, min(HEAD, source.size)))
    if what := foreign(head):
        raise _corrupt(source, f"not a safetensors file, but {what}")
    if is_torch(head):
        raise _corrupt(source, "a file of torch.save under another suffix: rename it to end in .pt")
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > limits.pickle:
        raise _corrupt(source, f"corrupt: a header of {length:,} bytes, more than the {limits.pickle:,} allowed")
    if 8 + length > source.size:
        raise _corrupt(source, f"truncated: a header of {length:,} bytes in a file of {source.size:,}")
    try:
        header = json.loads(source.read(8, length), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _corrupt(source, f"corrupt header: {error}") from error
    if not isinstance(header, dict):
        raise _corrupt(source, "corrupt header: not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _corrupt(source, "corrupt header: __metadata__ is not an object of strings")
    if len(header) > limits.entries:
        raise _corrupt(source, f"{len(header):,} tensors, more than the {limits.entries:,} allowed")
    tree, records = _describe(source, header, 8 + length)
    strings = {str(k): str(v) for k, v in metadata.items()}
    return OpenCheckpoint(source, _ordered(tree, strings), records, metadata=strings)


def _ordered(tree: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, torch.Tensor]:
    """Restore the order of the state dict: as the file says it (ORDER), else as names suggest."""
    order = _listed(metadata.get(ORDER, ""), tree)
    if order is None:
        former = _listed(metadata.get(FORMER_ORDER, ""), tree)
        order = forward_order(tree) if former in (None, alphabetical_order(tree)) else former
    return {name: tree[name] for name in order or ()}


def _listed(text: str, tree: dict[str, torch.Tensor]) -> list[str] | None:
    """The names of all tensors as a text lists them; None: it does not."""
    try:
        order = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(order, list) and all(isinstance(n, str) for n in order) and sorted(order) == sorted(tree):
        return order
    return None


def _describe(source: Source, header: dict[str, Any], data: int) -> tuple[dict[str, torch.Tensor], dict[int, int]]:
    tree: dict[str, torch.Tensor] = {}
    spans: dict[str, tuple[int, int]] = {}
    unknown: list[tuple[str, str]] = []
    for name, entry in header.items():
        try:
            kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(source, f"corrupt header: tensor {name!r} is described by {str(entry)[:100]!r}") from error
        # JSON's true is an integer to Python, and "2" and 2.9 would be one after int().
        if not (
            isinstance(shape, list) and all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and begin <= end
        ):
            raise _corrupt(
                source,
                f"corrupt header: tensor {name!r} has the shape {str(shape)[:60]} in bytes {str(begin)[:20]} to "
                f"{str(end)[:20]}: expected whole numbers, none negative",
            )
        spans[name] = (begin, end)
        kind = str(kind)
        if kind not in DTYPES and not _TYPE.fullmatch(kind):
            raise _corrupt(source, f"corrupt header: tensor {name!r} has the type {kind[:40]!r}")
        if kind not in DTYPES:
            unknown.append((name, kind))
            continue
        dtype = DTYPES[kind]
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise _corrupt(source, f"corrupt header: tensor {name!r} of shape {shape} in bytes {begin} to {end}")
        meta = torch.empty(shape, dtype=dtype, device="meta")
        meta.untyped_storage()._checkpoint_offset = data + begin  # noqa: SLF001 - as torch.load does
        tree[name] = meta
    at = 0
    for begin, end in sorted(spans.values()):
        if begin != at:
            raise _corrupt(source, f"corrupt header: a gap or overlap at byte {min(at, begin)}")
        at = end
    if data + at != source.size:
        word = "truncated" if data + at > source.size else "corrupt"
        raise _corrupt(source, f"{word}: the header describes {data + at:,} bytes, the file has {source.size:,}")
    if unknown:  # said of an intact file only
        first, kind = unknown[0]
        more = f" (and {len(unknown) - 1} more such tensors)" if len(unknown) > 1 else ""
        raise _corrupt(
            source,
            f"tensor {first!r} is of type {kind}, which this version does not read{more}: save it as BF16, F16 or F32",
        )
    # An empty tensor starts where the next one does: the longer record wins.
    records: dict[int, int] = {}
    for begin, end in spans.values():
        records[data + begin] = max(end - begin, records.get(data + begin, 0))
    return tree, records


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _corrupt(source: Source, reason: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(source.path, reason)
