"""What lies beside checkpoints under names of their own: a file each, texts of JSON lines, configurations as text."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.config_texts import parse_config_text
from epsopt.zoo.layouts.side_file_reader import SideError
from epsopt.zoo.side_files.unread_files import unread_files


def save(path, seed=0, **said):
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
    torch.save({"model": {"w.weight": weights}, **said}, path)


def values(catalogue, folder):
    report = ingest(catalogue, [folder])
    found = {c.path.rpartition("/")[2]: dict(c.metrics) for c in catalogue.checkpoints()}
    return found, [f.reason for f in report.side_file_failures]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("name", ["model_{}", "epoch={}-step=10", "best-{}"])
def test_a_file_of_a_checkpoints_name_tells_of_it(catalogue, tmp_path, name, suffix):
    for epoch in (1, 2):
        save(tmp_path / "a" / f"{name.format(epoch)}.pt", epoch)
        said = {"acc": epoch / 10, "config": {"lr": 0.1}}  # JSON is YAML
        (tmp_path / "a" / f"{name.format(epoch)}.{suffix}").write_text(json.dumps(said))
    found, failures = values(catalogue, tmp_path / "a")
    assert found == {f"{name.format(e)}.pt": {"acc": e / 10} for e in (1, 2)}
    assert (failures, catalogue.checkpoints()[0].hyperparameters) == ([], {"lr": 0.1})


def test_files_of_equal_names_in_folders_of_their_own_are_distinguished(catalogue, tmp_path):
    for epoch in (1, 2):
        save(tmp_path / "a" / f"epoch_{epoch}" / "model.pt", epoch)
        (tmp_path / "a" / f"epoch_{epoch}" / "model.json").write_text(json.dumps({"metrics": {"acc": epoch / 10}}))
    ingest(catalogue, [tmp_path / "a"])
    assert sorted((c.epoch, c.metrics["acc"]) for c in catalogue.checkpoints()) == [(1, 0.1), (2, 0.2)]


@pytest.mark.parametrize(
    "name",
    ["metrics_epoch_{}.json", "epoch_{}_metrics.json", "results-{}.json", "val_metrics_{}.json", "eval.{:04d}.json"],
)
def test_a_file_of_a_checkpoints_number_tells_of_it(catalogue, tmp_path, name):
    for epoch in (1, 2):
        save(tmp_path / "a" / f"ckpt_{epoch:03d}.pt", epoch)
        (tmp_path / "a" / name.format(epoch)).write_text(json.dumps({"acc": epoch / 10}))
    assert values(catalogue, tmp_path / "a") == ({"ckpt_001.pt": {"acc": 0.1}, "ckpt_002.pt": {"acc": 0.2}}, [])


def test_a_file_of_another_number_or_word_tells_of_no_checkpoint(catalogue, tmp_path):
    save(tmp_path / "a" / "ckpt_1.pt")
    for name in ("metrics_2.json", "vocabulary_1.json", "ckpt_1.pt.json"):
        (tmp_path / "a" / name).write_text(json.dumps({"acc": 0.9}))
    assert values(catalogue, tmp_path / "a") == ({"ckpt_1.pt": {}}, [])


def test_a_log_of_all_checkpoints_and_files_of_their_own_are_both_read(catalogue, tmp_path):
    for epoch in (1, 2):
        save(tmp_path / "a" / f"m_{epoch}.pt", epoch)
        (tmp_path / "a" / f"m_{epoch}.json").write_text(json.dumps({"f1": epoch / 10}))
    (tmp_path / "a" / "metrics.csv").write_text("epoch,acc\n1,0.5\n2,0.6\n")
    found, _ = values(catalogue, tmp_path / "a")
    assert found == {"m_1.pt": {"acc": 0.5, "f1": 0.1}, "m_2.pt": {"acc": 0.6, "f1": 0.2}}


def test_a_log_of_json_lines_is_one_though_it_is_called_a_text(catalogue, tmp_path):
    for epoch in (0, 1):
        args = argparse.Namespace(lr=0.1, output_dir=str(tmp_path))
        save(tmp_path / "a" / f"checkpoint{epoch:04d}.pth", epoch, epoch=epoch, args=args)
    lines = [{"epoch": e, "train_loss": 1.0 - e / 10, "test_acc1": 50.0 + e} for e in (0, 1)]
    (tmp_path / "a" / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, failures = values(catalogue, tmp_path / "a")
    assert found["checkpoint0001.pth"] == {"train_loss": 0.9, "test_acc1": 51.0}
    assert failures == []


def test_a_text_that_is_no_log_is_not_taken_for_one(catalogue, tmp_path):
    save(tmp_path / "a" / "epoch_1.pt")
    (tmp_path / "a" / "log.txt").write_text("epoch 1: loss 0.5\n| loss | 0.5 |\n")
    (tmp_path / "log.txt").write_text('{"epoch": 1, "loss": 1}\n')
    assert values(catalogue, tmp_path) == ({"epoch_1.pt": {}}, [])


def test_what_nnunet_logs_inside_its_checkpoints_is_read(catalogue, tmp_path):
    for name, epochs in (("checkpoint_best", 3), ("checkpoint_final", 5)):
        logging = {
            "ema_fg_dice": [0.1 * i for i in range(epochs)],
            "val_losses": [1.0 - 0.1 * i for i in range(epochs)],
        }
        logging["dice_per_class_or_region"] = [[0.1, 0.2]] * epochs
        save(tmp_path / "fold_0" / f"{name}.pth", epochs, current_epoch=epochs, logging=logging, _best_ema=0.2)
    ingest(catalogue, [tmp_path])
    assert {c.epoch: c.metrics for c in catalogue.checkpoints()} == {
        3: pytest.approx({"ema_fg_dice": 0.2, "val_loss": 0.8}),
        5: pytest.approx({"ema_fg_dice": 0.4, "val_loss": 0.6}),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr: 0.001\nname: a run\n", {"lr": 0.001, "name": "a run"}),
        ("--lr = 1e-3\n# why\n\namp=True\n", {"lr": 0.001, "amp": True}),
        (
            "Namespace(lr=0.1, layers=[1, 2], path='a b', f=foo(1))",
            {"lr": 0.1, "layers": [1, 2], "path": "a b", "f": "foo(1)"},
        ),
        ('{"lr": 0.1}', {"lr": 0.1}),
        (
            "-------- Options --------\n    batch_size: 1   \t[default: 4]\n  gan_mode: lsgan\n-------- End --------\n",
            {"batch_size": 1, "gan_mode": "lsgan"},
        ),
    ],
)
def test_a_configuration_that_is_written_as_text_is_read(text, expected):
    assert parse_config_text(text) == expected


@pytest.mark.parametrize("text", ["we use a small lr\n", "Namespace(lr=0.1", "lr: 1\nand more\n"])
def test_a_text_that_is_no_configuration_is_named(catalogue, tmp_path, text):
    with pytest.raises(SideError):
        parse_config_text(text)
    save(tmp_path / "a" / "epoch_1.pt")
    (tmp_path / "a" / "args.txt").write_text(text)
    assert len(values(catalogue, tmp_path / "a")[1]) == 1


def test_nothing_of_a_namespace_is_evaluated(tmp_path):
    hostile = f"Namespace(lr=__import__('os').system('touch {tmp_path}/fired'))"
    assert list(parse_config_text(hostile)) == ["lr"]
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize("name", ["seed_{}", "fold{}", "rep-{}"])
def test_repeats_of_one_training_have_the_configuration_above_them(catalogue, tmp_path, name):
    for group, lr in (("a", 0.1), ("b", 0.01)):
        for i in (0, 1):
            save(tmp_path / group / name.format(i) / "epoch_1.pt", hash((lr, i)) % 1000)
        (tmp_path / group / "config.yaml").write_text(f"lr: {lr}\n")
    (tmp_path / "b" / name.format(1) / "config.yaml").write_text("lr: 0.5\n")
    ingest(catalogue, [tmp_path])
    found = {r.name: dict(r.hyperparameters) for r in catalogue.runs()}
    assert sorted(run["lr"] for run in found.values()) == [0.01, 0.1, 0.1, 0.5]


@pytest.mark.parametrize("name", ["run_{}", "trial_{}", "2024-05-0{}"])
def test_other_runs_do_not_have_what_lies_above_them(catalogue, tmp_path, name):
    for i in (1, 2):
        save(tmp_path / name.format(i) / "epoch_1.pt", i)
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")
    ingest(catalogue, [tmp_path])
    assert [dict(r.hyperparameters) for r in catalogue.runs()] == [{}, {}]


def test_what_lies_beside_checkpoints_and_is_not_read_is_named_by_its_runs(tmp_path):
    for i in (1, 2):
        save(tmp_path / f"run_{i}" / "epoch_1.pt", i)
        (tmp_path / f"run_{i}" / "metrics.csv").write_text("epoch,acc\n1,0.5\n")
        (tmp_path / f"run_{i}" / f"table_{i}.csv").write_text("text,label\nwell,1\n")
        (tmp_path / f"run_{i}" / f"history_of_{i}.csv").write_text("epoch,loss\n1,0.5\n")
        (tmp_path / f"run_{i}" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "run_1" / "notes.ini").write_text("")
    runs = {tmp_path / f"run_{i}": [tmp_path / f"run_{i}"] for i in (1, 2)}
    assert unread_files(runs) == {"table_#.csv": 2, "notes.ini": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.tsv", "epoch\tacc\n1\t0.5\n"),
        ("metrics.csv", "# made by train.py\n\n# lr 0.1, wd 0\nepoch,acc\n1,0.5\n"),
        ("metrics.csv", "# epoch,acc\n1,0.5\n"),
        ("metrics.csv", '"epoch" , "acc"\n 1 , 0.5 \n'),
    ],
)
def test_tables_have_a_header_wherever_it_stands(catalogue, tmp_path, name, text):
    save(tmp_path / "a" / "epoch_1.pt")
    (tmp_path / "a" / name).write_text(text)
    assert values(catalogue, tmp_path / "a") == ({"epoch_1.pt": {"acc": 0.5}}, [])


@pytest.mark.parametrize("key", ["eval_metrics", "test_metrics", "results", "eval_results", "scores"])
def test_measured_values_and_hyperparameters_are_read_under_their_other_keys(catalogue, tmp_path, key):
    save(tmp_path / "a" / "epoch_1.pt", hyperparameters={"lr": 0.1}, **{key: {"val": {"acc": 0.5}}})
    assert values(catalogue, tmp_path / "a") == ({"epoch_1.pt": {"val.acc": 0.5}}, [])
    assert catalogue.checkpoints()[0].hyperparameters == {"lr": 0.1}
