"""Values of a run's end go to the checkpoint of its end, or to none and one sentence says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest

from .examples import weights


def saved(folder, *names, inside=True):
    """Save a checkpoint for each name, with its number inside as its epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        number = "".join(c for c in name if c.isdecimal())
        torch.save({"model": weights(i), **({"epoch": int(number)} if inside and number else {})}, folder / name)


def measured(catalogue, root, name):
    found = {Path(c.path).relative_to(root).as_posix(): c.metrics.get(name) for c in catalogue.checkpoints()}
    return {path: value for path, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("names", "end"),
    [
        (["epoch_5.pt", "epoch_10.pt", "final.pt"], "final.pt"),
        (["epoch_5.pt", "epoch_10.pt", "model_last.pt"], "model_last.pt"),
        (["final_model.pt", "model_best.pt"], "final_model.pt"),
        (["epoch_5.pt", "epoch_10.pt", "other.pt"], "epoch_10.pt"),
        (["model.pt"], "model.pt"),
    ],
)
def test_values_of_the_end_are_those_of_the_file_that_is_called_the_last(tmp_path, catalogue, names, end):
    saved(tmp_path, *names)
    (tmp_path / "results.json").write_text('{"bleu": 31.0}')
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert measured(catalogue, tmp_path, "bleu") == {end: 31.0}


def test_a_run_that_is_called_final_has_no_file_that_is_called_so(tmp_path, catalogue):
    saved(tmp_path / "final", "epoch_10.pt", "other.pt")
    (tmp_path / "final" / "results.json").write_text('{"bleu": 31.0}')
    ingest(catalogue, tmp_path)
    assert measured(catalogue, tmp_path, "bleu") == {"final/epoch_10.pt": 31.0}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["final.pt", "last.pt", "epoch_3.pt"], "final.pt, last.pt are all called its last checkpoint"),
        (["a.pt", "b.pt"], "no epoch or name says which of its checkpoints is the last"),
    ],
)
def test_where_no_checkpoint_is_known_to_be_the_last_none_has_them(tmp_path, catalogue, names, said):
    saved(tmp_path, *names)
    (tmp_path / "results.json").write_text('{"bleu": 31.0}')
    (failure,) = ingest(catalogue, tmp_path).side_file_failures
    assert failure.reason.startswith("bleu: values of the run's end, and")
    assert said in failure.reason
    assert measured(catalogue, tmp_path, "bleu") == {}


@pytest.mark.parametrize("which", ["log", "file"])
def test_values_of_an_end_that_no_checkpoint_is_of_are_nobodys(tmp_path, catalogue, which):
    saved(tmp_path, "epoch_6.pt", "epoch_8.pt")
    ends = {"val_acc": 0.5, **({"final_epoch": 10} if which == "file" else {})}
    (tmp_path / "results.json").write_text(json.dumps(ends))
    if which == "log":
        (tmp_path / "log.csv").write_text("epoch,loss\n" + "".join(f"{i},{1 / i}\n" for i in range(1, 11)))
    (failure,) = ingest(catalogue, tmp_path).side_file_failures
    assert "at epoch 10, and the last checkpoint is of epoch 8: save one at the end" in failure.reason
    assert measured(catalogue, tmp_path, "val_acc") == {}
    assert measured(catalogue, tmp_path, "final_epoch") == {}


@pytest.mark.parametrize("first", [0, 1])
def test_an_end_that_counts_from_1_where_checkpoints_count_from_0_is_the_last_one(tmp_path, catalogue, first):
    saved(tmp_path, f"epoch_{8 + first}.pt", f"epoch_{9 + first}.pt")
    (tmp_path / "results.json").write_text('{"bleu": 31.0, "last_epoch": 10}')
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert measured(catalogue, tmp_path, "bleu") == {f"epoch_{9 + first}.pt": 31.0}


@pytest.mark.parametrize(("best", "n"), [(7, 1), (10, 0)])
def test_a_test_beside_the_epoch_of_the_best_is_not_the_last_ones_and_that_epoch_is_no_metric(
    tmp_path, catalogue, best, n
):
    saved(tmp_path, "epoch_7.pt", "epoch_10.pt")
    (tmp_path / "results.json").write_text(json.dumps({"best_epoch": best, "test_acc": 0.5, "size": 2.0}))
    said = [f.reason for f in ingest(catalogue, tmp_path).side_file_failures]
    assert [text.startswith("test_acc: tested after training") for text in said] == [True] * n
    assert measured(catalogue, tmp_path, "test_acc") == ({} if n else {"epoch_10.pt": 0.5})
    assert measured(catalogue, tmp_path, "size") == {"epoch_10.pt": 2.0}
    assert measured(catalogue, tmp_path, "best_epoch") == {}


def test_the_summary_of_wandb_is_of_the_epoch_that_it_says(tmp_path, catalogue):
    run = tmp_path / "wandb" / "run-20230101_000000-abcd1234" / "files"
    saved(run, "model_6.pt", "model_8.pt")
    (run / "wandb-summary.json").write_text('{"val_acc": 0.5, "epoch": 10, "_step": 1000}')
    (failure,) = ingest(catalogue, tmp_path).side_file_failures
    assert "at epoch 10, and the last checkpoint is of epoch 8" in failure.reason
    assert measured(catalogue, run, "val_acc") == {}
