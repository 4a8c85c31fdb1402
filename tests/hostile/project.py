"""A project of tiny checkpoints with a map and studies, and the command line to try on it."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from epsopt.cli.main import main
from epsopt.studies.surrogate_store import fit_map
from epsopt.surrogate import TrainingConfig
from epsopt.surrogate.baselines import median_baseline
from epsopt.zoo import Catalogue

RUNS, EPOCHS = 9, 3


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


def call(folder: Path, *arguments: str | Path) -> Result:
    """Run the command line in this process, as `epsopt ARGUMENTS` in a folder."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["epsopt", *map(str, arguments)]),
        mock.patch.dict("os.environ", {"COLUMNS": "80"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    return Result(status, out.getvalue(), err.getvalue())


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
    baseline = mock.patch(
        "epsopt.surrogate.cross_validation.statistics_baseline",
        lambda inside, outside, **_: median_baseline(inside, outside),
    )
    for arguments in (
        ["init", "runs", "--name", "p", "--maximize", "accuracy", "--maximize", "structure"],
        ["ingest", "-j", "1"],
    ):
        result = call(folder, *arguments)
        assert result.status == 0, result.err
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue, baseline:
        fit_map(catalogue, recipe=TrainingConfig(steps=20, batch=8), bounds={"accuracy": (0.0, 1.0)})
    for arguments in (["search", "-n", "2"], ["propose", "-n", "2"]):
        result = call(folder, *arguments)
        assert result.status == 0, result.err
    return folder
