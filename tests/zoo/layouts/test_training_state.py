"""What a checkpoint says of the moment of its training, as programs of several kinds write it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.reading.plain_values import MOST_METRICS

from .examples import weights


def fairseq(epoch: int, iterations: int, updates: int) -> dict:
    """A checkpoint of fairseq, which it writes at the end of an epoch (0 iterations of the next) or within one."""
    return {
        "args": None,
        "cfg": {"optimization": {"lr": [0.5]}, "model": argparse.Namespace(arch="transformer")},
        "model": weights(updates),
        "criterion": {},
        "optimizer_history": [{"optimizer_name": "Adam", "num_updates": updates}],
        "extra_state": {
            "train_iterator": {"epoch": epoch, "iterations_in_epoch": iterations, "shuffle": True},
            "val_loss": 0.25,
        },
        "last_optimizer_state": {"state": {}, "param_groups": []},
    }


@pytest.mark.parametrize(
    ("content", "place", "metrics"),
    [
        (
            {
                "model": weights(1),
                "optimizer": {"state": {}, "param_groups": []},
                "model_args": {"n_layer": 2},
                "iter_num": 2000,
                "best_val_loss": torch.tensor(1.25),
                "config": {"learning_rate": 0.5},
            },
            (2000, 2000),
            {"best_val_loss": 1.25},
        ),
        (fairseq(epoch=4, iterations=0, updates=900), (3, 900), {"val_loss": 0.25}),
        (fairseq(epoch=4, iterations=7, updates=907), (4, 907), {"val_loss": 0.25}),
        ({"epoch": 5, "model_state_dict": weights(1), "loss": torch.tensor(0.5)}, (5, None), {"loss": 0.5}),
        ({"epoch": 5, "state_dict": weights(1), "best_acc1": 75.5, "arch": "r18"}, (5, None), {"best_acc1": 75.5}),
        ({"meta": {"epoch": 3, "iter": 120}, "state_dict": weights(1)}, (3, 120), {}),
        ({"epoch": 1, "loss": [0.5, 0.25], "loss_scale": 2.0, "f1": True, "model": weights(1)}, (1, None), {}),
        ({"metrics": {"loss": 0.5}, "loss": 9.0, "epoch": 1, "model": weights(1)}, (1, None), {"loss": 0.5}),
        ({"epoch": 1, "score": torch.tensor([0.5]), **weights(1)}, (1, None), {}),
    ],
    ids="nanogpt fairseq fairseq-within tutorial imagenet mmengine history mapping loose".split(),
)
def test_epoch_step_and_scores_are_read_where_programs_write_them(tmp_path, catalogue, content, place, metrics):
    torch.save(content, tmp_path / "ckpt.pt")
    assert ingest(catalogue, tmp_path).failed == []
    assert [(c.epoch, c.metrics) for c in catalogue.checkpoints()] == [(place[0], metrics)]
    (read,) = read_fingerprints([tmp_path / "ckpt.pt"])
    assert (read.epoch, read.step) == place


def test_a_checkpoint_with_more_metrics_than_a_run_may_have_says_so_once_a_run(tmp_path, catalogue):
    for epoch in range(3):
        metrics = {f"m{i:05d}": float(i) for i in range(12_000)}
        torch.save({"model": weights(epoch), "epoch": epoch, "metrics": metrics}, tmp_path / f"epoch_{epoch}.pt")
    (said,) = ingest(catalogue, tmp_path).side_file_failures
    assert said.reason.startswith(f"holds at least 10,000 metrics, of which the first {MOST_METRICS:,} are read")
    assert said.reason.endswith("(so do 2 other checkpoints)")
    assert {len(c.metrics) for c in catalogue.checkpoints()} == {MOST_METRICS}
    assert ingest(catalogue, tmp_path).side_file_failures == [said]
    heard = []
    read_fingerprints([tmp_path / "epoch_1.pt"], on_failure=heard.append)
    assert [f.reason for f in heard] == [said.reason.partition(" (so")[0]]


@pytest.mark.parametrize("key", ["opt", "opts", "hps", "hyper_params", "train_config", "model_args", "options"])
def test_hyperparameters_are_read_under_the_other_keys_that_programs_use(tmp_path, catalogue, key):
    torch.save({"model": weights(1), key: argparse.Namespace(lr=0.5, layers=6), "epoch": 1}, tmp_path / "a.pt")
    assert ingest(catalogue, tmp_path).failed == []
    (found,) = catalogue.checkpoints()
    assert dict(found.hyperparameters) == {"lr": 0.5, "layers": 6}


def test_several_such_keys_together_say_all_and_a_name_that_they_say_differently_is_said_twice(tmp_path, catalogue):
    said = {"train_config": {"lr": 0.5, "name": "a", "bias": True}, "model_config": {"name": "b", "bias": True}}
    torch.save({"model": weights(1), **said, "args": None}, tmp_path / "a.pt")
    ingest(catalogue, tmp_path)
    (found,) = catalogue.checkpoints()
    assert dict(found.hyperparameters) == {"lr": 0.5, "name": "a", "bias": True, "model_config.name": "b"}


@pytest.mark.parametrize(
    "state",
    [
        {"state": {}, "param_groups": [{"lr": 0.5, "params": [0]}]},
        {"state": [{"mom": torch.zeros(3)}], "hypers": [{"lr": 0.5}]},
        {"adam": {"state": {0: {"exp_avg": torch.zeros(3)}}, "lr": 0.5}},
        {"lr": 0.5, "mean": torch.zeros(2, 2)},
    ],
    ids=["pytorch", "fastai", "nested", "tensors"],
)
def test_the_state_of_an_optimiser_is_no_hyperparameters(tmp_path, catalogue, state):
    torch.save({"model": weights(1), "opt": state, "epoch": 1}, tmp_path / "a.pt")
    assert ingest(catalogue, tmp_path).failed == []
    (found,) = catalogue.checkpoints()
    assert dict(found.hyperparameters) == {}


def test_headers_of_kohya_s_scripts_say_hyperparameters_epoch_and_step(tmp_path, catalogue):
    said = {"ss_learning_rate": "0.0001", "ss_network_dim": "4", "ss_unet_lr": "None", "ss_tag_frequency": '{"a": 1}'}
    for epoch, name in ((1, "style0-000001"), (2, "style0-000002"), (3, "style0")):
        moment = {"ss_epoch": str(epoch), "ss_steps": str(100 * epoch), "ss_output_name": "style0"}
        save_file(weights(epoch), tmp_path / f"{name}.safetensors", {**said, **moment, "modelspec.title": "x"})
    assert ingest(catalogue, tmp_path).failed == []
    found = sorted(catalogue.checkpoints(), key=lambda c: c.path)
    assert [c.epoch for c in found] == [1, 2, 3]
    read = read_fingerprints([Path(c.path) for c in found])
    assert [r.step for r in read] == [100, 200, 300]
    for c in found:
        assert dict(c.hyperparameters) == {"ss_learning_rate": 0.0001, "ss_network_dim": 4, "ss_unet_lr": None}
