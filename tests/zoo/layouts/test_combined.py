"""Layouts together: who says what, and what a run is then."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.registry import place, sources

from .examples import weights, written


def test_hydra_gives_hyperparameters_to_a_run_of_lightning(tmp_path, tmp_path_factory, catalogue):
    """The output folder that Hydra made, with what Lightning wrote into it."""
    lightning, hydra = (written(name, tmp_path_factory) for name in ("lightning", "hydra"))
    output = tmp_path / "outputs" / "d" / "t"
    shutil.copytree(hydra.folder / "outputs" / "d" / "t" / ".hydra", output / ".hydra")
    shutil.copytree(lightning.folder / "lightning_logs", output / "lightning_logs")
    report = ingest(catalogue, tmp_path)
    assert report.layouts == {"hydra + lightning": 2}
    first = catalogue.runs()[0]
    assert first.name == "outputs/d/t/lightning_logs/version_0"
    assert [(c.epoch, c.trained) for c in catalogue.checkpoints() if c.run == first.name] == [(0, 1), (1, 2), (2, 3)]
    # Lightning's own lr counts, what only Hydra says is added.
    assert {k: first.hyperparameters[k] for k in ("lr", "width", "name")} == {"lr": 0.5, "width": 4, "name": "run-adam"}


def test_a_run_in_mlflows_database_is_found_by_the_folder_that_a_parameter_names(tmp_path, tmp_path_factory, catalogue):
    example = written("mlflow-database", tmp_path_factory)
    shutil.copy(example.folder / "mlflow.db", tmp_path / "mlflow.db")
    for i, folder in enumerate(("named", "other")):
        (tmp_path / "work" / folder).mkdir(parents=True)
        torch.save({"model": weights(i), "epoch": 2}, tmp_path / "work" / folder / "e.pt")
    run = next(iter(example.hyperparameters)).rpartition("/")[2]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        row = ("output_dir", str(tmp_path / "work" / "named"), run)
        database.execute("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", row)
    report = ingest(catalogue, tmp_path)
    assert report.layouts == {"mlflow": 1, "plain": 1}
    named, other = catalogue.checkpoints()
    assert (named.metrics, named.hyperparameters["lr"]) == ({"val/acc": 1.0, "loss": 0.5}, 0.5)
    assert (other.metrics, other.hyperparameters) == ({}, {})


def test_an_online_run_of_wandb_tells_its_configuration_and_last_values(tmp_path, catalogue):
    """Online runs write these two files as well; the form is that of their documentation, no server wrote them."""
    files = tmp_path / "wandb" / "run-20260101_000000-abc" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_text("_wandb:\n  value: {cli_version: 1}\nlr:\n  desc: null\n  value: 1e-3\n")
    (files / "wandb-summary.json").write_text('{"_step": 9, "_runtime": 3, "val/acc": 0.5, "best": {"acc": 0.75}}')
    torch.save({"model": weights(1), "epoch": 1}, files / "e.pt")
    ingest(catalogue, tmp_path)
    (checkpoint,) = catalogue.checkpoints()
    assert (checkpoint.hyperparameters, checkpoint.metrics) == ({"lr": 0.001}, {"val/acc": 0.5, "best.acc": 0.75})


@pytest.mark.parametrize(
    ("file", "layout", "run"),
    [
        ("job/e.pt", "plain", "job"),
        ("job/checkpoints/e.pt", "plain", "job/checkpoints"),
        ("job/checkpoints/e.ckpt", "lightning", "job"),
        ("job/checkpoint-5/model.safetensors", "hugging-face", "job"),
        ("job/checkpoint-5/model-00001-of-00002.safetensors", "hugging-face", "job"),
        ("job/checkpoint-5/other.safetensors", "plain", "job"),
        ("wandb/run-20260101_000000-ab/files/deep/e.pt", "wandb", "wandb/run-20260101_000000-ab"),
        (f"mlruns/1/{'0a' * 16}/artifacts/model/e.pt", "mlflow", f"mlruns/1/{'0a' * 16}"),
    ],
)
def test_the_place_of_a_file_tells_its_run(tmp_path, file, layout, run):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.touch()
    assert place(path, Folders()) == (layout, tmp_path / run)


def test_every_side_file_is_asked_of_one_layout_only(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("hparams.yaml", "metrics.csv", "config.json", "checkpoints/e.ckpt"):
        (tmp_path / name).touch()
    found = sources(tmp_path, [tmp_path / "checkpoints"], Folders())
    assert {name: [f.name for f in files] for name, files in found} == {
        "lightning": ["hparams.yaml", "metrics.csv"],
        "plain": ["config.json"],
    }


def test_event_files_without_tensorboard_are_named_with_what_to_install(tmp_path, monkeypatch):
    import builtins

    from epsopt.zoo.layouts import tensorboard
    from epsopt.zoo.layouts.side_file_reader import SideFileReader

    original = builtins.__import__

    def missing(name, *rest):
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    sides = SideFileReader(tmp_path, [tmp_path / "events.out.tfevents.1"])
    metadata = tensorboard.parse_side_files(sides)
    assert metadata.rows == []
    assert "pip install 'epsopt[tensorboard]'" in metadata.failures[0][1]


def test_an_ingest_that_was_killed_before_side_files_were_read_is_made_up_for(tmp_path, catalogue, monkeypatch):
    from epsopt.zoo.ingestion import ingest as ingestion

    torch.save({"model": weights(1), "epoch": 1}, tmp_path / "e.pt")
    (tmp_path / "metrics.csv").write_text("epoch,acc\n1,0.5\n")
    with monkeypatch.context() as patch:
        patch.setattr(ingestion, "refresh_runs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(catalogue, tmp_path)
    assert catalogue.checkpoints()[0].metrics == {}
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.refreshed_runs) == (0, 1)
    assert catalogue.checkpoints()[0].metrics == {"acc": 0.5}
