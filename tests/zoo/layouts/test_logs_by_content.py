"""Logs that lie apart from their checkpoints, and no name leads to them: the one that says the same is the run's."""

from __future__ import annotations

import shutil

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest

from .examples import weights
from .test_loggers import fit, logger_of, pl
from .test_undecided import logged, saved


def by_run(catalogue, metric="val/score"):
    return {
        run.name.rpartition("/")[2]: (
            run.hyperparameters.get("optim.lr", run.hyperparameters.get("lr")),
            {c.metrics.get(metric) for c in catalogue.checkpoints() if c.run_id == run.id},
        )
        for run in catalogue.runs()
    }


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_the_version_that_has_a_runs_hyperparameters_is_its_log(tmp_path, catalogue, kind):
    """Version 0 belongs to b, version 1 to a, and one more version to a run whose checkpoints are gone."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    assert pl is not None
    for name, lr in (("b", 0.5), ("a", 0.25), ("gone", 0.125)):
        fit(logger_of(kind, tmp_path), ModelCheckpoint(tmp_path / "saved" / name, monitor="val/score"), lr=lr)
    shutil.rmtree(tmp_path / "saved" / "gone")
    report = ingest(catalogue, tmp_path)
    assert report.side_file_failures == []
    assert by_run(catalogue) == {"a": (0.25, {0.25}), "b": (0.5, {0.25})}
    clocks = {c.run.rpartition("/")[2]: c.metrics["train/clock"] for c in catalogue.checkpoints()}
    assert clocks == {"a": 7.0, "b": 7.0}
    again = ingest(catalogue, tmp_path)
    assert (again.refreshed_runs, again.side_file_failures) == (0, [])
    assert by_run(catalogue) == {"a": (0.25, {0.25}), "b": (0.5, {0.25})}


def test_of_equal_hyperparameters_the_score_that_a_callback_kept_tells_the_log(tmp_path, catalogue):
    for name, score in (("a", 0.75), ("b", 0.5)):
        saved(tmp_path, "saved", name, scores=("val_acc", [score, score + 1]))
        logged(tmp_path, "lightning_logs", f"version_{4 * score:.0f}", start=score)
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert {name: values for name, (_, values) in by_run(catalogue, "val_acc").items()} == {
        "a": {0.75, 1.75},
        "b": {0.5, 1.5},
    }


def test_a_log_that_two_runs_could_have_written_is_given_to_neither(tmp_path, catalogue):
    for name in ("a", "b"):
        saved(tmp_path, "saved", name, scores=("val_acc", [0.5, 1.5]))
    for version in range(2):
        logged(tmp_path, "lightning_logs", f"version_{version}", start=0.5)
    (said,) = ingest(catalogue, tmp_path).side_file_failures
    assert "holds 2 logs of lightning, and nothing says which are those of 2 runs (such as saved/a)" in said.reason


def test_a_log_that_contradicts_a_run_is_not_its_log_though_nothing_else_is_left(tmp_path, catalogue):
    saved(tmp_path, "saved", "a", scores=("val_acc", [0.5, 1.5]))
    saved(tmp_path, "saved", "b", scores=("val_acc", [0.25, 1.25]))
    logged(tmp_path, "lightning_logs", "version_0", start=0.5)
    logged(tmp_path, "lightning_logs", "version_1", start=0.75)
    (said,) = ingest(catalogue, tmp_path).side_file_failures
    assert "holds 1 log of lightning, and nothing says which is that of 1 run (such as saved/b)" in said.reason
    assert {name: values for name, (_, values) in by_run(catalogue, "val_acc").items()}["a"] == {0.5, 1.5}


def test_the_run_of_wandb_that_has_the_checkpoints_hyperparameters_is_theirs(tmp_path, catalogue):
    for ident, lr in (("abc", 0.5), ("xyz", 0.25)):
        files = tmp_path / "job" / "wandb" / f"run-20260101_000000-{ident}" / "files"
        files.mkdir(parents=True)
        (files / "config.yaml").write_text(f"lr: {{value: {lr}}}\nwidth: {{value: {round(64 * lr)}}}\n")
        (files / "wandb-summary.json").write_text(f'{{"acc": {lr}, "_step": 3}}')
    torch.save({"model": weights(1), "epoch": 1, "config": {"lr": 0.25}}, tmp_path / "job" / "epoch_1.pt")
    assert ingest(catalogue, tmp_path).side_file_failures == []
    (run,) = catalogue.runs()
    assert run.hyperparameters["width"] == 16
    assert [c.metrics for c in catalogue.checkpoints()] == [{"acc": 0.25}]
