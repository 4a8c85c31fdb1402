"""Folders of the best and the last checkpoint, beside those of numbered ones, are checkpoints of the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest

from .examples import weights


def saved(root, *folders, name="model.pt"):
    for i, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        torch.save(weights(i), root / folder / name)


def epochs(catalogue, root):
    return {
        Path(c.path).parent.relative_to(root).as_posix(): (c.run, c.epoch, dict(c.hyperparameters))
        for c in catalogue.checkpoints()
    }


@pytest.mark.parametrize(
    "folder", ["checkpoint-best-acc", "checkpoint-last", "final", "best_model", "latest", "ckpt_best_val_loss"]
)
@pytest.mark.parametrize("numbered", ["checkpoint-500", "checkpoints/500", "step_0"])
def test_they_have_the_configuration_of_their_run_and_no_number(tmp_path, catalogue, folder, numbered):
    beside = str(Path(numbered).with_name(folder))
    saved(tmp_path / "run", numbered, beside)
    (tmp_path / "run" / "config.json").write_text('{"lr": 0.5}')
    assert ingest(catalogue, tmp_path).side_file_failures == []
    found = epochs(catalogue, tmp_path / "run")
    assert {run for run, _, _ in found.values()} == {"run"}
    assert found[beside][1:] == (None, {"lr": 0.5})


@pytest.mark.parametrize("folders", [["a", "final"], ["trial_1", "best"], ["a_epoch_1", "b_epoch_1", "final"]])
def test_beside_other_folders_they_are_runs(tmp_path, catalogue, folders):
    saved(tmp_path / "runs", *folders)
    ingest(catalogue, tmp_path)
    assert len({run for run, _, _ in epochs(catalogue, tmp_path / "runs").values()}) == len(folders)


def test_metrics_inside_are_those_of_that_checkpoint(tmp_path, catalogue):
    saved(tmp_path, "checkpoint-1", "checkpoint-2", "checkpoint-best", "checkpoint-last")
    for folder, acc in (("checkpoint-2", 0.25), ("checkpoint-best", 0.75), ("checkpoint-last", 0.5)):
        (tmp_path / folder / "metrics.json").write_text(json.dumps({"acc": acc}))
    (tmp_path / "results.json").write_text('{"bleu": 31.0}')
    assert ingest(catalogue, tmp_path).side_file_failures == []
    found = {Path(c.path).parent.name: dict(c.metrics) for c in catalogue.checkpoints()}
    assert found == {
        "checkpoint-1": {},
        "checkpoint-2": {"acc": 0.25},
        "checkpoint-best": {"acc": 0.75},
        "checkpoint-last": {"acc": 0.5, "bleu": 31.0},
    }
