"""Benchmarks are scripts beside the package: they are imported as they import one another, from their own folder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from zoos import Zoo


@pytest.fixture(scope="session")
def bench_zoo(zoo) -> Zoo:
    """The synthetic zoo of 14 runs x 5 checkpoints, as the benchmarks take it."""
    train, checkpoints = zoo
    return Zoo(
        name="synthetic",
        seed=0,
        train=train,
        epochs=np.array([c.epoch for c in checkpoints]),
        hyperparameters=tuple(c.hyperparameters for c in checkpoints),
        run_names=tuple(c.run for c in checkpoints),
        paths=tuple(Path(c.path) for c in checkpoints),
    )
