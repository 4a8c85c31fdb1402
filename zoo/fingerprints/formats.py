"""Versions of fingerprints, and what a kept one says of itself, for readers that have no use for its columns."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from epsopt.zoo.errors import CatalogueError
from epsopt.zoo.fingerprints.wiring import is_followed, may_have_streams
from epsopt.zoo.forward_order import alphabetical_order, forward_order

FORMAT = 5
"""Raised with every change of what is kept, so that an old fingerprint is never compared with a new one."""
WITHOUT_STREAMS = 4
"""The format that took tensors in a file's order and followed no residual streams; of other networks it is the same."""
UNBOUNDED = 3
"""The format that kept everything of every tensor; read, it is bounded as a new one."""
WITHOUT_FOLLOWED = 2
"""The format before fused projections, BatchNorm and attention were followed; of other networks it is the same."""
READABLE = frozenset({FORMAT, WITHOUT_STREAMS, UNBOUNDED, WITHOUT_FOLLOWED})
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
        if found in {FORMAT, WITHOUT_STREAMS}:
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


def is_wired_anew(names: Sequence[str], shapes: Iterable[Sequence[int]]) -> bool:
    """Tell whether this format may follow a network in another way than those before.

    It does so where there may be residual streams, and where the order of computation is not that of the alphabet, in
    which earlier formats took safetensors files.

    Args:
        names: of its tensors, in any order.
        shapes: of the same tensors.
    """
    return may_have_streams(names, shapes) or forward_order(names) != alphabetical_order(names)


def is_outdated(version: int, names: Sequence[str], shapes: Iterable[Sequence[int]]) -> bool:
    """Tell whether a fingerprint may be another one if it were taken now.

    Args:
        version: format of its columns.
        names: of its tensors, in any order.
        shapes: of the same tensors.
    """
    if version <= WITHOUT_FOLLOWED and any(map(is_followed, names)):
        return True
    return version <= WITHOUT_STREAMS and is_wired_anew(names, shapes)


def damaged(error: BaseException) -> CatalogueError:
    """Say that a fingerprint is damaged."""
    return CatalogueError(
        f"a fingerprint in the catalogue is damaged ({error}): ingest the runs again into a new catalogue"
    )
