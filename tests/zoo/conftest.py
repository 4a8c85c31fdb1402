"""Small real checkpoints for the tests of the zoo."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from epsopt.zoo.catalogue.catalogue import Catalogue


def state_dict(seed: int, base: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """A small network; near `base` when one is given, else an initialisation of its own."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (32, 16), "a.bias": (32,), "b.weight": (8, 32), "b.bias": (8,)}
    fresh = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return fresh if base is None else {name: base[name] + 0.05 * fresh[name] for name in shapes}


BASE = state_dict(1_000_000)


def opened_by_two_processes(database: Path) -> list[str]:
    """Open a database in two processes at once; how many checkpoints each of them finds, as text."""
    program = (
        "import sys; from epsopt.zoo.catalogue.catalogue import Catalogue; "
        "print(len(Catalogue(sys.argv[1]).checkpoints()))"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{database}"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    return [process.communicate()[0].strip() for process in both]


@pytest.fixture
def save() -> Callable[..., Path]:
    """Write one checkpoint in the plain layout: save(path, seed) is a fine-tune of one common base."""

    def write(path: Path, seed: int, *, weights: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "model_state_dict": state_dict(seed, BASE) if weights is None else weights,
            "metrics": {"coverage": seed / 100, "dist_corr": 0.5},
            "config": {"lr": 0.1, **config},
            "epoch": seed,
        }
        torch.save(content, path)
        return path

    return write


@pytest.fixture
def runs(tmp_path: Path, save: Callable[..., Path]) -> Path:
    """Two runs of two checkpoints."""
    for run, lr in (("one", 0.1), ("two", 0.2)):
        for epoch in (1, 2):
            save(tmp_path / "runs" / run / f"epoch_{epoch:03d}.pt", epoch + int(lr * 100), lr=lr)
    return tmp_path / "runs"


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as opened:
        yield opened
