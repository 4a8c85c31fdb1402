"""Read the log that W&B keeps of a run (``run-ID.wandb``), the only thing that an offline run leaves behind.

Blocks as in LevelDB's log format (https://github.com/google/leveldb/blob/main/doc/log_format.md) after a header of
seven bytes, with zlib's CRC-32; in them protocol buffers of W&B's ``wandb_internal.proto``. W&B's own reader is
private, and release 0.31 has none in Python. A last record that is being written ends the log.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from epsopt.zoo.layouts.side_file_reader import SideError

_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
_BLOCK = 32768
_RECORD = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_RECORD_BYTES = 16 << 20
# Field numbers of wandb_internal.proto.
_HISTORY, _SUMMARY, _CONFIG, _RUN = 2, 3, 5, 17
_KEY, _NESTED, _JSON = 1, 2, 16


@dataclass
class RunLog:
    """What a run logged.

    Attributes:
        config: hyperparameters; of keys that were set again, the last value.
        history: what each call of ``log`` got, ``_step`` among it.
        summary: the values at the end.
    """

    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def parse(data: bytes) -> RunLog:
    """Read a whole log.

    Raises:
        SideError: not such a log, or damaged before its end.
    """
    if not data.startswith(_HEADER):
        raise SideError("not a log of W&B: its header is another one")
    log = RunLog()
    try:
        for record in _records(data):
            for number, value in _fields(record):
                if number == _HISTORY:
                    log.history.append(_history(value))
                elif number == _SUMMARY:
                    log.summary.update(_items(value))
                elif number == _CONFIG:
                    log.config.update(_items(value))
                elif number == _RUN:
                    for part, inner in _fields(value):
                        if part == 4:  # its config
                            log.config.update(_items(inner))
    except (struct.error, IndexError, TypeError, UnicodeDecodeError, ValueError) as error:
        raise SideError(f"a damaged log of W&B: {str(error)[:100]}") from error
    return log


def _records(data: bytes) -> Iterator[bytes]:
    at, pieces = len(_HEADER), b""
    while at < len(data):
        room = _BLOCK - at % _BLOCK
        if room < _RECORD.size:  # too little for another header: padding
            at += room
            continue
        if at + _RECORD.size > len(data):
            return
        crc, length, kind = _RECORD.unpack_from(data, at)
        if (crc, length, kind) == (0, 0, 0):  # zeros to the end of the block
            at += room
            continue
        at += _RECORD.size
        piece = data[at : at + length]
        at += length
        if len(piece) < length:
            return
        if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != crc:
            raise SideError(f"a damaged log of W&B: the checksum of the record before byte {at:,} is wrong")
        pieces = piece if kind in (_FULL, _FIRST) else pieces + piece
        if len(pieces) > _RECORD_BYTES:
            raise SideError(f"a record of more than {_RECORD_BYTES:,} bytes")
        if kind in (_FULL, _LAST):
            yield pieces


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """Go through the fields of a protocol buffer: varints as numbers, everything else as bytes."""
    if not isinstance(message, bytes):
        raise ValueError("a number where a message was expected")  # noqa: TRY004 - damage, as all the rest
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, at = _varint(message, at)
        if length is None or at + length > len(message):
            raise ValueError(f"field {number} of kind {kind} ends beyond its message")
        yield number, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _history(message: Any) -> dict[str, Any]:
    row = _items(message)
    for number, value in _fields(message):
        if number == 2:  # HistoryStep
            row.setdefault("_step", next((num for part, num in _fields(value) if part == 1), 0))
    return row


def _items(message: Any) -> dict[str, Any]:
    """Read the items of a history, summary or configuration: a key, or several for a nested one, and JSON."""
    out: dict[str, Any] = {}
    for number, item in _fields(message):
        if number != 1 or not isinstance(item, bytes):
            continue
        keys: list[str] = []
        value: Any = None
        for part, inner in _fields(item):
            if part in (_KEY, _NESTED) and inner:
                keys.append(inner.decode())
            elif part == _JSON:
                value = json.loads(inner)
        if keys:
            out[".".join(keys)] = value
    return out
