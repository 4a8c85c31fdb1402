"""Find checkpoint files under a folder: what to read, what to leave alone, and which run each belongs to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from epsopt.zoo.errors import UsageError
from epsopt.zoo.reading.remote import RemotePath, is_url, list_remote, location
from epsopt.zoo.reading.source import Identity, identity_of, not_a_file, refusal
from epsopt.zoo.reading.text import clean
from epsopt.zoo.records import Failure

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
_IN_THE_MAKING = (".tmp", ".part", ".partial", "~")


@dataclass(frozen=True)
class Found:
    """A file to read: its path, what it looks like from outside, and the run (folder) that it belongs to."""

    path: Path
    identity: Identity
    run_path: str
    run_name: str


@dataclass
class Scan:
    """What lies under the folders: files to read in a stable order, and what cannot even be looked at."""

    files: list[Found] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def scan(folders: Path | Sequence[Path], root: Path | None = None) -> Scan:
    """Walk the folders, or list what lies under URLs; links to folders are followed once, after the folders themselves.

    Args:
        folders: where to look.
        root: the folder above them that runs are named from; None names them from the folders themselves.

    Raises:
        UsageError: a folder does not exist or is a file that is not a checkpoint.
    """
    found = Scan()
    seen: set[tuple[int, int]] = set()
    for folder in [folders] if isinstance(folders, str | Path) else folders:
        start = _absolute(folder)
        if isinstance(start, RemotePath):
            _list(start, found)
        elif not os.path.lexists(start):
            raise UsageError(f"{folder} does not exist: expected a folder of training runs")
        elif start.is_dir():
            _walk(start, start if root is None else _absolute(root), found, seen)
        elif is_checkpoint_name(start.name):
            _look(start, start.parent, found)
        else:
            raise UsageError(f"{folder} is not a folder of runs, nor a file that ends in {', '.join(SUFFIXES)}")
    unique = {str(f.path): f for f in reversed(found.files)}
    return Scan(list(unique.values())[::-1], found.failures)


def _absolute(folder: Path | str) -> Path:
    # resolve() would follow links
    return location(folder) if is_url(str(folder)) else Path(os.path.abspath(folder))  # noqa: PTH100


def _list(root: RemotePath, found: Scan) -> None:
    """Add what lies under a URL: a store has no links, pipes or closed folders, only names."""
    for path, status in list_remote(str(root)):
        inside = path.relative_to(root)
        if is_checkpoint_name(path.name) and not any(part.startswith(".") for part in inside.parts[:-1]):
            folder = path.parent
            name = root.name if folder == root or not inside.parts else str(PurePosixPath(*inside.parts[:-1]))
            found.files.append(Found(path, identity_of(status), str(folder), name))


def is_checkpoint_name(name: str) -> bool:
    """Tell whether a name is that of a finished checkpoint: a known suffix, not in the making."""
    stem, dot, suffix = name.lower().rpartition(".")
    return dot + suffix in SUFFIXES and not stem.startswith((".", "~", "#")) and not stem.endswith(_IN_THE_MAKING)


def _walk(folder: Path, root: Path, found: Scan, seen: set[tuple[int, int]]) -> int:
    """Add what lies under one folder; return how many checkpoint files it holds at any depth."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return 1  # reached before by another way: not ours to complain about
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        found.failures.append(Failure(clean(str(folder)), refusal(error)))
        return 0
    held = 0
    for entry in entries:
        if is_checkpoint_name(entry.name) and not _is_folder(entry):
            _look(Path(entry.path), root, found)
            held += 1
    # Links come last, so that a run is named by the folder it really is ("latest" is a common link).
    for entry in sorted((e for e in entries if _is_folder(e)), key=lambda e: (e.is_symlink(), e.name)):
        inside = _walk(Path(entry.path), root, found, seen) if not entry.name.startswith(".") else 1
        if not inside and is_checkpoint_name(entry.name):
            found.failures.append(Failure(clean(entry.path), "a folder, not a file"))
        held += inside
    return held


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _look(path: Path, root: Path, found: Scan) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        found.failures.append(Failure(clean(str(path)), "its name is not valid UTF-8: rename it"))
        return
    try:
        status = path.stat()
    except OSError as error:
        found.failures.append(Failure(str(path), refusal(error)))
        return
    if not stat.S_ISREG(status.st_mode):
        found.failures.append(Failure(str(path), not_a_file(status.st_mode) or "not a file"))
        return
    folder = path.parent
    name = str(folder.relative_to(root))
    found.files.append(Found(path, identity_of(status), str(folder), root.name if name == "." else name))


def within(path: str, folders: Iterable[Path]) -> bool:
    """Tell whether a path lies under one of these folders."""
    return any(location(path).is_relative_to(_absolute(f)) for f in folders)
