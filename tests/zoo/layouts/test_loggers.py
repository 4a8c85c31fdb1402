"""Lightning with each of its loggers: every checkpoint has the values of its own moment, whoever wrote them down.

The model logs its own clock: ``train/clock`` in each training step, ``val/clock`` in each validation, so that a value
on the wrong checkpoint is seen by its number alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints

from ...mlflow_store import mlflow_database  # noqa: TID252 - of the tests

pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402 - after the skip

STEPS, EPOCHS = 4, 3
SCORES = (0.5, 0.25, 0.75)  # of the epochs: the best is in the middle


class Clock(pl.LightningModule):
    def __init__(self, optim: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(3, 1)

    def training_step(self, batch, _index):
        self.log("train/clock", float(self.global_step))
        return self.net(batch[0]).square().mean()

    def validation_step(self, _batch, _index):
        self.log("val/clock", float(self.global_step))
        self.log("val/score", SCORES[min(self.current_epoch, EPOCHS - 1)])

    def test_step(self, *_):
        self.log("test/clock", float(self.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.optim["lr"])


def fit(logger, *callbacks, lr: float = 0.5, **settings):
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(2 * STEPS, 3)), batch_size=2)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "log_every_n_steps": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=EPOCHS, logger=logger, callbacks=list(callbacks), num_sanity_val_steps=0, **quiet, **settings
        )
        model = Clock({"lr": lr, "name": "sgd"})
        trainer.fit(model, data, data)
        trainer.test(model, data, verbose=False)
    return trainer


def logger_of(kind: str, folder: Path):
    from pytorch_lightning import loggers

    if kind == "csv":
        return loggers.CSVLogger(folder)
    if kind == "tensorboard":
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
        return loggers.TensorBoardLogger(folder)
    if kind == "wandb":
        wandb = pytest.importorskip("wandb", reason="wandb is not installed")
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        return loggers.WandbLogger(project="p", save_dir=folder, offline=True, settings=settings)
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    store = mlflow_database(folder / "mlflow.db") if kind == "mlflow database" else (folder / "mlruns").as_uri()
    return loggers.MLFlowLogger("exp", tracking_uri=store, artifact_location=(folder / "mlruns" / "1").as_uri())


LOGGERS = ("csv", "tensorboard", "wandb", "mlflow", "mlflow database")


@pytest.fixture(scope="module", params=LOGGERS)
def logged(request, tmp_path_factory) -> Path:
    """One training with three callbacks: every epoch, every third step, the best; validated twice an epoch."""
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    logger = logger_of(request.param, folder)
    before = Path.cwd()
    os.chdir(folder)  # MLflow's logger saves checkpoints there
    try:
        fit(
            logger,
            ModelCheckpoint(filename="all-{epoch}", save_top_k=-1),
            ModelCheckpoint(filename="third-{step}", save_top_k=-1, every_n_train_steps=3),
            ModelCheckpoint(filename="best", monitor="val/score", mode="min"),
            val_check_interval=0.5,
        )
        if request.param == "wandb":
            import wandb

            wandb.finish()
            wandb.teardown()  # its own process writes the log, and may be late: this waits for its end
    finally:
        os.chdir(before)
    return folder


def test_every_checkpoint_has_the_values_of_its_own_moment(logged, catalogue):
    report = ingest(catalogue, logged)
    assert (report.failed, report.side_file_failures, len(catalogue.runs())) == ([], [], 1)
    found = {Path(c.path).stem: c for c in catalogue.checkpoints()} | {
        Path(path).stem: next(c for c in catalogue.checkpoints() if c.path == of)
        for path, of in catalogue.aliases().items()
    }
    for name, step in (*((f"all-epoch={e}", STEPS * (e + 1)) for e in range(EPOCHS)), ("third-step=3", 3)):
        # The last training step before this moment, and the last validation: of the same epoch, or none.
        validated = next((s for s in (step, step - 1) if s % 2 == 0 and s > STEPS * found[name].epoch), None)
        metrics = found[name].metrics
        assert metrics["train/clock"] == step - 1, name
        assert metrics["val/clock"] == validated, name
        assert metrics["val/score"] == SCORES[found[name].epoch], name
    # Saved in the first step of the last epoch: nothing was validated in it yet.
    assert found["third-step=9"].metrics["train/clock"] == 8
    assert "val/clock" not in found["third-step=9"].metrics
    assert found["best"].metrics["val/score"] == min(SCORES)
    # Tested when training was over: that is the last checkpoint, and no other.
    tested = {name: c.metrics["test/clock"] for name, c in found.items() if "test/clock" in c.metrics}
    assert set(tested) <= {"all-epoch=2", "third-step=12"}
    assert set(tested.values()) == {STEPS * EPOCHS}
    assert not {"epoch", "step", "hp_metric"} & {name for c in found.values() for name in c.metrics}


@pytest.mark.parametrize(("mode", "holders"), [("min", []), ("max", [EPOCHS - 1])])
@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_a_test_after_training_is_on_no_checkpoint_where_it_may_be_of_the_best_or_the_last(
    tmp_path, catalogue, kind, mode, holders
):
    """``trainer.test(model)`` and ``trainer.test(ckpt_path="best")`` leave the same log."""
    fit(logger_of(kind, tmp_path), ModelCheckpoint(save_top_k=-1, monitor="val/score", mode=mode))
    report = ingest(catalogue, tmp_path)
    found = {c.epoch: c.metrics for c in catalogue.checkpoints()}
    assert [epoch for epoch, metrics in found.items() if "test/clock" in metrics] == holders
    assert [m["val/score"] for _, m in sorted(found.items())] == list(SCORES)
    if not holders:
        (said,) = report.side_file_failures
        assert said.reason.startswith("test/clock: tested after training, and the log does not say whether on this")
        assert "[runs] table" in said.reason
        assert f"epoch={EPOCHS - 1}" in said.path
        assert ingest(catalogue, tmp_path).side_file_failures == [said]
        heard = []
        read = read_fingerprints([Path(c.path) for c in catalogue.checkpoints()], on_failure=heard.append)
        assert [c for c in read if "test/clock" in c.metrics] == []
        assert heard == [said]
    else:
        assert report.side_file_failures == []


def test_nested_hyperparameters_have_one_name_each(logged, catalogue):
    ingest(catalogue, logged)
    (run,) = catalogue.runs()
    assert {k: v for k, v in run.hyperparameters.items() if k.startswith("optim")} == {
        "optim.lr": 0.5,
        "optim.name": "sgd",
    }


def test_a_score_is_taken_from_the_callback_only_for_the_file_that_it_was_kept_for(tmp_path, catalogue):
    """Nothing is logged, so what callbacks keep is all there is; the files are moved, as people do."""
    fit(
        False,
        ModelCheckpoint(tmp_path / "a", filename="best", monitor="val/score", mode="max"),
        ModelCheckpoint(tmp_path / "b", filename="best", monitor="train/clock", mode="min"),
        ModelCheckpoint(tmp_path / "c", filename="{epoch}", save_top_k=-1),
        ModelCheckpoint(tmp_path / "d", filename="{epoch}-x", save_top_k=-1, monitor="val/score"),
    )
    shutil.move(tmp_path / "a", tmp_path / "moved" / "a")
    shutil.move(tmp_path / "d", tmp_path / "moved" / "d")
    ingest(catalogue, tmp_path)
    found = {str(Path(c.path).relative_to(tmp_path)): c.metrics for c in catalogue.checkpoints()}
    assert found["moved/a/best.ckpt"] == {"val/score": max(SCORES)}
    assert found["b/best.ckpt"] == {"train/clock": STEPS - 1}
    assert [found.get(f"c/epoch={e}.ckpt") for e in range(EPOCHS)] == [{}] * EPOCHS
    assert [found[f"moved/d/epoch={e}-x.ckpt"] for e in range(EPOCHS)] == [{"val/score": s} for s in SCORES]


@pytest.mark.parametrize("pattern", ["{epoch}-{val/score:.2f}", "{val/score:.2f}-{epoch}", "best-{val/score:.2f}"])
def test_folders_that_a_slash_in_a_name_makes_are_no_runs(tmp_path, catalogue, pattern):
    from pytorch_lightning.loggers import CSVLogger

    for lr in (0.5, 0.25):
        fit(CSVLogger(tmp_path), ModelCheckpoint(filename=pattern, save_top_k=-1, monitor="val/score"), lr=lr)
    ingest(catalogue, tmp_path)
    assert [r.name for r in catalogue.runs()] == ["lightning_logs/version_0", "lightning_logs/version_1"]
    assert [r.hyperparameters["optim.lr"] for r in catalogue.runs()] == [0.5, 0.25]
    for checkpoint in catalogue.checkpoints():
        assert checkpoint.metrics["val/clock"] == STEPS * (checkpoint.epoch + 1)


def test_a_slash_in_a_name_outside_of_a_loggers_folder_splits_no_training(tmp_path, catalogue):
    fit(False, ModelCheckpoint(tmp_path / "mine", filename="{epoch}-{val/score:.2f}", save_top_k=-1))
    ingest(catalogue, tmp_path)
    assert [r.name for r in catalogue.runs()] == ["mine"]


def test_a_metric_that_the_trainer_gave_to_two_loggers_has_one_name(tmp_path, catalogue):
    """Transformers writes ``eval_acc`` into its own state and ``eval/acc`` into a file of TensorBoard."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    for package in ("accelerate", "tensorboard"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    transformers.utils.logging.set_verbosity_error()

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(3, 1)

        def forward(self, x, labels):
            out = self.net(x)
            return {"loss": out.square().mean(), "logits": out}

    data = [{"x": torch.ones(3), "labels": torch.zeros(1)} for _ in range(4)]
    accuracies = iter((0.25, 0.5))
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"),
        num_train_epochs=2,
        per_device_train_batch_size=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=1,
        report_to=["tensorboard"],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        Net(), arguments, train_dataset=data, eval_dataset=data, compute_metrics=lambda _: {"acc": next(accuracies)}
    )
    trainer.train()
    report = ingest(catalogue, tmp_path)
    assert report.layouts == {"hugging-face + tensorboard": 1}
    assert [(c.epoch, c.metrics["eval_acc"]) for c in catalogue.checkpoints()] == [(2, 0.25), (4, 0.5)]
    names = catalogue.metric_names()
    assert "loss" in names
    assert not [name for name in names if "/" in name or name == "epoch"]


def test_a_run_of_wandb_that_was_resumed_is_read_from_all_its_folders(tmp_path, catalogue):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    settings = wandb.Settings(mode="offline", silent=True, console="off", x_disable_stats=True)
    for epoch in range(2):
        run = wandb.init(project="p", id="same", dir=tmp_path, config={"lr": 0.5}, settings=settings, resume="allow")
        run.log({"epoch": epoch, "acc": epoch / 4})
        run.finish()
        wandb.teardown()
        folder = next(p for p in (tmp_path / "wandb").iterdir() if p.name.startswith("offline-run") and "_" in p.name)
        if epoch == 0:  # within one second both would have one name
            folder.rename(folder.with_name("offline-run-20260101_000000-same"))
        torch.save({"w": torch.full((3, 3), float(epoch)), "epoch": epoch}, tmp_path / f"epoch_{epoch}.pt")
    ingest(catalogue, tmp_path)
    assert [(c.metrics, c.hyperparameters) for c in catalogue.checkpoints()] == [
        ({"acc": 0.0}, {"lr": 0.5}),
        ({"acc": 0.25}, {"lr": 0.5}),
    ]
