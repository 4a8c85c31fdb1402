"""Odd values that trackers and an Optuna study kept, all the way into one map that predicts what is possible."""

from __future__ import annotations

import itertools
import math

import numpy as np
import optuna
import pytest
import torch

from epsopt.studies.optuna_io.optuna_import import study_sheet
from epsopt.studies.surrogate_store import training_set
from epsopt.surrogate import TrainingConfig, fit

from .conftest import save

EPOCHS = 3
NAMES = {"val_acc": (0.0, 100.0), "loss": (0.0, math.inf), "m": (-math.inf, math.inf)}
COLUMNS = {
    "odd": [0.25, math.nan, math.inf, -math.inf, 1e300, 0.5, 1e8, 1e300, 0.75, 0.125, 9.9e299, 0.5],
    "once": [math.nan] * 5 + [0.5] + [math.nan] * 6,
    "constant": [0.5] * 12,
    "in_pairs": [v for v in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6) for _ in range(2)],
}
"""What each of twelve checkpoints was logged with: three of MLflow, of TensorBoard, of W&B and of an Optuna trial."""
ALL = {f"{column}/{name}": values for (column, values), name in itertools.product(COLUMNS.items(), NAMES)}


def logged(number: int) -> dict[str, float]:
    return {name: values[number] for name, values in ALL.items()}


def in_mlflow(folder, first):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient((folder / "mlruns").as_uri())
    run = client.create_run(client.create_experiment("e")).info.run_id
    for number in range(first, first + EPOCHS):
        for _ in range(2):  # a program that logs everything twice
            for name, value in logged(number).items():
                client.log_metric(run, name, value, step=number)
        client.set_tag(run, "note", "n/a")
        save(folder / f"c_{number}.pt", number)
        client.log_artifact(run, str(folder / f"c_{number}.pt"))
        (folder / f"c_{number}.pt").unlink()


def in_tensorboard(folder, first):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tb")) as writer, np.errstate(over="ignore"):
        for number in range(first, first + EPOCHS):
            for name, value in logged(number).items():
                writer.add_scalar(name, value, number)
            writer.add_text("text", "n/a", number)
            save(folder / "tb" / f"epoch_{number}.pt", number)


def in_wandb(folder, first):
    wandb = pytest.importorskip("wandb")
    with wandb.init(project="p", dir=str(folder)) as run:
        for number in range(first, first + EPOCHS):
            run.log({"epoch": number, **logged(number), "text": "n/a", "nothing": None, "listed": [0.5, 0.25]})
            save(folder / "out" / f"epoch_{number}.pt", number)
            run.save(str(folder / "out" / f"epoch_{number}.pt"), base_path=str(folder / "out"), policy="now")


def in_optuna(folder, first):
    """Each of three trials is a run of one checkpoint; Optuna takes no NaN, and fails the trial."""
    study = optuna.create_study(
        study_name="s", storage=f"sqlite:///{folder / 'old.db'}", directions=["minimize"] * len(ALL)
    )
    study.set_metric_names(list(ALL))
    for number in range(first, first + EPOCHS):
        trial = study.ask({"text": optuna.distributions.CategoricalDistribution(["n/a", None])})
        save(folder / f"trial_{trial.number}" / "epoch_1.pt", number)
        values = [v if v == v else math.inf for v in logged(number).values()]
        study.tell(trial, values)


def test_a_map_of_what_trackers_and_a_study_kept_predicts_what_is_finite_and_possible(door, monkeypatch):
    """One zoo of four sources, and one fit."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    folder = door.new()
    for place, write in enumerate((in_mlflow, in_tensorboard, in_wandb, in_optuna)):
        write(folder, place * EPOCHS)
    door.read(folder, sheets=[study_sheet(f"sqlite:///{folder / 'old.db'}#s", folder)])
    train = training_set(door.catalogue)
    assert len(train) == 12
    assert set(train.metric_names) == set(ALL), "texts, lists and nothing are no metrics"
    assert len(np.unique(train.runs)) == 6
    for name, values in ALL.items():
        found = train.metrics[:, train.metric_names.index(name)]
        with np.errstate(over="ignore"):  # TensorBoard keeps single precision
            kept = [float(np.float32(v)) if EPOCHS <= i < 2 * EPOCHS else v for i, v in enumerate(values)]
        assert sorted(found[np.isfinite(found)]) == sorted(v for v in kept if abs(v) < 1e300), name
    surrogate, validation = fit(train, recipe=TrainingConfig(steps=5, batch=8), folds=2)
    assert all(math.isfinite(v) for m in validation.metrics for v in (m.error, m.median_error, m.coverage, m.width))
    z = surrogate.encode(train.fingerprints)
    everywhere = torch.cat([z, 30.0 * torch.randn(8, z.shape[1], generator=torch.Generator().manual_seed(0))])
    predicted = surrogate.predict(everywhere, 0.999)
    for j, name in enumerate(surrogate.metric_names):
        low, point, high = (ends[:, j] for ends in (predicted.low, predicted.point, predicted.high))
        assert np.isfinite([low, point, high]).all(), name
        assert ((low <= point) & (point <= high)).all(), name
        least, most = NAMES[name.rpartition("/")[2]]
        assert (low >= least).all(), name
        assert (high <= most).all() or not name.endswith("val_acc") or name.startswith("odd"), name
