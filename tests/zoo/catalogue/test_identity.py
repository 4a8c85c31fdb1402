"""Which files are one checkpoint, and whose: copies, links and names of one moment, and files that runs share."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import CopiedRun, copied_runs
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.ingestion.verification import verify

from ..conftest import BASE, state_dict  # noqa: TID252
from ..reading.test_processes import state  # noqa: TID252


def listed(catalogue: Catalogue) -> list[tuple[str, str, int | None]]:
    return [(c.run, Path(c.path).name, c.epoch) for c in catalogue.checkpoints()]


@pytest.fixture
def shared(tmp_path, save) -> Path:
    """Three runs whose untrained epoch 0 is the same file, byte for byte."""
    folder = tmp_path / "runs"
    first = save(folder / "a" / "epoch_0.pt", 0)
    for seed, run in enumerate("abc", start=1):
        save(folder / run / "epoch_1.pt", 1, weights=state_dict(seed, BASE), width=seed)
        if run != "a":
            shutil.copy(first, folder / run / "epoch_0.pt")
    return folder


def test_runs_that_share_a_file_have_a_checkpoint_each(catalogue, shared):
    report = ingest(catalogue, shared)
    assert (report.found, report.added, report.aliases) == (6, 6, 0)
    assert listed(catalogue) == [(run, f"epoch_{e}.pt", e) for run in "abc" for e in (0, 1)]
    assert catalogue.aliases() == {}
    zeros = [c for c in catalogue.checkpoints() if c.epoch == 0]
    assert len({c.sha256 for c in zeros}) == 1
    first, *others = catalogue.fingerprints([c.id for c in zeros])
    assert all(f.to_bytes() == first.to_bytes() for f in others)
    with sqlite3.connect(catalogue.url.removeprefix("sqlite:///")) as database:
        assert database.execute("SELECT count(*) FROM epsopt_fingerprints").fetchone() == (4,), "kept once"
    before = list(sqlite3.connect(catalogue.url.removeprefix("sqlite:///")).iterdump())
    assert ingest(catalogue, shared).unchanged == 6
    assert list(sqlite3.connect(catalogue.url.removeprefix("sqlite:///")).iterdump()) == before


def test_a_shared_file_that_goes_takes_only_its_own_run_s_checkpoint(catalogue, shared, save):
    ingest(catalogue, shared)
    save(shared / "a" / "epoch_0.pt", 70)  # it holds something else now, and held the fingerprint that all share
    ingest(catalogue, shared)
    assert [(run, epoch) for run, _, epoch in listed(catalogue)] == [
        ("a", 1), ("a", 70), ("b", 0), ("b", 1), ("c", 0), ("c", 1)
    ]  # fmt: skip
    assert len(catalogue.fingerprints([c.id for c in catalogue.checkpoints()])) == 6
    (lineage,) = catalogue.lineages()
    assert Path(lineage.reference_path).read_bytes() == (shared / "b" / "epoch_0.pt").read_bytes()


def test_runs_that_share_a_file_stay_apart_when_their_folders_move(catalogue, shared):
    ingest(catalogue, shared)
    ids = {(c.run, c.epoch): c.id for c in catalogue.checkpoints()}
    moved = shared.rename(shared.with_name("archive"))
    report = ingest(catalogue, moved)
    assert (report.added, report.aliases) == (0, 0)
    assert {(c.run, c.epoch): c.id for c in catalogue.checkpoints()} == ids
    assert all(Path(c.path).is_relative_to(moved) for c in catalogue.checkpoints())
    (moved / "b").rename(moved / "renamed")
    assert ingest(catalogue, moved).added == 0
    assert {(c.run, c.epoch): c.id for c in catalogue.checkpoints()} == {
        (run.replace("b", "renamed"), epoch): i for (run, epoch), i in ids.items()
    }


def test_a_last_and_a_best_copy_are_the_checkpoint_that_has_a_number(catalogue, tmp_path, save):
    """torch.save writes the file's name into it, so that no two of them are the same bytes."""
    run = tmp_path / "run"
    for epoch in (1, 2, 3):
        save(run / f"epoch_{epoch}.pt", epoch)
    save(run / "last.pt", 3)
    torch.save(state_dict(2, BASE), run / "best.pt")  # weights alone: it does not know its epoch
    assert (run / "last.pt").read_bytes() != (run / "epoch_3.pt").read_bytes()
    report = ingest(catalogue, run)
    assert (report.added, report.aliases) == (3, 2)
    assert listed(catalogue) == [("run", f"epoch_{e}.pt", e) for e in (1, 2, 3)]
    assert catalogue.aliases() == {
        str(run / "best.pt"): str(run / "epoch_2.pt"),
        str(run / "last.pt"): str(run / "epoch_3.pt"),
    }
    assert verify(catalogue).failed == []
    assert ingest(catalogue, run).unchanged == 5
    save(run / "last.pt", 4)
    ingest(catalogue, run)
    assert listed(catalogue)[-2:] == [("run", "epoch_3.pt", 3), ("run", "last.pt", 4)]


def test_what_only_one_of_two_copies_knows_is_known_of_both(catalogue, tmp_path):
    folder, weights = tmp_path / "run", state_dict(1, BASE)
    folder.mkdir()
    torch.save({"model_state_dict": weights, "metrics": {"acc": 0.5}}, folder / "best.pt")
    torch.save(
        {"model_state_dict": weights, "epoch": 7, "metrics": {"loss": 1.0}, "config": {"lr": 1}}, folder / "x7.pt"
    )
    ingest(catalogue, folder)
    (only,) = catalogue.checkpoints()
    assert (only.epoch, only.metrics, only.hyperparameters) == (7, {"acc": 0.5, "loss": 1.0}, {"lr": 1})
    (folder / "best.pt").write_text("no longer a checkpoint")
    ingest(catalogue, folder)
    (only,) = catalogue.checkpoints()
    assert only.metrics == {"loss": 1.0}, "a file that goes takes its own words along"


def test_a_run_that_stands_still_has_all_its_epochs(catalogue, tmp_path, save):
    for epoch in (1, 2, 3):
        save(tmp_path / "run" / f"epoch_{epoch}.pt", epoch, weights=state_dict(1, BASE))
    ingest(catalogue, tmp_path)
    assert [epoch for _, _, epoch in listed(catalogue)] == [1, 2, 3]


def test_different_weights_that_are_all_nan_are_not_one_checkpoint(catalogue, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("a", "b"):
        weights = {key: torch.full_like(value, float("nan")) for key, value in BASE.items()}
        torch.save({"model_state_dict": weights, "metrics": {"of": ord(name)}}, tmp_path / "run" / f"{name}.pt")
    ingest(catalogue, tmp_path)
    assert [c.metrics["of"] for c in catalogue.checkpoints()] == [97, 98]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 0.0])
@pytest.mark.parametrize("whole", [True, False])
def test_copies_of_a_checkpoint_whose_weights_are_nan_are_one_checkpoint(catalogue, tmp_path, save, broken, whole):
    keys = list(BASE) if whole else list(BASE)[:1]
    weights = {k: torch.full_like(v, broken) if k in keys else v for k, v in state_dict(1, BASE).items()}
    save(tmp_path / "run" / "epoch_1.pt", 1)
    for epoch in (2, 3):
        save(tmp_path / "run" / f"epoch_{epoch}.pt", epoch, weights=weights)
    save(tmp_path / "run" / "last.pt", 3, weights=weights)
    torch.save({"model_state_dict": weights}, tmp_path / "run" / "final.pt")
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.aliases) == (3, 2)
    assert listed(catalogue) == [("run", f"epoch_{epoch}.pt", epoch) for epoch in (1, 2, 3)]
    assert len(catalogue.lineages()) == 1, "a run that diverged is of the lineage that it was of before"
    assert ingest(catalogue, tmp_path).unchanged == 5


@pytest.mark.parametrize("order", [("b", "a", "c"), ("c", "b", "a")])
def test_the_order_of_ingests_does_not_matter(tmp_path, shared, save, order):
    save(shared / "a" / "last.pt", 1, weights=state_dict(1, BASE), width=1)
    save(shared / "b" / "best.pt", 1, weights=state_dict(2, BASE), width=2)
    shutil.copy(shared / "c" / "epoch_1.pt", shared / "c" / "final.pt")
    with (
        Catalogue(f"sqlite:///{tmp_path / 'whole.db'}") as whole,
        Catalogue(f"sqlite:///{tmp_path / 'parts.db'}") as parts,
    ):
        ingest(whole, shared)
        for name in ("epoch_1.pt", "best.pt", "final.pt", "last.pt", "epoch_0.pt"):
            for run in order:
                if (shared / run / name).exists():
                    ingest(parts, shared / run / name)
        ingest(parts, shared)
        assert [(c.path, c.run, c.sha256, c.epoch, c.metrics, c.hyperparameters) for c in parts.checkpoints()] == [
            (c.path, c.run, c.sha256, c.epoch, c.metrics, c.hyperparameters) for c in whole.checkpoints()
        ]
        assert parts.aliases() == whole.aliases()


def test_the_trainer_s_final_copy_is_its_last_checkpoint(catalogue, tmp_path):
    run = tmp_path / "out"
    log = [{"step": s, "eval_loss": 1 - s / 100} for s in (4, 8)]
    for step in (4, 8):
        place = run / f"checkpoint-{step}"
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log[: step // 4]}))
        save_file(state_dict(step, BASE), place / "model.safetensors", metadata={"format": "pt"})
    (run / "config.json").write_text("{}")
    shutil.copy(run / "checkpoint-8" / "model.safetensors", run / "model.safetensors")
    ingest(catalogue, tmp_path)
    assert [(c.run, c.epoch, c.metrics) for c in catalogue.checkpoints()] == [
        ("out", 4, {"eval_loss": 0.96}), ("out", 8, {"eval_loss": 0.92})
    ]  # fmt: skip
    assert catalogue.aliases() == {str(run / "model.safetensors"): str(run / "checkpoint-8" / "model.safetensors")}


def test_what_wandb_logged_reaches_the_folder_that_its_links_lead_to(catalogue, tmp_path, save, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for i, lr in enumerate((0.1, 0.01)):
        out = tmp_path / f"out_{i}"
        run = wandb.init(project="p", dir=str(tmp_path), config={"lr": lr})
        for epoch in range(3):
            weights = state_dict(10 * i + epoch, BASE) if epoch else BASE  # epoch 0 is untrained: the same in both
            out.mkdir(exist_ok=True)
            torch.save({"model_state_dict": weights, "epoch": epoch}, out / f"epoch_{epoch}.pt")
            run.log({"epoch": epoch, "val/loss": 1 - epoch / 10 - i})
            if epoch < 2:  # the last one is not saved, but logged
                run.save(str(out / f"epoch_{epoch}.pt"), base_path=str(out), policy="now")
        run.finish()
    ingest(catalogue, tmp_path)
    assert [(c.run, c.epoch, c.metrics, c.hyperparameters) for c in catalogue.checkpoints()] == [
        (f"out_{i}", epoch, {"val/loss": 1 - epoch / 10 - i}, {"lr": (0.1, 0.01)[i]})
        for i in range(2)
        for epoch in range(3)
    ]
    assert [r.name for r in catalogue.runs()] == ["out_0", "out_1"]
    before = state(catalogue)
    assert ingest(catalogue, tmp_path).added == 0
    assert state(catalogue) == before


def test_what_mlflow_copied_is_the_run_that_wrote_it(catalogue, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    for i, lr in enumerate((0.1, 0.01)):
        out = tmp_path / "out" / f"trial_{i}"
        out.mkdir(parents=True)
        with mlflow.start_run():
            mlflow.log_param("lr", lr)
            for epoch in (1, 2):
                torch.save(
                    {"model_state_dict": state_dict(10 * i + epoch, BASE), "epoch": epoch}, out / f"c_{epoch}.pt"
                )
                mlflow.log_metric("loss", epoch / 10 + i, step=epoch)
                mlflow.log_artifact(str(out / f"c_{epoch}.pt"))
        if i:  # an old one that was cleaned away; the tracker has it still
            (out / "c_1.pt").unlink()
    ingest(catalogue, tmp_path)
    found = [(c.epoch, c.metrics, c.hyperparameters) for c in catalogue.checkpoints()]
    expected = [(e, {"loss": e / 10 + i}, {"lr": (0.1, 0.01)[i]}) for i in range(2) for e in (1, 2)]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert len(catalogue.runs()) == 2


def test_without_a_tracker_folders_with_the_same_files_are_runs_of_their_own(catalogue, tmp_path, save):
    save(tmp_path / "run" / "epoch_1.pt", 1)
    save(tmp_path / "run" / "epoch_2.pt", 2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    ingest(catalogue, tmp_path)
    assert [(c.run, c.epoch) for c in catalogue.checkpoints()] == [("copy", 1), ("copy", 2), ("run", 1), ("run", 2)]


def test_copied_runs_are_distinguished_from_runs_of_a_common_start(catalogue, tmp_path, save):
    for run in "abc":
        (tmp_path / "runs" / run).mkdir(parents=True)
        for epoch in (1, 2):
            save(tmp_path / "runs" / run / f"epoch_{epoch}.pt", epoch, weights=state_dict(ord(run) + epoch, BASE))
    start = save(tmp_path / "start.pt", 0)
    for run in "ab":
        shutil.copy(start, tmp_path / "runs" / run / "epoch_0.pt")
    ingest(catalogue, tmp_path / "runs")
    assert copied_runs(catalogue.checkpoints()) == ([], 1)
    shutil.copytree(tmp_path / "runs" / "b", tmp_path / "kept" / "best of all")
    (tmp_path / "kept" / "a part").mkdir()
    shutil.copy(tmp_path / "runs" / "c" / "epoch_2.pt", tmp_path / "kept" / "a part")
    ingest(catalogue, tmp_path / "kept")
    copies, shared = copied_runs(catalogue.checkpoints())
    assert copies == [CopiedRun("a part", "c", 1), CopiedRun("best of all", "b", 3)]
    assert shared == 1
