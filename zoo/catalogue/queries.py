"""The single steps of an ingest in the catalogue's tables; each takes an open transaction."""

from __future__ import annotations

import json
import zlib
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from epsopt.zoo.catalogue.identity import FileContent, next_id
from epsopt.zoo.catalogue.tables import checkpoints, files, lineages, run_metadata, runs
from epsopt.zoo.fingerprints.lineage import KnownLineage
from epsopt.zoo.reading.messages import pack, unpack
from epsopt.zoo.reading.plain_values import with_defaults
from epsopt.zoo.reading.reader import CheckpointContents
from epsopt.zoo.reading.source import Identity

# Values are given when a statement is executed, not when it is built: building is half of what a small one costs.
_UPDATE_FILE = update(files).where(files.c.path == bindparam("the_path"))

READER = 4
"""Raised when files that failed should be tried again because the reader has learned something."""


def reader_of(weights_key: str) -> int:
    """Return what is kept of how a file was read: the reader's number, and which weights of the file were meant."""
    return READER + ((zlib.crc32(weights_key.encode()) % (1 << 22) + 1) << 8 if weights_key else 0)


def lineage_of_row(row: Row[Any]) -> KnownLineage:
    """Turn a row of the lineages into what members are compared with."""
    return KnownLineage(
        row.id,
        row.signature,
        row.reference_path,
        row.reference_sha256,
        row.declared,
        unpack(bytes(row.sketch)),
    )


def insert_lineage(connection: Connection, contents: CheckpointContents) -> KnownLineage:
    """Found a lineage on a checkpoint's declared base, or on itself; an existing one becomes declared."""
    base = contents.declared
    sha256 = base.sha256 if base else contents.sha256
    same = (lineages.c.signature == contents.signature) & (lineages.c.reference_sha256 == sha256)
    if base is not None:
        # The base may have founded a lineage as an ordinary checkpoint before a run declared it.
        connection.execute(update(lineages).where(same).values(declared=True, reference_path=base.path))
    row = connection.execute(select(lineages).where(same)).first()
    if row is None:
        values = {
            "id": next_id(connection, lineages),
            "signature": contents.signature,
            "reference_path": base.path if base else str(contents.path),
            "reference_sha256": sha256,
            "declared": base is not None,
            "sketch": pack(base.sketch if base else contents.sketch),
        }
        connection.execute(insert(lineages).values(values))
        row = connection.execute(select(lineages).where(same)).one()
    return lineage_of_row(row)


def put_file(
    connection: Connection,
    path: str,
    identity: Identity,
    *,
    checkpoint_id: int | None = None,
    reason: str | None = None,
    content: FileContent | None = None,
    reader: int = READER,
) -> None:
    """Write what is known of a file, in place of what was known before: its checkpoint and content, or a reason."""
    values = {
        "size": identity.size,
        "mtime_ns": identity.mtime_ns,
        "inode": str(identity.inode),
        "checkpoint_id": checkpoint_id,
        "reason": reason,
        "reader": reader,
        "sha256": None if content is None else content.sha256,
        "metadata": None if content is None else json.dumps(content.metadata),
    }
    changed = connection.execute(_UPDATE_FILE, {"the_path": path, **values})
    if changed.rowcount == 0:
        connection.execute(insert(files), {"path": path, **values})


def refresh_run(connection: Connection, run_id: int) -> None:
    """Give a run the hyperparameters of its newest checkpoint with any, and of its side files; an empty run goes."""
    rows = connection.execute(
        select(checkpoints.c.epoch, checkpoints.c.step, checkpoints.c.path, checkpoints.c.hyperparameters).where(
            checkpoints.c.run_id == run_id
        )
    ).all()
    if not rows:
        connection.execute(delete(run_metadata).where(run_metadata.c.run_id == run_id))
        connection.execute(delete(runs).where(runs.c.id == run_id))
        return
    telling = [r for r in rows if r.hyperparameters != "{}"] or rows
    newest = max(telling, key=lambda r: (*(-1 if n is None else n for n in (r.epoch, r.step)), r.path))
    side_values = connection.execute(
        select(run_metadata.c.hyperparameters).where(run_metadata.c.run_id == run_id)
    ).scalar()
    both = newest.hyperparameters if side_values in (None, "{}") else _merged(side_values, newest.hyperparameters)
    connection.execute(update(runs).where(runs.c.id == run_id).values(hyperparameters=both))


def _merged(side_values: str, own: str) -> str:
    return json.dumps(with_defaults(json.loads(own), json.loads(side_values)))
