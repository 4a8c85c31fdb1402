"""A hostile file beside a checkpoint is named or read as data; the checkpoint goes in, and nothing runs."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest

from .sides import FAILURES, METADATA, write


def ingested(tmp_path: Path, files: dict[str, tuple[str, bytes]]):
    """A run with one checkpoint for each file; what the catalogue says then, by the name of the run."""
    sides = {}
    for i, (what, (name, content)) in enumerate(files.items()):
        run = tmp_path / "runs" / what
        # a Trainer's state counts beside a model of that name, everything else beside any
        sides[what] = write(run, name, content)
        generator = torch.Generator().manual_seed(i)
        if name == "trainer_state.json":
            from safetensors.torch import save_file

            save_file({"w": torch.randn(3, 3, generator=generator)}, run / "model.safetensors")
        else:
            torch.save({"model": {"w": torch.randn(3, 3, generator=generator)}, "epoch": 1}, run / "epoch_1.pt")
        os.utime(sides[what], (1_700_000_000, 1_700_000_000))
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        report = ingest(catalogue, tmp_path / "runs")
        again = ingest(catalogue, tmp_path / "runs")
        assert (again.added, again.refreshed_runs, again.side_file_failures) == (0, 0, report.side_file_failures)
        assert (report.added, report.failed) == (len(files), [])
        return report, sides, {r.name: r.hyperparameters for r in catalogue.runs()}


def test_a_file_that_cannot_be_read_is_named_and_its_checkpoint_goes_in(tmp_path, canary):
    report, sides, _ = ingested(tmp_path, {what: (name, content) for what, (name, content, _) in FAILURES.items()})
    reasons = {f.path: f.reason for f in report.side_file_failures}
    for what, (_, _, part) in FAILURES.items():
        path = str(sides[what])
        assert part in reasons.pop(path, "nothing was said"), what
    assert reasons == {}
    assert not [f for f in report.side_file_failures if "\n" in f.reason or "the process that read it" in f.reason]
    assert not [f for f in report.side_file_failures if "took longer" in f.reason]
    assert not canary.exists()


def test_what_is_odd_but_data_is_read_as_data(tmp_path, canary):
    report, _, stored = ingested(tmp_path, {what: (name, content) for what, (name, content, _) in METADATA.items()})
    assert report.side_file_failures == []
    for what, (_, _, expected) in METADATA.items():
        assert {k: stored[what].get(k) for k in expected} == expected, what
    assert all(len(str(v)) <= 5_000 for values in stored.values() for v in values.values())
    assert not canary.exists()


def test_a_side_file_of_20_gb_a_pipe_and_a_loop_cost_nothing(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"model": {"w": torch.eye(3)}}, run / "a.pt")
    with (run / "config.yaml").open("wb") as file:
        file.truncate(20 * 10**9)
    os.mkfifo(run / "metrics.csv")
    (run / "hparams.yaml").symlink_to("hparams.yaml")
    (run / "args.json").symlink_to("/dev/zero")
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        report = ingest(catalogue, run)
    assert (report.added, report.failed) == (1, [])
    assert [(Path(f.path).name, f.reason) for f in report.side_file_failures] == [
        ("config.yaml", "20,000,000,000 bytes, more than the 1,048,576 that are read of such a file")
    ]
