"""What every layout must do, on folders that the real frameworks wrote (examples.py); a new one adds a writer there."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from epsopt.studies.project.scan_runs import survey
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion import ingest as ingestion
from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.layouts.registry import BY_NAME

from ...sweeps import sweep  # noqa: TID252
from .examples import WRITERS, Example, written


@pytest.fixture(params=WRITERS)
def example(request, tmp_path_factory) -> Example:
    """A folder that is not to be written to."""
    return written(request.param, tmp_path_factory)


@pytest.fixture
def mine(example, tmp_path) -> Example:
    """A copy of it, old enough not to count as being written."""
    copied = tmp_path / example.folder.name
    shutil.copytree(example.folder, copied, symlinks=True)
    for path in copied.rglob("*"):
        if path.is_file():
            os.utime(path, (1_700_000_000, 1_700_000_000))
    return replace(example, folder=copied, sides=tuple(copied / s.relative_to(example.folder) for s in example.sides))


def dump(catalogue: Catalogue) -> list[str]:
    with sqlite3.connect(catalogue.url.removeprefix("sqlite:///")) as connection:
        return list(connection.iterdump())


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(p.relative_to(folder)): (
            p.lstat().st_mtime_ns,
            hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "",
        )
        for p in sorted(folder.rglob("*"))
    }


def measured(catalogue: Catalogue) -> dict[tuple[str, int | None], dict[str, float | None]]:
    return {(c.run, c.epoch): c.metrics for c in catalogue.checkpoints()}


def check_metrics(found, expected) -> None:
    for place, metrics in expected.items():
        assert place in found, (place, list(found))
        for name, value in metrics.items():
            assert found[place].get(name) == pytest.approx(value), (place, name)


def test_the_layout_is_recognised_and_named(example, catalogue):
    report = ingest(catalogue, example.folder)
    assert report.layouts == example.layouts
    assert (report.failed, report.side_file_failures) == ([], [])
    assert report.runs == sum(example.layouts.values()) == len(catalogue.runs())
    assert report.aliases == example.aliases


def test_runs_have_their_names_and_hyperparameters(example, catalogue):
    ingest(catalogue, example.folder)
    runs = {r.name: r.hyperparameters for r in catalogue.runs()}
    assert set(runs) == set(example.hyperparameters)
    for name, wanted in example.hyperparameters.items():
        assert {k: runs[name].get(k) for k in wanted} == wanted


def test_each_checkpoint_has_the_metrics_that_were_logged_on_it(example, catalogue):
    ingest(catalogue, example.folder)
    check_metrics(measured(catalogue), example.metrics)


def test_nothing_is_written_into_the_folder(mine, catalogue):
    before = tree(mine.folder)
    ingest(catalogue, mine.folder)
    assert tree(mine.folder) == before


def test_a_second_ingest_opens_nothing_and_changes_nothing(mine, catalogue, monkeypatch):
    ingest(catalogue, mine.folder)
    before = dump(catalogue)
    monkeypatch.setattr(ingestion, "shared_pool", lambda *_: None)
    report = ingest(catalogue, mine.folder)
    assert (report.added, report.aliases, report.refreshed_runs) == (0, 0, 0)
    assert report.layouts == mine.layouts
    assert dump(catalogue) == before


def test_what_the_framework_adds_later_comes_in_without_the_weights_being_read_again(mine, catalogue, monkeypatch):
    if mine.grow is None:
        pytest.skip("nothing of it grows")
    ingest(catalogue, mine.folder)
    monkeypatch.setattr(ingestion, "read_files", lambda *_a, **_k: pytest.fail("weights were read"))
    expected = mine.grow(mine.folder)
    assert ingest(catalogue, mine.folder).refreshed_runs >= 1
    check_metrics(measured(catalogue), expected)


@pytest.mark.parametrize("damage", sweep(["garbage", "half", "gone"]))
def test_a_damaged_side_file_is_named_and_loses_no_checkpoint(mine, catalogue, damage):
    whole = len(ingest_into(catalogue, mine))
    for side in mine.sides:
        content = side.read_bytes()
        if damage == "gone":
            side.unlink()
        else:
            side.write_bytes(b"\xff\xfe{[\0: garbage" if damage == "garbage" else content[: len(content) // 2])
            os.utime(side, (1_700_000_001, 1_700_000_001))
        report = ingest(catalogue, mine.folder)
        assert report.failed == []
        assert len(catalogue.checkpoints()) == whole
        if damage == "garbage":
            assert {f.path for f in report.side_file_failures} == {str(side)}, side
            assert all(f.reason and "\n" not in f.reason for f in report.side_file_failures)
            assert catalogue.side_file_failures() == report.side_file_failures
        side.write_bytes(content)
        os.utime(side, (1_700_000_000, 1_700_000_000))
    assert ingest(catalogue, mine.folder).side_file_failures == []
    check_metrics(measured(catalogue), mine.metrics)


def ingest_into(catalogue: Catalogue, example: Example) -> list:
    ingest(catalogue, example.folder)
    return catalogue.checkpoints()


def test_a_file_that_is_only_looked_at_says_the_same(example, catalogue):
    checkpoints = ingest_into(catalogue, example)
    read = read_fingerprints([Path(c.path) for c in checkpoints], catalogue)
    for checkpoint, contents in zip(checkpoints, read, strict=True):
        assert contents.metrics == checkpoint.metrics
        assert contents.hyperparameters == checkpoint.hyperparameters


def test_init_sees_the_same_metrics_and_hyperparameters(example, catalogue):
    checkpoints = ingest_into(catalogue, example)
    seen = survey(example.folder)
    assert seen.n_runs == sum(example.layouts.values())
    assert set(seen.metrics) <= set(catalogue.metric_names())
    assert {n for metrics in example.metrics.values() for n in metrics} <= set(seen.metrics)
    found = [dict(sorted(h.items())) for h in seen.hyperparameters]
    assert all(dict(sorted(c.hyperparameters.items())) in found for c in checkpoints)


def test_a_folder_inside_a_run_leads_to_the_same_run(example, catalogue):
    checkpoints = ingest_into(catalogue, example)
    runs = {(c.path, c.run) for c in checkpoints}
    for folder in sorted({Path(c.path).parent for c in checkpoints}):
        assert ingest(catalogue, folder).added == 0
    assert {(c.path, c.run) for c in catalogue.checkpoints()} == runs


def test_a_moved_folder_keeps_its_checkpoints(mine, catalogue):
    ids = sorted(c.id for c in ingest_into(catalogue, mine))
    moved = mine.folder.rename(mine.folder.with_name("archive"))
    report = ingest(catalogue, moved)
    assert (report.added, report.layouts) == (0, mine.layouts)
    assert sorted(c.id for c in catalogue.checkpoints()) == ids
    check_metrics(measured(catalogue), mine.metrics)


def test_there_is_an_example_for_every_layout():
    assert {name.partition("-")[0] for name in WRITERS} >= {name.partition("-")[0] for name in BY_NAME}
