"""Write what an ingest finds into the catalogue, in small transactions that leave it valid."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, insert, select, update

from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.lineage import KnownLineage, LineageBook
from epsopt.zoo.reader import CheckpointContents
from epsopt.zoo.records import Failure
from epsopt.zoo.scan import Found
from epsopt.zoo.source import Identity
from epsopt.zoo.tables import checkpoints, embeddings, files, fingerprints, lineages, runs
from epsopt.zoo.wire import pack, unpack

READER = 1
"""Raised when files that failed should be tried again because the reader has learned something."""

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
    """Return every file the catalogue has seen, by path, but failures of older readers: try those again."""
    query = select(files, embeddings.c.hook).outerjoin(
        embeddings, files.c.checkpoint_id == embeddings.c.checkpoint_id
    )
    with catalogue.reading() as connection:
        rows = connection.execute(query).all()
    return {
        r.path: KnownFile(Identity(r.size, r.mtime_ns, int(r.inode)), r.checkpoint_id, r.reason, r.hook)
        for r in rows
        if r.reason is None or r.reader == READER
    }


def known_lineages(catalogue: Catalogue) -> LineageBook:
    """Return the lineages of the catalogue, to be offered to readers."""
    with catalogue.reading() as connection:
        return LineageBook(map(_lineage, connection.execute(select(lineages).order_by(lineages.c.id))))


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
                self._book.add(_insert_lineage(connection, contents))
        self._pending = []

    def _refresh_book(self, connection: Connection) -> None:
        for row in connection.execute(select(lineages).order_by(lineages.c.id)):
            new, old = _lineage(row), self._book.get(row.id)
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
            _refresh_run(connection, run_id)
        return moved

    def _write_failure(
        self, connection: Connection, found: Found, failure: Failure, touched: set[int]
    ) -> None:
        path = str(found.path)
        old = connection.execute(select(files.c.checkpoint_id).where(files.c.path == path)).scalar()
        _put_file(connection, path, found.identity, checkpoint_id=None, reason=failure.reason)
        if old is not None:
            touched |= _release(connection, old, path)

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
            if same.path != path and not Path(same.path).exists():
                # The file moved: the checkpoint goes with it.
                touched.add(same.run_id)
                run_id = _run(connection, found)
                values = {"path": path, "run_id": run_id, "epoch": contents.epoch}
                connection.execute(delete(files).where(files.c.path == same.path))
                connection.execute(update(checkpoints).where(checkpoints.c.id == same.id).values(values))
                touched.add(run_id)
                former = (lineages.c.reference_path == same.path) & (
                    lineages.c.reference_sha256 == contents.sha256
                )
                moved = (
                    connection.execute(update(lineages).where(former).values(reference_path=path)).rowcount
                    > 0
                )
            elif same.path != path and old != same.id:
                self.aliases += 1
        else:
            if old is not None:
                # Let go of the former content first: paths are unique.
                _put_file(connection, path, contents.identity, checkpoint_id=None, reason="being replaced")
                touched |= _release(connection, old, path)
            checkpoint_id = _insert_checkpoint(connection, found, contents, touched)
            self.added += 1
        _put_file(connection, path, contents.identity, checkpoint_id=checkpoint_id, reason=None)
        if same is not None and old is not None and old != same.id:
            touched |= _release(connection, old, path)
        if contents.embedding is not None:
            connection.execute(delete(embeddings).where(embeddings.c.checkpoint_id == checkpoint_id))
            row = {"checkpoint_id": checkpoint_id, "hook": self._embed, "data": pack(contents.embedding)}
            connection.execute(insert(embeddings).values(row))
        return moved


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
                _put_file(
                    connection, failure.path, Identity(0, 0, 0), checkpoint_id=None, reason=failure.reason
                )


def _deltas_fit(lineage: KnownLineage, contents: CheckpointContents) -> bool:
    """Tell whether deltas were taken from the lineage's reference (a founder's: from itself)."""
    if contents.declared is not None or contents.lineage == lineage.id:
        return True
    return contents.lineage is None and lineage.reference_sha256 == contents.sha256


def _lineage(row: Row[Any]) -> KnownLineage:
    return KnownLineage(
        row.id,
        row.signature,
        row.reference_path,
        row.reference_sha256,
        row.declared,
        unpack(bytes(row.sketch)),
    )


def _next_id(connection: Connection, table: Table) -> int:
    return (connection.execute(select(func.max(table.c.id))).scalar() or 0) + 1


def _insert_lineage(connection: Connection, contents: CheckpointContents) -> KnownLineage:
    base = contents.declared
    sha256 = base.sha256 if base else contents.sha256
    same = (lineages.c.signature == contents.signature) & (lineages.c.reference_sha256 == sha256)
    if base is not None:
        # The base may have founded a lineage as an ordinary checkpoint before a run declared it.
        connection.execute(update(lineages).where(same).values(declared=True, reference_path=base.path))
    row = connection.execute(select(lineages).where(same)).first()
    if row is None:
        values = {
            "id": _next_id(connection, lineages),
            "signature": contents.signature,
            "reference_path": base.path if base else str(contents.path),
            "reference_sha256": sha256,
            "declared": base is not None,
            "sketch": pack(base.sketch if base else contents.sketch),
        }
        connection.execute(insert(lineages).values(values))
        row = connection.execute(select(lineages).where(same)).one()
    return _lineage(row)


def _run(connection: Connection, found: Found) -> int:
    run_id = connection.execute(select(runs.c.id).where(runs.c.path == found.run_path)).scalar()
    if run_id is None:
        run_id = _next_id(connection, runs)
        row = {"id": run_id, "name": found.run_name, "path": found.run_path, "hyperparameters": "{}"}
        connection.execute(insert(runs).values(row))
    return int(run_id)


def _insert_checkpoint(
    connection: Connection, found: Found, contents: CheckpointContents, touched: set[int]
) -> int:
    checkpoint_id, run_id = _next_id(connection, checkpoints), _run(connection, found)
    row = {
        "id": checkpoint_id,
        "run_id": run_id,
        "path": str(found.path),
        "sha256": contents.sha256,
        "epoch": contents.epoch,
        "metrics": json.dumps(contents.metrics, sort_keys=True),
        "hyperparameters": json.dumps(contents.hyperparameters),
        "signature": contents.signature,
        "lineage_id": contents.lineage,
        "n_parameters": contents.n_parameters,
    }
    connection.execute(insert(checkpoints).values(row))
    blob = {"checkpoint_id": checkpoint_id, "data": contents.fingerprint_bytes}
    connection.execute(insert(fingerprints).values(blob))
    touched.add(run_id)
    return checkpoint_id


def _put_file(
    connection: Connection, path: str, identity: Identity, *, checkpoint_id: int | None, reason: str | None
) -> None:
    values = {
        "size": identity.size,
        "mtime_ns": identity.mtime_ns,
        "inode": str(identity.inode),
        "checkpoint_id": checkpoint_id,
        "reason": reason,
        "reader": READER,
    }
    changed = connection.execute(update(files).where(files.c.path == path).values(values))
    if changed.rowcount == 0:
        connection.execute(insert(files).values({"path": path, **values}))


def _release(connection: Connection, checkpoint_id: int, path: str) -> set[int]:
    """Deal with a checkpoint whose file holds something else now: an alias takes its place, or it goes."""
    row = connection.execute(
        select(checkpoints.c.path, checkpoints.c.run_id).where(checkpoints.c.id == checkpoint_id)
    ).first()
    if row is None or row.path != path:
        return set()
    heir = connection.execute(
        select(files.c.path).where(files.c.checkpoint_id == checkpoint_id).order_by(files.c.path).limit(1)
    ).scalar()
    if heir is None:
        for table in (fingerprints, embeddings):
            connection.execute(delete(table).where(table.c.checkpoint_id == checkpoint_id))
        connection.execute(delete(checkpoints).where(checkpoints.c.id == checkpoint_id))
        return {row.run_id}
    folder = Path(heir).parent
    run_id = _run(connection, Found(Path(heir), Identity(0, 0, 0), str(folder), folder.name))
    connection.execute(
        update(checkpoints).where(checkpoints.c.id == checkpoint_id).values(path=heir, run_id=run_id)
    )
    return {row.run_id, run_id}


def _refresh_run(connection: Connection, run_id: int) -> None:
    """Give a run the hyperparameters of its newest checkpoint that has any; an empty run goes."""
    rows = connection.execute(
        select(checkpoints.c.epoch, checkpoints.c.path, checkpoints.c.hyperparameters).where(
            checkpoints.c.run_id == run_id
        )
    ).all()
    if not rows:
        connection.execute(delete(runs).where(runs.c.id == run_id))
        return
    telling = [r for r in rows if r.hyperparameters != "{}"] or rows
    newest = max(telling, key=lambda r: (-1 if r.epoch is None else r.epoch, r.path))
    connection.execute(update(runs).where(runs.c.id == run_id).values(hyperparameters=newest.hyperparameters))
