"""A made-up zoo and what a search might answer about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from epsopt.optimize.objectives import Objective

COVERAGE = Objective("coverage", maximize=True)
DIST_CORR = Objective("dist_corr", maximize=True)
RAD_HIER = Objective("rad_hier", maximize=False)


@dataclass
class FakeCheckpoint:
    run: str
    path: str
    sha256: str
    epoch: int | None
    metrics: dict[str, float | None]
    hyperparameters: dict[str, Any]
    run_id: int = 1


@dataclass
class FakeNeighbour:
    path: str
    run: str
    epoch: int | None
    distance: float
    metrics: dict[str, float | None]
    hyperparameters: dict[str, Any]


@dataclass
class FakeAnswer:
    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    probability: float | None
    nearest: list[FakeNeighbour] = field(default_factory=list)


@dataclass
class FakeProposal:
    params: dict[str, Any]
    point: dict[str, float] = field(default_factory=lambda: {"coverage": 0.9, "dist_corr": 0.8})
    low: dict[str, float] = field(default_factory=lambda: {"coverage": 0.8, "dist_corr": 0.7})
    high: dict[str, float] = field(default_factory=lambda: {"coverage": 1.0, "dist_corr": 0.9})
    probability: float | None = 0.7
    init_from: str | None = None
    joins_front: float | None = 0.4
    nearest_runs: tuple[tuple[str, float], ...] = (("run-001", 0.1), ("run-002", 0.25))
    reason: str | None = "a variation of run-001"


def make_zoo(runs: int = 6, epochs: int = 5, seed: int = 0) -> list[FakeCheckpoint]:
    """A made-up zoo with a trade-off: what a run gains in structure, it loses in coverage."""
    rng = np.random.default_rng(seed)
    zoo = []
    for r in range(runs):
        lr = float(10 ** rng.uniform(-4, -2))
        config = {
            "lr": lr,
            "batch_size": int(rng.choice([128, 256])),
            "encoder": str(rng.choice(["frozen", "full"])),
        }
        if config["encoder"] == "full":
            config["encoder_lr_scale"] = float(rng.uniform(0.01, 1))
        boldness = rng.random()
        for e in range(epochs):
            t = (e + 1) / epochs * boldness
            zoo.append(
                FakeCheckpoint(
                    run=f"run-{r:03d}",
                    path=f"/runs/run-{r:03d}/epoch_{e:03d}.pt",
                    sha256=f"{r:032x}{e:032x}",
                    epoch=e,
                    metrics={
                        "coverage": float(np.clip(1 - t**2 - 0.05 * rng.random(), 0, 1)),
                        "dist_corr": float(np.clip(0.5 + 0.5 * t - 0.1 * rng.random(), 0, 1)),
                        "rad_hier": float(-0.83 * t + 0.1 * rng.random()),
                    },
                    hyperparameters=config,
                    run_id=r,
                )
            )
    return zoo


def make_answers(zoo: list[FakeCheckpoint], n: int = 4) -> list[FakeAnswer]:
    answers = []
    for i in range(n):
        t = (i + 1) / (n + 1)
        point = {"coverage": 1.02 - t**2, "dist_corr": 0.55 + 0.5 * t, "rad_hier": -0.85 * t}
        near = zoo[(7 * i) % len(zoo)]
        answers.append(
            FakeAnswer(
                point=point,
                low={name: value - 0.04 for name, value in point.items()},
                high={name: value + 0.03 for name, value in point.items()},
                probability=0.8 - 0.1 * i,
                nearest=[
                    FakeNeighbour(near.path, near.run, near.epoch, 0.1 + 0.1 * i, near.metrics, near.hyperparameters)
                ],
            )
        )
    return answers
