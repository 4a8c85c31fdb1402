"""The synthetic zoo as what the page is about, with one run whose names act where they are not escaped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from epsopt.optimize.objectives import Objective
from epsopt.studies.explore.server import explore_server
from epsopt.studies.explore.snapshot import Snapshot
from epsopt.studies.project.project import Project

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u202egnp.\n"
OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))


@pytest.fixture(scope="session")
def snapshot(zoo, fitted) -> Snapshot:
    """70 checkpoints of 14 runs; the map does not know the last one, and the one before has NaN weights."""
    train, checkpoints = zoo
    surrogate, validation = fitted
    named = [
        replace(c, run=EVIL, path=f"/zoo/{EVIL}/{c.epoch}.pt", hyperparameters={**c.hyperparameters, EVIL: EVIL})
        if c.run_id == 3
        else replace(c, path=f"/zoo/{c.run}/{c.epoch}.pt")
        for c in checkpoints
    ]
    latents = surrogate.memory.latents.float().clone()
    latents[-2] = torch.nan
    learned = np.ones(len(named), dtype=bool)
    learned[-1] = False
    labels = {c.run: c.run for c in named}
    steps = {c.run_id: 0.5 for c in named}
    project = Project("the zoo", Path("epsopt.toml"), Path("/zoo"), "sqlite:///none.db", OBJECTIVES)
    assert train.keys == tuple(c.sha256 for c in named)
    return Snapshot(project, OBJECTIVES, tuple(named), labels, surrogate, validation, latents, learned, steps)


@pytest.fixture(scope="session")
def server(snapshot) -> Iterator[object]:
    with explore_server(snapshot, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def writable(snapshot) -> Iterator[object]:
    with explore_server(snapshot, port=0, allow_writes=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
