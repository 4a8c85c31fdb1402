"""Write what an ingest finds into the catalogue, in small transactions that leave it valid."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, delete, insert, select, update

from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.lineage import KnownLineage, LineageBook
from epsopt.zoo.reading.reader import CheckpointContents
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Identity, identity_at
from epsopt.zoo.reading.wire import pack
from epsopt.zoo.records import Failure
from epsopt.zoo.rows import (
    insert_checkpoint,
    insert_lineage,
    lineage_of_row,
    put_file,
    reader_of,
    refresh_run,
    release_checkpoint,
    run_id_of,
)
from epsopt.zoo.scan import Found
from epsopt.zoo.tables import checkpoints, embeddings, files, lineages, runs

_BATCH = 64
_SECONDS = 1.0


@dataclass(frozen=True)
class KnownFile:
    """What the catalogue knows of a file: unchanged as long as the identity is the same."""

    identity: Identity
    checkpoint_id: int | None
    reason: str | None
    embedded_by: str | None


def known_files(catalogue: Catalogue) -> dict[str, KnownFile]:
    """Return every file the catalogue has seen, by path, but what is to be read again.

    That are failures of older readers, and files of which other weights were read than the ones that are meant now.
    """
    reader = reader_of(catalogue.weights_key)
    query = select(files, embeddings.c.hook).outerjoin(embeddings, files.c.checkpoint_id == embeddings.c.checkpoint_id)
    with catalogue.reading() as connection:
        rows = connection.execute(query).all()
    return {
        r.path: KnownFile(Identity(r.size, r.mtime_ns, int(r.inode)), r.checkpoint_id, r.reason, r.hook)
        for r in rows
        if r.reader == reader or (r.reason is None and _reads_the_same(r.path, r.reader, reader))
    }


def _reads_the_same(path: str, one: int, other: int) -> bool:
    return one >> 8 == other >> 8 or path.lower().endswith(".safetensors")  # which has only one set of weights


def release_files(catalogue: Catalogue, paths: Iterable[str]) -> None:
    """Let go of checkpoints whose files are about to be read in another way: their content is the same, and yet new."""
    with catalogue.writing() as connection:
        touched: set[int] = set()
        for path in paths:
            old = connection.execute(select(files.c.checkpoint_id).where(files.c.path == path)).scalar()
            connection.execute(delete(files).where(files.c.path == path))
            if old is not None:
                touched |= release_checkpoint(connection, old, path)
        for run_id in sorted(touched):
            refresh_run(connection, run_id)


def files_read_otherwise(catalogue: Catalogue, paths: Sequence[str]) -> list[str]:
    """Return those of these files of which other weights are catalogued than the ones that are meant now."""
    reader = reader_of(catalogue.weights_key)
    with catalogue.reading() as connection:
        rows = connection.execute(select(files.c.path, files.c.reader).where(files.c.checkpoint_id.is_not(None)))
        other = {r.path for r in rows if not _reads_the_same(r.path, r.reader, reader)}
    return [path for path in paths if path in other]


def known_lineages(catalogue: Catalogue) -> LineageBook:
    """Return the lineages of the catalogue, to be offered to readers."""
    with catalogue.reading() as connection:
        return LineageBook(map(lineage_of_row, connection.execute(select(lineages).order_by(lineages.c.id))))


def relocate_references(catalogue: Catalogue) -> None:
    """Point lineages whose reference file changed or went to another file that still has its content, if one does."""
    query = (
        select(lineages.c.id, lineages.c.reference_path, files.c.path, files.c.size, files.c.mtime_ns, files.c.inode)
        .join(checkpoints, checkpoints.c.sha256 == lineages.c.reference_sha256)
        .join(files, files.c.checkpoint_id == checkpoints.c.id)
        .order_by(lineages.c.id, files.c.path)
    )
    with catalogue.reading() as connection:
        rows = connection.execute(query).all()
    intact: dict[int, list[str]] = {}
    for row in rows:
        if _identity_now(row.path) == Identity(row.size, row.mtime_ns, int(row.inode)):
            intact.setdefault(row.id, []).append(row.path)
    known = {r.path for r in rows}
    # A declared base may lie outside the runs: it stays the reference as long as it is there.
    lost = {r.id for r in rows if r.reference_path in known or _identity_now(r.reference_path) is None}
    moved = {
        r.id: intact[r.id][0] for r in rows if r.id in intact.keys() & lost and r.reference_path not in intact[r.id]
    }
    if moved:
        with catalogue.writing() as connection:
            for lineage_id, path in sorted(moved.items()):
                same = lineages.c.id == lineage_id
                connection.execute(update(lineages).where(same).values(reference_path=path))


def _identity_now(path: str) -> Identity | None:
    try:
        return identity_at(location(path))
    except OSError:
        return None


@dataclass(frozen=True)
class _Pending:
    found: Found
    result: CheckpointContents | Failure


class Recorder:
    """Collects results and writes them in batches, in the order in which they came.

    Args:
        catalogue: where to.
        book: the lineages known; lineages founded here, or by another process meanwhile, are added.
        embed: the hook that embeddings come from.
    """

    def __init__(self, catalogue: Catalogue, book: LineageBook, embed: str | None) -> None:
        self._catalogue = catalogue
        self._book = book
        self._embed = embed
        self._reader = reader_of(catalogue.weights_key)
        self._pending: list[_Pending] = []
        self._since = time.monotonic()
        with catalogue.reading() as connection:
            self._contents = set(connection.execute(select(checkpoints.c.sha256)).scalars())
        self.added = 0
        self.aliases = 0

    def accept(self, found: Found, contents: CheckpointContents) -> bool:
        """Take one readable checkpoint, or return False: read it again, its lineage was founded meanwhile."""
        lineage_id = self._lineage_of_known(contents.sha256)
        if lineage_id is None:
            lineage = self._lineage_of(contents)
            if lineage is None:
                self._found_lineage(contents)
                lineage = self._lineage_of(contents)
            if lineage is None or not _deltas_fit(lineage, contents):
                return False
            lineage_id = lineage.id
        self._contents.add(contents.sha256)
        self._add(_Pending(found, replace(contents, lineage=lineage_id)))
        return True

    def fail(self, found: Found, failure: Failure) -> None:
        """Take one unreadable file."""
        self._add(_Pending(found, failure))

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        with self._catalogue.writing() as connection:
            if self._write(connection):
                self._refresh_book(connection)
        self._pending = []

    def _add(self, pending: _Pending) -> None:
        if not self._pending:
            self._since = time.monotonic()
        self._pending.append(pending)
        if len(self._pending) >= _BATCH or time.monotonic() - self._since > _SECONDS:
            self.flush()

    def _lineage_of_known(self, sha256: str) -> int | None:
        """Return the lineage of content that the catalogue has already: it is an alias, or the file moved."""
        if sha256 not in self._contents:
            return None
        self.flush()
        with self._catalogue.reading() as connection:
            query = select(checkpoints.c.lineage_id).where(checkpoints.c.sha256 == sha256)
            found: int | None = connection.execute(query).scalar()
        return found

    def _lineage_of(self, contents: CheckpointContents) -> KnownLineage | None:
        if contents.declared is not None:
            known = self._book.of_reference(contents.signature, contents.declared.sha256)
            return known if known is not None and known.declared else None
        return self._book.nearest(contents.signature, contents.sketch)

    def _found_lineage(self, contents: CheckpointContents) -> None:
        """Write a new lineage unless another process wrote one that fits; what is pending goes first.

        So a lineage is never in the database without the checkpoints that were read before it, and an ingest
        that was killed and resumed comes to the same lineages.
        """
        with self._catalogue.writing() as connection:
            self._write(connection)
            self._refresh_book(connection)
            if self._lineage_of(contents) is None:
                self._book.add(insert_lineage(connection, contents))
        self._pending = []

    def _refresh_book(self, connection: Connection) -> None:
        for row in connection.execute(select(lineages).order_by(lineages.c.id)):
            new, old = lineage_of_row(row), self._book.get(row.id)
            if old is None or (old.declared, old.reference_path) != (new.declared, new.reference_path):
                self._book.add(new)

    def _write(self, connection: Connection) -> bool:
        """Write what is pending; return whether a lineage's reference moved."""
        touched: set[int] = set()
        moved = False
        for pending in self._pending:
            if isinstance(pending.result, Failure):
                self._write_failure(connection, pending.found, pending.result, touched)
            else:
                moved |= self._write_checkpoint(connection, pending.found, pending.result, touched)
        for run_id in sorted(touched):
            refresh_run(connection, run_id)
        return moved

    def _write_failure(self, connection: Connection, found: Found, failure: Failure, touched: set[int]) -> None:
        path = str(found.path)
        old = connection.execute(select(files.c.checkpoint_id).where(files.c.path == path)).scalar()
        put_file(connection, path, found.identity, checkpoint_id=None, reason=failure.reason, reader=self._reader)
        if old is not None:
            touched |= release_checkpoint(connection, old, path)

    def _write_checkpoint(
        self, connection: Connection, found: Found, contents: CheckpointContents, touched: set[int]
    ) -> bool:
        path = str(found.path)
        moved = False
        old = connection.execute(select(files.c.checkpoint_id).where(files.c.path == path)).scalar()
        same = connection.execute(
            select(checkpoints.c.id, checkpoints.c.path, checkpoints.c.run_id).where(
                checkpoints.c.sha256 == contents.sha256
            )
        ).first()
        if same is not None:
            checkpoint_id = same.id
            if same.path != path and not location(same.path).exists():
                # The file moved: the checkpoint goes with it.
                touched.add(same.run_id)
                run_id = run_id_of(connection, found)
                values = {"path": path, "run_id": run_id, "epoch": contents.epoch}
                connection.execute(delete(files).where(files.c.path == same.path))
                connection.execute(update(checkpoints).where(checkpoints.c.id == same.id).values(values))
                touched.add(run_id)
                former = (lineages.c.reference_path == same.path) & (lineages.c.reference_sha256 == contents.sha256)
                moved = connection.execute(update(lineages).where(former).values(reference_path=path)).rowcount > 0
            elif same.path != path and old != same.id:
                self.aliases += 1
        else:
            if old is not None:
                # Let go of the former content first: paths are unique.
                put_file(connection, path, contents.identity, checkpoint_id=None, reason="being replaced")
                touched |= release_checkpoint(connection, old, path)
            checkpoint_id = insert_checkpoint(connection, found, contents, touched)
            self.added += 1
        put_file(connection, path, contents.identity, checkpoint_id=checkpoint_id, reason=None, reader=self._reader)
        if same is not None and old is not None and old != same.id:
            touched |= release_checkpoint(connection, old, path)
        if contents.embedding is not None:
            connection.execute(delete(embeddings).where(embeddings.c.checkpoint_id == checkpoint_id))
            row = {"checkpoint_id": checkpoint_id, "hook": self._embed, "data": pack(contents.embedding)}
            connection.execute(insert(embeddings).values(row))
        return moved


def adopt(catalogue: Catalogue, seen: Iterable[Found]) -> None:
    """Give checkpoints to the run that their layout says now; a layout may have come to be recognised since."""
    query = select(checkpoints.c.id, checkpoints.c.path, checkpoints.c.run_id, runs.c.path.label("run_path")).join(runs)
    with catalogue.reading() as connection:
        known = {r.path: r for r in connection.execute(query)}
    moved = [(f, r) for f in seen if (r := known.get(str(f.path))) is not None and r.run_path != f.run_path]
    if moved:
        with catalogue.writing() as connection:
            touched = set()
            for found, row in moved:
                run_id = run_id_of(connection, found)
                connection.execute(update(checkpoints).where(checkpoints.c.id == row.id).values(run_id=run_id))
                touched |= {row.run_id, run_id}
            for run_id in sorted(touched):
                refresh_run(connection, run_id)


def forget_failures(catalogue: Catalogue, paths: Iterable[str]) -> None:
    """Delete the failures of files that are no longer there."""
    gone = sorted(paths)
    if gone:
        with catalogue.writing() as connection:
            for path in gone:
                connection.execute(delete(files).where(files.c.path == path, files.c.reason.is_not(None)))


def record_failures(catalogue: Catalogue, failures: Sequence[Failure]) -> None:
    """Write the failures of what could not even be opened, where they are not known yet."""
    if failures:
        with catalogue.writing() as connection:
            for failure in failures:
                put_file(connection, failure.path, Identity(0, 0, 0), checkpoint_id=None, reason=failure.reason)


def _deltas_fit(lineage: KnownLineage, contents: CheckpointContents) -> bool:
    """Tell whether deltas were taken from the lineage's reference (a founder's: from itself)."""
    if contents.declared is not None or contents.lineage == lineage.id:
        return True
    return contents.lineage is None and lineage.reference_sha256 == contents.sha256
