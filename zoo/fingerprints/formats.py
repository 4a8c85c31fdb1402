"""Versions of fingerprints, and what a kept one says of itself, for readers that have no use for its columns."""

from __future__ import annotations

import json
import struct
import zlib
from functools import lru_cache
from typing import Any

from epsopt.zoo.errors import CatalogueError

FORMAT = 4
"""Raised with every change of what is kept, so that an old fingerprint is never compared with a new one."""
UNBOUNDED = 3
"""The format that kept everything of every tensor; read, it is bounded as a new one."""
WITHOUT_FOLLOWED = 2
"""The format before fused projections, BatchNorm and attention were followed; of other networks it is the same."""
READABLE = frozenset({FORMAT, UNBOUNDED, WITHOUT_FOLLOWED})
"""Formats that this version reads."""

DAMAGED = (struct.error, ValueError, KeyError, IndexError, TypeError, zlib.error)
"""What reading a damaged fingerprint raises."""


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a kept fingerprint (format of its columns, names, shapes), and what follows it.

    Args:
        data: as :meth:`epsopt.zoo.fingerprints.fingerprint.Fingerprint.to_bytes` wrote it.

    Raises:
        CatalogueError: the bytes are damaged or of a format that this version does not read.
    """
    try:
        (length,) = struct.unpack_from("<I", data)
        header: dict[str, Any] = json.loads(data[4 : 4 + length])
        found, body = header["format"], data[4 + length :]
        if found == FORMAT:
            named = header["parts"][0]
            header["names"], header["shapes"] = _named(body[:named])
            header["format"], body = header["columns"], body[named:]
    except DAMAGED as error:
        raise damaged(error) from error
    if found not in READABLE:
        raise CatalogueError(
            f"a fingerprint in the catalogue has format {found}, expected {FORMAT}: "
            "ingest the runs again into a new catalogue"
        )
    return header, body


@lru_cache(maxsize=256)
def _named(data: bytes) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Names and shapes; checkpoints of one architecture share them."""
    held = json.loads(zlib.decompress(data))
    return tuple(held["names"]), tuple(tuple(shape) for shape in held["shapes"])


def damaged(error: BaseException) -> CatalogueError:
    """Say that a fingerprint is damaged."""
    return CatalogueError(
        f"a fingerprint in the catalogue is damaged ({error}): ingest the runs again into a new catalogue"
    )
