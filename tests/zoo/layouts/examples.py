"""Folders of runs as the real frameworks write them: tiny models, a second or so each, on one core.

Each writer takes an empty folder and returns an Example: what a person would expect the catalogue to say. A framework
that is not installed skips its tests and says so.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ...mlflow_store import mlflow_database as empty_store  # noqa: TID252 - of the tests


@dataclass(frozen=True)
class Example:
    """What is expected of a folder.

    Attributes:
        folder: to ingest.
        layouts: runs by layout, as ingest reports them.
        hyperparameters: some of them, by the run's name.
        metrics: of each checkpoint that has any, by (run's name, epoch).
        sides: files that tell something, for tests that damage each of them.
        grow: changes a side file as training would; returns what it says now, as `metrics`.
        aliases: files whose content another one has.
        waiting: failures that are expected.
    """

    folder: Path
    layouts: dict[str, int]
    hyperparameters: dict[str, dict[str, Any]]
    metrics: dict[tuple[str, int | None], dict[str, float]]
    sides: tuple[Path, ...] = ()
    grow: Callable[[Path], dict[tuple[str, int | None], dict[str, float]]] | None = None
    aliases: int = 0
    names: dict[str, str] = field(default_factory=dict)


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"l.weight": torch.randn(4, 6, generator=generator), "l.bias": torch.randn(4, generator=generator)}


def plain_with_files(folder: Path) -> Example:
    """Weights alone, and everything else in files beside them, in the ways in which people write those."""
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for i, (name, lr) in enumerate((("a", 0.1), ("b", 0.01))):
        run = folder / name
        holder = run / "checkpoints" if name == "b" else run
        holder.mkdir(parents=True)
        for epoch in (1, 2, 3):
            torch.save({"model_state_dict": weights(10 * i + epoch), "epoch": epoch}, holder / f"epoch_{epoch}.pt")
            expected[name, epoch] = {"val_loss": 1 / epoch + i}
        rows = [{"epoch": e, "val_loss": 1 / e + i} for e in (1, 2, 3)]
        if name == "a":
            (run / "config.yaml").write_text(f"lr: {lr:e}\noptimizer:\n  name: no\n")
            (run / "metrics.csv").write_text(
                "epoch,val_loss,note\n" + "".join(f"{r['epoch']},{r['val_loss']},fine\n" for r in rows)
            )
        else:
            (run / "args.json").write_text(json.dumps({"lr": lr, "optimizer": {"name": "no"}}))
            (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    both = {"optimizer.name": "no"}

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        with (root / "a" / "metrics.csv").open("a") as file:
            file.write("3,0.125,again\n")
        return {**expected, ("a", 3): {"val_loss": 0.125}}

    return Example(
        folder,
        {"plain": 2},
        {"a": {"lr": 0.1, **both}, "b": {"lr": 0.01, **both}},
        expected,
        tuple(folder / n for n in ("a/config.yaml", "a/metrics.csv", "b/args.json", "b/metrics.jsonl")),
        grow,
    )


def _fit(lr: float, logger: Any) -> Any:
    """Train three epochs with Lightning and any logger, every epoch kept, and last.ckpt; return the Trainer."""
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    import logging

    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Model(pl.LightningModule):
        def __init__(self, lr: float, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 1))

        def training_step(self, batch, _index):
            loss = self.net(batch[0]).square().mean()
            self.log("train_loss", loss, on_step=True)
            return loss

        def validation_step(self, batch, _index):
            self.log("val/acc", 0.25 * (self.current_epoch + 1) + self.hparams.lr)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 3)), batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=3,
            logger=logger,
            callbacks=[ModelCheckpoint(save_top_k=-1, save_last=True)],
            accelerator="cpu",
            log_every_n_steps=2,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Model(lr), data, data)
    return trainer


def _accuracies(run: str, lr: float) -> dict[tuple[str, int | None], dict[str, float]]:
    return {(run, epoch): {"val/acc": 0.25 * (epoch + 1) + lr} for epoch in range(3)}


def lightning(folder: Path) -> Example:
    """Two versions with the CSV logger."""
    pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    from pytorch_lightning.loggers import CSVLogger

    names = {f"lightning_logs/version_{v}": lr for v, lr in enumerate((0.5, 0.125))}
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for name, lr in names.items():
        _fit(lr, CSVLogger(folder))
        expected |= _accuracies(name, lr)
    first = folder / "lightning_logs" / "version_0"

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        # What the CSV logger does at the end of an evaluation: the file is written anew, with one row more.
        file = root / "lightning_logs" / "version_0" / "metrics.csv"
        header, *rows = file.read_text().splitlines()
        columns = header.split(",")
        row = {"epoch": "2", "step": "11", "val/acc": "0.875"}
        file.write_text("\n".join([header, *rows, ",".join(row.get(c, "") for c in columns)]) + "\n")
        return {**expected, ("lightning_logs/version_0", 2): {"val/acc": 0.875}}

    expected_hyperparameters = {name: {"lr": lr, "width": 4} for name, lr in names.items()}
    sides = (first / "hparams.yaml", first / "metrics.csv")
    return Example(folder, {"lightning": 2}, expected_hyperparameters, expected, sides, grow, aliases=2)


def lightning_tensorboard(folder: Path) -> Example:
    """One version with the TensorBoard logger, which Lightning takes by itself where it finds TensorBoard."""
    pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from pytorch_lightning.loggers import TensorBoardLogger

    _fit(0.5, TensorBoardLogger(folder))
    name = "lightning_logs/version_0"
    side = next((folder / name).glob("events.*"))
    expected_hyperparameters = {name: {"lr": 0.5, "width": 4}}
    return Example(
        folder, {"lightning + tensorboard": 1}, expected_hyperparameters, _accuracies(name, 0.5), (side,), aliases=1
    )


def lightning_wandb(folder: Path) -> Example:
    """One offline run with W&B's logger: checkpoints in PROJECT/ID, everything else in wandb/…-ID."""
    pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    from pytorch_lightning.loggers import WandbLogger

    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    logger = WandbLogger(project="p", save_dir=folder, offline=True, settings=settings)
    name = f"p/{logger.experiment.id}"
    _fit(0.5, logger)
    wandb.finish()
    wandb.teardown()  # its own process writes the log, and may be late: this waits for its end
    (side,) = folder.glob("wandb/offline-run-*/*.wandb")
    expected_hyperparameters = {name: {"lr": 0.5, "width": 4}}
    return Example(
        folder, {"lightning + wandb": 1}, expected_hyperparameters, _accuracies(name, 0.5), (side,), aliases=1
    )


HYDRA = """
import hydra, json, pathlib
from hydra.core.hydra_config import HydraConfig
@hydra.main(version_base=None, config_path=".", config_name="config")
def main(cfg):
    out = pathlib.Path(HydraConfig.get().runtime.output_dir)
    (out / "metrics.json").write_text(json.dumps([{"epoch": e, "acc": e / 4 + cfg.lr} for e in (1, 2)]))
main()
"""
HYDRA_CONFIG = """
lr: 1e-3
switch: no
optimizer: {name: adam, lr: "${lr}"}
name: run-${optimizer.name}
home: ${oc.env:HOME}
hydra: {job_logging: {disable_existing_loggers: true}}
"""


def hydra(folder: Path) -> Example:
    """One single run and a multirun of two; the program saves checkpoints where Hydra tells it to."""
    pytest.importorskip("hydra", reason="hydra-core is not installed")
    project = folder / "project"
    project.mkdir()
    (project / "train.py").write_text(HYDRA)
    (project / "config.yaml").write_text(HYDRA_CONFIG)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    where = ("hydra.run.dir=outputs/d/t", "hydra.sweep.dir=multirun/d/t")
    for arguments in (("lr=0.25",), ("-m", "lr=0.5,0.125")):
        program = [sys.executable, "train.py", *arguments, *where]
        subprocess.run(program, cwd=project, check=True, env=quiet, capture_output=True)
    runs = {"outputs/d/t": 0.25, "multirun/d/t/0": 0.5, "multirun/d/t/1": 0.125}
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for i, (name, lr) in enumerate(runs.items()):
        (project / name / "checkpoints").mkdir()
        for epoch in (1, 2):
            torch.save({"model": weights(10 * i + epoch)}, project / name / "checkpoints" / f"epoch_{epoch}.pt")
            expected[name, epoch] = {"acc": epoch / 4 + lr}

    def expected_hyperparameters(lr: float) -> dict[str, Any]:
        # Interpolations: of a plain value it is that value, and of anything else its text.
        return {
            "lr": lr,
            "switch": False,  # OmegaConf reads and writes YAML 1.1 booleans
            "optimizer.lr": lr,
            "name": "run-adam",
            "home": "${oc.env:HOME}",
        }

    side = project / "outputs" / "d" / "t"
    return Example(
        project,
        {"hydra + plain": 3},
        {name: expected_hyperparameters(lr) for name, lr in runs.items()},
        expected,
        (side / ".hydra" / "config.yaml", side / "metrics.json"),
    )


def bert_trainer(folder: Path, accuracies: Iterable[float], **arguments: Any) -> Any:
    """A Trainer of a tiny classifier: four steps, each saved and measured; `accuracies` are what is measured."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    row = {"input_ids": torch.arange(5), "attention_mask": torch.ones(5, dtype=torch.long)}
    data = [{**row, "labels": torch.tensor(i % 2)} for i in range(8)]
    measured = iter(accuracies)
    settings = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=1,
        logging_steps=1,
        save_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    return transformers.Trainer(
        model=transformers.BertForSequenceClassification(config),
        args=settings,
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=lambda _: {"acc": next(measured)},
    )


def hugging_face(folder: Path) -> Example:
    """A Trainer's run of four steps with its final model; a model in shards of both formats; an adapter."""
    trainer = bert_trainer(folder / "trained", (0.25, 0.5, 0.75, 1.0), learning_rate=0.001)
    import huggingface_hub

    model = trainer.model
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        trainer.train()
        trainer.save_model(str(folder / "trained" / "final"))
        model.save_pretrained(folder / "sharded", max_shard_size="2KB")
        # Transformers 5 writes safetensors alone; the library under it still writes the shards of earlier versions.
        model.config.save_pretrained(folder / "older")
        state, shards = model.state_dict(), {"safe_serialization": False, "max_shard_size": "2KB"}
        huggingface_hub.save_torch_state_dict(state, folder / "older", **shards)
    shape = {"hidden_size": 8, "model_type": "bert"}
    expected_hyperparameters: dict[str, dict[str, Any]] = {
        "trained": {**shape, "learning_rate": 0.001, "num_train_epochs": 2},
        "sharded": shape,
        "older": shape,
    }
    peft = pytest.importorskip("peft", reason="peft is not installed")
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query"]))
    tuned.save_pretrained(folder / "adapted")
    expected_hyperparameters["adapted"] = {"r": 2, "lora_alpha": 4}
    newest = folder / "trained" / "checkpoint-4"
    return Example(
        folder,
        {"hugging-face": 4},
        expected_hyperparameters,
        {("trained", step): {"eval_acc": step / 4} for step in (1, 2, 3, 4)},
        (newest / "trainer_state.json", newest / "config.json", folder / "adapted" / "adapter_config.json"),
        aliases=1,
    )


def _mlflow(folder: Path, uri: str, **artifacts: str) -> Example:
    """Two runs of three steps, their checkpoints logged as artifacts."""
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow 3 asks for it; people's folders of earlier ones are there
    import logging

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("tuning", **artifacts)
    expected_hyperparameters: dict[str, dict[str, Any]] = {}
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for i, lr in enumerate((0.5, 0.125)):
        run = client.create_run(experiment).info.run_id
        name = f"mlruns/{experiment}/{run}"
        client.log_param(run, "lr", lr)
        client.log_param(run, "optimizer/name", "adam")
        expected_hyperparameters[name] = {"lr": lr, "optimizer/name": "adam"}
        for step in (1, 2, 3):
            client.log_metric(run, "val/acc", step / 4 + lr, step=step)
            client.log_metric(run, "loss", 1 / step, step=step)
            file = folder.parent / f"epoch_{step}.pt"
            torch.save({"model": weights(10 * i + step), "epoch": step}, file)
            client.log_artifact(run, str(file), "checkpoints")
            expected[name, step] = {"val/acc": step / 4 + lr, "loss": 1 / step}
        client.set_terminated(run)
    return Example(folder, {"mlflow": 2}, expected_hyperparameters, expected)


def mlflow(folder: Path) -> Example:
    """The file store, as MLflow wrote it by default before version 3.7."""
    example = _mlflow(folder, str(folder / "mlruns"))
    first = next(iter(example.hyperparameters))

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        with (root / first / "metrics" / "loss").open("a") as file:
            file.write("1800000000000 0.0625 3\n")
        return {**example.metrics, (first, 3): {"loss": 0.0625}}

    sides = (folder / first / "params" / "lr", folder / first / "metrics" / "val" / "acc")
    return replace(example, sides=sides[1:], grow=grow)


def mlflow_database(folder: Path) -> Example:
    """SQLite, which is MLflow's default since."""
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    artifacts = (folder / "mlruns" / "1").as_uri()
    example = _mlflow(folder, empty_store(folder / "mlflow.db"), artifact_location=artifacts)
    first = next(iter(example.hyperparameters))

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            row = ("loss", 0.0625, 1_900_000_000_000, Path(first).name, 3, False)
            columns = "key, value, timestamp, run_uuid, step, is_nan"
            database.execute(f"INSERT INTO metrics ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)
        return {**example.metrics, (first, 3): {"loss": 0.0625}}

    return replace(example, sides=(folder / "mlflow.db",), grow=grow)


def wandb(folder: Path) -> Example:
    """An offline run with checkpoints among its files, and one whose checkpoints lie beside W&B's folder."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    expected_hyperparameters: dict[str, dict[str, Any]] = {}
    sides = []
    for i, lr in enumerate((0.5, 0.125)):
        place = folder / f"job_{i}"
        place.mkdir()
        settings = wandb.Settings(mode="offline", silent=True, console="off", x_disable_stats=True)
        run = wandb.init(project="p", config={"lr": lr, "opt": {"name": "adam"}}, dir=place, settings=settings)
        files = Path(run.dir) if i == 0 else place
        name = str((files.parent if i == 0 else place).relative_to(folder))
        sides.append(*Path(run.dir).parent.glob("*.wandb"))
        for epoch in (1, 2, 3):
            run.log({"val/acc": epoch / 4 + lr, "epoch": epoch, "note": "text"})
            torch.save({"model": weights(10 * i + epoch), "epoch": epoch}, files / f"epoch_{epoch}.pt")
            expected[name, epoch] = {"val/acc": epoch / 4 + lr}
        run.finish()
        expected_hyperparameters[name] = {"lr": lr, "opt.name": "adam"}
    wandb.teardown()  # its own process writes the logs, and may be late: this waits for its end
    return Example(folder, {"plain + wandb": 2}, expected_hyperparameters, expected, tuple(sides))


def tensorboard(folder: Path) -> Example:
    """Scalars and hyperparameters that PyTorch's writer put beside the checkpoints, or into a folder of logs."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from torch.utils.tensorboard import SummaryWriter

    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    expected_hyperparameters: dict[str, dict[str, Any]] = {}
    for i, lr in enumerate((0.5, 0.125)):
        run = folder / f"run_{i}"
        run.mkdir()
        with SummaryWriter(run if i == 0 else run / "logs") as writer:
            for epoch in (1, 2, 3):
                writer.add_scalar("val/acc", epoch / 4 + lr, epoch)
                writer.add_scalar("diverged", float("nan"), epoch)
                torch.save(
                    {"model": weights(10 * i + epoch), "epoch": epoch, "step": 100 * epoch}, run / f"e{epoch}.pt"
                )
                expected[run.name, epoch] = {"val/acc": epoch / 4 + lr}
            writer.add_hparams({"lr": lr, "optimizer": "adam"}, {})
        expected_hyperparameters[run.name] = {"lr": lr, "optimizer": "adam"}
    side = next((folder / "run_0").glob("events.*"))

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        with SummaryWriter(root / "run_0") as writer:
            writer.add_scalar("late", 7.0, 3)
        return {**expected, ("run_0", 3): {"late": 7.0, "val/acc": 1.25}}

    return Example(folder, {"plain + tensorboard": 2}, expected_hyperparameters, expected, (side,), grow)


def ray(folder: Path) -> Example:
    """Two trials as Ray Tune's own loggers write them (the form is that of its documentation): a report an epoch."""
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    expected_hyperparameters: dict[str, dict[str, Any]] = {}
    for i, lr in enumerate((0.5, 0.125)):
        name = f"exp/train_3f4ab_0000{i}_{i}_lr={lr}"
        trial = folder / name
        lines = ["acc,training_iteration,time_this_iter_s,done,config/lr,checkpoint_dir_name"]
        for number in range(3):
            at = trial / f"checkpoint_{number:06d}"
            at.mkdir(parents=True)
            torch.save({"model": weights(10 * i + number)}, at / "model.pt")
            lines.append(f"{number / 4 + lr},{number + 1},1.5,False,{lr},{at.name}")
            expected[name, number] = {"acc": number / 4 + lr}
        (trial / "progress.csv").write_text("\n".join(lines) + "\n")
        (trial / "params.json").write_text(json.dumps({"lr": lr, "optim": {"name": "sgd"}}))
        (trial / "params.pkl").write_bytes(b"never opened")
        expected_hyperparameters[name] = {"lr": lr, "optim.name": "sgd"}
    first = folder / next(iter(expected_hyperparameters))

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        with (root / first.relative_to(folder) / "progress.csv").open("a") as file:
            file.write("0.875,4,1.5,True,0.5,checkpoint_000002\n")
        return {**expected, (str(first.relative_to(folder)), 2): {"acc": 0.875}}

    return Example(
        folder, {"ray": 2}, expected_hyperparameters, expected, (first / "progress.csv", first / "params.json"), grow
    )


def dvclive(folder: Path) -> Example:
    """Two runs in folders of their own, as DVCLive 3 writes them: a table of steps for each metric."""
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for i, name in enumerate("ab"):
        run = folder / name
        (run / "model").mkdir(parents=True)
        for epoch in range(3):
            torch.save({"model": weights(10 * i + epoch), "epoch": epoch}, run / "model" / f"epoch_{epoch}.pt")
            expected[name, epoch] = {"acc": epoch / 4 + i, "val/loss": 3.0 - epoch}
        for metric, at in (("acc", lambda e, i=i: e / 4 + i), ("val/loss", lambda e: 3.0 - e)):
            table = run / "dvclive" / "plots" / "metrics" / f"{metric}.tsv"
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_text(f"step\t{table.stem}\n" + "".join(f"{e}\t{at(e)}\n" for e in range(3)))
        (run / "dvclive" / "params.yaml").write_text(f"optim:\n  lr: {0.5 / (i + 1)}\n")
        (run / "dvclive" / "metrics.json").write_text(json.dumps({"acc": 0.5 + i, "val": {"loss": 1.0}, "step": 2}))
    first = folder / "a" / "dvclive"

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        with (root / "a" / "dvclive" / "plots" / "metrics" / "acc.tsv").open("a") as file:
            file.write("2\t0.875\n")
        return {**expected, ("a", 2): {"acc": 0.875, "val/loss": 1.0}}

    expected_hyperparameters = {"a": {"optim.lr": 0.5}, "b": {"optim.lr": 0.25}}
    sides = (first / "plots" / "metrics" / "acc.tsv", first / "params.yaml")
    return Example(folder, {"dvclive": 2}, expected_hyperparameters, expected, sides, grow)


def sharded(folder: Path) -> Example:
    """The Trainer with DeepSpeed: each process wrote its part beside the whole weights."""
    from safetensors.torch import save_file

    for step in (100, 200):
        at = folder / "run" / f"checkpoint-{step}"
        parts = at / f"global_step{step}"
        parts.mkdir(parents=True)
        save_file(weights(step), at / "model.safetensors")
        history = [{"eval_loss": 1 / s, "step": s} for s in (100, 200) if s <= step]
        (at / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
        torch.save({"module": weights(step), "ds_version": "0.16"}, parts / "mp_rank_00_model_states.pt")
        for rank in range(2):
            torch.save({"base": 1}, parts / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    expected: dict[tuple[str, int | None], dict[str, float]] = {
        ("run", step): {"eval_loss": 1 / step} for step in (100, 200)
    }
    side = folder / "run" / "checkpoint-200" / "trainer_state.json"
    return Example(folder, {"hugging-face": 1}, {"run": {}}, expected, (side,))


def speechbrain(folder: Path) -> Example:
    """Two seeds of a recipe, each with a folder for each checkpoint that it kept, and its log."""
    expected: dict[tuple[str, int | None], dict[str, float]] = {}
    for i, name in enumerate(("1001", "1002")):
        run = folder / name
        lines = []
        for epoch in (1, 2, 3):
            at = run / "save" / f"CKPT+2026-05-0{epoch}+12-30-01+00"
            at.mkdir(parents=True)
            torch.save(weights(10 * i + epoch), at / "model.ckpt")
            torch.save({"state": {}, "param_groups": [{"lr": 0.1}]}, at / "optimizer.ckpt")
            torch.save({"mean": torch.zeros(3)}, at / "normalizer.ckpt")
            (at / "counter.ckpt").write_text(str(epoch))
            (at / "brain.ckpt").write_text(f"avg_train_loss: 0.5\noptimizer_step: {epoch * 100}\nstep: 100\n")
            (at / "CKPT.yaml").write_text(
                f"# yamllint disable\nWER: {40 / epoch + i}\nend-of-epoch: true\nunixtime: 1777638601.5\n"
            )
            lines.append(f"epoch: {epoch}, lr: 1.00e-01 - train loss: {3 / epoch:.2f} - valid loss: {4 / epoch:.2f}\n")
            expected[name, epoch] = {
                "lr": 0.1,
                "train_loss": round(3 / epoch, 2),
                "valid_loss": round(4 / epoch, 2),
                "WER": 40 / epoch + i,
            }
        (run / "train_log.txt").write_text("".join(lines))
        (run / "hyperparams.yaml").write_text(
            f"# made from train.yaml\nseed: {name}\nlr: {0.1 / (i + 1)}\noutput_folder: !ref results/<seed>\n"
            "opt_class: !name:torch.optim.Adam\n  lr: !ref <lr>\n"
        )

    def grow(root: Path) -> dict[tuple[str, int | None], dict[str, float]]:
        with (root / "1001" / "train_log.txt").open("a") as file:
            file.write("Epoch loaded: 3 - test loss: 0.75, test WER: 9.50\n")
        values = {**expected["1001", 3], "test_loss": 0.75, "test_WER": 9.5}
        return {**expected, ("1001", 3): values}

    first = folder / "1001"
    sides = (first / "hyperparams.yaml", first / "train_log.txt")
    expected_hyperparameters = {"1001": {"lr": 0.1}, "1002": {"lr": 0.05}}
    return Example(folder, {"speechbrain": 2}, expected_hyperparameters, expected, sides, grow)


WRITERS: dict[str, Callable[[Path], Example]] = {
    "plain": plain_with_files,
    "lightning": lightning,
    "lightning-tensorboard": lightning_tensorboard,
    "lightning-wandb": lightning_wandb,
    "hydra": hydra,
    "hugging-face": hugging_face,
    "mlflow": mlflow,
    "mlflow-database": mlflow_database,
    "wandb": wandb,
    "tensorboard": tensorboard,
    "ray": ray,
    "dvclive": dvclive,
    "sharded": sharded,
    "speechbrain": speechbrain,
}

_WRITTEN: dict[str, Example] = {}


def written(name: str, factory: pytest.TempPathFactory) -> Example:
    """Have a framework write its folder, once for all tests; it is not to be written to."""
    if name not in _WRITTEN:
        folder = factory.mktemp(name) / "work"
        folder.mkdir()
        _WRITTEN[name] = WRITERS[name](folder)
    return _WRITTEN[name]
