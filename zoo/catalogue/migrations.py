"""Upgrade the tables of a database that an older version of epsopt made, revision by revision.

Each revision is a function that Alembic's operations run in, in one transaction with all others. The number of the last
one is the row ``schema_version`` of ``epsopt_meta``: versions of epsopt from before Alembic read it there and refuse a
newer database. Alembic's own table would be in their way twice: they do not know it, and Optuna keeps the revision of
*its* tables in one of that name in the same database.

Revision 1
    A checkpoint is the content of a file and belongs to one run.
Revision 2 (:mod:`~epsopt.zoo.catalogue.revision_2`)
    A checkpoint is a moment of one run. Runs share contents, and each file keeps its own metadata.
Revision 3 (:mod:`~epsopt.zoo.catalogue.revision_3`)
    Tables, columns and artifacts have the names of the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, select, update

from epsopt.zoo.catalogue import revision_2, revision_3
from epsopt.zoo.catalogue.tables import SCHEMA_VERSION, checkpoints, meta, run_metadata
from epsopt.zoo.errors import CatalogueError

if TYPE_CHECKING:
    from alembic.operations import Operations

_REVISIONS: Mapping[int, Callable[[Operations], None]] = {2: revision_2.upgrade, 3: revision_3.upgrade}


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
    found = inspect(connection)
    if found.has_table(run_metadata.name):
        return SCHEMA_VERSION
    return 2 if "weights" in {column["name"] for column in found.get_columns(checkpoints.name)} else 1


def upgrade(connection: Connection) -> None:
    """Run the revisions that the database lacks; another process may have run them meanwhile.

    Args:
        connection: the only writer, in one transaction in which SQLite does not check foreign keys.
    """
    from alembic.migration import MigrationContext
    from alembic.operations import Operations  # nothing needs it where the database is up to date

    found = version_of(connection)
    assert found is not None  # whoever asks for an upgrade has read it
    operations = Operations(MigrationContext.configure(connection))
    for version, revise in _REVISIONS.items():
        if version > found:
            revise(operations)
    if found < SCHEMA_VERSION:
        connection.execute(update(meta).where(meta.c.key == "schema_version").values(value=str(SCHEMA_VERSION)))
