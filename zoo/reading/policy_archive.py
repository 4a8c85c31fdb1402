"""The archives of Stable-Baselines3: ``best_model.zip`` holds ``policy.pth``, a file of torch.save, as it is.

Nothing is unpacked: the state dict is read where it lies in the archive, which stores its records uncompressed.
"""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import IO

from epsopt.zoo.errors import UnreadableCheckpoint

POLICY = "policy.pth"
"""The weights in an archive, or in a folder that one was unpacked into."""
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
