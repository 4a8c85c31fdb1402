"""The zoo: safe reading of checkpoint files, their fingerprints, and the catalogue of runs and lineages.

Takes folders of runs and a database URL; gives runs, checkpoints, metrics, fingerprints and embeddings.
Files are never trusted, copied or changed; it knows nothing of models, optimisers or Optuna.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import (
    CatalogueError,
    EmptyCatalogue,
    EpsoptError,
    HookError,
    UnreadableCheckpoint,
    UsageError,
)

if TYPE_CHECKING:
    from epsopt.zoo.catalogue import Catalogue
    from epsopt.zoo.fingerprints import Fingerprint, fingerprint, sketch_distance
    from epsopt.zoo.ingestion import IngestReport, ingest, read_fingerprints
    from epsopt.zoo.reading.reader import CheckpointContents
    from epsopt.zoo.reading.source import Limits
    from epsopt.zoo.reading.weights import load_weights
    from epsopt.zoo.records import Checkpoint, Failure, Lineage, Run
    from epsopt.zoo.sheets import Entry, Sheet
    from epsopt.zoo.verification import Verification, verify

__all__ = [
    "Catalogue",
    "CatalogueError",
    "Checkpoint",
    "CheckpointContents",
    "EmptyCatalogue",
    "Entry",
    "EpsoptError",
    "Failure",
    "Fingerprint",
    "HookError",
    "IngestReport",
    "Limits",
    "Lineage",
    "Run",
    "Sheet",
    "UnreadableCheckpoint",
    "UsageError",
    "Verification",
    "fingerprint",
    "ingest",
    "load_weights",
    "read_fingerprints",
    "sketch_distance",
    "verify",
]

# torch and SQLAlchemy take a second or two to import: only who asks for what needs them pays.
_LATER = {
    "Catalogue": "catalogue",
    "Checkpoint": "records",
    "CheckpointContents": "reading.reader",
    "Failure": "records",
    "Fingerprint": "fingerprints",
    "fingerprint": "fingerprints",
    "IngestReport": "ingestion",
    "Limits": "reading.source",
    "Lineage": "records",
    "Run": "records",
    "Entry": "sheets",
    "Sheet": "sheets",
    "load_weights": "reading.weights",
    "read_fingerprints": "ingestion",
    "ingest": "ingestion",
    "sketch_distance": "fingerprints",
    "Verification": "verification",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
