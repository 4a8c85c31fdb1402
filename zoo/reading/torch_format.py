"""Read the structure of a torch.save file: always weights_only, of zip files without any tensor."""

from __future__ import annotations

import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from functools import cache
from typing import Any

import numpy as np
import torch

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.reading.foreign_objects import UNUSUAL, recovered
from epsopt.zoo.reading.magic import HEAD, foreign, is_safetensors
from epsopt.zoo.reading.parts import open_parts
from epsopt.zoo.reading.source import Limits, Source, is_of_memory
from epsopt.zoo.reading.structure_limits import check_tree
from epsopt.zoo.reading.tensors import OpenCheckpoint, Record
from epsopt.zoo.reading.unpickler import ForgedTensorError, InertUnpickler, RefusedGlobalError

_GLOBAL = re.compile(r"(?:GLOBAL |function <\w+ |but got <class ')([\w.]+)")
_IS_CODE = (
    "which is code and not data, so it is not loaded: "
    "save plain dictionaries, lists, numbers, strings and tensors (vars(args), not args)"
)
_UNKNOWN = re.compile(r"[Uu]nsupported (global|GLOBAL)|must be imported to load")
"""What torch.load says of a name that it does not know."""
_NEGATIVE = re.compile(rb"J.{3}[\x80-\xff]|\x8a.|L-", re.DOTALL)
"""What a pickle with a negative number holds, and some others."""
_OPCODES = 1_000_000  # looked at to tell a cut from an attack
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field


def open_torch(source: Source, limits: Limits) -> OpenCheckpoint:
    """Open what torch.save wrote, in the zip format or the older one.

    Zip files (PyTorch 1.6 and later) are loaded onto the ``meta`` device: the pickled structure is read, the
    tensors are only described. The older format cannot be streamed and is loaded whole, within the budget.

    Raises:
        UnreadableCheckpoint: not such a file, damaged, over a budget, contains itself, or it refers to something
            that is not data; a refused global is named. In a zip file, whose checksums tell damage, objects of classes
            are no reason: they are read as what they hold (foreign_objects.py).
    """
    if source.parts:
        return open_parts(source, limits, open_torch)
    allow_numpy_scalars()
    magic = bytes(source.read(0, min(4, source.size)))
    if source.size < 4 and b"PK\x03\x04".startswith(magic):
        _refuse(source, f"truncated: {source.size} bytes")
    if magic.startswith(b"PK"):
        records = _checked_records(source, limits)
        tree = _load(source, limits, records)
        return OpenCheckpoint(source, tree, {r.start: r.length for r in records}, records)
    if what := foreign(bytes(source.read(0, min(HEAD, source.size)))):
        _refuse(source, f"not a checkpoint of torch.save, but {what}")
    if is_safetensors(bytes(source.read(0, min(HEAD, source.size)))):
        _refuse(source, "a safetensors file under another suffix: rename it to end in .safetensors")
    if magic[:1] != b"\x80":
        _refuse(source, "not a checkpoint: neither a zip file nor a pickle, as torch.save writes them")
    if source.size > limits.memory // 2:
        _refuse(
            source,
            f"{source.size:,} bytes in torch.save's format of before 1.6, which cannot be read in pieces: "
            "load it and save it again",
        )
    return OpenCheckpoint(source, _load(source, limits, []), {})


@cache
def allow_numpy_scalars() -> None:
    """Let weights_only accept numpy numbers, which metrics often are; they are data, not code."""
    types = [type(np.dtype(code)) for code in "?bhilqBHILQefdFD"]
    scalar: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]  # noqa: SLF001
    torch.serialization.add_safe_globals(
        [
            np.dtype,
            *types,
            (scalar, "numpy._core.multiarray.scalar"),
            (scalar, "numpy.core.multiarray.scalar"),
        ]
    )


def _refuse(source: Source, reason: str) -> Any:
    raise UnreadableCheckpoint(source.path, reason)


def _checked_records(source: Source, limits: Limits) -> list[Record]:
    """Check the zip directory against the budgets; return its records."""
    try:
        with zipfile.ZipFile(source.file) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
        _refuse(source, f"truncated or corrupt: {error}")
    names = [r.filename.partition("/")[2] for r in records]
    if "data.pkl" not in names:
        _refuse(source, "a zip file, but not one that torch.save wrote (no data.pkl in it)")
    if "constants.pkl" in names:
        _refuse(source, "a TorchScript archive, which is a program: save the state_dict instead")
    if len(records) > limits.entries:
        _refuse(source, f"{len(records):,} records, more than the {limits.entries:,} allowed")
    if len(set(names)) != len(names):
        _refuse(source, "corrupt: two zip records have one name")
    for record, name in zip(records, names, strict=True):
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            _refuse(source, f"zip record {name!r} is compressed, which torch.save never does")
        if name == "data.pkl" and record.file_size > limits.pickle:
            _refuse(source, f"{record.file_size:,} bytes of pickle, more than the {limits.pickle:,} allowed")
    total = sum(r.file_size for r in records)
    if total > source.size:
        _refuse(source, f"corrupt: zip records claim {total:,} bytes, the file has {source.size:,}")
    found = [Record(n, _data_start(source, r), r.file_size, r.CRC) for r, n in zip(records, names, strict=True)]
    order = next((r for r in found if r.name == "byteorder"), None)
    if order is not None and source.read(order.start, min(order.length, 8)) != b"little":
        _refuse(source, "corrupt, or saved on a big-endian machine, which is not supported")
    return found


def _data_start(source: Source, record: zipfile.ZipInfo) -> int:
    header = source.read(record.header_offset, _LOCAL_HEADER.size)
    signature, name, extra = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\x03\x04":
        _refuse(source, f"corrupt: no zip record where {record.filename!r} should begin")
    return int(record.header_offset + _LOCAL_HEADER.size + name + extra)


def _load(source: Source, limits: Limits, records: list[Record]) -> Any:
    """Load a file's structure; a zip file's, which its records tell, also where torch.load refuses it."""
    record = next((r for r in records if r.name == "data.pkl"), None)
    try:
        tree = _loaded(source, "meta" if records else "cpu")
        if record is not None:
            _require_no_forged_tensor(source, record, records)
    except (MemoryError, UnreadableCheckpoint):
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise anything
        reason = reason_of(error)
        found = None if record is None else _load_inertly(source, record, records, str(error))
        if found is None:
            cut = not reason.startswith("truncated") and _ends_within_a_pickle(source)
            return _refuse(source, "truncated: it ends within its pickle" if cut else reason)
        (tree,) = found
    check_tree(source.path, tree, limits.entries)
    return tree


def _loaded(source: Source, device: str) -> Any:
    source.file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(source.file, map_location=device, weights_only=True)


def _load_inertly(source: Source, record: Record, records: list[Record], message: str) -> tuple[Any] | None:
    """Read a pickle with names in the place of classes; None where it is damaged, and that is why torch refused it.

    Raises:
        UnreadableCheckpoint: it calls code, which is named.
    """
    data = bytes(source.read(record.start, record.length))
    if not (_UNKNOWN.search(message) or _needs_another_reader(data)) or _is_damaged(source, record, records, data):
        return None
    try:
        return (recovered(_inert(data, records)),)
    except ForgedTensorError as error:
        raise UnreadableCheckpoint(source.path, f"corrupt: {error}") from error
    except RefusedGlobalError as error:
        raise UnreadableCheckpoint(source.path, f"refers to {error.title}, {_IS_CODE}") from error
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - then the first refusal is the reason
        return None


def _inert(data: bytes, records: list[Record]) -> Any:
    places = {r.name: (r.start, r.length) for r in records}
    return InertUnpickler(data, lambda key: places.get(f"data/{key}")).load()


def _require_no_forged_tensor(source: Source, record: Record, records: list[Record]) -> None:
    """Refuse a tensor of negative stride: torch.load describes it as one that lies the other way round.

    Raises:
        UnreadableCheckpoint: there is one.
    """
    data = bytes(source.read(record.start, record.length))
    if not _NEGATIVE.search(data):
        return
    try:
        _inert(data, records)
    except ForgedTensorError as error:
        raise UnreadableCheckpoint(source.path, f"corrupt: {error}") from error
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001, S110 - torch.load has read it
        pass


def _needs_another_reader(data: bytes) -> bool:
    """Tell whether a pickle has a protocol that torch.load does not know, or tensors that it cannot describe."""
    newer = data[:1] == b"\x80" and data[1:2] in (b"\x03", b"\x04", b"\x05")
    return newer or any(title.rpartition(".")[2].encode() in data for title in UNUSUAL)


def _is_damaged(source: Source, record: Record, records: list[Record], data: bytes) -> bool:
    """Compare the pickle's checksum; torch.save may write none, and then no small record's agrees either."""
    if zlib.crc32(data) == record.crc:
        return False
    small = [r for r in records if 0 < r.length <= 64 and r is not record]
    return any(zlib.crc32(source.read(r.start, r.length)) == r.crc for r in small)


def _ends_within_a_pickle(source: Source) -> bool:
    """Tell whether the file ends before its pickles do: half the name of a harmless global is refused, too."""
    source.file.seek(0)
    opcodes = 0
    try:
        for _ in range(5):  # as many as the older format has before its values
            for _opcode in pickletools.genops(source.file):
                opcodes += 1
                if opcodes > _OPCODES:
                    return False
    except Exception:  # noqa: BLE001 - a damaged pickle can raise anything
        return source.file.tell() >= source.size
    return False


def reason_of(error: Exception) -> str:
    """Put what torch.load said into one sentence; name the global that was refused."""
    text = str(error)
    if is_of_memory(text):
        raise MemoryError(text) from error
    if text.startswith("Weights only load failed"):  # advice that we do not give surrounds what was wrong
        text = text.partition("WeightsUnpickler error:")[2] or text.partition("\n")[2]
        found = _GLOBAL.search(text)
        if found:
            return f"refers to {found[1]}, {_IS_CODE}"
    first = next(iter(text.strip().splitlines()), "")
    return f"truncated or corrupt: {first[:200] or 'it ends too early'} ({type(error).__name__})"
