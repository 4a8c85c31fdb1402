"""What is a run, and what is a checkpoint of it: decided by names alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.scan import scan

from .examples import weights


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def runs_of(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for file in scan(folder).files:
        found[file.run_name] = found.get(file.run_name, 0) + 1
    return found


@pytest.mark.parametrize(
    ("files", "runs"),
    [
        # A folder for each checkpoint.
        (
            ["a/checkpoints/checkpoint_0/model.safetensors", "a/checkpoints/checkpoint_1/model.safetensors"],
            {"a/checkpoints": 2},
        ),
        (["a/config.json", "a/checkpoints/checkpoint_0/model.safetensors"], {"a": 1}),
        (
            [
                "a/epoch_0/model.safetensors",
                "a/epoch_0/config.json",
                "a/epoch_1/model.safetensors",
                "a/epoch_1/config.json",
            ],
            {"a": 2},
        ),
        (["a/step_100/pytorch_model.bin", "a/step_200/pytorch_model.bin"], {"a": 2}),
        (["a/epoch=0-step=50/m.pt", "a/epoch=1-step=100/m.pt"], {"a": 2}),
        (["a/checkpoint-5/unet/m.safetensors", "a/checkpoint-9/unet/m.safetensors"], {"a": 2}),
        (
            [
                "a/checkpoints/010000/pretrained_model/model.safetensors",
                "a/checkpoints/020000/pretrained_model/model.safetensors",
            ],
            {"a/checkpoints": 2},
        ),
        (["a/iter_0000100/mp_rank_00/model_optim_rng.pt", "a/iter_0000200/mp_rank_00/model_optim_rng.pt"], {"a": 2}),
        (["a/adapter_1/adapter_model.safetensors", "a/adapter_2/adapter_model.safetensors", "a/log.csv"], {"a": 2}),
        # The same form, and trainings: the word tells, or what lies inside.
        (["fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth"], {"fold_0": 1, "fold_1": 1}),
        (["run_0/model.pt", "run_1/model.pt", "results.csv"], {"run_0": 1, "run_1": 1}),
        (["seed_1/best.pt", "seed_2/best.pt", "config.yaml"], {"seed_1": 1, "seed_2": 1}),
        (["a_1/model.pt", "a_2/model.pt"], {"a_1": 1, "a_2": 1}),
        (["a_1/model.pt", "a_1/log.csv", "a_2/model.pt", "a_2/log.csv", "summary.csv"], {"a_1": 1, "a_2": 1}),
        (["x_epoch_1/m.pt", "x_epoch_2/m.pt", "y_epoch_1/m.pt"], {"x_epoch_1": 1, "x_epoch_2": 1, "y_epoch_1": 1}),
        (["epoch_50/seed_1/m.pt", "epoch_50/seed_2/m.pt"], {"epoch_50/seed_1": 1, "epoch_50/seed_2": 1}),
        # What is written beside checkpoints tells that the folder above is the run.
        (["a/checkpoints/m.pt", "a/events.out.tfevents.1"], {"a": 1}),
        (["a/checkpoints/m.pt", "a/runs/x/events.out.tfevents.1"], {"a": 1}),
        (["a/checkpoints/m.pt", "a/wandb/run-20260101_000000-x/run-x.wandb"], {"a": 1}),
        (["a/weights/best.pt", "a/weights/last.pt", "a/results.csv", "a/args.yaml"], {"a": 2}),
        (["checkpoints/a/m.pt", "checkpoints/b/m.pt", "wandb/x"], {"checkpoints/a": 1, "checkpoints/b": 1}),
        # Several trainings in one folder, and one training with several callbacks or parts.
        (
            ["loras/a-000002.safetensors", "loras/b-000002.safetensors", "loras/b.safetensors", "loras/c.safetensors"],
            {"loras/a": 1, "loras/b": 2, "loras": 1},
        ),
        (["a/x-step00000500.safetensors", "a/y-step00000500.safetensors"], {"a/x": 1, "a/y": 1}),
        (["a/x-000002.safetensors", "a/x-000004.safetensors", "a/x.safetensors"], {"a": 3}),
        (["a/vgg_1.pt", "a/vgg_2.pt", "a/resnet_1.pt", "a/resnet_2.pt"], {"a/vgg": 2, "a/resnet": 2}),
        (
            ["a/lr0.1_epoch_1.pt", "a/lr0.1_epoch_2.pt", "a/lr1_epoch_1.pt", "a/lr1_epoch_2.pt"],
            {"a/lr0.1": 2, "a/lr1": 2},
        ),
        (
            ["a/vgg_1.pt", "a/vgg_2.pt", "a/vgg/m.pt", "a/r_x_1.pt", "a/resnet_1.pt", "a/resnet_2.pt"],
            {"a": 5, "a/vgg": 1},
        ),
        (["a/G_1.pth", "a/G_2.pth", "a/D_1.pth", "a/D_2.pth"], {"a": 4}),
        (["a/best-1.pt", "a/best-2.pt", "a/every-1.pt", "a/every-2.pt"], {"a": 4}),
        (["a/epoch_1.pt", "a/epoch_2.pt", "a/model_1.pt", "a/model_2.pt"], {"a": 4}),
        # Archives of Stable-Baselines3, unpacked.
        (
            ["p/rl_model_1000_steps/policy.pth", "p/rl_model_2000_steps/policy.pth", "p/best_model/policy.pth"],
            {"p": 2, "p/best_model": 1},
        ),
        (["p/vgg_1000_steps/m.pt", "p/vgg_2000_steps/m.pt"], {"p/vgg_1000_steps": 1, "p/vgg_2000_steps": 1}),
        # Lightning: folders that a metric's slash makes, and those of two callbacks.
        (["v/checkpoints/epoch=0-val/loss=0.50.ckpt", "v/checkpoints/epoch=1-val/loss=0.25.ckpt"], {"v": 2}),
        (["v/metrics.csv", "v/checkpoints/best/epoch=1.ckpt", "v/checkpoints/all/epoch=0.ckpt"], {"v": 2}),
        (["checkpoints/a/epoch=0.ckpt", "checkpoints/b/epoch=0.ckpt"], {"checkpoints/a": 1, "checkpoints/b": 1}),
        (["lr=0.1/epoch=0.ckpt", "lr=0.2/epoch=0.ckpt"], {"lr=0.1": 1, "lr=0.2": 1}),
        # Ray: the trial.
        (
            ["t_0_lr=0.1/result.json", "t_0_lr=0.1/checkpoint_000000/m.pt", "t_0_lr=0.1/checkpoint_000001/m.pt"],
            {"t_0_lr=0.1": 2},
        ),
        (
            ["t/progress.csv", "t/checkpoint_2026-01-02_03-04-05.6/m.pt", "t/checkpoint_2026-01-02_03-05-05.6/m.pt"],
            {"t": 2},
        ),
    ],
)
def test_trainings_are_neither_merged_nor_split(tmp_path, files, runs):
    touch(tmp_path, *files)
    assert runs_of(tmp_path) == runs


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("epoch_3.pt", 3),
        ("checkpoint_7/model.pt", 7),
        ("checkpoint_7/epoch_2.pt", 2),
        ("checkpoint_7/model_1.pt", 7),
        ("global_step500/model.pt", 500),
        ("model_3_acc0.9312.pt", 3),
        ("best_f1.pt", None),
        ("model_top5_2.pt", 2),
        ("weights_fp16.pt", None),
        ("loss=0.25.pt", None),
        ("ckpt-step=1000-loss=0.12.pt", 1000),
        ("model_0000999.pth", 999),
    ],
)
def test_the_number_of_a_file_is_its_moment_and_no_score(tmp_path, catalogue, name, epoch):
    path = tmp_path / "a" / name
    path.parent.mkdir(parents=True)
    torch.save(weights(1), path)
    ingest(catalogue, tmp_path)
    assert [c.epoch for c in catalogue.checkpoints()] == [epoch]


def test_states_that_accelerate_saves_are_checkpoints_of_one_run(tmp_path, catalogue):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    for run, lr in (("a", 0.5), ("b", 0.25)):
        folder = tmp_path / run
        settings = accelerate.utils.ProjectConfiguration(str(folder), automatic_checkpoint_naming=True)
        accelerator = accelerate.Accelerator(project_config=settings, cpu=True)
        model = torch.nn.Linear(4, 1)
        model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=lr))
        touch(folder, "log.jsonl")
        (folder / "config.json").write_text(json.dumps({"lr": lr}))
        with (folder / "log.jsonl").open("w") as log:
            for epoch in range(3):
                torch.nn.init.constant_(model.weight, lr + epoch)
                accelerator.save_state()
                log.write(json.dumps({"epoch": epoch, "val_loss": 1 / (epoch + 1)}) + "\n")
        accelerator.free_memory()
    report = ingest(catalogue, tmp_path)
    assert (report.failed, report.layouts) == ([], {"plain": 2})
    assert [(c.run, c.epoch, c.metrics["val_loss"], c.hyperparameters["lr"]) for c in catalogue.checkpoints()] == [
        (run, epoch, 1 / (epoch + 1), lr) for run, lr in (("a", 0.5), ("b", 0.25)) for epoch in range(3)
    ]


def ray_trial(folder: Path, *, named: bool, first: int) -> None:
    """Write what Ray's loggers do: params.json, progress.csv, and a folder for each checkpoint."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({"lr": 0.5, "optim": {"name": "sgd"}}))
    (folder / "params.pkl").write_bytes(b"never opened")
    head = ["acc", "training_iteration", "time_this_iter_s", "should_checkpoint", "config/lr"]
    lines = [",".join(head + ["checkpoint_dir_name"] * named)]
    for i in range(1, 7):  # every second report comes with a checkpoint
        at = f"checkpoint_{first + (i // 2 - 1) * (1 if first == 0 else 2):06d}" if i % 2 == 0 else ""
        lines.append(",".join([str(i / 8), str(i), "1.5", "True", "0.5"] + [at] * named))
        if at:
            (folder / at).mkdir()
            torch.save({"model": weights(i)}, folder / at / "model.pt")
    (folder / "progress.csv").write_text("\n".join(lines) + "\n")


def test_checkpoints_of_a_trial_of_ray_have_the_report_that_came_with_them(tmp_path, catalogue):
    ray_trial(tmp_path / "exp" / "train_0_lr=0.5", named=True, first=0)
    ray_trial(tmp_path / "exp" / "train_1_lr=0.5", named=False, first=2)
    report = ingest(catalogue, tmp_path)
    assert (report.failed, report.side_file_failures, report.layouts) == ([], [], {"ray": 2})
    for run in catalogue.runs():
        assert run.hyperparameters == {"lr": 0.5, "optim.name": "sgd"}
        own = [c for c in catalogue.checkpoints() if c.run_id == run.id]
        assert [c.metrics for c in own] == [{"acc": i / 8} for i in (2, 4, 6)]


def test_reports_of_ray_in_json_name_their_checkpoints_too(tmp_path, catalogue):
    trial = tmp_path / "trial"
    (trial / "checkpoint_000000").mkdir(parents=True)
    torch.save({"model": weights(1)}, trial / "checkpoint_000000" / "m.pt")
    reports = [
        {"acc": 0.25, "training_iteration": 1, "checkpoint_dir_name": None, "config": {"lr": 0.5}, "pid": 7},
        {"acc": 0.5, "training_iteration": 2, "checkpoint_dir_name": "checkpoint_000000", "config": {"lr": 0.5}},
    ]
    (trial / "result.json").write_text("".join(json.dumps(r) + "\n" for r in reports))
    ingest(catalogue, tmp_path)
    (checkpoint,) = catalogue.checkpoints()
    assert (checkpoint.metrics, checkpoint.hyperparameters) == ({"acc": 0.5}, {"lr": 0.5})


def ray_reports(trial: Path) -> list[dict[str, object]]:
    """Write a trial's reports in both forms; every second one comes with a checkpoint."""
    about = {"trial_id": "0ab", "time_this_iter_s": 1.5, "pid": 7, "done": False, "should_checkpoint": True}
    names = {i: f"checkpoint_{i // 2 - 1:06d}" for i in (2, 4, 6)}
    reports = [
        {"acc": i / 8, "training_iteration": i, "checkpoint_dir_name": names.get(i), **about} for i in range(1, 7)
    ]
    reports[0]["f1"] = reports[1]["top5"] = 0.5  # measured now and then
    columns = [*reports[0], "top5"]
    rows = [",".join("" if r.get(c) is None else str(r[c]) for c in columns) + ",0.5" for r in reports]
    trial.mkdir(parents=True, exist_ok=True)
    (trial / "progress.csv").write_text("\n".join([",".join([*columns, "config/lr"]), *rows]) + "\n")
    return reports


@pytest.mark.parametrize("json_is_broken", [False, True])
def test_the_two_forms_of_the_reports_of_ray_are_read_once(tmp_path, catalogue, json_is_broken):
    trial = tmp_path / "trial"
    reports = ray_reports(trial)
    lines = "".join(json.dumps({**r, "config": {"lr": 0.5}}) + "\n" for r in reports)
    (trial / "result.json").write_text("broken\n" if json_is_broken else lines)
    for i in range(3):
        (trial / f"checkpoint_{i:06d}").mkdir()
        torch.save({"model": weights(i)}, trial / f"checkpoint_{i:06d}" / "model.pt")
    assert len(ingest(catalogue, tmp_path).side_file_failures) == json_is_broken
    assert [(c.metrics, c.hyperparameters) for c in catalogue.checkpoints()] == [
        ({"acc": i / 4, **({"top5": 0.5} if i == 1 else {})}, {"lr": 0.5}) for i in (1, 2, 3)
    ]


def test_reports_of_ray_beside_checkpoints_of_other_names_hold_metrics_alone(tmp_path, catalogue):
    ray_reports(tmp_path)
    for i in (1, 2):
        torch.save({"model": weights(i), "epoch": i}, tmp_path / f"model_{i}.pt")
    ingest(catalogue, tmp_path)
    assert {name for c in catalogue.checkpoints() for name in c.metrics} <= {"acc", "f1", "top5"}
    assert [c.hyperparameters for c in catalogue.checkpoints()] == [{"lr": 0.5}] * 2


def test_logs_of_detectron2_are_matched_by_iteration(tmp_path, catalogue):
    """JSON lines in a file .json, metrics at evaluations only; the last model is written under a name of its own."""
    run = tmp_path / "output"
    run.mkdir()
    (run / "config.yaml").write_text("SOLVER:\n  BASE_LR: 0.02\n")
    lines = [{"iteration": i, "total_loss": 1 / (i + 1), "eta_seconds": 3.0} for i in range(19, 200, 20)]
    for line in lines:
        if line["iteration"] in (99, 199):
            line["bbox/AP"] = float(line["iteration"])
    (run / "metrics.json").write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    for iteration, name in ((99, "model_0000099"), (199, "model_0000199"), (199, "model_final")):
        seed = iteration + len(name)
        torch.save({"model": weights(seed), "optimizer": {}, "iteration": iteration}, run / f"{name}.pth")
    (run / "last_checkpoint").write_text("model_final.pth")
    report = ingest(catalogue, tmp_path)
    assert (report.side_file_failures, len(catalogue.runs())) == ([], 1)
    assert [(c.epoch, c.metrics["bbox/AP"], c.metrics["total_loss"]) for c in catalogue.checkpoints()] == [
        (i, float(i), 1 / (i + 1)) for i in (99, 199, 199)
    ]
    assert catalogue.runs()[0].hyperparameters == {"SOLVER.BASE_LR": 0.02}


def text(folder: Path, name: str, content: str) -> None:
    touch(folder, name)
    (folder / name).write_text(content)


def lines(records: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def save(folder: Path, name: str, seed: int, **more) -> None:
    touch(folder, name)
    torch.save({"state_dict": weights(seed), **more}, folder / name)


def test_folders_of_timm_have_their_summary(tmp_path, catalogue):
    text(tmp_path, "train/args.yaml", "lr: 0.05\nmodel: resnet18\n")
    text(tmp_path, "train/summary.csv", "epoch,train_loss,eval_top1\n0,2.0,10.0\n1,1.0,20.0\n2,0.5,15.0\n")
    for epoch in range(3):
        save(tmp_path, f"train/checkpoint-{epoch}.pth", epoch, epoch=epoch, arch="resnet18")
    save(tmp_path, "train/model_best.pth", 7, epoch=1)
    ingest(catalogue, tmp_path)
    assert [(c.epoch, c.metrics["eval_top1"], c.hyperparameters["lr"]) for c in catalogue.checkpoints()] == [
        (0, 10.0, 0.05),
        (1, 20.0, 0.05),
        (1, 20.0, 0.05),
        (2, 15.0, 0.05),
    ]


def test_folders_of_yolo_have_their_results(tmp_path, catalogue):
    """Once training is over, both files say epoch -1: that is no epoch, and nothing is put on the wrong one."""
    text(tmp_path, "detect/train/args.yaml", "lr0: 0.01\n")
    header = "                  epoch,         train/box_loss,   metrics/mAP50(B)\n"
    text(tmp_path, "detect/train/results.csv", header + "1, 2.0, 0.5\n2, 1.0, 0.25\n")
    for i, name in enumerate(("best.pt", "last.pt")):
        save(tmp_path, f"detect/train/weights/{name}", i, epoch=-1)
    save(tmp_path, "detect/train/weights/epoch2.pt", 5, epoch=2)
    report = ingest(catalogue, tmp_path)
    assert (report.runs, catalogue.runs()[0].hyperparameters) == (1, {"lr0": 0.01})
    assert {Path(c.path).name: (c.epoch, c.metrics.get("metrics/mAP50(B)")) for c in catalogue.checkpoints()} == {
        "best.pt": (None, None),
        "last.pt": (None, None),
        "epoch2.pt": (2, 0.25),
    }


@pytest.mark.parametrize("form", ["old", "new"])
def test_logs_of_openmmlab_have_losses_by_step_and_scores_by_epoch(tmp_path, catalogue, form):
    for epoch in (1, 2):
        save(tmp_path, f"work/epoch_{epoch}.pth", epoch, meta={"epoch": epoch, "iter": 100 * epoch})
    if form == "old":
        records = [{"env_info": "text", "seed": 3}]
        for epoch in (1, 2):
            records += [{"mode": "train", "epoch": epoch, "iter": i, "loss": 1 / epoch / i} for i in (50, 100)]
            records.append({"mode": "val", "epoch": epoch, "iter": 40, "bbox_mAP": epoch / 4})
        text(tmp_path, "work/20260101_000000.log.json", lines(records))
    else:
        records = []
        for epoch in (1, 2):
            steps = (50 + 100 * (epoch - 1), 100 * epoch)
            records += [{"loss": 1 / s, "epoch": epoch, "iter": s, "step": s} for s in steps]
            records.append({"bbox_mAP": epoch / 4, "data_time": 0.1, "step": epoch})
        text(tmp_path, "work/20260101_000000/vis_data/scalars.json", lines(records))
    report = ingest(catalogue, tmp_path)
    assert (report.runs, report.side_file_failures) == (1, [])
    assert [c.metrics["bbox_mAP"] for c in catalogue.checkpoints()] == [0.25, 0.5]
    assert [c.metrics["loss"] for c in catalogue.checkpoints()] == [0.01, 1 / 200]


def test_a_folder_of_lightning_hydra_template_is_one_run_with_all_that_its_loggers_wrote(tmp_path, catalogue):
    run = "logs/train/runs/2026-01-01_00-00-00"
    text(tmp_path, f"{run}/.hydra/config.yaml", "model: {lr: 0.5}\n")
    text(tmp_path, f"{run}/csv/version_0/metrics.csv", "epoch,step,val/acc\n0,3,0.25\n1,7,0.5\n")
    for epoch in range(2):
        more = {"epoch": epoch, "global_step": 4 * (epoch + 1), "pytorch-lightning_version": "2.6.0"}
        save(tmp_path, f"{run}/checkpoints/epoch_{epoch:03d}.ckpt", epoch, **more)
    report = ingest(catalogue, tmp_path)
    assert report.layouts == {"hydra + lightning": 1}
    assert [(c.metrics, c.hyperparameters) for c in catalogue.checkpoints()] == [
        ({"val/acc": 0.25}, {"model.lr": 0.5}),
        ({"val/acc": 0.5}, {"model.lr": 0.5}),
    ]


def test_a_score_that_an_older_version_took_from_another_file_gives_way_to_the_log(tmp_path, catalogue):
    import sqlite3

    text(tmp_path, "v/metrics.csv", "epoch,step,acc\n0,3,0.25\n")
    more = {"epoch": 0, "global_step": 4, "pytorch-lightning_version": "2.6.0"}
    save(tmp_path, "v/checkpoints/e.ckpt", 1, **more)
    ingest(catalogue, tmp_path)
    with sqlite3.connect(catalogue.url.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE epsopt_checkpoints SET metrics = '{\"acc\": 0.75}'")
    assert [c.metrics for c in catalogue.checkpoints()] == [{"acc": 0.25}]


def test_parts_that_deepspeed_writes_beside_whole_weights_are_left_alone(tmp_path, catalogue):
    for step in (100, 200):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        parts(folder / f"global_step{step}")
        save_file(weights(step), folder / "model.safetensors")
        state = {"global_step": step, "log_history": [{"eval_loss": 1 / step, "step": step}]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        touch(folder, "zero_to_fp32.py", "latest", "rng_state_0.pth", "scheduler.pt")
    report = ingest(catalogue, tmp_path)
    assert (report.found, report.added, report.failed, report.ignored) == (2, 2, [], 10)
    assert report.layouts == {"hugging-face": 1}


def parts(folder: Path) -> None:
    folder.mkdir(parents=True)
    torch.save({"module": weights(1), "ds_version": "0.16"}, folder / "mp_rank_00_model_states.pt")
    for rank in range(2):
        torch.save({"optimizer_state_dict": {}}, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")


@pytest.mark.parametrize("place", ["run", "run/epoch=1-step=5.ckpt"])
def test_a_checkpoint_in_parts_alone_is_named_once_with_the_command_that_joins_them(tmp_path, catalogue, place):
    torch.save(weights(1), tmp_path / "other.pt")
    top = tmp_path / place
    parts(top / "global_step7")
    touch(top, "latest", "zero_to_fp32.py")
    report = ingest(catalogue, tmp_path)
    (failure,) = report.failed
    assert failure.path == str(top / "global_step7")
    assert f"python {top}/zero_to_fp32.py {top} {top}/global_step7 -t global_step7" in failure.reason
    assert (report.found, report.added) == (2, 1)
    # What the command writes is read.
    torch.save(weights(2), top / "global_step7" / "pytorch_model.bin")
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed, report.ignored) == (1, [], 3)
    assert {c.epoch for c in catalogue.checkpoints()} == {None, 7}


def test_parts_of_other_trainers_are_named_too(tmp_path, catalogue):
    torch.save(weights(1), tmp_path / "other.pt")
    for rank in range(2):
        touch(tmp_path, f"megatron/iter_0000100/mp_rank_0{rank}/model_optim_rng.pt")
        touch(tmp_path, f"verl/global_step_5/actor/model_world_size_2_rank_{rank}.pt")
        touch(tmp_path, f"verl/global_step_5/actor/optim_world_size_2_rank_{rank}.pt")
    report = ingest(catalogue, tmp_path)
    assert [Path(f.path).name for f in report.failed] == ["iter_0000100", "actor"]
    assert "convert.py" in report.failed[0].reason
    assert "verl.model_merger" in report.failed[1].reason
    assert report.ignored == 2
