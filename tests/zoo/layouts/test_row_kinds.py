"""Rows of one epoch that a column tells apart: each value has a name of its own, or the log is named."""

from __future__ import annotations

import json

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.row_kinds import rows_by_kind


def run(folder, log, text, epochs=(1, 2)):
    """A run of plain PyTorch with a log."""
    folder.mkdir(parents=True)
    for epoch in epochs:
        weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(epoch))
        torch.save({"model": {"w.weight": weights}, "epoch": epoch}, folder / f"epoch_{epoch}.pt")
    (folder / log).write_text(text, encoding="utf-8")


def ingested(catalogue, folder):
    report = ingest(catalogue, [folder])
    return {c.epoch: dict(c.metrics) for c in catalogue.checkpoints()}, report.side_file_failures


@pytest.mark.parametrize("column", ["split", "phase", "mode", "Dataset"])
@pytest.mark.parametrize("first", ["train", "val"])
def test_values_of_training_and_validation_are_two_metrics_in_any_order(catalogue, tmp_path, column, first):
    second = "val" if first == "train" else "train"
    of = {"train": "0.9", "val": "0.6"}
    rows = [f"{e},{s},{of[s]}" for e in (1, 2) for s in (first, second)]
    run(tmp_path / "a", "metrics.csv", "\n".join([f"epoch,{column},acc", *rows]) + "\n")
    metrics, failures = ingested(catalogue, tmp_path / "a")
    assert metrics[2] == {"train/acc": 0.9, "val/acc": 0.6}
    assert failures == []


def test_a_table_of_a_row_for_each_metric_has_the_metrics_names(catalogue, tmp_path):
    rows = [f"{e},{name},{value + e / 10}" for e in (1, 2) for name, value in (("val_acc", 0.5), ("val_loss", 2.0))]
    run(tmp_path / "a", "metrics.csv", "\n".join(["epoch,metric,value", *rows]) + "\n")
    metrics, failures = ingested(catalogue, tmp_path / "a")
    assert metrics[1] == pytest.approx({"val_acc": 0.6, "val_loss": 2.1})
    assert failures == []


def test_a_table_of_the_end_with_a_row_for_each_metric_belongs_to_the_last_checkpoint(catalogue, tmp_path):
    run(tmp_path / "a", "results.csv", "metric,value\ntest_acc,0.75\ntest_loss,0.5\n")
    metrics, failures = ingested(catalogue, tmp_path / "a")
    assert metrics == {1: {}, 2: {"test_acc": 0.75, "test_loss": 0.5}}
    assert failures == []


def test_what_only_one_kind_of_row_has_keeps_its_name(catalogue, tmp_path):
    lines = [
        {"epoch": e, "mode": mode, "loss": 1.0 if mode == "train" else 2.0, **({"mAP": 0.4} if mode == "val" else {})}
        for e in (1, 2)
        for mode in ("train", "val")
    ]
    run(tmp_path / "a", "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert ingested(catalogue, tmp_path / "a")[0][2] == {"train/loss": 1.0, "val/loss": 2.0, "mAP": 0.4}


def test_two_columns_tell_rows_apart_together():
    rows = [
        {"epoch": e, "split": s, "dataset": d, "acc": i / 10}
        for e in (1, 2)
        for i, (s, d) in enumerate([("val", "mnli"), ("val", "sst"), ("train", "mnli")])
    ]
    named, _ = rows_by_kind(rows)
    assert {name for row in named for name in row} == {
        "epoch",
        "split",
        "dataset",
        "val/mnli/acc",
        "val/sst/acc",
        "train/mnli/acc",
    }


def test_of_processes_the_first_counts_and_it_is_said(catalogue, tmp_path):
    lines = [{"epoch": e, "rank": r, "acc": 0.5 + r / 10} for e in (1, 2) for r in (1, 0)]
    run(tmp_path / "a", "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    metrics, failures = ingested(catalogue, tmp_path / "a")
    assert metrics[2]["acc"] == 0.5
    assert ["those of 0 are read" in f.reason for f in failures] == [True]


def test_a_log_of_several_folds_is_named_and_not_read(catalogue, tmp_path):
    rows = [f"{fold},{e},{0.5 + fold / 10}" for fold in (0, 1) for e in (1, 2)]
    run(tmp_path / "a", "metrics.csv", "\n".join(["fold,epoch,acc", *rows]) + "\n")
    metrics, failures = ingested(catalogue, tmp_path / "a")
    assert metrics == {1: {}, 2: {}}
    assert ["of several trainings" in f.reason for f in failures] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "epoch,acc,note\n1,0.1,begin\n2,0.2,begin\n2,0.3,resumed\n3,0.4,resumed\n",
        "epoch,acc\n1,0.1\n2,0.2\n2,0.3\n3,0.4\n",
        "epoch,acc,clock\n1,0.1,00:11\n2,0.2,00:12\n2,0.3,00:13\n3,0.4,00:14\n",
        "epoch,acc,best\n1,0.1,true\n2,0.2,false\n2,0.3,true\n3,0.4,true\n",
        "epoch,acc,rank\n1,0.1,3\n2,0.2,3\n2,0.3,3\n3,0.4,3\n",
        "epoch,acc,seed\n1,0.1,7\n2,0.2,7\n2,0.3,7\n3,0.4,7\n",
    ],
)
def test_a_log_that_goes_on_after_a_resumption_has_its_newest_value(catalogue, tmp_path, text):
    run(tmp_path / "a", "metrics.csv", text, epochs=(1, 2, 3))
    metrics, failures = ingested(catalogue, tmp_path / "a")
    assert [metrics[e]["acc"] for e in (1, 2, 3)] == [0.1, 0.3, 0.4]
    assert failures == []


def test_words_that_change_from_row_to_row_without_an_epoch_name_nothing():
    rows = [{"acc": 0.1 * i, "phase": "warmup" if i < 3 else "main"} for i in range(6)]
    assert rows_by_kind(rows) == (rows, [])


@pytest.mark.parametrize("words", [("pretrain", "finetune"), ("1", "2")])
@pytest.mark.parametrize("column", ["stage", "Phase"])
def test_a_log_of_stages_that_count_again_is_named_and_not_read(catalogue, tmp_path, words, column):
    rows = [f"{word},{e},{0.5 + i / 4 + e / 16}" for i, word in enumerate(words) for e in (1, 2)]
    run(tmp_path / "a", "metrics.csv", "\n".join([f"{column},epoch,acc", *rows]) + "\n")
    metrics, failures = ingested(catalogue, tmp_path / "a")
    assert metrics == {1: {}, 2: {}}
    assert ["of several trainings" in f.reason for f in failures] == [True]


def test_stages_that_count_on_are_one_training(catalogue, tmp_path):
    run(tmp_path / "a", "metrics.csv", "stage,epoch,acc\nwarmup,1,0.1\nmain,2,0.2\nmain,3,0.3\n", epochs=(1, 2, 3))
    metrics, failures = ingested(catalogue, tmp_path / "a")
    assert [metrics[e]["acc"] for e in (1, 2, 3)] == [0.1, 0.2, 0.3]
    assert failures == []


def of_two_trainings(catalogue, folder, **logs):
    """Two trainings in one folder, and what each checkpoint has of its logs."""
    folder.mkdir()
    (folder / "config.yaml").write_text("lr: 0.5\n")
    for name, seed in (("alpha", 0), ("beta", 5)):
        for epoch in (1, 2):
            weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed + epoch))
            torch.save({"model": {"w.weight": weights}, "epoch": epoch}, folder / f"{name}_{epoch}.pt")
    for name, text in logs.items():
        (folder / name.replace("__", ".")).write_text(text)
    failures = ingest(catalogue, [folder]).side_file_failures
    assert [c.hyperparameters for c in catalogue.checkpoints()] == [{"lr": 0.5}] * 4
    return {(c.run.rpartition("/")[2], c.epoch): dict(c.metrics) for c in catalogue.checkpoints()}, failures


@pytest.mark.parametrize("column", ["stage", "model"])
def test_rows_that_name_one_of_several_trainings_in_a_folder_are_of_it(catalogue, tmp_path, column):
    rows = [f"{name},{e},{i + e / 4}" for i, name in enumerate(("alpha", "beta")) for e in (1, 2)]
    log = "\n".join([f"{column},epoch,acc", *rows]) + "\n"
    metrics, failures = of_two_trainings(catalogue, tmp_path / "a", metrics__csv=log)
    assert metrics == {(n, e): {"acc": i + e / 4} for i, n in enumerate(("alpha", "beta")) for e in (1, 2)}
    assert failures == []


def test_a_log_in_a_folder_of_several_trainings_is_of_none_and_named_once(catalogue, tmp_path):
    end = {"results__json": '{"f1": 0.5}'}
    metrics, failures = of_two_trainings(catalogue, tmp_path / "a", metrics__csv="epoch,acc\n1,0.1\n2,0.2\n", **end)
    assert set(map(len, metrics.values())) == {0}
    assert ["holds the checkpoints of several trainings" in f.reason for f in failures] == [True]
    assert failures[0].path.endswith("metrics.csv")
    assert failures[0].reason.endswith("(so does 1 other file)")


def test_a_log_of_one_of_several_trainings_is_not_the_others(catalogue, tmp_path):
    log = "model,epoch,acc\nbeta,1,0.1\nbeta,2,0.2\n"
    metrics, failures = of_two_trainings(catalogue, tmp_path / "a", metrics__csv=log)
    assert metrics == {("alpha", 1): {}, ("alpha", 2): {}, ("beta", 1): {"acc": 0.1}, ("beta", 2): {"acc": 0.2}}
    assert len(failures) == 1


def test_event_files_in_a_folder_of_several_trainings_are_of_none(catalogue, tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "events") as writer:
        for epoch in (1, 2):
            writer.add_scalar("acc", epoch / 4, epoch)
    (events,) = (tmp_path / "events").iterdir()
    of_two_trainings(catalogue, tmp_path / "a")
    events.rename(tmp_path / "a" / events.name)
    failures = ingest(catalogue, [tmp_path / "a"]).side_file_failures
    assert [c.metrics for c in catalogue.checkpoints()] == [{}] * 4
    assert ["holds the checkpoints of several trainings" in f.reason for f in failures] == [True]
