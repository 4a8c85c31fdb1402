"""MLflow's store in SQLite, made once for all tests: MLflow needs seconds of processor time for each new one."""

from __future__ import annotations

import functools
import logging
import tempfile
from pathlib import Path


@functools.cache
def _empty() -> bytes:
    from mlflow.tracking import MlflowClient

    logging.getLogger("alembic").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()


def mlflow_database(file: Path) -> str:
    """Write an empty store, as MLflow made it, to a file; returns its URI."""
    file.write_bytes(_empty())
    return f"sqlite:///{file}"
