"""A project of tiny checkpoints with a map and studies, and the command line to try on it."""

from __future__ import annotations

from pathlib import Path

import torch

from epsopt.studies.surrogate_store import fit_map
from epsopt.surrogate import TrainingConfig
from epsopt.zoo import Catalogue

from ..cli.conftest import call  # noqa: TID252

RUNS, EPOCHS = 9, 3


def write_runs(runs: Path) -> None:
    """Write runs whose two metrics pull in opposite directions, from one initialisation."""
    torch.manual_seed(0)
    base = {"a.weight": torch.randn(6, 5), "a.bias": torch.randn(6)}
    way = {k: torch.randn_like(v) for k, v in base.items()}
    for run in range(RUNS):
        folder = runs / f"run_{run}"
        folder.mkdir(parents=True)
        for epoch in range(1, EPOCHS + 1):
            far = (run + 1) * epoch / (RUNS * EPOCHS)
            weights = {k: base[k] + far * way[k] + 0.01 * torch.randn_like(base[k]) for k in base}
            content = {
                "model": weights,
                "epoch": epoch,
                "config": {"lr": 10.0 ** -(1 + run / 2), "seed": run},
                "metrics": {"accuracy": 1 - far, "structure": far**0.5},
            }
            torch.save(content, folder / f"epoch_{epoch:03d}.pt")


def make_project(folder: Path) -> Path:
    """Set a project up by the commands themselves, with a map that is learned quickly."""
    write_runs(folder / "runs")

    for arguments in (
        ["init", "runs", "--name", "p", "--maximize", "accuracy", "--maximize", "structure"],
        ["ingest", "-j", "1"],
    ):
        result = call(folder, *arguments)
        assert result.status == 0, result.err
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue:
        fit_map(catalogue, recipe=TrainingConfig(steps=20, batch=8), bounds={"accuracy": (0.0, 1.0)})
    for arguments in (["search", "-n", "2"], ["propose", "-n", "2"]):
        result = call(folder, *arguments)
        assert result.status == 0, result.err
    return folder
