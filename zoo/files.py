"""Write files so that they appear whole under their name or not at all, and folders that one command alone has."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from epsopt.zoo.errors import EpsoptError, UsageError


@contextlib.contextmanager
def atomic_file(path: Path, *, replace: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name when the block ends well, and not at all otherwise.

    It is written beside its place, synced to the disk and renamed. Its mode is 0666 less the umask, as any other
    program's; a file that is replaced hands its mode on.

    Args:
        path: the file; folders above it are made.
        replace: whether a file of that name gives way. Without it, two writers at once cannot both succeed.

    Raises:
        UsageError: something of that name is there already, and nothing is to be replaced.
        EpsoptError: the file cannot be written.
    """
    if not replace and os.path.lexists(path):
        raise _taken(path)
    unfinished = path.with_name(f".epsopt-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if replace:
                with contextlib.suppress(OSError):  # there is none, or another's
                    os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            os.fsync(file.fileno())
        if replace:
            unfinished.replace(path)
        else:
            _appear(unfinished, path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise EpsoptError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} is there already: name another place, nothing is written over")


def _appear(unfinished: Path, path: Path) -> None:
    try:
        os.link(unfinished, path)  # unlike a rename, it fails where something is already
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError from None
        unfinished.rename(path)


def _sync_folder(folder: Path) -> None:
    """Bring a new name to the disk too; some file systems cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def claimed_folder(folder: Path) -> Iterator[Path]:
    """Make a folder, or take one that is there, and hold it alone until the block ends.

    The folder is locked, so nothing is left in it that another command could stumble over. A folder that was made
    here and is still empty at the end is removed.

    Raises:
        UsageError: another command holds it, or it is no folder.
        EpsoptError: it cannot be made.
    """
    try:
        made = _make(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{folder} is a file, expected a folder to save checkpoints in") from None
    except OSError as error:
        raise EpsoptError(f"{folder}: the folder cannot be made: {error.strerror or error}") from error
    try:
        _lock(descriptor, folder)
        yield folder
    finally:
        if made:
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()
        os.close(descriptor)


def _make(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: new files are exclusive all the same
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another command is writing into {folder}: name another folder, or wait for it") from None
    except OSError:  # a file system without locks
        return


def new_folder(runs: Path, name: str) -> Path:
    """Make the first folder ``NAME_001``, ``NAME_002``, ... that is not there yet, and return it.

    A name is taken by making the folder, so two commands at once never get the same one.

    Raises:
        EpsoptError: it cannot be made.
    """
    number = 1
    try:
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            folder = runs / f"{name}_{number:03d}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                continue
            return folder
    except OSError as error:
        raise EpsoptError(f"{runs}: no folder can be made in it: {error.strerror or error}") from error
