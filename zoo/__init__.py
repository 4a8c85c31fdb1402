"""The zoo: safe reading of checkpoint files, their fingerprints, and the catalogue of runs and lineages.

Takes folders of runs and a database URL; gives runs, checkpoints, metrics, fingerprints and embeddings.
Files are never trusted, copied or changed; it knows nothing of models, optimisers or Optuna.

Public is what ``__all__`` lists (docs/reference/api/zoo.md). All else is internal and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epsopt.zoo.errors import (
    CatalogueError,
    EmptyCatalogue,
    EpsoptError,
    HookError,
    UnreadableCheckpoint,
    UsageError,
)
from epsopt.zoo.public_names import lazy_names

if TYPE_CHECKING:
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint, Lineage, Run
    from epsopt.zoo.errors import Failure
    from epsopt.zoo.fingerprints.fingerprint import Fingerprint, fingerprint
    from epsopt.zoo.fingerprints.sketch import sketch_distance
    from epsopt.zoo.ingestion.ingest import IngestReport, ingest, read_fingerprints
    from epsopt.zoo.ingestion.verification import Verification, verify
    from epsopt.zoo.layouts.open_checkpoint import load_weights
    from epsopt.zoo.ray_cluster import RayCluster, connect_ray
    from epsopt.zoo.reading.ray_pool import ray_readers
    from epsopt.zoo.reading.reader import CheckpointContents
    from epsopt.zoo.reading.source import Limits
    from epsopt.zoo.side_files.run_tables import Entry, RunTable

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
    "RayCluster",
    "Run",
    "RunTable",
    "UnreadableCheckpoint",
    "UsageError",
    "Verification",
    "connect_ray",
    "fingerprint",
    "ingest",
    "load_weights",
    "ray_readers",
    "read_fingerprints",
    "sketch_distance",
    "verify",
]

_LATER = {
    "Catalogue": "catalogue.catalogue",
    "Checkpoint": "catalogue.types",
    "CheckpointContents": "reading.reader",
    "Failure": "errors",
    "Fingerprint": "fingerprints.fingerprint",
    "fingerprint": "fingerprints.fingerprint",
    "IngestReport": "ingestion.ingest",
    "Limits": "reading.source",
    "Lineage": "catalogue.types",
    "RayCluster": "ray_cluster",
    "connect_ray": "ray_cluster",
    "ray_readers": "reading.ray_pool",
    "Run": "catalogue.types",
    "Entry": "side_files.run_tables",
    "RunTable": "side_files.run_tables",
    "load_weights": "layouts.open_checkpoint",
    "read_fingerprints": "ingestion.ingest",
    "ingest": "ingestion.ingest",
    "sketch_distance": "fingerprints.sketch",
    "Verification": "ingestion.verification",
    "verify": "ingestion.verification",
}

# Names of version 0.1.
FORMER = {
    "Sheet": "epsopt.zoo:RunTable",
}

__getattr__ = lazy_names(__name__, _LATER, FORMER)
