"""Ingest: what goes in, what happens the second time, and what happens to files that change."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from epsopt.studies import surrogate_store
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import HookError, UnreadableCheckpoint, UsageError
from epsopt.zoo.fingerprints.fingerprint import fingerprint
from epsopt.zoo.ingestion import ingest as ingest_module
from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.ingestion.unusable_embeddings import Embedded, unusable, usual_shape
from epsopt.zoo.layouts.open_checkpoint import load_weights
from epsopt.zoo.reading import source
from epsopt.zoo.reading.source import ChangedWhileReadError, Limits, open_source


def contents(catalogue: Catalogue) -> list[str]:
    with sqlite3.connect(catalogue.url.removeprefix("sqlite:///")) as connection:
        return list(connection.iterdump())


@pytest.fixture
def closed_reader(monkeypatch):
    """From here on, reading any checkpoint is an error."""

    def close():
        def refuse(*_args, **_kwargs):
            raise AssertionError("a checkpoint was opened")

        monkeypatch.setattr(ingest_module, "read_files", refuse)

    return close


def test_a_folder_of_runs_goes_in_with_metrics_epochs_and_hyperparameters(catalogue, runs):
    calls = []
    report = ingest(catalogue, runs, progress=lambda done, total: calls.append((done, total)))
    assert (report.found, report.added, report.runs, report.failed) == (4, 4, 2, [])
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [(r.name, r.hyperparameters["lr"]) for r in catalogue.runs()] == [("one", 0.1), ("two", 0.2)]
    assert [(c.run, c.epoch) for c in catalogue.checkpoints()] == [
        ("one", 11),
        ("one", 12),
        ("two", 21),
        ("two", 22),
    ]
    first = catalogue.checkpoints()[0]
    assert first.metrics == {"coverage": 0.11, "dist_corr": 0.5}
    assert first.hyperparameters == {"lr": 0.1}
    assert Path(first.path).is_file()
    assert catalogue.metric_names() == ["coverage", "dist_corr"]


def test_the_kept_fingerprint_is_that_of_the_weights_against_the_lineages_reference(catalogue, runs):
    ingest(catalogue, runs)
    checkpoints = catalogue.checkpoints()
    (lineage,) = catalogue.lineages()
    reference = load_weights(lineage.reference_path)
    for checkpoint, kept in zip(checkpoints, catalogue.fingerprints([c.id for c in checkpoints]), strict=True):
        own = checkpoint.path == lineage.reference_path
        expected = fingerprint(load_weights(checkpoint.path).items(), None if own else reference.get)
        assert np.array_equal(kept.features, expected.features)
        assert np.array_equal(kept.sketch, expected.sketch)
        assert (kept.signature, kept.n_parameters) == (checkpoint.signature, checkpoint.n_parameters)


def test_a_second_ingest_opens_no_checkpoint_and_changes_nothing(catalogue, runs, closed_reader):
    (runs / "one" / "broken.pt").write_text("no")
    ingest(catalogue, runs)
    before = contents(catalogue)
    closed_reader()
    report = ingest(catalogue, runs)
    assert (report.added, report.unchanged, report.aliases, report.still_writing) == (0, 4, 0, 0)
    assert [Path(f.path).name for f in report.failed] == ["broken.pt"]
    assert contents(catalogue) == before


def test_identical_content_under_another_path_is_an_alias(catalogue, runs, closed_reader):
    shutil.copy(runs / "one" / "epoch_002.pt", runs / "one" / "last.pt")
    (runs / "two" / "best.pt").symlink_to(runs / "two" / "epoch_001.pt")
    report = ingest(catalogue, runs)
    assert (report.found, report.added, report.aliases) == (6, 4, 2)
    assert len(catalogue.checkpoints()) == 4
    assert set(catalogue.aliases()) == {str(runs / "one" / "last.pt"), str(runs / "two" / "best.pt")}
    closed_reader()
    assert ingest(catalogue, runs).unchanged == 6


def test_a_file_whose_content_changed_is_updated(catalogue, runs, save):
    ingest(catalogue, runs)
    save(runs / "one" / "epoch_001.pt", 50, lr=0.9)
    report = ingest(catalogue, runs)
    assert (report.added, report.unchanged) == (1, 3)
    changed = next(c for c in catalogue.checkpoints() if c.path.endswith("one/epoch_001.pt"))
    assert (changed.epoch, changed.metrics["coverage"], changed.hyperparameters["lr"]) == (50, 0.5, 0.9)
    assert len(catalogue.checkpoints()) == 4


def test_when_last_pt_moves_on_its_former_content_lives_on_under_its_other_name(catalogue, runs, save):
    folder = runs / "one"
    shutil.copy(folder / "epoch_001.pt", folder / "a_last.pt")
    ingest(catalogue, runs)
    assert catalogue.aliases() == {str(folder / "a_last.pt"): str(folder / "epoch_001.pt")}
    assert catalogue.lineages()[0].reference_path == str(folder / "epoch_001.pt")
    save(folder / "a_last.pt", 60)
    ingest(catalogue, runs)
    assert {Path(c.path).name for c in catalogue.checkpoints() if c.run == "one"} == {
        "a_last.pt",
        "epoch_001.pt",
        "epoch_002.pt",
    }
    assert catalogue.aliases() == {}
    (lineage,) = catalogue.lineages()
    assert lineage.reference_path == str(folder / "epoch_001.pt")


def test_a_touched_file_is_read_again_but_nothing_is_added(catalogue, runs):
    ingest(catalogue, runs)
    before = catalogue.checkpoints()
    os.utime(runs / "one" / "epoch_001.pt", ns=(1, 1))
    report = ingest(catalogue, runs)
    assert (report.added, report.aliases, report.unchanged) == (0, 0, 4)
    assert catalogue.checkpoints() == before


def test_a_folder_that_moved_keeps_its_checkpoints_and_lineage(catalogue, runs):
    ingest(catalogue, runs)
    ids = [c.id for c in catalogue.checkpoints()]
    moved = runs.rename(runs.with_name("archive"))
    report = ingest(catalogue, moved)
    assert (report.added, report.aliases) == (0, 0)
    assert [c.id for c in catalogue.checkpoints()] == ids
    assert all(Path(c.path).is_file() for c in catalogue.checkpoints())
    assert all(Path(line.reference_path).is_file() for line in catalogue.lineages())
    assert len(catalogue.lineages()) == 1
    assert {r.path for r in catalogue.runs()} == {str(moved / "one"), str(moved / "two")}


def test_a_failure_is_tried_again_when_the_file_changed_and_goes_when_it_succeeds(catalogue, runs, save):
    broken = runs / "one" / "epoch_009.pt"
    broken.write_bytes(b"PK\x03\x04 half")
    assert "truncated" in ingest(catalogue, runs).failed[0].reason
    save(broken, 9)
    assert ingest(catalogue, runs).added == 1
    assert catalogue.failures() == []


def test_a_failure_goes_with_its_file_but_only_where_we_looked(catalogue, runs, tmp_path):
    (runs / "one" / "broken.pt").write_text("no")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "broken.pt").write_text("no")
    ingest(catalogue, [runs, elsewhere])
    (runs / "one" / "broken.pt").unlink()
    (elsewhere / "broken.pt").unlink()
    ingest(catalogue, runs)
    assert [f.path for f in catalogue.failures()] == [str(elsewhere / "broken.pt")]


def test_a_checkpoint_that_becomes_unreadable_leaves_the_list_and_is_a_failure(catalogue, runs):
    ingest(catalogue, runs)
    (runs / "one" / "epoch_001.pt").write_text("damaged")
    report = ingest(catalogue, runs)
    assert [Path(f.path).name for f in report.failed] == ["epoch_001.pt"]
    assert len(catalogue.checkpoints()) == 3


def test_the_hyperparameters_of_a_run_are_those_of_its_newest_checkpoint(catalogue, tmp_path, save):
    save(tmp_path / "run" / "a.pt", 9, lr=0.9)
    save(tmp_path / "run" / "b.pt", 3, lr=0.3)
    ingest(catalogue, tmp_path / "run")
    assert [(r.name, r.hyperparameters) for r in catalogue.runs()] == [("run", {"lr": 0.9})]


def test_a_folder_that_does_not_exist_is_a_usage_error(catalogue, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        ingest(catalogue, tmp_path / "nowhere")


def test_an_empty_folder_is_no_error(catalogue, tmp_path):
    (tmp_path / "runs").mkdir()
    assert ingest(catalogue, tmp_path / "runs").found == 0


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, save):
    path = save(tmp_path / "a.pt", 1)
    with pytest.raises(ChangedWhileReadError), open_source(path, Limits()) as opened:  # noqa: PT012
        with path.open("ab") as writer:
            writer.write(b"more")
        opened.read(0, 4)


def test_a_file_that_is_being_written_waits_and_is_taken_by_the_next_pass(catalogue, tmp_path, save):
    """A writer appends every millisecond: whichever moment the reader comes, the file changes under it."""
    import threading

    whole = save(tmp_path / "whole.pt", 1).read_bytes()
    growing = tmp_path / "runs" / "epoch_1.pt"
    growing.parent.mkdir()
    growing.write_bytes(whole[:100])
    stop = threading.Event()

    def write() -> None:
        with growing.open("ab", buffering=0) as file:
            while not stop.wait(0.001):
                file.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        report = ingest(catalogue, growing.parent)
    finally:
        stop.set()
        writer.join()
    assert (report.still_writing, report.failed, catalogue.checkpoints(), catalogue.failures()) == (1, [], [], [])
    growing.write_bytes(whole)
    assert ingest(catalogue, growing.parent).added == 1


HOOKS = """
import numpy, torch
def embed(state):
    return state["a.weight"][:4, :3] * 2
def fails(state):
    raise KeyError("no such layer")
def flat(state):
    return [1.0, 2.0]
def odd(state):
    place = ORDER.index(round(float(state["a.weight"][0, 0]), 4))
    return numpy.full((4, 3 - (place == 2)), numpy.nan if place == 1 else 1.0)
"""


@pytest.fixture
def hooks(tmp_path, monkeypatch):
    """A module of hooks in a folder of its own, under a name of its own: children keep what they imported."""
    name = f"hooks_{time.monotonic_ns()}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text(HOOKS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "code")])
    monkeypatch.setattr("epsopt.zoo.reading.pool.SHARED", {})  # children that know this path
    return name


def test_the_embed_hook_gives_embeddings_and_is_not_run_twice(catalogue, runs, hooks, closed_reader):
    ingest(catalogue, runs)
    ids = [c.id for c in catalogue.checkpoints()]
    assert catalogue.embeddings(ids) == [None] * 4
    report = ingest(catalogue, runs, embed=f"{hooks}:embed")
    assert (report.added, report.unchanged) == (0, 4)
    for checkpoint, embedding in zip(catalogue.checkpoints(), catalogue.embeddings(ids), strict=True):
        assert np.array_equal(embedding, load_weights(checkpoint.path)["a.weight"][:4, :3].numpy() * 2)
    read = read_fingerprints([Path(catalogue.checkpoints()[0].path)], catalogue, embed=f"{hooks}:embed")
    assert np.array_equal(read[0].embedding, catalogue.embeddings(ids)[0])
    closed_reader()
    assert ingest(catalogue, runs, embed=f"{hooks}:embed").unchanged == 4


def test_embeddings_that_count_as_none_are_said_once_a_reason(catalogue, runs, hooks, tmp_path):
    def first_weight(path):
        return round(float(load_weights(path)["a.weight"][0, 0]), 4)

    files = sorted(map(str, runs.glob("*/*.pt")))
    module = tmp_path / "code" / f"{hooks}.py"
    module.write_text(f"{HOOKS}\nORDER = {list(map(first_weight, files))}")
    report = ingest(catalogue, runs, embed=f"{hooks}:odd")
    assert report.failed == []
    infinite, other = report.side_file_failures
    assert (infinite.path, other.path) == (files[1], files[2])
    again = "counts as none: mend the hook and give it another name under [hooks], then 'epsopt ingest' embeds all"
    assert f"its embedding holds NaN or infinite numbers, and {again}" in infinite.reason
    assert f"its embedding has the shape (4, 2) where most have (4, 3), and {again}" in other.reason
    _, doubts = surrogate_store.training_set_of(catalogue, None)
    assert doubts == (f"{infinite.path}: {infinite.reason}", f"{other.path}: {other.reason}"), "a fit says it again"


def test_checkpoints_with_unusable_embeddings_are_counted() -> None:
    found = [Embedded("a", (4, 3), finite=True)] * 3 + [Embedded("b", (4, 3), finite=False)] * 2
    found += [Embedded("c", (5, 3), finite=True), Embedded("d", (9,), finite=True)]
    assert usual_shape(e.shape for e in found) == (4, 3)
    reasons = unusable(found, (4, 3))
    assert [path for path, _ in reasons] == ["b", "c", "d"]
    assert "numbers (so does 1 other checkpoint), and" in reasons[0][1]


def test_a_checkpoint_that_cannot_be_read_any_more_is_named_as_lost_once(catalogue, runs):
    one, copied = runs / "one" / "epoch_001.pt", runs / "two" / "epoch_022.pt"
    shutil.copy(runs / "two" / "epoch_002.pt", copied)
    assert ingest(catalogue, runs).lost == []
    whole = one.read_bytes()
    for path in (one, copied):
        path.write_bytes(path.read_bytes()[:100])
    report = ingest(catalogue, runs)
    assert sorted(f.path for f in report.failed) == [str(one), str(copied)]
    assert report.lost == [str(one)], "the other one is still in, of another file"
    assert len(catalogue.checkpoints()) == 3
    assert ingest(catalogue, runs).lost == []
    one.write_bytes(whole)
    assert ingest(catalogue, runs).added == 1
    (runs / "one" / "epoch_003.pt").write_bytes(b"broken from the start")
    assert ingest(catalogue, runs).lost == []


def test_a_hook_that_fails_is_one_error_with_path_hook_and_exception(catalogue, runs, hooks):
    first = runs / "one" / "epoch_001.pt"
    with pytest.raises(HookError, match=rf"'{hooks}:fails' failed on .*one/epoch_001.pt: KeyError: 'no such layer'"):
        ingest(catalogue, first, embed=f"{hooks}:fails")
    with pytest.raises(HookError, match=r"returned shape \(2,\).*expected \(anchors, dimensions\)"):
        ingest(catalogue, first, embed=f"{hooks}:flat")
    with pytest.raises(HookError, match="cannot be imported"):
        ingest(catalogue, first, embed="no_such_package:embed")
    with pytest.raises(HookError, match=rf"the module {hooks} has no 'failss', did you mean fails\?"):
        ingest(catalogue, first, embed=f"{hooks}:failss")
    with pytest.raises(HookError, match=rf"the module {hooks} has no 'q', expected one of its functions"):
        ingest(catalogue, first, embed=f"{hooks}:q")
    with pytest.raises(HookError, match="wrong form"):
        ingest(catalogue, first, embed="just_a_name")
    assert ingest(catalogue, runs).added == 4


def test_a_source_that_cannot_be_opened_says_why(tmp_path, monkeypatch, save):
    path = save(tmp_path / "a.pt", 1)

    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(source.os, "open", refuse)
    with pytest.raises(UnreadableCheckpoint, match="no permission to read it"), open_source(path, Limits()):
        pass


def test_weights_that_are_not_finite_still_get_a_finite_fingerprint(catalogue, tmp_path):
    torch.save(
        {"model": {"w": torch.full((4, 4), float("nan")), "v": torch.full((3, 3), float("inf"))}},
        tmp_path / "a.pt",
    )
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed) == (1, [])
    (kept,) = catalogue.fingerprints([catalogue.checkpoints()[0].id])
    assert np.isfinite(kept.features).all()


def test_runs_that_name_no_base_are_compared_with_the_one_that_the_project_names(tmp_path, save):
    """And anew when it names another one, or none."""
    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    base = save(tmp_path / "base" / "pretrained.pt", 50)
    save(tmp_path / "runs" / "a" / "epoch_1.pt", 1)
    save(tmp_path / "runs" / "a" / "epoch_2.pt", 2)

    def references(**how):
        with Catalogue(url, **how) as catalogue:
            ingest(catalogue, tmp_path / "runs")
            used = {c.lineage_id for c in catalogue.checkpoints()}
            assert len(catalogue.checkpoints()) == 2
            return {(Path(k.reference_path).name, k.declared) for k in catalogue.lineages() if k.id in used}

    assert references() == {("epoch_1.pt", False)}
    assert references(base=str(base)) == {("pretrained.pt", True)}
    save(tmp_path / "runs" / "b" / "epoch_1.pt", 3)
    with Catalogue(url) as catalogue:  # whoever names none takes what the last ingest took
        report = ingest(catalogue, tmp_path / "runs")
        assert (report.added, report.unchanged) == (1, 2)
        assert len({c.lineage_id for c in catalogue.checkpoints()}) == 1
