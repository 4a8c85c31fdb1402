"""The catalogue's tables, in the same database as Optuna's; their names begin with ``epsopt_``."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
)

SCHEMA_VERSION = 3
"""Number of the newest revision in :mod:`epsopt.zoo.catalogue.migrations`, which says what each changed."""

metadata = MetaData()

meta = Table(
    "epsopt_meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

runs = Table(
    "epsopt_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False, unique=True),
    Column("hyperparameters", Text, nullable=False),  # JSON: of the run's newest checkpoint
    Column("layout", String(32)),  # that recognises the folder
)

lineages = Table(
    "epsopt_lineages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("signature", String(64), nullable=False),
    Column("reference_path", Text, nullable=False),
    Column("reference_sha256", String(64), nullable=False),
    Column("declared", Boolean, nullable=False),
    Column("sketch", LargeBinary, nullable=False),
    UniqueConstraint("signature", "reference_sha256"),
)

# One moment of one run's training. Runs that share a file (an untrained epoch 0, a common base) have one each; files of
# one run that hold the same weights (``last.ckpt`` beside ``epoch=3.ckpt``) have one together: see files.
checkpoints = Table(
    "epsopt_checkpoints",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", ForeignKey("epsopt_runs.id"), nullable=False, index=True),
    Column("path", Text, nullable=False, unique=True),
    Column("sha256", String(64), nullable=False, index=True),
    Column("epoch", BigInteger),
    Column("metrics", Text, nullable=False),  # JSON
    Column("hyperparameters", Text, nullable=False),  # JSON: what this file says; the run's are those of its newest
    Column("signature", String(64), nullable=False, index=True),
    Column("lineage_id", ForeignKey("epsopt_lineages.id"), nullable=False, index=True),
    Column("n_parameters", BigInteger, nullable=False),
    Column("step", BigInteger),  # this and the next one: since side files are read
    Column("layout", String(32)),
    Column("weights", String(64), index=True),  # digest of their sketch: equal weights, equal digest
)

# Metadata that the side files of a run hold. It is added when the catalogue is read: what a checkpoint says counts.
run_metadata = Table(
    "epsopt_run_metadata",
    metadata,
    # Cascading, since versions from before this table delete runs without a thought of it.
    Column("run_id", ForeignKey("epsopt_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("state", String(64), nullable=False),  # digest of the side files' identities and the run's checkpoints
    Column("hyperparameters", Text, nullable=False),  # JSON
    Column("metrics", Text, nullable=False),  # JSON: by the checkpoint's SHA-256
    Column("failures", Text, nullable=False),  # JSON: [[path, reason], ...] of side files that cannot be read
    Column("layouts", Text, nullable=False),  # JSON: names of the layouts that found metadata
    Column("run_tables", Text, nullable=False),  # JSON: the run's rows in tables of runs, by table; part of the above
)

# Blobs apart from the rows that every command lists; checkpoints of equal weights share what one of them holds.
fingerprints = Table(
    "epsopt_fingerprints",
    metadata,
    Column("checkpoint_id", ForeignKey("epsopt_checkpoints.id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

embeddings = Table(
    "epsopt_embeddings",
    metadata,
    Column("checkpoint_id", ForeignKey("epsopt_checkpoints.id"), primary_key=True),
    Column("hook", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# Every file that was looked at: a checkpoint, an alias (its checkpoint has another path), or a failure.
files = Table(
    "epsopt_files",
    metadata,
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("inode", Text, nullable=False),  # text: unsigned 64 bits do not fit a BIGINT
    Column("checkpoint_id", ForeignKey("epsopt_checkpoints.id"), index=True),
    Column("reason", Text),
    Column("reader", Integer, nullable=False),
    Column("sha256", String(64), index=True),  # of its content
    Column("metadata", Text),  # JSON: of this file alone; the checkpoint's columns join those of all its files
)

artifacts = Table(
    "epsopt_artifacts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("key", String(255), nullable=False),
    Column("meta", Text, nullable=False),  # JSON
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("kind", "key"),
)


def same_signature(column: ColumnElement[str], other: ColumnElement[str] | str) -> ColumnElement[bool]:
    """Compare signatures beside a condition that leaves fewer rows.

    Without statistics SQLite takes the index on signatures before any other, and nearly all checkpoints share one.

    Args:
        column: of the checkpoints that are looked for.
        other: what their signature is to be.
    """
    return func.coalesce(column, "") == other
