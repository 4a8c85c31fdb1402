"""Several logs of one run: values of one name are of the split that the file's name says, or the first file counts."""

from __future__ import annotations

import json

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.plain import LAYOUT
from epsopt.zoo.layouts.side_file_reader import SideFileReader


def ingested(catalogue, folder, **logs):
    for epoch in (1, 2):
        weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(epoch))
        torch.save({"model": {"w.weight": weights}, "epoch": epoch}, folder / f"epoch_{epoch}.pt")
    for name, text in logs.items():
        (folder / name.replace("__", ".")).write_text(text)
    report = ingest(catalogue, [folder])
    return {c.epoch: dict(c.metrics) for c in catalogue.checkpoints()}, report.side_file_failures


def test_a_log_of_training_does_not_overwrite_the_other_log(catalogue, tmp_path):
    logs = {"metrics__csv": "epoch,loss,acc\n1,5,0.5\n2,4,0.6\n", "train_log__csv": "epoch,loss\n1,3\n2,2\n"}
    metrics, failures = ingested(catalogue, tmp_path, **logs)
    assert metrics == {1: {"loss": 5, "acc": 0.5, "train/loss": 3}, 2: {"loss": 4, "acc": 0.6, "train/loss": 2}}
    assert failures == []


def test_two_splits_are_two_metrics_also_where_one_is_measured_less_often(catalogue, tmp_path):
    logs = {"train_metrics__csv": "epoch,loss\n1,3\n2,2\n", "val_metrics__csv": "epoch,loss\n2,4\n"}
    metrics, failures = ingested(catalogue, tmp_path, **logs)
    assert metrics == {1: {"train/loss": 3}, 2: {"train/loss": 2, "val/loss": 4}}
    assert failures == []


def test_two_splits_in_json_are_two_metrics(catalogue, tmp_path):
    training = json.dumps([{"epoch": e, "loss": e} for e in (1, 2)])
    logs = {"train_log__json": training, "eval_metrics__json": json.dumps([{"epoch": 2, "loss": 4}])}
    assert ingested(catalogue, tmp_path, **logs)[0] == {1: {"train/loss": 1}, 2: {"train/loss": 2, "eval/loss": 4}}


def test_values_of_the_end_and_of_rows_without_a_number_are_of_their_split(catalogue, tmp_path):
    logs = {"train_log__csv": "loss\n3\n2\n", "metrics__csv": "loss\n5\n4\n"}
    logs |= {"train_metrics__json": '{"f1": 0.9}', "eval_metrics__json": '{"f1": 0.7}'}
    assert ingested(catalogue, tmp_path, **logs)[0] == {
        1: {"train/loss": 3, "loss": 5},
        2: {"train/loss": 2, "loss": 4, "train/f1": 0.9, "eval/f1": 0.7},
    }


def test_measurements_of_one_checkpoint_on_two_splits_are_two_metrics(catalogue, tmp_path):
    logs = {
        f"{s}_metrics_{e}__json": json.dumps({"acc": e + x}) for e in (1, 2) for s, x in (("train", 0.5), ("val", 0))
    }
    assert ingested(catalogue, tmp_path, **logs)[0] == {e: {"train/acc": e + 0.5, "val/acc": e} for e in (1, 2)}


def test_a_name_that_says_its_split_keeps_it_and_one_that_files_agree_on_too(catalogue, tmp_path):
    logs = {"metrics__csv": "epoch,val_loss,lr\n1,5,0.1\n2,4,0.1\n"}
    logs |= {"train_log__csv": "epoch,val_loss,lr\n1,5,0.1\n2,4.0001,0.1\n"}
    metrics, failures = ingested(catalogue, tmp_path, **logs)
    assert metrics == {1: {"val_loss": 5, "lr": 0.1}, 2: {"val_loss": 4, "lr": 0.1}}
    assert failures == []


def test_of_logs_without_a_split_the_first_counts_and_the_other_is_named(catalogue, tmp_path):
    logs = {"metrics__csv": "epoch,acc\n1,0.5\n", "history__csv": "epoch,acc,loss\n1,0.9,3\n2,0.8,2\n"}
    metrics, (failure,) = ingested(catalogue, tmp_path, **logs)
    assert metrics == {1: {"acc": 0.5, "loss": 3}, 2: {"acc": 0.8, "loss": 2}}
    assert failure.path.endswith("history.csv")
    assert failure.reason.startswith("its values of 'acc' are others than those of metrics.csv at the same epochs")


def test_of_the_sessions_of_one_log_the_later_counts(tmp_path):
    for day, acc in ((1, 0.5), (2, 0.75)):
        (tmp_path / f"2024010{day}_000000.log.json").write_text(json.dumps({"mode": "val", "epoch": 1, "mAP": acc}))
    metadata = LAYOUT.parse_side_files(SideFileReader(tmp_path, sorted(tmp_path.iterdir())))
    assert [row.metrics["mAP"] for row in metadata.rows] == [0.5, 0.75]
    assert metadata.failures == []


@pytest.mark.parametrize("name", ["train_val_log.csv", "trainer_log.csv", "log.csv"])
def test_a_file_that_says_no_split_or_several_has_none(tmp_path, name):
    from epsopt.zoo.layouts.several_logs import split_of

    assert split_of(tmp_path / name) == ""
