"""Forget what is damaged in the catalogue, so that the next ingest reads it from the files again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, create_engine, delete, insert, literal, select, type_coerce
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType

from epsopt.zoo.catalogue.check import Damage, check_catalogue
from epsopt.zoo.catalogue.database import driver_message
from epsopt.zoo.catalogue.migrations import version_by_columns
from epsopt.zoo.catalogue.tables import meta, metadata
from epsopt.zoo.credentials import masked_url
from epsopt.zoo.errors import CatalogueError


def repair(url: str) -> list[Damage]:
    """Delete the catalogue's damaged rows with all that depends on them; files and studies are not touched.

    Args:
        url: as of the catalogue.

    Returns:
        What was damaged and is forgotten now; what no deletion mends stays and is not among it.

    Raises:
        CatalogueError: the database file itself is damaged, or refuses.
    """
    gone: list[Damage] = []
    engine = create_engine(url)
    try:
        while found := [d for d in check_catalogue(url) if d.table is not None]:
            if gone and found[0] in gone:
                raise CatalogueError(f"{masked_url(url)}: {found[0].problem}, and it cannot be deleted")
            with engine.connect() as connection, connection.begin():
                for damage in found:
                    _forget(connection, damage)
            gone += found
    except DBAPIError as error:
        raise CatalogueError(f"{masked_url(url)}: {driver_message(error)}") from error
    finally:
        engine.dispose()
    return gone


def _forget(connection: Connection, damage: Damage) -> None:
    if damage.table == meta.name:
        connection.execute(delete(meta).where(meta.c.key == "schema_version"))
        connection.execute(insert(meta).values(key="schema_version", value=str(version_by_columns(connection))))
        return
    _delete(connection, str(damage.table), damage.key)


def _delete(connection: Connection, name: str, value: Any) -> None:
    """Delete a row, first those that depend on it; a checkpoint that lacks a part of it is read anew."""
    table = metadata.tables[name]
    (key,) = table.primary_key.columns
    for other in metadata.sorted_tables:
        for foreign in other.foreign_keys:
            if foreign.column.table is table and foreign.column.name == key.name:
                (own,) = other.primary_key.columns
                query = select(type_coerce(own, NullType())).where(foreign.parent == literal(value, NullType()))
                for row in connection.execute(query).scalars().all():
                    _delete(connection, other.name, row)
    connection.execute(delete(table).where(key == literal(value, NullType())))
