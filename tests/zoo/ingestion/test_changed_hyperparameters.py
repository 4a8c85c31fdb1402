"""Checkpoints of one run that were trained with different hyperparameters are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest


def saved(folder: Path, epoch: int, name: str | None = None, **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"l.weight": torch.full((3, 3), float(epoch) + 100.0 * len(name or ""))}
    torch.save({"model": weights, "epoch": epoch, "config": config}, folder / (name or f"epoch_{epoch}.pt"))


def said(catalogue, folder: Path) -> list[str]:
    failures = ingest(catalogue, folder).side_file_failures
    assert ingest(catalogue, folder).side_file_failures == failures, "every ingest says so"
    return [f.reason for f in failures]


def test_a_value_that_changed_on_the_way_is_named_with_both(tmp_path, catalogue):
    for epoch in range(1, 5):
        saved(tmp_path / "a", epoch, lr=0.5 if epoch < 3 else 0.25, depth=3)
        saved(tmp_path / "b", epoch, lr=0.5, depth=3)
    (reason,) = said(catalogue, tmp_path)
    assert "say other hyperparameters: lr (0.5 in epoch_2.pt, 0.25 here)" in reason
    assert {c.run: c.hyperparameters["lr"] for c in catalogue.checkpoints()} == {"a": 0.25, "b": 0.5}


def test_what_a_resumed_training_says_anew_is_not_named(tmp_path, catalogue):
    saved(tmp_path / "a", 1, lr=0.5, max_epochs=3, resume_from=None, output_dir="x", run_name="one", device="cpu")
    saved(tmp_path / "a", 2, lr=0.5, max_epochs=9, resume_from="y", output_dir="y", run_name="two", device="cuda")
    assert said(catalogue, tmp_path) == []


def test_a_value_that_an_earlier_checkpoint_does_not_say_is_not_named(tmp_path, catalogue):
    saved(tmp_path / "a", 1, lr=0.5)
    saved(tmp_path / "a", 2, lr=0.5, depth=3)
    saved(tmp_path / "a", 3)
    assert said(catalogue, tmp_path) == []


def test_merges_of_parents_that_were_trained_otherwise_are_not_named(tmp_path, catalogue):
    saved(tmp_path / "merged", 1, lr=0.5, recombined=True)
    saved(tmp_path / "merged", 2, lr=0.25, recombined=True)
    assert said(catalogue, tmp_path) == []


def test_two_trainings_of_one_lightning_version_are_named(tmp_path, catalogue):
    lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    import logging

    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Model(lightning.LightningModule):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Linear(3, 2)

        def training_step(self, batch, _index):
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 3)))
    for lr in (0.5, 0.25):
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
            logger=lightning.loggers.CSVLogger(tmp_path, name="exp", version="v"),
        )  # fmt: skip
        trainer.fit(Model(lr), data)
    (reason,) = said(catalogue, tmp_path)
    assert "lr (0." in reason


def test_a_trial_whose_population_changed_it_on_the_way_is_named(tmp_path, catalogue):
    trial = tmp_path / "train_0_2026-01-01_00-00-00"
    for i, _ in enumerate(rates := [0.5, 0.5, 0.25]):
        saved(trial / f"checkpoint_{i:06d}", i, name="model.pt")
    (trial / "params.json").write_text(json.dumps({"lr": 0.25}))
    reports = [
        {"training_iteration": i + 1, "acc": i / 4, "config": {"lr": lr}, "checkpoint_dir_name": f"checkpoint_{i:06d}"}
        for i, lr in enumerate(rates)
    ]
    (trial / "result.json").write_text("".join(json.dumps(r) + "\n" for r in reports))
    (reason,) = said(catalogue, tmp_path)
    assert reason.startswith("hyperparameters changed on the way: lr (from 0.5 to 0.25)")
    assert sorted(c.metrics["acc"] for c in catalogue.checkpoints()) == [0.0, 0.25, 0.5]
