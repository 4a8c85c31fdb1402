"""Bring the tables of a database that an older version of epsopt made to what this version keeps."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import Connection, Table, inspect, select, text, update

from epsopt.zoo.catalogue.tables import SCHEMA_VERSION, checkpoints, files, fingerprints, meta, metadata, runs, told
from epsopt.zoo.errors import CatalogueError
from epsopt.zoo.reading.plain_values import finite_metrics

_CHUNK = 200  # fingerprints that are held at once


def version_of(connection: Connection) -> int | None:
    """Return the version of the tables, None where nothing says it.

    Raises:
        CatalogueError: it is no number.
    """
    found = connection.execute(select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
    if found is not None and not str(found).isdecimal():
        raise CatalogueError(
            f"the catalogue's version is {str(found)!r:.40}, expected {SCHEMA_VERSION}: the database is damaged, "
            "'epsopt check' says where, and 'epsopt ingest --repair' reads the runs again"
        )
    return None if found is None else int(found)


def version_by_columns(connection: Connection) -> int:
    """Return the version that the tables look like, for where nothing says it any more."""
    present = {column["name"] for column in inspect(connection).get_columns(checkpoints.name)}
    return SCHEMA_VERSION if "weights" in present else 1


def upgrade(connection: Connection) -> None:
    """Upgrade in one transaction, in which SQLite does not check foreign keys; another process may have done it."""
    if version_of(connection) != 1:
        return
    _add_side_files(connection)
    _share_contents(connection)
    same = meta.c.key == "schema_version"
    connection.execute(update(meta).where(same).values(value=str(SCHEMA_VERSION)))


def _add_side_files(connection: Connection) -> None:
    """Add what came within version 1: the table of side files, and what they are matched by."""
    if not inspect(connection).has_table(told.name):
        metadata.create_all(connection, tables=[told])
    _add_columns(connection, checkpoints, ("step", "layout"))


def _share_contents(connection: Connection) -> None:
    """Let runs share contents, and keep what each file says."""
    _drop_unique(connection, checkpoints.name, "sha256")
    _add_columns(connection, checkpoints, ("weights",))
    _add_columns(connection, files, ("sha256", "said"))
    _add_columns(connection, runs, ("layout",))
    for table in (checkpoints, files):
        known = {index["name"] for index in inspect(connection).get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in known:
                index.create(connection)
    ids = connection.execute(select(fingerprints.c.checkpoint_id)).scalars().all()
    for start in range(0, len(ids), _CHUNK):
        some = select(fingerprints).where(fingerprints.c.checkpoint_id.in_(ids[start : start + _CHUNK]))
        for row in connection.execute(some).all():
            digest = _digest(bytes(row.data))
            connection.execute(update(checkpoints).where(checkpoints.c.id == row.checkpoint_id).values(weights=digest))
    # A checkpoint's own file says what the checkpoint says. Of its other files nothing is known but their content: the
    # next ingest reads them again, and gives them to the run that they lie in.
    for row in connection.execute(select(checkpoints)).all():
        said = {
            "epoch": row.epoch,
            "step": row.step,
            "metrics": finite_metrics(json.loads(row.metrics)),
            "hyperparameters": json.loads(row.hyperparameters),
            "layout": row.layout or "plain",
        }
        connection.execute(update(files).where(files.c.checkpoint_id == row.id).values(sha256=row.sha256))
        connection.execute(update(files).where(files.c.path == row.path).values(said=json.dumps(said)))
        if said["metrics"] != json.loads(row.metrics):
            kept = json.dumps(said["metrics"], sort_keys=True)
            connection.execute(update(checkpoints).where(checkpoints.c.id == row.id).values(metrics=kept))
    for row in connection.execute(select(told.c.run_id, told.c.metrics)).all():
        kept = json.dumps({key: finite_metrics(m) for key, m in json.loads(row.metrics).items()}, sort_keys=True)
        if kept != row.metrics:
            connection.execute(update(told).where(told.c.run_id == row.run_id).values(metrics=kept))


def _digest(fingerprint: bytes) -> str:
    from epsopt.zoo.catalogue.identity import weights_digest
    from epsopt.zoo.fingerprints.fingerprint import Fingerprint  # torch: for this once

    try:
        return weights_digest(Fingerprint.from_bytes(fingerprint).sketch, fingerprint)
    except CatalogueError:  # a damaged one: whoever needs it says so
        return hashlib.sha256(fingerprint).hexdigest()


def _add_columns(connection: Connection, table: Table, names: tuple[str, ...]) -> None:
    present = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for name in names:
        if name not in present:
            kind = table.columns[name].type.compile(connection.dialect)
            connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {name} {kind}"))


def _drop_unique(connection: Connection, table: str, column: str) -> None:
    """Drop the constraint that a column is unique; SQLite needs the whole table rebuilt for that."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    found = inspect(connection).get_unique_constraints(table)
    names = [c["name"] for c in found if c["column_names"] == [column]]
    if not names:
        return
    # SQLite keeps no name where none was given; Alembic gives the constraint that it finds the one of the convention.
    convention = {"uq": "uq_%(table_name)s_%(column_0_name)s"}
    operations = Operations(MigrationContext.configure(connection))
    with operations.batch_alter_table(table, naming_convention=convention) as batch:
        batch.drop_constraint(names[0] or f"uq_{table}_{column}", type_="unique")
