"""Find checkpoint files under a folder: what to read, what to leave alone, and which run each belongs to."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from epsopt.zoo.errors import Failure, UsageError
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.mlflow import is_trash
from epsopt.zoo.layouts.other_formats import OtherFormats, head_of
from epsopt.zoo.layouts.registry import left_alone, place, refused
from epsopt.zoo.reading.magic import is_torch
from epsopt.zoo.reading.policy_archive import is_policy_archive
from epsopt.zoo.reading.remote import RemotePath, is_url, list_remote, location
from epsopt.zoo.reading.shards import combined_identity, shards
from epsopt.zoo.reading.source import Identity, identity_of, not_a_file, refusal
from epsopt.zoo.reading.text import sanitize

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
TARRED = tuple(f"{suffix}.tar" for suffix in (".pt", ".pth", ".ckpt"))
"""What people add to files of torch.save, though they are no archives."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.bin$)")
_DIGITS = re.compile(r"(\d{1,18})")
NAMES = ("pytorch_model.bin", "adapter_model.bin")
"""Checkpoints by their whole name (or a shard's); of other files that end in .bin nothing is known."""
_FSDP_META = "meta.pt"
"""What Lightning keeps beside the shards of a model: everything but its weights."""
DEEPEST = 100
"""Folders below the one that is scanned; people's runs lie five to ten deep, and Python's own stack ends at 1,000."""
_IN_THE_MAKING = (".tmp", ".part", ".partial", "~")


@dataclass(frozen=True)
class CheckpointFile:
    """A file to read: its path, what it looks like from outside, and the run (folder) that it belongs to.

    Attributes:
        path: of the file.
        identity: size, time and inode.
        run_path: the folder of its run, as the layout that recognises the place says it.
        run_name: that folder, seen from the folder that was scanned.
        layout: the name of that layout.
    """

    path: Path
    identity: Identity
    run_path: str
    run_name: str
    layout: str = "plain"


@dataclass
class Scan:
    """What lies under the folders: files to read in a stable order, and what cannot even be looked at.

    Attributes:
        files: to read.
        failures: what cannot be looked at.
        ignored: files that are named like checkpoints and known to be something else.
        folders: the names seen on the way.
        other: checkpoints of formats that are not read, by kind.
        outside_links: links to folders or checkpoints that lie elsewhere, and were not followed.
        trashed: files under a folder where a tracker moves what is deleted, found as if they counted.
    """

    files: list[CheckpointFile] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    folders: Folders = field(default_factory=Folders)
    other: OtherFormats = field(default_factory=OtherFormats)
    outside_links: list[str] = field(default_factory=list)
    trashed: list[CheckpointFile] = field(default_factory=list)


def scan(folders: Path | Sequence[Path], root: Path | None = None, *, follow_links: bool = False) -> Scan:
    """Walk the folders, or list what lies under URLs; links to folders are followed once, after the folders themselves.

    Links that lead out of the folders are not followed, unless that is wanted: one link can lead to a whole disk.

    Args:
        folders: where to look.
        root: the folder above them that runs are named from; None names them from the folders themselves.
        follow_links: whether links that lead elsewhere are followed, too.

    Raises:
        UsageError: what is named does not exist, or is a file that is not a checkpoint.
    """
    found = Scan()
    seen: set[tuple[int, int]] = set()
    starts = [folders] if isinstance(folders, str | Path) else list(folders)
    if not follow_links:
        local = [s for f in starts if not isinstance(s := _absolute(f), RemotePath)]
        found.folders.stay_within([*local, *([] if root is None or is_url(str(root)) else [_absolute(root)])])
    for folder in starts:
        start = _absolute(folder)
        if isinstance(start, RemotePath):
            _list(start, found)
        elif not os.path.lexists(start):
            what = "checkpoint file" if str(folder).endswith(SUFFIXES) else "checkpoint file or folder of training runs"
            raise UsageError(f"{folder} does not exist: expected a {what}")
        elif start.is_dir():
            _walk(start, start if root is None else _absolute(root), found, seen)
        elif is_checkpoint_name(start.name) or _is_torch_in_tar(start) or is_policy_archive(start):
            _scan_folder(start, start.parent, found)
        else:
            found.other.add_file(start, found.folders.names(start.parent))
            known = next(iter(found.other.kinds.values()), None)
            what = "" if known is None else f": {known.kind}, which is not read: {known.convert}"
            raise UsageError(f"{folder} is not a folder of runs, nor a file that ends in {', '.join(SUFFIXES)}{what}")
    unique = {str(f.path): f for f in reversed(found.files)}
    found.files = list(unique.values())[::-1]
    return found


def _absolute(folder: Path | str) -> Path:
    # resolve() would follow links
    return location(folder) if is_url(str(folder)) else Path(os.path.abspath(folder))  # noqa: PTH100


def _list(root: RemotePath, found: Scan) -> None:
    """Add what lies under a URL: a store has no links, pipes or closed folders, only names."""
    listed = [(path, identity_of(status)) for path, status in list_remote(str(root))]
    for path, identity in listed:
        found.folders.put_remote(path, identity, root)
    for path, identity in listed:
        inside = path.relative_to(root)
        if any(part.startswith(".") for part in inside.parts[:-1]):
            continue
        if is_checkpoint_name(path.name):
            _add(path, identity, root if inside.parts else root.parent, found)
        elif found.other.add_file(path, found.folders.names(path.parent), peek=False):
            found.ignored.append(str(path))


def is_checkpoint_name(name: str) -> bool:
    """Tell whether a name is that of a finished checkpoint: a known suffix, not in the making."""
    lower = name.lower()
    stem, dot, suffix = (lower.removesuffix(".tar") if lower.endswith(TARRED) else lower).rpartition(".")
    if _SHARD.sub("", name) in NAMES:
        return True
    return dot + suffix in SUFFIXES and not stem.startswith((".", "~", "#")) and not stem.endswith(_IN_THE_MAKING)


def _walk(folder: Path, root: Path, found: Scan, seen: set[tuple[int, int]], depth: int = 0) -> int:
    """Add what lies under one folder; return how many checkpoint files it holds at any depth."""
    if depth > DEEPEST:
        reason = f"lies more than {DEEPEST} folders deep, so it was not looked into: name it itself, or move it up"
        found.failures.append(Failure(sanitize(str(folder)), reason))
        return 1
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return 1  # reached before by another way: not ours to complain about
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        found.failures.append(Failure(sanitize(str(folder)), refusal(error)))
        return 0
    found.folders.put(folder, (e.name for e in entries))
    names = found.folders.names(folder)
    held = _note_other_formats(folder, names, found)
    whole = bool(held)  # its files are parts of one checkpoint
    for entry in entries:
        if _is_folder(entry):
            continue
        if whole and not (is_checkpoint_name(entry.name) and entry.name != _FSDP_META):
            continue
        path = Path(entry.path)
        if is_checkpoint_name(entry.name) or _is_torch_in_tar(path) or is_policy_archive(path):
            _scan_folder(path, root, found)
            held += 1
        elif found.other.add_file(path, names):
            found.ignored.append(sanitize(str(path)))
    # Links come last, so that a run is named by the folder it really is ("latest" is a common link).
    for entry in sorted((e for e in entries if _is_folder(e)), key=lambda e: (e.is_symlink(), e.name)):
        if found.folders.leads_outside(Path(entry.path)):
            found.outside_links.append(sanitize(entry.path))
            held += 1
            continue
        if entry.name.startswith("."):
            inside = 1
            if is_trash(Path(entry.path), found.folders):
                _walk_trash(Path(entry.path), root, found, seen, depth + 1)
        else:
            inside = _walk(Path(entry.path), root, found, seen, depth + 1)
        if not inside and is_checkpoint_name(entry.name):
            found.failures.append(Failure(sanitize(entry.path), "a folder, not a file"))
        held += inside
    return held


def _walk_trash(folder: Path, root: Path, found: Scan, seen: set[tuple[int, int]], depth: int) -> None:
    """Find what lies among deleted experiments; what cannot be read there is nobody's concern."""
    inside = Scan(folders=found.folders)
    _walk(folder, root, inside, seen, depth)
    found.trashed += inside.files


def _note_other_formats(folder: Path, names: frozenset[str], found: Scan) -> int:
    """Count a folder that is one checkpoint of another format; return how many checkpoints it is."""
    if folder.name.startswith("optimizer") and any(name.endswith(".distcp") for name in names):
        found.ignored.append(sanitize(str(folder)))
        return 1
    return int(found.other.add_folder(folder, names))


def _is_torch_in_tar(path: Path) -> bool:
    """Tell whether a file named .tar is one of torch.save, as PyTorch's tutorials name them; real archives are not."""
    return path.suffix.lower() == ".tar" and is_torch(head_of(path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _scan_folder(path: Path, root: Path, found: Scan) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        found.failures.append(Failure(sanitize(str(path)), "its name is not valid UTF-8: rename it"))
        return
    try:
        status = path.stat()
    except OSError as error:
        found.failures.append(Failure(str(path), refusal(error)))
        return
    if not stat.S_ISREG(status.st_mode):
        found.failures.append(Failure(str(path), not_a_file(status.st_mode) or "not a file"))
        return
    if found.folders.leads_outside(path):
        found.outside_links.append(str(path))
        return
    _add(path, identity_of(status), root, found)


def _add(path: Path, identity: Identity, root: Path, found: Scan) -> None:
    if left_alone(path, found.folders):
        found.ignored.append(str(path))
        return
    if (whole := refused(path, found.folders)) is not None:
        failure = Failure(sanitize(str(whole[0])), whole[1])
        if failure not in found.failures[-1:]:  # its parts come one after the other
            found.failures.append(failure)
        return
    parts = shards(path)
    if len(parts) > 1:  # one checkpoint, found at its first shard; the others are no files of their own
        here = found.folders.those(path.parent, (p.name for p in parts))
        if path.name != here[0].name:
            return
        identity = combined_identity([i for p in here if (i := found.folders.identity(p)) is not None] or [identity])
    layout, run = place(path, found.folders)
    name = str(PurePosixPath(*run.relative_to(root).parts)) if run.is_relative_to(root) else "."
    found.files.append(CheckpointFile(path, identity, str(run), run.name if name == "." else name, layout))


def locate_run(path: Path, folders: Folders | None = None) -> CheckpointFile:
    """Return a file as a scan of its run's own folder would find it; its identity is left open."""
    layout, run = place(path, folders or Folders())
    return CheckpointFile(path, Identity(0, 0, 0), str(run), run.name, layout)


def order(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort paths as people number them: ``epoch_10`` after ``epoch_9``."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(str(path)))


def within(path: str, folders: Iterable[Path]) -> bool:
    """Tell whether a path lies under one of these folders."""
    return any(location(path).is_relative_to(_absolute(f)) for f in folders)
