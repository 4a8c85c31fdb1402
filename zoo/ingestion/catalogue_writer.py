"""Write what an ingest finds into the catalogue, in small transactions that leave it valid."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from sqlalchemy import Connection, delete, select, update

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.identity import (
    FileContent,
    attach,
    put_embedding,
    replaced,
    run_id_of,
    run_of_checkpoint,
    settle,
)
from epsopt.zoo.catalogue.queries import insert_lineage, lineage_of_row, put_file, reader_of, refresh_run
from epsopt.zoo.catalogue.tables import checkpoints, embeddings, files, lineages, runs
from epsopt.zoo.errors import Failure
from epsopt.zoo.fingerprints.formats import header_of
from epsopt.zoo.fingerprints.lineage import KnownLineage, LineageBook
from epsopt.zoo.fingerprints.sketch import gain_directions
from epsopt.zoo.ingestion.run_lineage import lineage_of_run
from epsopt.zoo.layouts.adapters import MODEL
from epsopt.zoo.layouts.scan import CheckpointFile
from epsopt.zoo.reading.messages import pack
from epsopt.zoo.reading.pool import LOST
from epsopt.zoo.reading.reader import CheckpointContents
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import MEMORY, Identity, Limits, identity_at, needs_more

_BATCH = 64
_ADAPTERS_SINCE = 4  # READER that looks at low-rank adapters as their products: before, they are to be read again
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

    That are failures of older readers, of ones with less memory, and of machines that went away, files of which other
    weights were read than the ones that are meant now, and files of which nobody kept what they say.
    """
    reader, limits = reader_of(catalogue.weights_key), Limits()
    hooks = select(checkpoints.c.weights, embeddings.c.hook).join(embeddings)
    query = select(files, checkpoints.c.weights).outerjoin(checkpoints, files.c.checkpoint_id == checkpoints.c.id)
    with catalogue.reading() as connection:
        rows = connection.execute(query).all()
        hook_of = {r.weights: r.hook for r in connection.execute(hooks)}
    return {
        r.path: KnownFile(Identity(r.size, r.mtime_ns, int(r.inode)), r.checkpoint_id, r.reason, hook_of.get(r.weights))
        for r in rows
        if (r.reader == reader or (r.reason is None and _reads_the_same(r.path, r.reader, reader)))
        and (r.metadata is not None or r.reason is not None)
        and (r.reason is None or MEMORY not in r.reason or needs_more(limits) in r.reason)
        and (r.reason is None or LOST not in r.reason)
    }


def _reads_the_same(path: str, one: int, other: int) -> bool:
    if MODEL.fullmatch(PurePath(path).name) and min(one & 0xFF, other & 0xFF) < _ADAPTERS_SINCE:
        return one & 0xFF == other & 0xFF
    return one >> 8 == other >> 8 or path.lower().endswith(".safetensors")  # which has only one set of weights


def release_files(catalogue: Catalogue, paths: Iterable[str]) -> None:
    """Let go of checkpoints whose files are about to be read in another way: their content is the same, and yet new."""
    with catalogue.writing() as connection:
        touched: set[int] = set()
        for path in paths:
            old = connection.execute(select(files.c.checkpoint_id).where(files.c.path == path)).scalar()
            connection.execute(delete(files).where(files.c.path == path))
            _let_go(connection, old, touched)
        for run_id in sorted(touched):
            refresh_run(connection, run_id)


def files_read_otherwise(catalogue: Catalogue, paths: Sequence[str]) -> list[str]:
    """Return those of these files of which other weights are catalogued than the ones that are meant now."""
    reader = reader_of(catalogue.weights_key)
    with catalogue.reading() as connection:
        rows = connection.execute(select(files.c.path, files.c.reader).where(files.c.checkpoint_id.is_not(None)))
        other = {r.path for r in rows if not _reads_the_same(r.path, r.reader, reader)}
    return [path for path in paths if path in other]


def files_without_checkpoint(catalogue: Catalogue, held: Mapping[str, int]) -> list[str]:
    """Return those paths whose checkpoints, which they had by these ids, are no longer in the catalogue."""
    with catalogue.reading() as connection:
        there = {
            i for i in set(held.values())
            if connection.execute(select(checkpoints.c.id).where(checkpoints.c.id == i)).first() is not None
        }  # fmt: skip
    return [path for path, i in held.items() if i not in there]


def known_lineages(catalogue: Catalogue) -> LineageBook:
    """Return the lineages of the catalogue, to be offered to readers."""
    with catalogue.reading() as connection:
        return LineageBook(map(lineage_of_row, connection.execute(select(lineages).order_by(lineages.c.id))))


def relocate_references(catalogue: Catalogue) -> None:
    """Point lineages whose reference file changed or went to another file that still has its content, if one does."""
    query = (
        select(lineages.c.id, lineages.c.reference_path, files.c.path, files.c.size, files.c.mtime_ns, files.c.inode)
        .join(files, files.c.sha256 == lineages.c.reference_sha256)
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
    found: CheckpointFile
    result: CheckpointContents | Failure


class Recorder:
    """Collects results and writes them in batches, in the order in which they came.

    Args:
        catalogue: where to.
        book: the lineages known; lineages founded here, or by another process meanwhile, are added.
        embed: the hook that embeddings come from.
        present: paths that were seen a moment ago; whether others are still there is looked up when it matters.
    """

    def __init__(
        self, catalogue: Catalogue, book: LineageBook, embed: str | None, present: Collection[str] = ()
    ) -> None:
        self._catalogue = catalogue
        self._book = book
        self._embed = embed
        self._reader = reader_of(catalogue.weights_key)
        self._pending: list[_Pending] = []
        self._since = time.monotonic()
        self._exists = dict.fromkeys(present, True)
        with catalogue.reading() as connection:
            self._contents = set(connection.execute(select(files.c.sha256)).scalars())
            self._contents |= set(connection.execute(select(checkpoints.c.sha256)).scalars())
        self.added = 0
        self.aliases = 0
        self.held: dict[str, int] = {}  # by path of an unreadable file: the checkpoint that it was of until now
        self.hint: int | None = None
        self._hinted: tuple[str, int] | None = None

    def accept(self, found: CheckpointFile, contents: CheckpointContents) -> bool:
        """Take one readable checkpoint, or return False: read it again.

        Its lineage was founded meanwhile, or is known otherwise than from distances: then `hint` is its id.
        """
        self.hint = None
        lineage_id = self._lineage_of_known(contents.sha256)
        if lineage_id is None:
            known = self._known_origin(found, contents)
            if known is not None and contents.lineage != known and self._hinted != (str(found.path), known):
                self.hint, self._hinted = known, (str(found.path), known)
                return False
            lineage_id = known if known is not None and contents.lineage == known else None
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

    def fail(self, found: CheckpointFile, failure: Failure) -> None:
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
        """Return the lineage of content that the catalogue has already, of this run or of another one."""
        if sha256 not in self._contents:
            return None
        self.flush()
        with self._catalogue.reading() as connection:
            kept = _kept(connection, sha256, self._reader)
        return None if kept is None else kept[0]

    def _known_origin(self, found: CheckpointFile, contents: CheckpointContents) -> int | None:
        """Return the lineage that a checkpoint is known to be of: its base's, or that of its run.

        A base that another run wrote is of that run's lineage. What is far from all references, as a run becomes that
        moves far, is of its run's lineage if its weights plainly come from those of an earlier checkpoint of the run.
        """
        if self._hinted is not None and self._hinted == (str(found.path), contents.lineage):
            return contents.lineage
        if contents.declared is not None:
            base = contents.declared.sha256
            if self._book.of_reference(contents.signature, base) is not None:
                return None
            known = self._lineage_of_known(base)
            lineage = None if known is None else self._book.get(known)
            return known if lineage is not None and lineage.signature == contents.signature else None
        if contents.sketch.any() and (contents.lineage is not None or self._lineage_of(contents) is not None):
            return None  # weights that are all NaN lie nowhere
        self.flush()
        numbered = contents.epoch is not None or contents.step is not None
        return lineage_of_run(self._catalogue, found.run_path, contents.signature, contents.sketch, numbered=numbered)

    def _lineage_of(self, contents: CheckpointContents) -> KnownLineage | None:
        if contents.declared is not None:
            known = self._book.of_reference(contents.signature, contents.declared.sha256)
            return known if known is not None and known.declared else None
        header, _ = header_of(contents.fingerprint_bytes)
        directions = gain_directions(tuple(header["names"]), tuple(map(tuple, header["shapes"])))
        return self._book.nearest(contents.signature, contents.sketch, directions)

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
                moved |= self._write_failure(connection, pending.found, pending.result, touched)
            else:
                moved |= self._write_checkpoint(connection, pending.found, pending.result, touched)
        for run_id in sorted(touched):
            refresh_run(connection, run_id)
        return moved

    def _write_failure(
        self, connection: Connection, found: CheckpointFile, failure: Failure, touched: set[int]
    ) -> bool:
        path = str(found.path)
        old = connection.execute(select(files.c.checkpoint_id).where(files.c.path == path)).scalar()
        moved = replaced(connection, path, None)
        put_file(connection, path, found.identity, reason=failure.reason, reader=self._reader)
        if old is not None:
            self.held[path] = old
        return _let_go(connection, old, touched) or moved

    def _write_checkpoint(
        self, connection: Connection, found: CheckpointFile, contents: CheckpointContents, touched: set[int]
    ) -> bool:
        """Write one file and its checkpoint; return whether a lineage's reference goes by another path now."""
        path = str(found.path)
        assert contents.lineage is not None  # accept() found one
        kept = _kept(connection, contents.sha256, self._reader)
        content = FileContent.of(contents, contents.lineage, None if kept is None else kept[1])
        before = connection.execute(select(files.c.checkpoint_id, files.c.sha256).where(files.c.path == path)).first()
        old = None if before is None else before.checkpoint_id
        placed = attach(
            connection, found, content, touched, fingerprint=contents.fingerprint_bytes, exists=self._is_there
        )
        moved = replaced(connection, path, contents.sha256) or placed.relocated
        identity = contents.identity
        put_file(connection, path, identity, checkpoint_id=placed.checkpoint_id, content=content, reader=self._reader)
        if old != placed.checkpoint_id:
            moved |= _let_go(connection, old, touched)
        moved |= settle(connection, placed.checkpoint_id)
        if placed.how == "new" or (old == placed.checkpoint_id and before and before.sha256 != contents.sha256):
            self.added += 1
        elif placed.how == "alias" and old != placed.checkpoint_id:
            self.aliases += 1
        if contents.embedding is not None:
            put_embedding(connection, placed.checkpoint_id, self._embed, pack(contents.embedding))
        return moved

    def _is_there(self, path: str) -> bool:
        if path not in self._exists:
            self._exists[path] = location(path).exists()
        return self._exists[path]


def _kept(connection: Connection, sha256: str, reader: int) -> tuple[int, str] | None:
    """Return the lineage and the weights' digest of content that the catalogue has, read as it is read now."""
    query = (
        select(checkpoints.c.lineage_id, checkpoints.c.weights, files.c.path, files.c.reader)
        .join(files, files.c.checkpoint_id == checkpoints.c.id)
        .where(files.c.sha256 == sha256)
    )
    for row in connection.execute(query):
        if _reads_the_same(row.path, row.reader, reader):
            return row.lineage_id, row.weights
    return None


def _let_go(connection: Connection, checkpoint_id: int | None, touched: set[int]) -> bool:
    """Settle a checkpoint that a file no longer belongs to; return whether a lineage's reference moved."""
    run_id = None if checkpoint_id is None else run_of_checkpoint(connection, checkpoint_id)
    if checkpoint_id is None or run_id is None:
        return False
    touched.add(run_id)
    return settle(connection, checkpoint_id)


def adopt(catalogue: Catalogue, seen: Iterable[CheckpointFile]) -> None:
    """Give files to the run that their layout says now; a layout may have come to be recognised since."""
    query = (
        select(files.c.path, files.c.checkpoint_id, runs.c.path.label("run_path"), runs.c.layout)
        .join(checkpoints, files.c.checkpoint_id == checkpoints.c.id)
        .join(runs, checkpoints.c.run_id == runs.c.id)
        .where(files.c.metadata.is_not(None))
    )
    with catalogue.reading() as connection:
        known = {r.path: r for r in connection.execute(query)}
    moved = [
        f for f in seen if (r := known.get(str(f.path))) is not None and (r.run_path != f.run_path or r.layout is None)
    ]
    if moved:
        with catalogue.writing() as connection:
            touched: set[int] = set()
            for found in moved:
                _take_over(connection, found, touched)
            for run_id in sorted(touched):
                refresh_run(connection, run_id)


def _take_over(connection: Connection, found: CheckpointFile, touched: set[int]) -> None:
    """Make a file one of the run that it belongs to now."""
    columns = (files.c.sha256.label("content"), files.c.metadata, checkpoints)
    query = select(*columns).join(checkpoints, files.c.checkpoint_id == checkpoints.c.id)
    row = connection.execute(query.where(files.c.path == str(found.path))).first()
    if row is None or row.metadata is None:
        return
    run_id = run_id_of(connection, found)
    if row.run_id == run_id:
        return
    content = FileContent(
        row.content, row.weights, True, row.signature, row.lineage_id, row.n_parameters, json.loads(row.metadata)
    )
    placed = attach(connection, found, content, touched)
    same = files.c.path == str(found.path)
    connection.execute(update(files).where(same).values(checkpoint_id=placed.checkpoint_id))
    _let_go(connection, row.id, touched)
    settle(connection, placed.checkpoint_id)


def delete_failures(catalogue: Catalogue, paths: Iterable[str]) -> None:
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
                put_file(connection, failure.path, Identity(0, 0, 0), reason=failure.reason)


def _deltas_fit(lineage: KnownLineage, contents: CheckpointContents) -> bool:
    """Return whether deltas were taken from the lineage's reference (a base checkpoint's: from itself)."""
    if contents.declared is not None or contents.lineage == lineage.id:
        return True
    return contents.lineage is None and lineage.reference_sha256 == contents.sha256
