"""Hyperparameters that only the names of folders say."""

from __future__ import annotations

import pytest
import torch

from epsopt.studies.project.scan_runs import survey
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.named_values import named_values


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("lr=0.1_wd=0.0_bs=32", {"lr": 0.1, "wd": 0.0, "bs": 32}),
        ("lr=1e-05_weight_decay=0.1_batch_size=32", {"lr": 1e-05, "weight_decay": 0.1, "batch_size": 32}),
        ("lr=0.1,optimizer.name=adam,seed=3", {"lr": 0.1, "optimizer.name": "adam", "seed": 3}),
        ("exp-lr=0.1-wd=1e-4", {"lr": 0.1, "wd": 1e-4}),
        ("run3_lr=0.1", {"lr": 0.1}),
        ("resnet50_lr=0.1_final", {"lr": 0.1}),
        ("lr=0.1_opt=sgd_momentum", {"lr": 0.1, "opt": "sgd_momentum"}),
        ("opt=adam_lr=-0.1", {"opt": "adam", "lr": -0.1}),
        ("lr=0.1/seed_0", {"lr": 0.1}),
        ("lr=0.1/fold_0", {"lr": 0.1}),
    ],
)
def test_a_folder_says_the_hyperparameters_that_it_is_named_by(run, expected):
    assert named_values(f"/runs/{run}") == expected


@pytest.mark.parametrize(
    "run",
    [
        "run_3",
        "act=leaky_relu_lr=0.1",
        "a=b=c",
        "lr=",
        "lr=0.1x_b=2",
        "epoch=3-val_loss=0.5",
        "=",
        "lr=0.1/run_3",
        "é=1",
    ],
)
def test_a_name_that_can_be_read_in_two_ways_or_is_of_a_moment_says_none(run):
    assert named_values(f"/runs/{run}") == {}


def test_it_counts_where_nothing_else_says_any(catalogue, tmp_path):
    for i, lr in enumerate((0.1, 0.01)):
        (tmp_path / f"lr={lr}_wd=0").mkdir()
        state = {"w": torch.randn(3, 2, generator=torch.Generator().manual_seed(i))}
        torch.save({"model": state, "epoch": 1}, tmp_path / f"lr={lr}_wd=0" / "epoch_1.pt")
    (tmp_path / "lr=0.01_wd=0" / "config.yaml").write_text("lr: 0.0123\n")
    ingest(catalogue, [tmp_path])
    expected = [{"lr": 0.0123}, {"lr": 0.1, "wd": 0}]
    assert [dict(r.hyperparameters) for r in catalogue.runs()] == expected
    assert [c.hyperparameters for c in catalogue.checkpoints()] == expected
    assert sorted(survey(tmp_path).hyperparameters, key=len) == expected


@pytest.mark.parametrize(
    ("word", "said", "numbers"),
    [
        ("seed", "lr: 0.5\nseed: 0\n", {"lr": 0.5, "seed": None}),
        ("seed", "train:\n  random_seed: 42\ndata_seed: 7\n", {"train.random_seed": None, "data_seed": 7}),
        ("fold", "fold_idx: 0\nseed: 3\n", {"fold_idx": None, "seed": 3}),
        ("split", "split: train\n", {"split": "train"}),
    ],
)
def test_a_repeat_has_the_number_of_its_name_and_not_that_of_the_configuration_above(
    catalogue, tmp_path, word, said, numbers
):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "config.yaml").write_text(said)
    for i in (1, 2):
        folder = tmp_path / "exp" / f"{word}_{i}"
        folder.mkdir()
        torch.save({"model": {"w": torch.randn(3, 2)}, "epoch": 1}, folder / "epoch_1.pt")
    ingest(catalogue, [tmp_path])
    found = sorted((c.run, dict(c.hyperparameters)) for c in catalogue.checkpoints())
    assert found == [
        (f"exp/{word}_{i}", {name: i if value is None else value for name, value in numbers.items()}) for i in (1, 2)
    ]


def test_a_configuration_in_the_folder_of_a_repeat_says_its_own_seed(catalogue, tmp_path):
    (tmp_path / "seed_1").mkdir()
    (tmp_path / "seed_1" / "config.yaml").write_text("seed: 1001\n")
    torch.save({"model": {"w": torch.randn(3, 2)}, "epoch": 1}, tmp_path / "seed_1" / "epoch_1.pt")
    ingest(catalogue, [tmp_path])
    assert [dict(c.hyperparameters) for c in catalogue.checkpoints()] == [{"seed": 1001}]
