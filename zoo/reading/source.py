"""Open a checkpoint file without trusting it: what it is, whether it holds still, and its content hash."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.reading.remote import RemotePath, open_remote


@dataclass(frozen=True)
class Limits:
    """What one file may cost. Budgets are compared with metadata before a tensor is touched.

    Attributes:
        memory: address space, in bytes, that a reader may take beyond what it needs to start.
        seconds: time for one file, plus one second per 20 MB of it.
        pickle: bytes of the pickled structure (not the tensors); torch.save writes about 100 per tensor.
        entries: tensors, zip records or values in one file.
        at_once: files up to this many bytes are read in one go, larger ones tensor by tensor.
        remote: bytes of a file behind a URL, which is copied to the temporary folder while it is read.
    """

    memory: int = 2 << 30
    seconds: float = 60.0
    pickle: int = 64 << 20
    entries: int = 200_000
    at_once: int = 32 << 20
    remote: int = 16 << 30


@dataclass(frozen=True)
class Identity:
    """What tells a file from its former self without opening it."""

    size: int
    mtime_ns: int
    inode: int


class ChangedWhileReadError(Exception):
    """Somebody wrote to the file while it was read: it waits for the next pass."""


@dataclass(frozen=True)
class Source:
    """An open, regular, non-empty file."""

    path: Path
    file: IO[bytes]
    identity: Identity

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


@contextmanager
def open_source(path: Path, limits: Limits) -> Iterator[Source]:
    """Open a file for reading; on leaving, make sure that nobody wrote to it meanwhile.

    Small files are held in memory, so that what was hashed is what was parsed. Nothing is memory-mapped: a
    mapped file that is truncated kills its reader (FACTS.md). A remote file is copied first (remote.py).

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
