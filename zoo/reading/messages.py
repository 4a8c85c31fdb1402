"""Messages between the reader and its child processes: a JSON header and raw bytes, never a pickle."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_MESSAGE = 1 << 30


def encode(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return one message; `blobs` follow the header as they are."""
    head = json.dumps({**header, "blobs": [len(b) for b in blobs]}).encode()
    return b"".join([struct.pack("<I", len(head)), head, *blobs])


def decode(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Read what :func:`encode` wrote.

    Raises:
        ValueError: the message is damaged.
    """
    try:
        (length,) = struct.unpack_from("<I", message)
        header = json.loads(message[4 : 4 + length])
        lengths = header.pop("blobs")
        blobs, at = [], 4 + length
        for n in lengths:
            blobs.append(message[at : at + n])
            at += n
    except (struct.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a damaged message: {error}") from error
    if at != len(message):
        raise ValueError("a damaged message: its parts do not add up")
    return header, blobs


def pack(array: NDArray[np.float32]) -> bytes:
    """Return a float32 array as bytes: the number of dimensions, the shape, the values; all little-endian."""
    shape = struct.pack(f"<I{array.ndim}Q", array.ndim, *array.shape)
    return shape + np.ascontiguousarray(array, dtype="<f4").tobytes()


def unpack(data: bytes) -> NDArray[np.float32]:
    """Read what :func:`pack` wrote.

    Raises:
        ValueError: the bytes are damaged.
    """
    try:
        (ndim,) = struct.unpack_from("<I", data)
        shape = struct.unpack_from(f"<{ndim}Q", data, 4)
    except struct.error as error:
        raise ValueError(f"a damaged array: {error}") from error
    return np.frombuffer(data, dtype="<f4", offset=4 + 8 * ndim).reshape(shape).astype(np.float32)
