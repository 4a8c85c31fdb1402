"""The archives of Stable-Baselines3: ``best_model.zip`` holds ``policy.pth``, a file of torch.save, as it is.

Nothing is unpacked: the state dict is read where it lies in the archive, which stores its records uncompressed. Beside
it a record of JSON holds the algorithm's arguments; what is pickled in there is never unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from epsopt.zoo.errors import UnreadableCheckpoint

POLICY = "policy.pth"
"""The weights in an archive, or in a folder that one was unpacked into."""
MERGE = "epsopt.json"
"""What a merged archive is made of: its arguments and steps are those of one parent, and not its own."""
_DATA = "data"
_DATA_BYTES = 16 << 20  # the last observations of many environments lie in there, too
_PICKLED = ":serialized:"
_CONSTANT = re.compile(r"ConstantSchedule\(val=([-+.\deE]+)\)")
_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_NO_ARGUMENTS = frozenset(("verbose", "num_timesteps", "start_time", "tensorboard_log", "lr_schedule", "device"))
_END = 1 << 16  # bytes in which the directory of an archive of a dozen records lies
_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field


def end_of_archive(path: Path) -> bytes:
    """Return the end of a file, where an archive lists its records; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _END))
            return file.read(_END)
    except OSError:
        return b""


def is_policy_archive(path: Path) -> bool:
    """Tell whether a file is an archive of Stable-Baselines3, by its suffix and the names at its end."""
    return path.suffix.lower() == ".zip" and path.is_file() and POLICY.encode() in end_of_archive(path)


def unpacked(path: Path) -> Path:
    """Return where an archive's weights would lie if it were unpacked into a folder of its name; else the path."""
    return path.with_suffix("") / POLICY if path.suffix.lower() == ".zip" else path


def policy_place(path: Path, file: IO[bytes]) -> tuple[int, int]:
    """Return where the weights begin in an open archive, and how many bytes they have.

    Raises:
        UnreadableCheckpoint: it is damaged, holds no weights, or holds them compressed.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            record = archive.getinfo(POLICY)
        if record.compress_type != zipfile.ZIP_STORED:
            raise UnreadableCheckpoint(path, f"{POLICY} in it is compressed, as no archive of its kind is: unzip it")
        file.seek(record.header_offset)
        signature, name, extra = _HEADER.unpack(file.read(_HEADER.size))
    except KeyError:
        raise UnreadableCheckpoint(path, f"an archive without {POLICY}: unzip it, if a checkpoint is inside") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise UnreadableCheckpoint(path, f"truncated or corrupt: {error}") from error
    if signature != b"PK\x03\x04":
        raise UnreadableCheckpoint(path, f"corrupt: no record where {POLICY} should begin")
    return record.header_offset + _HEADER.size + name + extra, record.file_size


@dataclass(frozen=True)
class Arguments:
    """What an archive says of its training.

    Attributes:
        hyperparameters: the algorithm's arguments, as JSON values.
        step: environment steps that lie behind it; None where it does not say.
        reason: why its arguments cannot be read; empty where they can.
    """

    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    reason: str = ""


def arguments(file: IO[bytes]) -> Arguments:
    """Read the arguments that an open archive was trained with; a merge was not.

    Numbers, texts and lists are taken as they are, a constant schedule as its number and a class as its name. Other
    objects are pickled, and are left out.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if MERGE in archive.namelist():
                return Arguments()
            with archive.open(_DATA) as record:
                text = record.read(_DATA_BYTES + 1)
        if len(text) > _DATA_BYTES:
            return Arguments(reason=f"more than {_DATA_BYTES:,} bytes")
        data = json.loads(text)
    except KeyError:
        return Arguments()
    # A RuntimeError: it is encrypted, compressed in a way that is not known, or nested too deep.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:
        return Arguments(reason=str(error)[:200] or type(error).__name__)
    if not isinstance(data, Mapping):
        return Arguments(reason=f"a {type(data).__name__}, expected an object")
    taken = {k: _argument(v) for k, v in data.items() if not k.startswith("_") and k not in _NO_ARGUMENTS}
    step = data.get("num_timesteps")
    whole = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**53
    return Arguments({k: v for k, v in taken.items() if v is not None}, step if whole else None)


def _argument(value: Any) -> Any:
    """Give an argument as plain values; None where it is an object."""
    if not isinstance(value, Mapping):
        return value
    if _PICKLED not in value:
        return {k: v for k, v in value.items() if not isinstance(v, Mapping)}
    constant = _CONSTANT.search(str(value.get("value_schedule", "")))
    if constant is not None:
        with contextlib.suppress(ValueError):
            return float(constant[1])
    if value.get(":type:") != "<class 'dict'>":
        return None
    readable = {k: v for k, v in value.items() if not k.startswith((":", "_")) and isinstance(v, str)}
    return {k: found[1] if (found := _CLASS.fullmatch(v)) else v for k, v in readable.items()}
