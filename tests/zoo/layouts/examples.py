"""Folders of runs as the real frameworks write them: tiny models, a second or so each, on one core.

Each writer takes an empty folder and returns an Example: what a person would expect the catalogue to say. A framework
that is not installed skips its tests and says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch


@dataclass(frozen=True)
class Example:
    """What is expected of a folder.

    Attributes:
        folder: to ingest.
        layouts: runs by layout, as ingest reports them.
        hyperparameters: some of them, by the run's name.
        metrics: of each checkpoint that has any, by (run's name, epoch).
        sides: files that tell something, for tests that damage each of them.
        grow: changes a side file as training would; returns what it says now, as `metrics`.
        aliases: files whose content another one has.
        waiting: sentences of trouble that are expected.
    """

    folder: Path
    layouts: dict[str, int]
    hyperparameters: dict[str, dict[str, Any]]
    metrics: dict[tuple[str, int | None], dict[str, float]]
    sides: tuple[Path, ...] = ()
    grow: Callable[[Path], dict[tuple[str, int | None], dict[str, float]]] | None = None
    aliases: int = 0
    names: dict[str, str] = field(default_factory=dict)


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"l.weight": torch.randn(4, 6, generator=generator), "l.bias": torch.randn(4, generator=generator)}


def plain_with_files(folder: Path) -> Example:
    """Weights alone, and everything else in files beside them, in the ways in which people write those."""
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for i, (name, lr) in enumerate((("a", 0.1), ("b", 0.01))):
        run = folder / name
        holder = run / "checkpoints" if name == "b" else run
        holder.mkdir(parents=True)
        for epoch in (1, 2, 3):
            torch.save({"model_state_dict": weights(10 * i + epoch), "epoch": epoch}, holder / f"epoch_{epoch}.pt")
            expected[name, epoch] = {"val_loss": 1 / epoch + i}
        rows = [{"epoch": e, "val_loss": 1 / e + i} for e in (1, 2, 3)]
        if name == "a":
            (run / "config.yaml").write_text(f"lr: {lr:e}\noptimizer:\n  name: no\n")
            (run / "metrics.csv").write_text(
                "epoch,val_loss,note\n" + "".join(f"{r['epoch']},{r['val_loss']},fine\n" for r in rows)
            )
        else:
            (run / "args.json").write_text(json.dumps({"lr": lr, "optimizer": {"name": "no"}}))
            (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    both = {"optimizer.name": "no"}

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        with (root / "a" / "metrics.csv").open("a") as file:
            file.write("3,0.125,again\n")
        return {**expected, ("a", 3): {"val_loss": 0.125}}

    return Example(
        folder,
        {"plain": 2},
        {"a": {"lr": 0.1, **both}, "b": {"lr": 0.01, **both}},
        expected,
        tuple(folder / n for n in ("a/config.yaml", "a/metrics.csv", "b/args.json", "b/metrics.jsonl")),
        grow,
    )


def lightning(folder: Path) -> Example:
    """Two versions of three epochs with the CSV logger, every epoch kept, and last.ckpt."""
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    import logging

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    class Model(pl.LightningModule):
        def __init__(self, lr: float, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 1))

        def training_step(self, batch, _index):
            loss = self.net(batch[0]).square().mean()
            self.log("train_loss", loss, on_step=True)
            return loss

        def validation_step(self, batch, _index):
            self.log("val/acc", 0.25 * (self.current_epoch + 1) + self.hparams.lr)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 3)), batch_size=2)
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for version, lr in enumerate((0.5, 0.125)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                max_epochs=3,
                logger=CSVLogger(folder),
                callbacks=[ModelCheckpoint(save_top_k=-1, save_last=True)],
                accelerator="cpu",
                log_every_n_steps=2,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Model(lr), data, data)
        for epoch in range(3):
            expected[f"lightning_logs/version_{version}", epoch] = {"val/acc": 0.25 * (epoch + 1) + lr}
    first = folder / "lightning_logs" / "version_0"

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        # What the CSV logger does at the end of an evaluation: the file is written anew, with one row more.
        file = root / "lightning_logs" / "version_0" / "metrics.csv"
        header, *rows = file.read_text().splitlines()
        columns = header.split(",")
        row = {"epoch": "2", "step": "11", "val/acc": "0.875"}
        file.write_text("\n".join([header, *rows, ",".join(row.get(c, "") for c in columns)]) + "\n")
        return {**expected, ("lightning_logs/version_0", 2): {"val/acc": 0.875}}

    return Example(
        folder,
        {"lightning": 2},
        {f"lightning_logs/version_{v}": {"lr": lr, "width": 4} for v, lr in enumerate((0.5, 0.125))},
        expected,
        (first / "hparams.yaml", first / "metrics.csv"),
        grow,
        aliases=2,
    )


HYDRA = """
import hydra, json, pathlib
from hydra.core.hydra_config import HydraConfig
@hydra.main(version_base=None, config_path=".", config_name="config")
def main(cfg):
    out = pathlib.Path(HydraConfig.get().runtime.output_dir)
    (out / "metrics.json").write_text(json.dumps([{"epoch": e, "acc": e / 4 + cfg.lr} for e in (1, 2)]))
main()
"""
HYDRA_CONFIG = """
lr: 1e-3
switch: no
optimizer: {name: adam, lr: "${lr}"}
name: run-${optimizer.name}
home: ${oc.env:HOME}
hydra: {job_logging: {disable_existing_loggers: true}}
"""


def hydra(folder: Path) -> Example:
    """One single run and a multirun of two; the program saves checkpoints where Hydra tells it to."""
    pytest.importorskip("hydra", reason="hydra-core is not installed")
    project = folder / "project"
    project.mkdir()
    (project / "train.py").write_text(HYDRA)
    (project / "config.yaml").write_text(HYDRA_CONFIG)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    where = ("hydra.run.dir=outputs/d/t", "hydra.sweep.dir=multirun/d/t")
    for arguments in (("lr=0.25",), ("-m", "lr=0.5,0.125")):
        program = [sys.executable, "train.py", *arguments, *where]
        subprocess.run(program, cwd=project, check=True, env=quiet, capture_output=True)
    runs = {"outputs/d/t": 0.25, "multirun/d/t/0": 0.5, "multirun/d/t/1": 0.125}
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for i, (name, lr) in enumerate(runs.items()):
        (project / name / "checkpoints").mkdir()
        for epoch in (1, 2):
            torch.save({"model": weights(10 * i + epoch)}, project / name / "checkpoints" / f"epoch_{epoch}.pt")
            expected[name, epoch] = {"acc": epoch / 4 + lr}

    def told(lr: float) -> dict[str, Any]:
        # Interpolations: of a plain value it is that value, and of anything else its text.
        return {
            "lr": lr,
            "switch": False,  # OmegaConf reads and writes YAML 1.1 booleans
            "optimizer.lr": lr,
            "name": "run-adam",
            "home": "${oc.env:HOME}",
        }

    side = project / "outputs" / "d" / "t"
    return Example(
        project,
        {"hydra + plain": 3},
        {name: told(lr) for name, lr in runs.items()},
        expected,
        (side / ".hydra" / "config.yaml", side / "metrics.json"),
    )


WRITERS: dict[str, Callable[[Path], Example]] = {
    "plain": plain_with_files,
    "lightning": lightning,
    "hydra": hydra,
}
