"""Compare every file of the catalogue with what it was when it was read: its SHA-256, not its size and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.tables import checkpoints, files, lineages
from epsopt.zoo.errors import Failure, UnreadableCheckpoint
from epsopt.zoo.fingerprints.lineage import ADAPTED
from epsopt.zoo.layouts.scan import within
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import ChangedWhileReadError, Limits, open_source

Progress = Callable[[int, int], None]
_LIMITS = Limits(at_once=0)  # hash in pieces, whatever the size


@dataclass(frozen=True)
class Verification:
    """What became of the catalogued files: checked = intact + the length of troubled.

    Attributes:
        checked: files looked at: checkpoints, their aliases, and bases that runs declare.
        intact: those whose content is what it was.
        failed: those that changed, vanished, or cannot be read any more, by path.
        seconds: duration.
    """

    checked: int
    intact: int
    failed: list[Failure]
    seconds: float


def verify(
    catalogue: Catalogue,
    folder: Path | Sequence[Path] | None = None,
    *,
    jobs: int = 2,
    progress: Progress | None = None,
) -> Verification:
    """Hash the catalogued files again; neither the files nor the catalogue are changed.

    A disk that rots, a copy that went wrong, and a file that was written over with its time set back are found here
    and nowhere else: an ingest trusts size, time and inode, and most formats have no checksum of their own.

    Args:
        catalogue: whose files.
        folder: only what lies under this folder or these folders; everything when None.
        jobs: threads; hashing leaves Python's lock.
        progress: called with (files done, files in all).

    Returns:
        The report.

    Raises:
        CatalogueError: the database refuses.
    """
    started = time.monotonic()
    wanted = dict(sorted(_kept(catalogue).items()))
    if folder is not None:
        roots = [folder] if isinstance(folder, str | Path) else list(folder)
        wanted = {path: sha256 for path, sha256 in wanted.items() if within(path, roots)}
    failed: list[Failure] = []
    for done, (path, reason) in enumerate(_outcomes(wanted, jobs), start=1):
        if reason is not None:
            failed.append(Failure(path, reason))
        if progress is not None:
            progress(done, len(wanted))
    failed.sort(key=lambda f: f.path)
    return Verification(len(wanted), len(wanted) - len(failed), failed, time.monotonic() - started)


def _kept(catalogue: Catalogue) -> dict[str, str]:
    """Return the SHA-256 of every file that the catalogue relies on, by path."""
    with catalogue.reading() as connection:
        bases = connection.execute(select(lineages.c.reference_path, lineages.c.reference_sha256)).all()
        content = func.coalesce(files.c.sha256, checkpoints.c.sha256)
        read = connection.execute(select(files.c.path, content).join(checkpoints)).all()
    # A base that was read as a run, too, counts as read; that of adapters is no file of ours.
    return {row[0]: row[1] for row in (*bases, *read) if not row[0].startswith(ADAPTED)}


def _outcomes(wanted: dict[str, str], jobs: int) -> Iterator[tuple[str, str | None]]:
    with ThreadPoolExecutor(max(1, jobs)) as threads:
        futures = {threads.submit(_failure, location(path), sha256): path for path, sha256 in wanted.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _failure(path: Path, sha256: str) -> str | None:
    try:
        with open_source(path, _LIMITS) as source:
            found = source.sha256()
    except UnreadableCheckpoint as error:
        return f"vanished: {error.reason}" if not (path.is_symlink() or path.exists()) else error.reason
    except ChangedWhileReadError:
        return "was written to while it was checked: try again when it is complete"
    if found != sha256:
        return f"changed: its content is not what was catalogued (SHA-256 {found[:12]}…, was {sha256[:12]}…)"
    return None
