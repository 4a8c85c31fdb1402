"""Open a checkpoint file without trusting it: what it is, whether it holds still, and its content hash."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import IO, cast

from epsopt.zoo.errors import UnreadableCheckpoint, UsageError
from epsopt.zoo.reading.policy_archive import policy_place
from epsopt.zoo.reading.remote import RemotePath, open_remote
from epsopt.zoo.reading.shards import ConcatenatedFile, combined_identity, shards

MEMORY = "EPSOPT_READER_MEMORY"
"""Environment variable: gigabytes that a reader may take, where 2 are too few for a checkpoint's largest tensor."""
_GIGABYTE = 1 << 30


def reader_memory() -> int:
    """Return the bytes that a reader may take beyond what it needs to start: 2 GB, or what the environment says.

    Raises:
        UsageError: the environment says no positive number.
    """
    setting = os.environ.get(MEMORY, "").strip()
    if not setting:
        return 2 * _GIGABYTE
    try:
        gigabytes = float(setting)
    except ValueError:
        gigabytes = 0.0
    if not 0.0 < gigabytes < 1e6:
        raise UsageError(f"the environment variable {MEMORY} is {setting!r}, expected gigabytes, such as 8")
    return int(gigabytes * _GIGABYTE)


@dataclass(frozen=True)
class Limits:
    """What one file may cost. Budgets are compared with metadata before a tensor is touched.

    Attributes:
        memory: address space, in bytes, that a reader may take beyond what it needs to start (:data:`MEMORY`).
        seconds: time for one file, plus one second per 20 MB of it.
        pickle: bytes of the pickled structure (not the tensors); torch.save writes about 100 per tensor.
        entries: tensors, zip records or values in one file.
        at_once: files up to this many bytes are read in one go, larger ones tensor by tensor.
        remote: bytes of a file behind a URL, which is copied to the temporary folder while it is read.
        hook: seconds that a hook of the user's may take for one file, or to be imported.
        gpu: whether fingerprints of large matrices are computed on a GPU, where a reader sees one. A reader takes half
            a gigabyte of its memory, and some ten times the largest matrix.
    """

    memory: int = field(default_factory=reader_memory)
    seconds: float = 60.0
    pickle: int = 64 << 20
    entries: int = 200_000
    at_once: int = 32 << 20
    remote: int = 16 << 30
    hook: float = 600.0
    gpu: bool = False


@dataclass(frozen=True)
class Identity:
    """What tells a file from its former self without opening it."""

    size: int
    mtime_ns: int
    inode: int


def needs_more(limits: Limits) -> str:
    """Say that a file needs more memory than a reader may take, and how it gets it."""
    return (
        f"needs more than the {limits.memory >> 20:,} MB of memory that a reader may take: set the environment "
        f"variable {MEMORY} to more gigabytes, such as {max(4, 2 * limits.memory // _GIGABYTE)}, and ingest again"
    )


def is_of_memory(text: str) -> bool:
    """Tell whether an error's text says that PyTorch got no memory."""
    return any(words in text for words in ("allocate memory", "not enough memory", "alloc_cpu"))


class ChangedWhileReadError(Exception):
    """Somebody wrote to the file while it was read: it waits for the next pass."""


@dataclass(frozen=True)
class Source:
    """An open, regular, non-empty file; or several that are one checkpoint, one after the other.

    Attributes:
        path: of the file, or of the first one.
        file: to read from.
        identity: size, time and inode when it was opened.
        parts: (start, length) of each file, where there are several, or of the one inside an archive.
    """

    path: Path
    file: IO[bytes]
    identity: Identity
    parts: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self.identity.size

    def read(self, start: int, length: int) -> bytearray:
        """Read `length` bytes at `start`, or raise UnreadableCheckpoint when the file ends before."""
        self.file.seek(start)
        data = bytearray(length)
        got = self.file.readinto(data)  # type: ignore[attr-defined]
        if got != length:
            raise UnreadableCheckpoint(self.path, f"truncated: {got} of {length} bytes at offset {start}")
        return data

    def sha256(self) -> str:
        """Hash the whole content, once."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, "sha256")  # type: ignore[arg-type]
        return digest.hexdigest()


def identity_of(status: os.stat_result) -> Identity:
    """Return what :class:`Identity` keeps of a stat result."""
    return Identity(status.st_size, status.st_mtime_ns, status.st_ino)


def refusal(error: OSError) -> str:
    """Say why the system would not give a file, in words."""
    if error.errno == errno.ELOOP:
        return "a symbolic link that leads back to itself"
    if isinstance(error, FileNotFoundError):
        return "not there (deleted meanwhile, or a symbolic link to nothing)"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read: {error.strerror or error}"


def not_a_file(mode: int) -> str | None:
    """Return why something of this mode is never opened, or None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    return f"a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file"


def identity_at(path: Path) -> Identity:
    """Return the identity of the file at a path; of all shards, where it is one of several.

    Raises:
        OSError: it is not there, or not to be reached.
    """
    return combined_identity([identity_of(part.stat()) for part in shards(path)])


@contextmanager
def open_source(path: Path, limits: Limits) -> Iterator[Source]:
    """Open a file for reading, with the shards that belong to it; on leaving, make sure that nobody wrote to it.

    Raises:
        UnreadableCheckpoint: not a regular file, empty, or refused by the system; a shard is missing.
        ChangedWhileReadError: size, time or inode differ before and after.
    """
    files = shards(path)
    if len(files) == 1:
        with _open_one(path, limits) as source:
            archived = path.suffix.lower() == ".zip"
            yield replace(source, parts=(policy_place(path, source.file),)) if archived else source
        return
    for file in files:
        if not (file.exists() or file.is_symlink()):
            raise UnreadableCheckpoint(path, f"one of {len(files)} shards, and {file.name} is not there")
    with ExitStack() as stack:
        whole = combined_identity([identity_of(f.stat()) for f in files if f.exists()])
        each = limits if whole.size <= limits.at_once else replace(limits, at_once=0)
        sources = [stack.enter_context(_open_one(file, each)) for file in files]
        sizes = [s.size for s in sources]
        joined = cast("IO[bytes]", ConcatenatedFile([s.file for s in sources], sizes))
        starts = [0, *accumulate(sizes)]
        identity = combined_identity([s.identity for s in sources])
        yield Source(path, joined, identity, tuple(zip(starts, sizes, strict=False)))


@contextmanager
def _open_one(path: Path, limits: Limits) -> Iterator[Source]:
    """Open one file.

    Small files are held in memory, so that what was hashed is what was parsed. Nothing is memory-mapped: a
    mapped file that is truncated kills its reader. A remote file is copied first (remote.py).

    Raises:
        UnreadableCheckpoint: not a regular file, empty, or refused by the system.
        ChangedWhileReadError: size, time or inode differ before and after.
    """
    try:
        file, status = open_remote(path, limits.remote) if isinstance(path, RemotePath) else _open_local(path)
    except OSError as error:
        raise UnreadableCheckpoint(path, refusal(error)) from error
    with file:
        reason = not_a_file(status.st_mode) or (None if status.st_size else "empty (0 bytes)")
        if reason:
            raise UnreadableCheckpoint(path, reason)
        before = identity_of(status)
        try:
            opened: IO[bytes] = io.BytesIO(file.read(before.size)) if before.size <= limits.at_once else file
            yield Source(path, opened, before)
        except OSError as error:
            raise UnreadableCheckpoint(path, refusal(error)) from error
        finally:
            _require_unchanged(path, before)


def _open_local(path: Path) -> tuple[IO[bytes], os.stat_result]:
    reason = not_a_file(path.stat().st_mode)
    if reason:
        raise UnreadableCheckpoint(path, reason)
    # O_NONBLOCK: should a pipe take the file's place just now, opening it must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(descriptor, "rb"), os.fstat(descriptor)


def _require_unchanged(path: Path, before: Identity) -> None:
    try:
        after = identity_of(path.stat())
    except OSError:
        raise ChangedWhileReadError from None
    if after != before:
        raise ChangedWhileReadError
