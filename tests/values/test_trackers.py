"""Values that MLflow, TensorBoard and Weights & Biases kept, each written by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..mlflow_store import mlflow_database  # noqa: TID252 - of the tests
from .conftest import SHARP, kept, numbers, quick, save

_few = st.lists(numbers, min_size=1, max_size=8)


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_mlflow_s_values_are_finite_or_not_measured(door, kind, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = door.new()
    uri = (folder / "mlruns").as_uri() if kind == "file" else mlflow_database(folder / "mlflow.db")
    client = mlflow.MlflowClient(uri)
    place = {"artifact_location": (folder / "mlruns" / "1").as_uri()} if kind == "sqlite" else {}
    experiment = client.create_experiment("e", **place)
    run = client.create_run(experiment)
    for epoch, value in enumerate(SHARP):
        client.log_metric(run.info.run_id, "m", value, step=epoch)
        save(folder / "checkpoint.pt", epoch)
        (folder / "checkpoint.pt").rename(folder / f"c_{epoch}.pt")
        client.log_artifact(run.info.run_id, str(folder / f"c_{epoch}.pt"))
        (folder / f"c_{epoch}.pt").unlink()
    assert door.read(folder) == {epoch: kept(value) for epoch, value in enumerate(SHARP)}


@quick
@given(_few)
def test_tensorboard_s_values_are_finite_or_not_measured(door, values):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    folder = door.new()
    with SummaryWriter(str(folder)) as writer, np.errstate(over="ignore"):
        for epoch, value in enumerate(values):
            writer.add_scalar("m", value, epoch)
            save(folder / f"epoch_{epoch}.pt", epoch)
    with np.errstate(over="ignore"):  # it keeps single precision
        assert door.read(folder) == {epoch: kept(float(np.float32(value))) for epoch, value in enumerate(values)}


def test_wandb_s_values_are_finite_or_not_measured(door, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = door.new()
    with wandb.init(project="p", dir=str(folder)) as run:
        for epoch, value in enumerate(SHARP):
            run.log({"epoch": epoch, "m": value})
            save(folder / "out" / f"epoch_{epoch}.pt", epoch)
            run.save(str(folder / "out" / f"epoch_{epoch}.pt"), base_path=str(folder / "out"), policy="now")
    assert door.read(folder) == {epoch: kept(value) for epoch, value in enumerate(SHARP)}
