"""Logs of any name, by what they hold; what no checkpoint has, and contradictions, are named."""

from __future__ import annotations

import json

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.side_files.unread_files import unread_files

LOSSES = "epoch,loss\n1,{}\n2,{}\n"


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"w.weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))}, path)


def ingested(catalogue, folder, names="epoch_{}.pt", moments=(1, 2), **files):
    for seed, moment in enumerate(moments):
        save(folder / names.format(moment), seed)
    for name, text in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text))
    report = ingest(catalogue, [folder])
    found = {c.epoch: dict(c.metrics) for c in catalogue.checkpoints()}
    return found, [f.reason for f in report.side_file_failures]


def test_tables_named_by_their_split_are_logs(catalogue, tmp_path):
    files = {"train__csv": LOSSES.format(3, 2), "val__csv": LOSSES.format(5, 4)}
    found, failures = ingested(catalogue, tmp_path / "a", **files)
    assert found == {1: {"train/loss": 3, "val/loss": 5}, 2: {"train/loss": 2, "val/loss": 4}}
    assert failures == []


def test_a_table_of_any_name_is_a_log_by_its_columns(catalogue, tmp_path):
    files = {"my_run__csv": LOSSES.format(3, 2), "scores__jsonl": '{"epoch": 1, "f1": 0.5}\n{"epoch": 2, "f1": 0.6}\n'}
    found, failures = ingested(catalogue, tmp_path / "a", **files)
    assert found == {1: {"loss": 3, "f1": 0.5}, 2: {"loss": 2, "f1": 0.6}}
    assert failures == []
    assert unread_files({tmp_path / "a": [tmp_path / "a"]}) == {}


@pytest.mark.parametrize(
    "text",
    [
        "text,label\nwell,1\nbad,0\n",
        "sample,label\n1,0\n2,1\n",
        "episode,step,reward\n" + "".join(f"{e},{s},{s}\n" for e in range(9) for s in (1, 2)),
        '"a ""quoted"" text\nof two lines"\n',
    ],
)
def test_a_table_of_data_is_no_log(catalogue, tmp_path, text):
    found, failures = ingested(catalogue, tmp_path / "a", data__csv=text)
    assert found == {1: {}, 2: {}}
    assert failures == []


@pytest.mark.parametrize("folder", ["csv_logger", "logs___csv___version_0", "eval"])
def test_tables_in_folders_for_logs_are_read(catalogue, tmp_path, folder):
    files = {f"{folder}___metrics__csv": LOSSES.format(3, 2)}
    found, failures = ingested(catalogue, tmp_path / "a", **files)
    assert found == {1: {"loss": 3}, 2: {"loss": 2}}
    assert failures == []


def test_the_newest_version_of_a_log_counts(catalogue, tmp_path):
    files = {f"logs___csv___version_{i}___metrics__csv": LOSSES.format(i, i + 1) for i in (2, 10)}
    assert ingested(catalogue, tmp_path / "a", **files)[0] == {1: {"loss": 10}, 2: {"loss": 11}}


def test_tables_in_a_folder_of_another_name_are_not_taken(catalogue, tmp_path):
    files = {"other_run___metrics__csv": LOSSES.format(3, 2)}
    assert ingested(catalogue, tmp_path / "a", **files)[0] == {1: {}, 2: {}}


def test_litgpt_s_log_is_matched_by_its_steps(catalogue, tmp_path):
    for i, step in enumerate((100, 200)):
        save(tmp_path / "lora" / f"step-{step:06d}" / "lit_model.pth", i)
    log = tmp_path / "lora" / "logs" / "csv" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("epoch,iter,val_loss,step\n0,400,1.5,100\n0,800,1.25,200\n")
    report = ingest(catalogue, [tmp_path / "lora"])
    assert {c.epoch: dict(c.metrics) for c in catalogue.checkpoints()} == {
        100: {"val_loss": 1.5},
        200: {"val_loss": 1.25},
    }
    assert report.side_file_failures == []


@pytest.mark.parametrize(
    "tree",
    [
        {"val_acc": [[1, 0.5], [2, 0.6]]},
        {"val_acc": [[1735918200.5, 1, 0.5], [1735918300.5, 2, 0.6]]},
        {"val_acc": [{"epoch": 1, "value": 0.5}, {"epoch": 2, "value": 0.6}]},
        {"history": [{"epoch": 1, "val_acc": 0.5}, {"epoch": 2, "val_acc": 0.6}]},
    ],
)
def test_lists_of_moments_and_values_are_series(catalogue, tmp_path, tree):
    found, failures = ingested(catalogue, tmp_path / "a", metrics__json=tree)
    assert found == {1: {"val_acc": 0.5}, 2: {"val_acc": 0.6}}
    assert failures == []


def test_records_of_several_sets_are_named_by_them(catalogue, tmp_path):
    tree = {name: [{"epoch": e, "acc": e / at} for e in (1, 2)] for name, at in (("dev", 10), ("ood", 20))}
    found, _ = ingested(catalogue, tmp_path / "a", metrics__json=tree)
    assert found == {1: {"dev.acc": 0.1, "ood.acc": 0.05}, 2: {"dev.acc": 0.2, "ood.acc": 0.1}}


def test_a_matrix_is_no_series(catalogue, tmp_path):
    tree = {"acc": [0.5, 0.6], "confusion": [[5, 1], [2, 4]]}
    assert ingested(catalogue, tmp_path / "a", metrics__json=tree)[0] == {1: {"acc": 0.5}, 2: {"acc": 0.6}}


def test_what_a_history_keeps_of_each_batch_is_left_out(catalogue, tmp_path):
    tree = [{"epoch": e, "acc": e / 10, "batches": [{"train_loss": 1.0}]} for e in (1, 2)]
    assert ingested(catalogue, tmp_path / "a", history__json=tree)[0] == {1: {"acc": 0.1}, 2: {"acc": 0.2}}


def test_a_metric_that_no_checkpoint_has_is_named(catalogue, tmp_path):
    text = "epoch,acc,fid,bleu\n1,0.5,,\n2,0.6,,\n3,,9.0,8.0\n"
    found, failures = ingested(catalogue, tmp_path / "a", metrics__csv=text)
    assert found == {1: {"acc": 0.5}, 2: {"acc": 0.6}}
    assert len(failures) == 1
    assert failures[0].startswith("no checkpoint has a value of 'fid' (so has 1 other), which was logged at epochs 3: ")


def test_configurations_that_contradict_each_other_are_named(catalogue, tmp_path):
    files = {
        "config__json": {"lr": 0.1, "bs": 8, "decay": None},
        "args__yaml": "lr: 0.5\nbs: 8.0\ndecay: none\nwidth: 3\n",
    }
    _, failures = ingested(catalogue, tmp_path / "a", **files)
    assert failures == [
        "says lr = 0.5, and config.json says 0.1, which counts: remove the file that is not of this run"
    ]
    assert catalogue.checkpoints()[0].hyperparameters == {"lr": 0.1, "bs": 8, "decay": None, "width": 3}
