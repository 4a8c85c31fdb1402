"""Logs that belong to some of the runs found, where nothing says to which: they are named once, and never guessed."""

from __future__ import annotations

import torch

from epsopt.zoo.ingestion.ingest import ingest

from .examples import weights
from .test_loggers import fit, pl


def test_versions_of_logs_whose_checkpoints_lie_elsewhere_are_named_once(tmp_path, catalogue):
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    assert pl is not None
    for i, lr in enumerate((0.5, 0.25)):
        fit(CSVLogger(tmp_path), ModelCheckpoint(tmp_path / "saved" / f"run_{i}"), lr=lr)
    report = ingest(catalogue, tmp_path)
    assert len(catalogue.runs()) == 2
    (said,) = report.troubles
    assert said.path == str(tmp_path / "lightning_logs")
    assert "holds 2 logs of lightning, and nothing says which are those of 2 runs (such as saved/run_0)" in said.reason
    assert "without dirpath=" in said.reason
    assert ingest(catalogue, tmp_path).troubles == [said]


def test_versions_with_checkpoints_of_their_own_are_nobody_elses(tmp_path, catalogue):
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    fit(CSVLogger(tmp_path), ModelCheckpoint())
    torch.save({"model": weights(1), "epoch": 1}, tmp_path / "other.ckpt")
    assert ingest(catalogue, tmp_path).troubles == []


def test_several_runs_of_wandb_beside_one_runs_checkpoints_are_named(tmp_path, catalogue):
    for ident in ("abc", "xyz"):
        files = tmp_path / "job" / "wandb" / f"run-20260101_000000-{ident}" / "files"
        files.mkdir(parents=True)
        (files / "config.yaml").write_text("lr: {value: 0.5}\n")
    torch.save({"model": weights(1), "epoch": 1}, tmp_path / "job" / "epoch_1.pt")
    (said,) = ingest(catalogue, tmp_path).troubles
    assert said.path == str(tmp_path / "job" / "wandb")
    assert "holds 2 logs of wandb, and nothing says which is that of 1 run (such as job)" in said.reason
    (run,) = catalogue.runs()
    assert "lr" not in run.hyperparameters


def test_a_run_of_wandb_that_keeps_its_own_checkpoints_is_nobody_elses(tmp_path, catalogue):
    files = tmp_path / "wandb" / "run-20260101_000000-abc" / "files"
    files.mkdir(parents=True)
    torch.save({"model": weights(1), "epoch": 1}, files / "epoch_1.pt")
    (tmp_path / "mine").mkdir()
    torch.save({"model": weights(2), "epoch": 1}, tmp_path / "mine" / "epoch_1.pt")
    assert ingest(catalogue, tmp_path).troubles == []
