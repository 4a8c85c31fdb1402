"""Tables and mappings that name checkpoints give each row to the one that it names."""

from __future__ import annotations

import json

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest

from .examples import weights


def ingested(catalogue, folder, *files, epochs=False, **logs):
    for i, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": weights(i), **({"epoch": i + 1} if epochs else {})}, folder / file)
    for name, text in logs.items():
        (folder / name.replace("__", ".")).write_text(text if isinstance(text, str) else json.dumps(text))
    report = ingest(catalogue, [folder])
    of = {c.path.removeprefix(f"{folder}/"): dict(c.metrics) for c in catalogue.checkpoints()}
    return of, [f.reason for f in report.side_file_failures]


@pytest.mark.parametrize(
    ("column", "cell"),
    [("name", "{}"), ("model", "{}.pt"), ("Checkpoint", "runs/sweep/{}.pt"), ("file", "C:\\\\sweep\\\\{}.pt")],
)
def test_a_table_with_a_row_for_each_file_is_of_these_files(catalogue, tmp_path, column, cell):
    rows = [f"{cell.format(f'net{n}')},{n / 64}" for n in (50, 18, 34)]
    table = "\n".join([f"{column},acc", *rows]) + "\n"
    metrics, failures = ingested(catalogue, tmp_path, "net18.pt", "net34.pt", "net50.pt", results__csv=table)
    assert metrics == {f"net{n}.pt": {"acc": n / 64} for n in (18, 34, 50)}
    assert failures == []


def test_numbers_in_a_table_are_those_of_the_files_in_any_order(catalogue, tmp_path):
    table = "model,acc\n2,0.9\n0,0.8\n1,0.7\n"
    metrics, _ = ingested(catalogue, tmp_path, "model_0.pt", "model_1.pt", "model_2.pt", results__csv=table)
    assert [metrics[f"model_{n}.pt"] for n in range(3)] == [{"acc": 0.8}, {"acc": 0.7}, {"acc": 0.9}]


def test_a_table_of_checkpoints_that_are_mostly_gone_is_of_those_that_are_left(catalogue, tmp_path):
    table = "checkpoint,acc\n" + "".join(f"epoch_{n}.pt,{n / 16}\n" for n in range(1, 11))
    assert ingested(catalogue, tmp_path, "epoch_9.pt", "epoch_10.pt", metrics__csv=table)[0] == {
        "epoch_9.pt": {"acc": 9 / 16},
        "epoch_10.pt": {"acc": 10 / 16},
    }


def test_rows_of_metrics_and_splits_of_one_file_are_put_together(catalogue, tmp_path):
    table = "file,split,acc\na.pt,val,0.5\na.pt,test,0.25\nb.pt,val,0.75\nb.pt,test,0.625\n"
    assert ingested(catalogue, tmp_path, "a.pt", "b.pt", results__csv=table)[0] == {
        "a.pt": {"val/acc": 0.5, "test/acc": 0.25},
        "b.pt": {"val/acc": 0.75, "test/acc": 0.625},
    }


def test_several_rows_of_one_file_that_nothing_tells_apart_are_named_and_not_read(catalogue, tmp_path):
    table = "model,acc\na,0.5\na,0.25\nb,0.75\n"
    metrics, (failure,) = ingested(catalogue, tmp_path, "a.pt", "b.pt", results__csv=table)
    assert metrics == {"a.pt": {}, "b.pt": {"acc": 0.75}}
    assert failure.startswith("its column 'model' names 'a.pt' in several rows")


def test_a_log_by_epochs_counts_beside_a_table_of_files(catalogue, tmp_path):
    logs = {"metrics__csv": "epoch,loss\n1,3\n2,2\n", "results__csv": "name,f1\nepoch_1,0.5\nepoch_2,0.25\n"}
    metrics, failures = ingested(catalogue, tmp_path, "epoch_1.pt", "epoch_2.pt", epochs=True, **logs)
    assert metrics == {"epoch_1.pt": {"loss": 3, "f1": 0.5}, "epoch_2.pt": {"loss": 2, "f1": 0.25}}
    assert failures == []


@pytest.mark.parametrize("name", ["epoch_{}.pt", "ckpts/epoch_{}.pt"])
def test_a_mapping_of_files_is_of_these_files(catalogue, tmp_path, name):
    tree = {name.format(n): {"acc": n / 4, "val": {"f1": n / 8}} for n in (1, 2, 3)}
    assert ingested(catalogue, tmp_path, "epoch_1.pt", "epoch_2.pt", "epoch_3.pt", metrics__json=tree)[0] == {
        f"epoch_{n}.pt": {"acc": n / 4, "val.f1": n / 8} for n in (1, 2, 3)
    }


def test_folders_that_are_a_checkpoint_each_are_named_too(catalogue, tmp_path):
    table = "checkpoint,acc\nstep_100,0.5\nstep_200,0.75\n"
    files = ("step_100/model.pt", "step_200/model.pt")
    metrics, _ = ingested(catalogue, tmp_path, *files, results__csv=table)
    assert metrics == {files[0]: {"acc": 0.5}, files[1]: {"acc": 0.75}}


@pytest.mark.parametrize(
    "tree",
    [
        {"val_acc": {"1": 0.5, "2": 0.75}, "loss": {"1": 3, "2": 2}},
        {"epoch": {"0": 1, "1": 2}, "val_acc": {"0": 0.5, "1": 0.75}, "loss": {"0": 3, "1": 2}},
    ],
)
def test_metrics_by_epoch_are_series(catalogue, tmp_path, tree):
    metrics, failures = ingested(catalogue, tmp_path, "epoch_1.pt", "epoch_2.pt", epochs=True, metrics__json=tree)
    assert metrics == {"epoch_1.pt": {"val_acc": 0.5, "loss": 3}, "epoch_2.pt": {"val_acc": 0.75, "loss": 2}}
    assert failures == []


@pytest.mark.parametrize("keys", ["01", "15", "0123"])
def test_numbers_that_are_not_all_epochs_of_checkpoints_are_none(catalogue, tmp_path, keys):
    tree = {"recall": dict.fromkeys(keys, 0.5)}
    metrics, _ = ingested(catalogue, tmp_path, "epoch_1.pt", "epoch_2.pt", epochs=True, metrics__json=tree)
    assert metrics == {"epoch_1.pt": {}, "epoch_2.pt": {f"recall.{k}": 0.5 for k in keys}}
