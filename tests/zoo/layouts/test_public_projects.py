"""Folders as programs that many people run write them, in the smallest form in which data was once lost or mistaken."""

from __future__ import annotations

import json

import pytest
import torch

from epsopt.zoo import Catalogue
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.numbers_in_names import score_in_name


def weights(seed=0):
    return {"w.weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))}


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content))


def metrics(catalogue):
    return {c.epoch: dict(c.metrics) for c in catalogue.checkpoints()}


def test_detr_s_list_of_scores_is_named_and_its_evaluations_are_no_checkpoints(catalogue, tmp_path):
    rows = [{"epoch": e, "test_loss": 8.0, "test_coco_eval_bbox": [e / 10] + [0.5] * 11} for e in range(2)]
    for e in range(2):
        save(tmp_path / "detr" / f"checkpoint{e:04}.pth", {"model": weights(e), "epoch": e})
    arrays = {"counts": [10, 101], "precision": torch.rand(2, 3).numpy(), "recall": torch.rand(2).numpy()}
    save(tmp_path / "detr" / "eval" / "latest.pth", {**arrays, "scores": torch.rand(2, 3).numpy()})
    write(tmp_path / "detr" / "log.txt", rows)
    report = ingest(catalogue, [tmp_path])
    assert {e: m["test_coco_eval_bbox.AP"] for e, m in metrics(catalogue).items()} == {0: 0.0, 1: 0.1}
    assert catalogue.checkpoints()[0].metrics["test_coco_eval_bbox.AR_large"] == 0.5
    assert [f.reason for f in report.failed] == ["holds the results of an evaluation (precision, recall), no weights"]


def test_what_mmcv_validates_within_an_epoch_is_of_the_iteration_before(catalogue, tmp_path):
    rows = [{"env_info": "x"}]
    for k in (1, 2, 3):
        rows.append({"mode": "train", "epoch": 1, "iter": k * 100, "loss": 3 - k / 2})
        rows.append({"mode": "val", "epoch": 1, "iter": 20, "mIoU": (0.1, 0.3, 0.2)[k - 1]})
        save(tmp_path / f"iter_{k * 100}.pth", {"meta": {"epoch": 1, "iter": k * 100}, "state_dict": weights(k)})
    write(tmp_path / "20240115_102030.log.json", rows)
    ingest(catalogue, [tmp_path])
    assert [c.metrics["mIoU"] for c in catalogue.checkpoints()] == [0.1, 0.3, 0.2]


CONFIG = """
_base_ = ['../base.py']
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9), clip_grad=None)
train_dataloader = {'batch_size': 2, 'num_workers': 2}
scales = [(1333, 800), (640, -480.5)]
hook = SomeClass(1)
secret = open('/etc/passwd').read()
work_dir = './work_dirs/a'
"""


@pytest.mark.parametrize("place", ["{}.py", "20240115_102030/vis_data/config.py"])
def test_a_configuration_in_python_is_read_and_not_run(catalogue, tmp_path, place):
    for run, lr in (("a", 0.02), ("b", 0.01)):
        save(tmp_path / run / "epoch_1.pth", {"meta": {"epoch": 1, "iter": 10}, "state_dict": weights(int(100 * lr))})
        write(tmp_path / run / place.format("faster_rcnn"), CONFIG.replace("0.02", str(lr)))
        write(tmp_path / run / "20240115_102030" / "vis_data" / "scalars.json", [{"epoch": 1, "step": 10, "loss": lr}])
    report = ingest(catalogue, [tmp_path])
    assert report.side_file_failures == []
    assert {c.hyperparameters["optim_wrapper.optimizer.lr"]: c.metrics for c in catalogue.checkpoints()} == {
        0.02: {"loss": 0.02}, 0.01: {"loss": 0.01}
    }  # fmt: skip
    found = catalogue.checkpoints()[0].hyperparameters
    assert (found["train_dataloader.batch_size"], found["optim_wrapper.clip_grad"]) == (2, None)
    assert not {"hook", "secret", "work_dir", "_base_"} & found.keys()


def test_tags_of_another_clock_are_left_out(catalogue, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(str(tmp_path / "a")) as writer:
        for step in range(0, 301, 50):
            writer.add_scalar("Train/reward", step / 10, step)
            writer.add_scalar("Train/reward/time", step / 10, step * 3)
            writer.add_scalar("loss", step, step)
            writer.add_scalar("loss vs samples", step, step * 2)
            writer.add_scalar("forward/time", step, step)
    for step in (150, 300):
        save(tmp_path / "a" / f"model_{step}.pt", {"model_state_dict": weights(step), "iter": step})
    write(tmp_path / "a" / "params" / "agent.yaml", "algorithm:\n  lr: 0.5\n")
    ingest(catalogue, [tmp_path])
    assert metrics(catalogue) == {s: {"Train/reward": s / 10, "loss": s, "forward/time": s} for s in (150, 300)}
    assert catalogue.checkpoints()[0].hyperparameters == {"algorithm.lr": 0.5}


def test_wenet_s_configuration_of_each_checkpoint_holds_hyperparameters(catalogue, tmp_path):
    setup = "max_epoch: 4\noptim_conf:\n  lr: 0.5\n"
    for e in range(2):
        save(tmp_path / "conformer" / f"epoch_{e}.pt", weights(e))
        moment = f"epoch: {e}\nloss_dict:\n  acc: {e / 4}\nlrs:\n- 0.25\nstep: {e * 100}\ntag: epoch_{e}\n"
        write(tmp_path / "conformer" / f"epoch_{e}.yaml", setup + moment)
    ingest(catalogue, [tmp_path])
    assert metrics(catalogue) == {0: {"acc": 0.0}, 1: {"acc": 0.25}}
    assert catalogue.checkpoints()[0].hyperparameters == {"max_epoch": 4, "optim_conf.lr": 0.5}


@pytest.mark.parametrize(
    ("folder", "name", "content", "config"),
    [
        ("nn", "last_Ant_ep_{}_rew_7.5.pth", "model", "config.yaml"),
        ("nerfstudio_models", "step-{:09d}.ckpt", "pipeline", "config.yml"),
        ("saved_models", "{}.pt", "model", "args.json"),
    ],
)
def test_folders_for_checkpoints_of_other_names_are_no_runs(catalogue, tmp_path, folder, name, content, config):
    for run, lr in (("a", 0.5), ("b", 0.25)):
        write(tmp_path / run / config, json.dumps({"lr": lr}))  # which is YAML, too
        for n in (1, 2):
            save(tmp_path / run / folder / name.format(n), {content: weights(n + int(8 * lr)), "last_mean_rewards": n})
    ingest(catalogue, [tmp_path])
    assert {(c.run, c.epoch): c.hyperparameters["lr"] for c in catalogue.checkpoints()} == {
        ("a", 1): 0.5, ("a", 2): 0.5, ("b", 1): 0.25, ("b", 2): 0.25
    }  # fmt: skip
    assert {c.metrics["last_mean_rewards"] for c in catalogue.checkpoints()} == {1, 2}


@pytest.mark.parametrize("place", ["logs/torchtune_config.yaml", "params/agent.yaml", "configs/config.json"])
def test_a_configuration_in_a_folder_for_these_is_the_run_s(catalogue, tmp_path, place):
    save(tmp_path / "a" / "epoch_1.pt", weights())
    write(tmp_path / "a" / place, '{"lr": 0.5}')
    ingest(catalogue, [tmp_path])
    assert catalogue.checkpoints()[0].hyperparameters == {"lr": 0.5}


def test_a_configuration_of_the_run_itself_counts_alone(catalogue, tmp_path):
    save(tmp_path / "a" / "epoch_1.pt", weights())
    write(tmp_path / "a" / "config.yaml", "lr: 0.5\n")
    write(tmp_path / "a" / "configs" / "config.yaml", "lr: 0.1\nother: 1\n")
    ingest(catalogue, [tmp_path])
    assert catalogue.checkpoints()[0].hyperparameters == {"lr": 0.5}


def test_detectron2_s_last_evaluation_is_of_the_last_model(catalogue, tmp_path):
    rows = [
        {"iteration": i, "total_loss": 1.0, **({"bbox/AP": i} if i in (999, 1999) else {})}
        for i in range(99, 3000, 100)
    ]
    write(tmp_path / "metrics.json", [*rows, {"iteration": 3000, "bbox/AP": 25.0}])
    for i in (999, 1999, 2999):
        save(tmp_path / f"model_{i:07d}.pth", {"model": weights(i), "iteration": i})
    ingest(catalogue, [tmp_path])
    assert {e: m["bbox/AP"] for e, m in metrics(catalogue).items()} == {999: 999, 1999: 1999, 2999: 25}


def test_ignite_s_checkpoints_say_their_epoch_and_score(catalogue, tmp_path):
    for epoch, score in ((3, 0.5), (5, 0.75)):
        save(tmp_path / f"best_model_{epoch}_val_accuracy={score:.4f}.pt", weights(epoch))
    trainer = {"epoch_length": 100, "iteration": 1000, "max_epochs": 10}
    save(tmp_path / "training_checkpoint_1000.pt", {"model": weights(9), "trainer": trainer})
    ingest(catalogue, [tmp_path])
    assert metrics(catalogue) == {3: {"val_accuracy": 0.5}, 5: {"val_accuracy": 0.75}, 10: {}}


@pytest.mark.parametrize(
    ("stem", "score"),
    [
        ("best_model_5_val_accuracy=0.8000", {"val_accuracy": 0.8}),
        ("model_key_metric=0.7", {"key_metric": 0.7}),
        ("epoch=3-val_loss=0.50", {"val_loss": 0.5}),
        ("best_model_3_val_loss=-0.35", {}),
        ("model_lr=0.001", {}),
        ("model_epoch=3", {}),
    ],
)
def test_a_score_that_ends_a_name_is_read(stem, score):
    assert score_in_name(stem) == score


def archive_of_a_policy(path, seed, steps):
    import zipfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"num_timesteps": steps, "gamma": 0.9}))
        with archive.open("policy.pth", "w", force_zip64=True) as policy:
            torch.save({"w.weight": torch.eye(8) + 0.01 * weights(seed)["w.weight"].mean()}, policy)


def test_the_best_policy_beside_others_has_what_was_evaluated_at_its_steps(catalogue, tmp_path):
    numpy = pytest.importorskip("numpy")
    run = tmp_path / "runs" / "s0"
    archive_of_a_policy(run / "best_model.zip", 0, 1024)
    for i, steps in enumerate((512, 1536)):
        archive_of_a_policy(run / f"rl_model_{steps}_steps.zip", i + 1, steps)
    numpy.savez(run / "evaluations.npz", timesteps=[512, 1024, 1536], results=[[1.0], [3.0], [2.0]])
    ingest(catalogue, [run])
    assert metrics(catalogue) == {s: {"eval/mean_reward": r} for s, r in ((512, 1.0), (1024, 3.0), (1536, 2.0))}


def test_a_policy_may_be_the_base_of_all_runs(tmp_path):
    archive_of_a_policy(tmp_path / "base.zip", 0, 0)
    for i in (1, 2):
        archive_of_a_policy(tmp_path / "runs" / f"s{i}" / "best_model.zip", i, 512)
    with Catalogue(f"sqlite:///{tmp_path}/c.db", base=str(tmp_path / "base.zip")) as catalogue:
        ingest(catalogue, [tmp_path / "runs"])
        (lineage,) = catalogue.lineages()
        assert lineage.declared
        assert lineage.reference_path == str(tmp_path / "base.zip")


def test_a_configuration_says_the_learning_rate_and_the_trainers_log_does_not(catalogue, tmp_path):
    history = [{"step": 10, "epoch": 1.0, "loss": 1.0, "learning_rate": 7.5e-5}]
    save(tmp_path / "a" / "checkpoint-10" / "pytorch_model.bin", weights())
    write(tmp_path / "a" / "checkpoint-10" / "config.json", "{}")
    write(tmp_path / "a" / "checkpoint-10" / "trainer_state.json", [{"global_step": 10, "log_history": history}])
    write(tmp_path / "a" / "training_args.yaml", "learning_rate: 1.0e-4\nper_device_train_batch_size: 2\n")
    ingest(catalogue, [tmp_path])
    (checkpoint,) = catalogue.checkpoints()
    assert checkpoint.hyperparameters == {"learning_rate": 1e-4, "per_device_train_batch_size": 2}
    assert checkpoint.metrics == {"loss": 1.0}


def test_coqui_s_losses_are_metrics(catalogue, tmp_path):
    content = {"model": weights(), "step": 1000, "epoch": 2, "model_loss": {"train_loss": 0.5, "eval_loss": 0.75}}
    save(tmp_path / "checkpoint_1000.pth", content)
    ingest(catalogue, [tmp_path])
    assert metrics(catalogue) == {2: {"model_loss.train_loss": 0.5, "model_loss.eval_loss": 0.75}}


def test_nnu_net_s_validation_is_of_the_final_checkpoint(catalogue, tmp_path):
    log = {"mean_fg_dice": [0.1, 0.2], "lrs": [0.5, 0.25], "epoch_start_timestamps": [1.7e9, 1.8e9]}
    content = {
        "network_weights": weights(),
        "logging": log,
        "current_epoch": 2,
        "init_args": {"fold": 0, "plans": {"bs": 2}},
    }
    save(tmp_path / "fold_0" / "checkpoint_final.pth", content)
    write(
        tmp_path / "fold_0" / "validation" / "summary.json",
        [{"foreground_mean": {"Dice": 0.75}, "mean": {"1": {"Dice": 0.5}}}],
    )
    ingest(catalogue, [tmp_path])
    assert metrics(catalogue) == {2: {"mean_fg_dice": 0.2, "validation.Dice": 0.75}}
    assert catalogue.checkpoints()[0].hyperparameters == {"fold": 0, "plans.bs": 2}


def test_digits_with_underscores_are_text(catalogue, tmp_path):
    save(tmp_path / "a" / "epoch_1.pt", weights())
    write(tmp_path / "a" / "params.txt", "lr: 0.5\nname: 2024_01_15\nsplit: 1_2\n")
    ingest(catalogue, [tmp_path])
    assert catalogue.checkpoints()[0].hyperparameters == {"lr": 0.5, "name": "2024_01_15", "split": "1_2"}


@pytest.mark.parametrize("name", ["lr_find_temp_model.ckpt", ".lr_find_3fa8.ckpt", "_tmp.pth", "criterion.pt"])
def test_leftovers_are_no_checkpoints(catalogue, tmp_path, name):
    save(tmp_path / "a" / "epoch_1.pt", weights())
    save(tmp_path / "a" / name, weights(1))
    ingest(catalogue, [tmp_path])
    assert [c.path.rpartition("/")[2] for c in catalogue.checkpoints()] == ["epoch_1.pt"]
