"""The catalogue's tables, in the same database as Optuna's (D1); their names begin with ``epsopt_``."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 2
"""1: a checkpoint was a content, of one run only. 2: it is a content in a run, and each file says its own."""

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

# What the files beside a run's checkpoints tell. It is added when the catalogue is read: what a checkpoint says counts.
told = Table(
    "epsopt_told",
    metadata,
    # Cascading, since versions from before this table delete runs without a thought of it.
    Column("run_id", ForeignKey("epsopt_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("state", String(64), nullable=False),  # digest of the files' identities and the checkpoints they speak of
    Column("hyperparameters", Text, nullable=False),  # JSON
    Column("metrics", Text, nullable=False),  # JSON: by the checkpoint's SHA-256
    Column("troubles", Text, nullable=False),  # JSON: [[path, reason], ...]
    Column("layouts", Text, nullable=False),  # JSON: names of those that had something to say
    Column("given", Text, nullable=False),  # JSON: what tables of runs say, by table; part of the above, too
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
    Column("said", Text),  # JSON: what this file says; the checkpoint's columns are what all of its files say together
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
