"""Several files that are one checkpoint: ``model-00001-of-00003.safetensors`` and its neighbours, read as one.

So are ``pytorch_model-00001-of-00003.bin`` and ``adapter_model-….bin``; of other files in ``.bin`` nothing is known.
"""

from __future__ import annotations

import hashlib
import io
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.zoo.reading.source import Identity

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)")
_MOST = 10_000


def shards(path: Path) -> list[Path]:
    """Return all files of the checkpoint that a file is part of, by its name alone: itself where it is whole."""
    found = _SHARD.fullmatch(path.name)
    if found is None:
        return [path]
    stem, number, total, suffix = found[1], int(found[2]), int(found[3]), found[4]
    if suffix == ".bin" and stem not in ("pytorch_model", "adapter_model"):
        return [path]
    if not 1 <= number <= total <= _MOST:
        return [path]
    return [path.with_name(f"{stem}-{i:05d}-of-{total:05d}{suffix}") for i in range(1, total + 1)]


def combined_identity(identities: Sequence[Identity]) -> Identity:
    """Return what tells several files from their former selves."""
    if len(identities) == 1:
        return identities[0]
    text = repr([(i.size, i.mtime_ns, i.inode) for i in identities])
    return type(identities[0])(
        sum(i.size for i in identities),
        max(i.mtime_ns for i in identities),
        int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"),
    )


class _Placed(io.RawIOBase):
    """A file to read from that knows where it is."""

    _at = 0
    _length = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the start, from here or from the end."""
        self._at = max(0, offset + (0, self._at, self._length)[whence])
        return self._at


class ConcatenatedFile(_Placed):
    """Files one after the other, as one file to read from."""

    def __init__(self, files: Sequence[IO[bytes]], sizes: Sequence[int]) -> None:
        super().__init__()
        self._files = files
        self._starts = [0, *accumulate(sizes)]
        self._length = self._starts[-1]

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the files reach."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._at < self._starts[-1]:
            part = bisect_right(self._starts, self._at) - 1
            file = self._files[part]
            file.seek(self._at - self._starts[part])
            room = min(len(view) - done, self._starts[part + 1] - self._at)
            got: int = file.readinto(view[done : done + room])  # type: ignore[attr-defined]
            if not got:
                break
            done += got
            self._at += got
        return done


class FileSlice(_Placed):
    """A part of a file, as a file to read from."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        super().__init__()
        self._file, self._start, self._length = file, start, length

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the part reaches."""
        view = memoryview(buffer).cast("B")[: max(0, self._length - self._at)]
        self._file.seek(self._start + self._at)
        got: int = self._file.readinto(view)  # type: ignore[attr-defined]
        self._at += got
        return got
