"""`verify`: every catalogued file is what it was when it was read, or is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.ingestion.verification import verify


def flip(path: Path) -> None:
    """Change one bit in the middle and set the time back: an ingest sees nothing."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_files_that_are_what_they_were_are_intact(catalogue, runs):
    (runs / "one" / "alias.pt").write_bytes((runs / "one" / "epoch_001.pt").read_bytes())
    (runs / "one" / "broken.pt").write_text("no")
    ingest(catalogue, runs)
    calls: list[tuple[int, int]] = []
    report = verify(catalogue, progress=lambda done, total: calls.append((done, total)))
    assert (report.checked, report.intact, report.failed) == (5, 5, [])
    assert calls == [(n, 5) for n in range(1, 6)]


def test_one_bit_is_noticed_though_size_and_time_are_the_same(catalogue, runs):
    ingest(catalogue, runs)
    flip(runs / "two" / "epoch_002.pt")
    assert ingest(catalogue, runs).unchanged == 4
    report = verify(catalogue)
    assert (report.checked, report.intact) == (4, 3)
    (failed,) = report.failed
    assert failed.path == str(runs / "two" / "epoch_002.pt")
    assert "changed" in failed.reason


def test_a_vanished_file_and_a_pipe_in_its_place_are_named(catalogue, runs):
    ingest(catalogue, runs)
    (runs / "one" / "epoch_001.pt").unlink()
    (runs / "one" / "epoch_002.pt").unlink()
    os.mkfifo(runs / "one" / "epoch_002.pt")
    reasons = {Path(f.path).name: f.reason for f in verify(catalogue).failed}
    assert reasons["epoch_001.pt"].startswith("vanished")
    assert reasons["epoch_002.pt"] == "a named pipe, not a file"


def test_only_the_folders_asked_for_are_looked_at(catalogue, runs):
    ingest(catalogue, runs)
    flip(runs / "two" / "epoch_002.pt")
    assert verify(catalogue, runs / "one").failed == []
    assert verify(catalogue, [runs / "one", runs / "two"]).checked == 4


def test_a_base_that_runs_declare_is_checked_though_it_is_no_run(catalogue, tmp_path, save):
    weights = {"w": torch.eye(4)}
    save(tmp_path / "base.pt", 0, weights=weights)
    save(tmp_path / "runs" / "a.pt", 1, weights=weights, init_from=str(tmp_path / "base.pt"))
    ingest(catalogue, tmp_path / "runs")
    flip(tmp_path / "base.pt")
    assert [f.path for f in verify(catalogue).failed] == [str(tmp_path / "base.pt")]


@pytest.mark.parametrize("jobs", [1, 3])
def test_verify_changes_nothing(catalogue, runs, jobs):
    ingest(catalogue, runs)
    (runs / "one" / "epoch_001.pt").unlink()
    before = (catalogue.checkpoints(), catalogue.failures(), catalogue.lineages())
    verify(catalogue, jobs=jobs)
    assert (catalogue.checkpoints(), catalogue.failures(), catalogue.lineages()) == before
