"""Logs that lie where no run is: nobody has them, and ingest says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest

ROWS = "epoch,acc\n1,0.5\n2,0.625\n"


def saved(folder: Path, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for epoch in (1, 2):
        weights = {"l.weight": torch.full((3, 3), float(10 * seed + epoch))}
        torch.save({"model": weights, "epoch": epoch}, folder / f"epoch_{epoch}.pt")


def log(folder: Path, name: str = "metrics.csv") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(ROWS)


def said(catalogue, folder: Path) -> list[str]:
    failures = ingest(catalogue, folder).side_file_failures
    assert ingest(catalogue, folder).side_file_failures == failures, "every ingest says so"
    return [f"{Path(f.path).relative_to(folder)} {f.reason}" for f in failures]


def test_logs_in_a_tree_of_their_own_are_named_and_counted(tmp_path, catalogue):
    for i, run in enumerate("ab"):
        saved(tmp_path / "checkpoints" / run, i)
        log(tmp_path / "logs" / run)
    (reason,) = said(catalogue, tmp_path)
    assert reason.startswith("logs/a/metrics.csv belongs to no run that was found (the first of 2 such logs)")
    assert "[runs] table" in reason


def test_a_log_above_a_run_is_named_unless_a_word_says_that_it_is_the_runs(tmp_path, catalogue):
    saved(tmp_path / "a" / "policies", 1)
    saved(tmp_path / "b" / "checkpoints", 2)
    for run in "ab":
        log(tmp_path / run)
    (reason,) = said(catalogue, tmp_path)
    assert reason.startswith("a/metrics.csv belongs to no run that was found: ")
    assert {c.run: c.metrics.get("acc") for c in catalogue.checkpoints() if c.epoch == 1} == {
        "a/policies": None,
        "b": 0.5,
    }


def test_event_files_count_as_logs(tmp_path, catalogue):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    saved(tmp_path / "checkpoints" / "a")
    with tensorboard.SummaryWriter(str(tmp_path / "tb" / "a")) as writer:
        writer.add_scalar("acc", 0.5, 1)
    (reason,) = said(catalogue, tmp_path)
    assert reason.startswith("tb/a/events.out.tfevents.")


def test_what_lies_in_a_run_or_with_a_tracker_is_not_named(tmp_path, catalogue):
    saved(tmp_path / "a")
    log(tmp_path / "a")
    log(tmp_path / "a" / "eval")
    log(tmp_path / "mlruns" / "0")
    assert said(catalogue, tmp_path) == []
