"""Revision 2: a checkpoint is a moment of one run; runs share contents, and each file keeps what it says."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Text,
    column,
    inspect,
    select,
    table,
    update,
)

from epsopt.zoo.errors import CatalogueError
from epsopt.zoo.reading.plain_values import finite_metrics

if TYPE_CHECKING:
    from alembic.operations import Operations

_CHUNK = 200  # fingerprints that are held at once
_CHECKPOINTS = table(
    "epsopt_checkpoints",
    *map(column, ("id", "path", "sha256", "epoch", "step", "metrics", "hyperparameters", "layout", "weights")),
)
_FILES = table("epsopt_files", *map(column, ("path", "checkpoint_id", "sha256", "said")))
_FINGERPRINTS = table("epsopt_fingerprints", column("checkpoint_id"), column("data", LargeBinary))
_TOLD = table("epsopt_told", column("run_id"), column("metrics"))


def upgrade(operations: Operations) -> None:
    """Upgrade the tables of revision 1."""
    connection = operations.get_bind()
    _add_side_files(operations, connection)
    _share_contents(operations, connection)
    _digest_weights(connection)
    _keep_metadata_of_files(connection)
    for row in connection.execute(select(_TOLD)).all():
        kept = json.dumps({key: finite_metrics(m) for key, m in json.loads(row.metrics).items()}, sort_keys=True)
        if kept != row.metrics:
            connection.execute(update(_TOLD).where(_TOLD.c.run_id == row.run_id).values(metrics=kept))


def _add_side_files(operations: Operations, connection: Connection) -> None:
    """Add what came within revision 1: the table of side files, and what they are matched by."""
    if not inspect(connection).has_table("epsopt_told"):
        of_run = ForeignKey("epsopt_runs.id", ondelete="CASCADE")
        run: Column[int] = Column("run_id", Integer, of_run, primary_key=True)
        texts = ("hyperparameters", "metrics", "troubles", "layouts", "given")
        others = (Column(name, Text, nullable=False) for name in texts)
        operations.create_table("epsopt_told", run, Column("state", String(64), nullable=False), *others)
    _add_columns(operations, "epsopt_checkpoints", Column("step", BigInteger), Column("layout", String(32)))


def _share_contents(operations: Operations, connection: Connection) -> None:
    """Let several checkpoints have one content, and files and runs columns of their own."""
    _drop_unique(operations, "epsopt_checkpoints", "sha256")
    _add_columns(operations, "epsopt_checkpoints", Column("weights", String(64)))
    _add_columns(operations, "epsopt_files", Column("sha256", String(64)), Column("said", Text))
    _add_columns(operations, "epsopt_runs", Column("layout", String(32)))
    indexes = {
        "epsopt_checkpoints": ("run_id", "sha256", "signature", "lineage_id", "weights"),
        "epsopt_files": ("checkpoint_id", "sha256"),
    }
    for name, columns in indexes.items():
        known = {index["name"] for index in inspect(connection).get_indexes(name)}
        for each in columns:
            if f"ix_{name}_{each}" not in known:
                operations.create_index(f"ix_{name}_{each}", name, [each])


def _digest_weights(connection: Connection) -> None:
    ids = connection.execute(select(_FINGERPRINTS.c.checkpoint_id)).scalars().all()
    for start in range(0, len(ids), _CHUNK):
        some = select(_FINGERPRINTS).where(_FINGERPRINTS.c.checkpoint_id.in_(ids[start : start + _CHUNK]))
        for row in connection.execute(some).all():
            own = _CHECKPOINTS.c.id == row.checkpoint_id
            connection.execute(update(_CHECKPOINTS).where(own).values(weights=_digest(bytes(row.data))))


def _keep_metadata_of_files(connection: Connection) -> None:
    """Give a checkpoint's own file the metadata of the checkpoint.

    Of its other files nothing is known but their content: the next ingest reads them again, and gives them to the run
    that they lie in.
    """
    for row in connection.execute(select(_CHECKPOINTS)).all():
        said = {
            "epoch": row.epoch,
            "step": row.step,
            "metrics": finite_metrics(json.loads(row.metrics)),
            "hyperparameters": json.loads(row.hyperparameters),
            "layout": row.layout or "plain",
        }
        connection.execute(update(_FILES).where(_FILES.c.checkpoint_id == row.id).values(sha256=row.sha256))
        connection.execute(update(_FILES).where(_FILES.c.path == row.path).values(said=json.dumps(said)))
        if said["metrics"] != json.loads(row.metrics):
            kept = json.dumps(said["metrics"], sort_keys=True)
            connection.execute(update(_CHECKPOINTS).where(_CHECKPOINTS.c.id == row.id).values(metrics=kept))


def _digest(fingerprint: bytes) -> str:
    from epsopt.zoo.catalogue.identity import weights_digest
    from epsopt.zoo.fingerprints.fingerprint import Fingerprint  # torch: for this once

    try:
        return weights_digest(Fingerprint.from_bytes(fingerprint).sketch, fingerprint)
    except CatalogueError:  # a damaged one: whoever needs it says so
        return hashlib.sha256(fingerprint).hexdigest()


def _add_columns(operations: Operations, name: str, *columns: Column[object]) -> None:
    present = {c["name"] for c in inspect(operations.get_bind()).get_columns(name)}
    for each in columns:
        if each.name not in present:
            operations.add_column(name, each)


def _drop_unique(operations: Operations, name: str, of: str) -> None:
    """Drop the constraint that a column is unique; SQLite needs the whole table rebuilt for that."""
    found = inspect(operations.get_bind()).get_unique_constraints(name)
    names = [c["name"] for c in found if c["column_names"] == [of]]
    if not names:
        return
    # SQLite keeps no name where none was given; Alembic gives the constraint that it finds the one of the convention.
    convention = {"uq": "uq_%(table_name)s_%(column_0_name)s"}
    with operations.batch_alter_table(name, naming_convention=convention) as batch:
        batch.drop_constraint(names[0] or f"uq_{name}_{of}", type_="unique")
