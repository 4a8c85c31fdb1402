"""Logs that belong to some of the runs found, where nothing says to which: they are named once, and never guessed."""

from __future__ import annotations

from pathlib import Path

import torch

from epsopt.zoo.ingestion.ingest import ingest

from .examples import weights
from .test_loggers import fit, pl


def test_versions_of_logs_whose_checkpoints_lie_elsewhere_are_named_once(tmp_path, catalogue):
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    assert pl is not None
    for i in range(2):  # of the same hyperparameters
        fit(CSVLogger(tmp_path), ModelCheckpoint(tmp_path / "saved" / f"run_{i}"))
    report = ingest(catalogue, tmp_path)
    assert len(catalogue.runs()) == 2
    (said,) = report.side_file_failures
    assert said.path == str(tmp_path / "lightning_logs")
    assert "holds 2 logs of lightning, and nothing says which are those of 2 runs (such as saved/run_0)" in said.reason
    assert "without dirpath=" in said.reason
    assert ingest(catalogue, tmp_path).side_file_failures == [said]


def test_versions_with_checkpoints_of_their_own_are_nobody_elses(tmp_path, catalogue):
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    fit(CSVLogger(tmp_path), ModelCheckpoint())
    torch.save({"model": weights(1), "epoch": 1}, tmp_path / "other.ckpt")
    assert ingest(catalogue, tmp_path).side_file_failures == []


def test_several_runs_of_wandb_beside_one_runs_checkpoints_are_named(tmp_path, catalogue):
    for ident in ("abc", "xyz"):
        files = tmp_path / "job" / "wandb" / f"run-20260101_000000-{ident}" / "files"
        files.mkdir(parents=True)
        (files / "config.yaml").write_text("lr: {value: 0.5}\n")
    torch.save({"model": weights(1), "epoch": 1}, tmp_path / "job" / "epoch_1.pt")
    (said,) = ingest(catalogue, tmp_path).side_file_failures
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
    assert ingest(catalogue, tmp_path).side_file_failures == []


def saved(*folder: object, epochs: int = 2, scores: tuple[str, list[float]] | None = None) -> None:
    """Write checkpoints as Lightning's callback does with a folder of its own, and with what it monitors."""
    place = Path(*map(str, folder))
    place.mkdir(parents=True)
    for epoch in range(epochs):
        content = {"state_dict": weights(epoch), "epoch": epoch, "global_step": 4 * epoch + 4}
        path = place / f"epoch={epoch}-step={4 * epoch + 4}.ckpt"
        if scores is not None:
            kept = {str(path): torch.tensor(scores[1][epoch])}
            content["callbacks"] = {"ModelCheckpoint": {"monitor": scores[0], "best_k_models": kept}}
        torch.save({**content, "pytorch-lightning_version": "2.6.0"}, path)


def logged(*folder: object, start: float, epochs: int = 2) -> None:
    """Write a log as Lightning's CSVLogger does."""
    place = Path(*map(str, folder))
    place.mkdir(parents=True)
    (place / "hparams.yaml").write_text(f"lr: {start}\n")
    rows = [f"{epoch},{4 * epoch + 3},{start + epoch}" for epoch in range(epochs)]
    (place / "metrics.csv").write_text("\n".join(["epoch,step,val_acc", *rows]) + "\n")


def taken(catalogue, folder) -> dict[tuple[str, int | None], float | None]:
    assert ingest(catalogue, folder, jobs=1).side_file_failures == []
    return {(c.run.rpartition("/")[2], c.epoch): c.metrics.get("val_acc") for c in catalogue.checkpoints()}


def test_a_folder_that_is_called_as_a_version_has_the_log_of_that_version(tmp_path, catalogue):
    for version in (0, 3):
        saved(tmp_path, "saved", f"version_{version}")
        logged(tmp_path, "lightning_logs", f"version_{version}", start=float(version))
    found = taken(catalogue, tmp_path)
    assert found == {("version_0", 0): 0.0, ("version_0", 1): 1.0, ("version_3", 0): 3.0, ("version_3", 1): 4.0}
    assert sorted(r.hyperparameters["lr"] for r in catalogue.runs()) == [0.0, 3.0]


def test_a_folder_that_is_called_as_a_logger_has_its_only_version(tmp_path, catalogue):
    for name, start in (("small", 0.25), ("large", 0.5)):
        saved(tmp_path, "saved", name)
        logged(tmp_path, "logs", name, "version_0", start=start)
    found = taken(catalogue, tmp_path)
    assert found == {("small", 0): 0.25, ("small", 1): 1.25, ("large", 0): 0.5, ("large", 1): 1.5}


def test_the_only_checkpoints_have_the_only_log(tmp_path, catalogue):
    saved(tmp_path, "best_models")
    logged(tmp_path, "lightning_logs", "version_0", start=0.5)
    assert taken(catalogue, tmp_path) == {("best_models", 0): 0.5, ("best_models", 1): 1.5}


def test_of_two_versions_of_one_name_none_is_guessed(tmp_path, catalogue):
    saved(tmp_path, "saved", "small")
    for version in (0, 1):
        logged(tmp_path, "logs", "small", f"version_{version}", start=0.5)
    (said,) = ingest(catalogue, tmp_path, jobs=1).side_file_failures
    assert "holds 2 logs of lightning, and nothing says which is that of 1 run" in said.reason
    assert '[runs] table = "runs.csv" in epsopt.toml' in said.reason
    assert {c.metrics.get("val_acc") for c in catalogue.checkpoints()} == {None}


def test_one_log_is_not_given_to_one_of_two_runs(tmp_path, catalogue):
    saved(tmp_path, "saved", "a")
    saved(tmp_path, "saved", "b")
    logged(tmp_path, "lightning_logs", "version_0", start=0.5)
    (said,) = ingest(catalogue, tmp_path, jobs=1).side_file_failures
    assert "holds 1 log of lightning, and nothing says which are those of 2 runs" in said.reason


def test_the_log_of_lightning_is_named_and_not_its_hyperparameters(tmp_path, catalogue):
    place = tmp_path / "lightning_logs" / "small" / "version_0"
    logged(place, start=0.5)
    (place / "checkpoints").mkdir()
    torch.save({"model": weights(1)}, place / "checkpoints" / "best.ckpt")
    (said,) = ingest(catalogue, tmp_path, jobs=1).side_file_failures
    assert said.path == str(place / "metrics.csv")


def test_a_log_is_named_where_no_checkpoint_says_when_it_was_saved(tmp_path, catalogue):
    """As Ultralytics leaves them: the best and the last of a run, without their epochs."""
    for i, name in enumerate(("best.pt", "last.pt")):
        (tmp_path / "train" / "weights").mkdir(parents=True, exist_ok=True)
        torch.save({"model": weights(i), "epoch": -1}, tmp_path / "train" / "weights" / name)
    (tmp_path / "train" / "results.csv").write_text("epoch,mAP50\n1,0.25\n2,0.5\n3,0.375\n")
    (tmp_path / "train" / "args.yaml").write_text("lr0: 0.01\n")
    (said,) = ingest(catalogue, tmp_path, jobs=1).side_file_failures
    assert said.path == str(tmp_path / "train" / "results.csv")
    assert "tells 3 rows of metrics, and none belongs to best.pt and others, which say neither epoch" in said.reason
    assert {c.metrics.get("mAP50") for c in catalogue.checkpoints()} == {None}
