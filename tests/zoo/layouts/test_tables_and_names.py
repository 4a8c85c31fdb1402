"""Tables as spreadsheets write them, JSON by epoch or by series, and numbers in names that are no epochs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.plain import epoch_of

from .examples import weights


def saved(folder, epochs=3, **more):
    for epoch in range(1, epochs + 1):
        torch.save({"model": weights(epoch), "epoch": epoch, **more}, folder / f"epoch_{epoch}.pt")


def measured(catalogue, name="acc"):
    return [c.metrics.get(name) for c in sorted(catalogue.checkpoints(), key=lambda c: c.epoch or 0)]


@pytest.mark.parametrize("cells", ["epoch;acc\n1;0,5\n2;,625\n3;7,5e-1\n", "epoch\tacc\n1\t0,5\n2\t0.625\n3\t0,75\n"])
def test_a_comma_is_a_decimal_point_where_it_does_not_part_the_cells(tmp_path, catalogue, cells):
    saved(tmp_path)
    (tmp_path / "metrics.csv").write_text(cells)
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert measured(catalogue) == [0.5, 0.625, 0.75]


def test_a_column_of_numbers_with_units_is_named_and_others_are_read(tmp_path, catalogue):
    saved(tmp_path)
    (tmp_path / "metrics.csv").write_text('epoch,acc,loss,note,lr\n1,51%,3,a1,"1,5"\n2,62 %,2,b2,"1,5"\n3,,1,c3,0.5\n')
    (said,) = ingest(catalogue, tmp_path).side_file_failures
    assert said.reason.startswith("its column 'acc' holds '51%', which is no number")
    assert measured(catalogue, "loss") == [3.0, 2.0, 1.0]
    assert measured(catalogue, "lr") == [None, None, 0.5]


@pytest.mark.parametrize("key", ["{}", "epoch_{}", "Epoch {}", "epoch={}"])
def test_a_mapping_of_epochs_is_a_row_each(tmp_path, catalogue, key):
    saved(tmp_path, epochs=10)
    (tmp_path / "metrics.json").write_text(json.dumps({key.format(i): {"acc": i / 16} for i in range(1, 11)}))
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert measured(catalogue) == [i / 16 for i in range(1, 11)]


def test_a_mapping_of_other_things_is_no_mapping_of_epochs(tmp_path, catalogue):
    saved(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"val": {"acc": 0.5}, "test_1": {"acc": 0.25}}))
    ingest(catalogue, tmp_path)
    assert measured(catalogue, "val.acc") == [None, None, 0.5]


def test_columns_inside_mappings_are_columns(tmp_path, catalogue):
    saved(tmp_path)
    history = {"loss": [3, 2, 1], "val": {"acc": [0.5, 0.625, 0.75]}, "classes": ["a", "b"], "seconds": 12.5}
    (tmp_path / "history.json").write_text(json.dumps(history))
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert measured(catalogue, "val.acc") == [0.5, 0.625, 0.75]
    assert measured(catalogue, "loss") == [3.0, 2.0, 1.0]
    assert measured(catalogue, "seconds") == [None, None, 12.5]


def test_a_column_with_a_text_among_its_numbers_is_a_column(tmp_path, catalogue):
    saved(tmp_path)
    (tmp_path / "history.json").write_text(json.dumps({"acc": [0.5, "failed", "0.75"], "best": [None, None, None]}))
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert measured(catalogue) == [0.5, None, 0.75]


@pytest.mark.parametrize("first", [0, 1])
def test_lists_of_one_value_an_epoch_in_a_checkpoint_tell_its_own(tmp_path, catalogue, first):
    for epoch in range(first, first + 3):
        values = [i / 8 for i in range(epoch - first + 1)]
        lists = {"val_losses": values, "train_accs": values, "accuracies": values, "history": {"top1": values}}
        lists |= {"milestones": values, "class_acc": [0.5] * 9}
        torch.save({"model": weights(epoch), "epoch": epoch, **lists}, tmp_path / f"epoch_{epoch}.pt")
    assert ingest(catalogue, tmp_path).failed == []
    rows = sorted(((c.epoch, c.metrics) for c in catalogue.checkpoints()), key=lambda row: row[0])
    names = ("val_loss", "train_acc", "accuracy", "top1")
    assert [row for _, row in rows] == [dict.fromkeys(names, i / 8) for i in range(3)]


def test_metrics_in_the_folder_of_a_checkpoint_are_its_own(tmp_path, catalogue):
    for epoch in (1, 2):
        folder = tmp_path / "job" / f"epoch_{epoch}"
        folder.mkdir(parents=True)
        torch.save(weights(epoch), folder / "pytorch_model.bin")
        (folder / "metrics.json").write_text(json.dumps({"acc": epoch / 4}))
    ingest(catalogue, tmp_path)
    assert measured(catalogue) == [0.25, 0.5]


def test_stable_baselines_log_counts_by_its_timesteps(tmp_path, catalogue):
    for steps in (1000, 2000):
        (tmp_path / f"rl_model_{steps}_steps").mkdir()
        torch.save(weights(steps), tmp_path / f"rl_model_{steps}_steps" / "policy.pth")
    log = "rollout/ep_rew_mean,time/total_timesteps,time/fps\n10,500,9\n20,1000,9\n,1500,9\n30,2000,9\n"
    (tmp_path / "progress.csv").write_text(log)
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert measured(catalogue, "rollout/ep_rew_mean") == [20.0, 30.0]


@pytest.mark.parametrize("names", [["fold_0", "fold_1"], ["model_seed1", "model_seed2"], ["fold1_best", "fold2_best"]])
def test_files_that_are_called_as_runs_are_a_run_each_and_their_numbers_no_epochs(tmp_path, catalogue, names):
    for i, name in enumerate(names):
        torch.save({"model": weights(i), "val_loss": i / 4}, tmp_path / f"{name}.pth")
    ingest(catalogue, tmp_path)
    assert sorted((c.run, c.epoch) for c in catalogue.checkpoints()) == [
        (name.removesuffix("_best"), None) for name in names
    ]


def test_epochs_of_runs_in_one_folder_are_read(tmp_path, catalogue):
    for fold in (0, 1):
        for epoch in (1, 2):
            torch.save(weights(2 * fold + epoch), tmp_path / f"fold{fold}_epoch{epoch}.pt")
    ingest(catalogue, tmp_path)
    found = sorted((c.run, c.epoch) for c in catalogue.checkpoints())
    assert found == [("fold0", 1), ("fold0", 2), ("fold1", 1), ("fold1", 2)]


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("model_20250103_1530", None),
        ("model-2025-01-03T15-30-00", None),
        ("net_1735918200", None),
        ("20250103_epoch3", 3),
        ("resnet50", None),
        ("vgg16_bn_12", 12),
        ("vit_b_16", None),
        ("unet_16", 16),
        ("efficientnet_b3-7", 7),
        ("model_20000", 20000),
    ],
)
def test_dates_and_sizes_in_names_are_no_epochs(tmp_path, catalogue, name, epoch):
    torch.save(weights(1), tmp_path / f"{name}.pt")
    ingest(catalogue, tmp_path)
    assert [c.epoch for c in catalogue.checkpoints()] == [epoch]


@pytest.mark.parametrize(
    ("place", "values"), [("steps", "values"), ("x", "y"), ("epochs", "values")], ids=["sacred", "clearml", "epochs"]
)
def test_a_metric_with_steps_of_its_own_is_called_as_it_is(tmp_path, catalogue, place, values):
    saved(tmp_path)
    tree = {
        "val.acc": {place: [3, 1, 2], "timestamps": ["c", "a", "b"], values: [0.75, 0.5, 0.625]},
        "train": {"loss": {"name": "loss", place: [1, 3], values: [2.0, 1.0]}},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(tree))
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert measured(catalogue, "val.acc") == [0.5, 0.625, 0.75]
    assert measured(catalogue, "train.loss") == [2.0, None, 1.0]
    assert {name for c in catalogue.checkpoints() for name in c.metrics} == {"val.acc", "train.loss"}


def test_a_configuration_in_toml_is_read_and_a_broken_one_named(tmp_path, catalogue):
    for run in "ab":
        (tmp_path / run).mkdir()
        saved(tmp_path / run, epochs=1, run=run)
    (tmp_path / "a" / "config.toml").write_text("lr = 0.5\n[model]\ndepth = 3\n")
    (tmp_path / "b" / "config.toml").write_text("lr = = 0.5\n")
    (said,) = ingest(catalogue, tmp_path).side_file_failures
    assert said.reason.startswith("not valid TOML")
    found = {c.run: dict(c.hyperparameters) for c in catalogue.checkpoints()}
    assert found == {"a": {"lr": 0.5, "model.depth": 3}, "b": {}}


@pytest.mark.parametrize("name", ["training_log.csv", "train_history.csv", "val_metrics.csv", "losses.csv"])
def test_logs_have_other_names_as_well(tmp_path, catalogue, name):
    saved(tmp_path)
    (tmp_path / name).write_text("epoch,acc\n1,0.5\n2,0.625\n3,0.75\n")
    ingest(catalogue, tmp_path)
    assert measured(catalogue) == [0.5, 0.625, 0.75]


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("ep2-ba200-rank0.pt", 2),
        ("net_ep_7.pt", 7),
        ("ba200-rank0.pt", 200),
        ("unet_256x256_5.pt", 5),
        ("unet_5_256x256.pt", 5),
        ("net_3_bs64.pt", 3),
        ("net_dim512.pt", None),
        ("step_7.pt", 7),
        ("deep_4.pt", 4),
    ],
)
def test_numbers_that_say_how_it_was_trained_are_no_epochs(name, epoch):
    assert epoch_of({}, Path("/a") / name) == epoch


def test_a_final_test_is_not_the_last_checkpoints_where_a_file_is_called_the_best(tmp_path, catalogue):
    for epoch, name in ((3, "model_best.pt"), (5, "last.pt")):
        torch.save({"model": weights(epoch), "epoch": epoch}, tmp_path / name)
    (tmp_path / "log.csv").write_text("epoch,val_acc\n3,0.75\n5,0.5\n")
    (tmp_path / "metrics.json").write_text('{"test_acc": 0.625, "size": 4.0}')
    (said,) = ingest(catalogue, tmp_path).side_file_failures
    assert said.reason.startswith("test_acc: tested after training")
    assert measured(catalogue, "test_acc") == [None, None]
    assert measured(catalogue, "size") == [None, 4.0]
    assert measured(catalogue, "val_acc") == [0.75, 0.5]


def test_a_final_test_is_the_last_checkpoints_where_that_is_the_best_or_nothing_is(tmp_path, catalogue):
    for run, copied in (("a", True), ("b", False)):
        folder = tmp_path / run
        folder.mkdir()
        saved(folder, run=run)
        if copied:
            shutil.copy(folder / "epoch_3.pt", folder / "best.pt")
        (folder / "metrics.json").write_text('{"test_acc": 0.625}')
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert {(c.run, c.epoch) for c in catalogue.checkpoints() if c.metrics} == {("a", 3), ("b", 3)}


@pytest.mark.parametrize(
    "name",
    """valid.acc.ave_10best avg_last_5 top5_average ensemble_of_3 swa_5 avg_checkpoint_5 best_acc_71 model_acc93
    val_loss_2 best_dice_85 model_lr1e-3 best_lr1e-4_bs32 wd5e-4 May01_12-30-15 model_01-05-2023 model_12h30
    resnet50-0676ba61 vgg16-397923af fast_20200130-047c8118 run-1a2b3c4d cifar10_resnet cifar100_best coco2017
    mobilenetv2 yolov8n unet_3d wav2vec2_best LeNet5 t5_small h128_l2 model_10k model_124M model_512px gat_8heads
    stage-1 part2 kfold_3_best client_3 best_copy_2 step_1.5M consolidated.00 resnet_18 resnet-50""".split(),
)
def test_a_number_that_is_no_moment_of_a_training_is_no_epoch(name):
    assert epoch_of({}, Path("/a") / f"{name}.pt") is None


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        *(("model.0001", 1), ("train.12", 12), ("weights.03-0.45", 3), ("checkpoint.5", 5), ("net_E12_loss0.31", 12)),
        *(("iter_80k", 80_000), ("10epoch", 10), ("500steps", 500), ("avg_epoch_3", 3), ("swa_step_100", 100)),
        *(("ep1-ba1000000-rank0", 1), ("ba1000000", 1_000_000), ("dev12", 12), ("dec_12", 12), ("resnet_7", 7)),
        *(("best_acc_71_epoch_9", 9), ("loss_0.25_9", 9), ("ema_0.9999_010000", 10_000), ("mnist_5", 5)),
    ],
)
def test_a_number_beside_such_a_one_is_an_epoch_as_before(name, epoch):
    assert epoch_of({}, Path("/a") / f"{name}.pt") == epoch


def test_files_that_differ_in_a_number_which_rises_evenly_are_one_training_of_an_architecture(tmp_path, catalogue):
    for run, numbers in (("a", range(1, 11)), ("b", (18, 34, 50)), ("c", (10, 20, 30))):
        (tmp_path / run).mkdir()
        for i in numbers:
            torch.save({"model": weights(i), "run": run}, tmp_path / run / f"resnet_{i}.pt")
    ingest(catalogue, tmp_path)
    found = {run: sorted(c.epoch or 0 for c in catalogue.checkpoints() if c.run == run) for run in "abc"}
    assert found == {"a": list(range(1, 11)), "b": [0, 0, 0], "c": [10, 20, 30]}


def test_values_of_a_log_do_not_go_to_an_average_whose_name_counts_its_parts(tmp_path, catalogue):
    for epoch in range(1, 6):
        torch.save(weights(epoch), tmp_path / f"{epoch}epoch.pth")
    torch.save(weights(9), tmp_path / "valid.acc.ave_5best.pth")
    (tmp_path / "metrics.csv").write_text("epoch,acc\n" + "".join(f"{i},{i / 8}\n" for i in range(1, 6)))
    ingest(catalogue, tmp_path)
    assert {Path(c.path).name: c.metrics.get("acc") for c in catalogue.checkpoints()} == {
        **{f"{i}epoch.pth": i / 8 for i in range(1, 6)},
        "valid.acc.ave_5best.pth": None,
    }
