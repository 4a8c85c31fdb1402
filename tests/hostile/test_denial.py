"""Folders, links, databases and tables that would keep a reader busy for ever: each is bounded, and said."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess

import pytest
import torch

from epsopt.studies.project.scan_runs import survey
from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.layouts.scan import DEEPEST, scan
from epsopt.zoo.layouts.side_file_reader import SideError
from epsopt.zoo.layouts.sqlite import bounded_database
from epsopt.zoo.reading.source import identity_at
from epsopt.zoo.side_files.worker import MOST_METRICS

from .project import call


def checkpoint(path, epoch=1, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(sum(map(ord, path.name)) + epoch)
    torch.save({"model": {"w": torch.randn(4, 3)}, "epoch": epoch, "config": {"lr": 0.1}, **more}, path)
    return path


@pytest.fixture
def catalogue(tmp_path):
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as opened:
        yield opened


@pytest.fixture
def deep(tmp_path):
    """A place for folders within folders: pytest itself could not remove them, as Python's rmtree recurses."""
    yield tmp_path / "runs"
    subprocess.run(["rm", "-rf", tmp_path / "runs"], check=True)


def dig(folder, depth):
    """Make folders within folders, deeper than one path can name."""
    start = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=start)
            below = os.open("d", os.O_RDONLY, dir_fd=start)
            os.close(start)
            start = below
    finally:
        os.close(start)


def test_folders_deeper_than_the_stack_are_named_and_the_rest_is_read(deep, tmp_path, catalogue):
    runs = deep
    checkpoint(runs / "a" / "epoch_1.pt")
    dig(runs, 1500)
    (failure,) = scan(runs).failures
    assert f"more than {DEEPEST} folders deep" in failure.reason
    assert survey(runs).n_checkpoints == 1
    report = ingest(catalogue, runs, jobs=1)
    assert (report.added, [f.reason for f in report.failed]) == (1, [failure.reason])
    result = call(tmp_path, "init", "runs")
    assert result.status == 0, result.err


def test_what_lies_as_deep_as_is_allowed_is_read(tmp_path):
    checkpoint(tmp_path.joinpath(*["d"] * DEEPEST, "epoch_1.pt"))
    assert len(scan(tmp_path).files) == 1


def test_links_that_lead_elsewhere_are_named_and_followed_only_when_asked(tmp_path, catalogue):
    runs = tmp_path / "runs"
    checkpoint(runs / "a" / "epoch_1.pt")
    checkpoint(tmp_path / "elsewhere" / "b" / "epoch_1.pt", 2)
    (runs / "linked").symlink_to(tmp_path / "elsewhere")
    (runs / "a" / "best.pt").symlink_to(tmp_path / "elsewhere" / "b" / "epoch_1.pt")
    (runs / "latest").symlink_to(runs / "a")
    (runs / "a" / "last.pt").symlink_to("epoch_1.pt")
    seen = scan(runs)
    assert sorted(seen.outside_links) == [str(runs / "a" / "best.pt"), str(runs / "linked")]
    assert {f.path.name for f in seen.files} == {"epoch_1.pt", "last.pt"}, "links inside are fine"
    assert ingest(catalogue, runs, jobs=1).outside_links == sorted(seen.outside_links)
    followed = scan(runs, follow_links=True)
    assert followed.outside_links == []
    assert {f.path.name for f in followed.files} >= {"epoch_1.pt", "last.pt", "best.pt"}
    assert len(followed.files) == 4


def test_a_link_to_the_whole_disk_is_not_walked(tmp_path):
    checkpoint(tmp_path / "runs" / "a" / "epoch_1.pt")
    (tmp_path / "runs" / "disk").symlink_to("/proc/self/root")
    (tmp_path / "runs" / "up").symlink_to("..")
    seen = scan(tmp_path / "runs")
    assert len(seen.files) == 1
    assert len(seen.outside_links) == 2


def test_a_folder_of_runs_that_is_a_link_itself_is_what_was_named(tmp_path):
    checkpoint(tmp_path / "data" / "a" / "epoch_1.pt")
    (tmp_path / "runs").symlink_to(tmp_path / "data")
    seen = scan(tmp_path / "runs")
    assert (len(seen.files), seen.outside_links) == (1, [])
    assert seen.files[0].run_name == "a"


def test_links_that_lead_elsewhere_are_said_and_a_project_may_follow_them(tmp_path):
    checkpoint(tmp_path / "runs" / "a" / "epoch_1.pt")
    checkpoint(tmp_path / "elsewhere" / "b" / "epoch_1.pt", 2)
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    result = call(tmp_path, "init", "runs")
    assert "1 link leads out of the folder and was not followed" in result.out
    assert "--follow-links" in call(tmp_path, "ingest").out
    assert call(tmp_path, "init", "runs", "--follow-links", "--force").status == 0
    result = call(tmp_path, "ingest")
    assert "holds 2 checkpoints" in " ".join(result.out.split())
    assert "--follow-links" not in result.out


def test_side_files_that_are_links_to_elsewhere_are_not_read(tmp_path, catalogue):
    secret = tmp_path / "secret.csv"
    secret.write_text("epoch,step,password\n1,0,42\n")
    run = tmp_path / "runs" / "lightning_logs" / "version_0"
    file = run / "checkpoints" / "epoch=1-step=1.ckpt"
    file.parent.mkdir(parents=True)
    content = {"state_dict": {"w": torch.randn(4, 3)}, "epoch": 1, "global_step": 1, "pytorch-lightning_version": "2.5"}
    torch.save(content, file)
    (run / "metrics.csv").symlink_to(secret)
    ingest(catalogue, tmp_path / "runs", jobs=1)
    assert "password" not in catalogue.metric_names()
    ingest(catalogue, tmp_path / "runs", jobs=1, follow_links=True)
    assert "password" in catalogue.metric_names()


SLOW = """
CREATE TABLE numbers AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT i FROM n;
CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);
CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);
"""
VIEW = (
    SLOW
    + """
CREATE TABLE metrics (key TEXT, value REAL, step INT, timestamp INT, is_nan INT, run_uuid TEXT);
CREATE VIEW runs AS SELECT 'x' AS run_uuid, a.i AS artifact_uri FROM numbers a, numbers b, numbers c, numbers d;
"""
)
GENERATED = (
    SLOW
    + """
CREATE TABLE metrics (key TEXT, value REAL, step INT, timestamp INT, is_nan INT, run_uuid TEXT);
CREATE TABLE runs (run_uuid TEXT, artifact_uri TEXT);
INSERT INTO runs SELECT a.i, b.i FROM numbers a, numbers b LIMIT 20000;
"""
)


def database(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def test_a_view_in_place_of_a_table_is_refused_before_it_is_asked(tmp_path, catalogue):
    runs = tmp_path / "runs"
    for i in range(5):
        checkpoint(runs / f"r{i}" / "epoch_1.pt", i)
    database(runs / "mlflow.db", VIEW)
    report = ingest(catalogue, runs, jobs=1)
    assert report.added == 5
    assert {f.reason for f in report.side_file_failures} == {"not a database that MLflow wrote: runs is a view"}


def test_a_query_ends_when_it_has_done_more_work_than_an_honest_one_needs(tmp_path):
    file = database(tmp_path / "mlflow.db", GENERATED)
    identity = identity_at(file)
    endless = "SELECT count(*) FROM runs a, runs b, runs c"
    with (
        pytest.raises(SideError, match="takes more work"),
        bounded_database(str(file), identity, ("runs",), "MLflow", steps=2_000_000) as opened,
    ):
        opened.execute(endless).fetchall()
    asked = []
    with (
        pytest.raises(SideError, match="takes more work"),
        bounded_database(str(file), identity, ("runs",), "MLflow") as opened,
    ):
        asked.append(opened)
    assert asked == [], "the same file is not asked again for the next run"
    file.touch()
    os.utime(file, ns=(1, 1))
    with bounded_database(str(file), identity_at(file), ("runs",), "MLflow") as opened:
        assert opened.execute("SELECT count(*) FROM runs").fetchone() == (20000,)


def test_more_metrics_than_anybody_compares_are_cut_and_said(tmp_path, catalogue):
    run = tmp_path / "runs" / "lightning_logs" / "version_0"
    file = run / "checkpoints" / "epoch=1-step=1.ckpt"
    file.parent.mkdir(parents=True)
    content = {"state_dict": {"w": torch.randn(4, 3)}, "epoch": 1, "global_step": 1, "pytorch-lightning_version": "2.5"}
    torch.save(content, file)
    names = [f"m{i:06d}" for i in range(200_000)]
    lines = [",".join(["epoch", "step", *names]), ",".join(["1", "0", *["0.5"] * len(names)])]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    report = ingest(catalogue, tmp_path / "runs", jobs=1)
    assert report.added == 1
    assert f"the first {MOST_METRICS:,} are read" in report.side_file_failures[0].reason
    assert catalogue.metric_names() == names[:MOST_METRICS]
