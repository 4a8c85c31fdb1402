"""Revision 3: tables, columns, keys and artifacts have the names of the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, LargeBinary, column, select, table, update

if TYPE_CHECKING:
    from alembic.operations import Operations

_ARTIFACTS = table("epsopt_artifacts", *map(column, ("id", "kind", "key", "meta")), column("data", LargeBinary))
_META = table("epsopt_meta", column("key"), column("value"))


def upgrade(operations: Operations) -> None:
    """Upgrade the tables of revision 2."""
    operations.rename_table("epsopt_told", "epsopt_run_metadata")
    operations.alter_column("epsopt_run_metadata", "troubles", new_column_name="failures")
    operations.alter_column("epsopt_run_metadata", "given", new_column_name="run_tables")
    operations.alter_column("epsopt_files", "said", new_column_name="metadata")
    connection = operations.get_bind()
    connection.execute(update(_META).where(_META.c.key == "learning").values(key="refit_lease"))
    _convert(connection, "steps", "measured_merges", _measured_merge)
    _convert(connection, "mixing", "merge_gains", _merge_gain)


def _convert(connection: Connection, old: str, new: str, row_of: Callable[[list[Any]], dict[str, Any]]) -> None:
    """Rename a kind of artifact, whose rows were lists; a damaged one stays for 'epsopt check' to name."""
    for found in connection.execute(select(_ARTIFACTS).where(_ARTIFACTS.c.kind == old)).all():
        try:
            data = json.dumps([row_of(row) for row in json.loads(bytes(found.data))]).encode()
        except (ValueError, TypeError):
            data = bytes(found.data)
        connection.execute(update(_ARTIFACTS).where(_ARTIFACTS.c.id == found.id).values(kind=new, data=data))


def _measured_merge(row: list[Any]) -> dict[str, Any]:
    names = ("predicted_gain", "realized_gain", "cost", "seconds", "kind", "path", "ends", "share")
    return dict(zip(names, row, strict=False))  # the last four came one by one, each with a default


def _merge_gain(row: list[Any]) -> dict[str, Any]:
    return dict(zip(("kind", "predicted_gain", "realized_gain"), row, strict=True))
