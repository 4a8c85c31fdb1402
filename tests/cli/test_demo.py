"""`epsopt demo`, small but whole: every stage runs for real."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from unittest import mock

import pytest

from epsopt.cli import demo
from epsopt.surrogate import fitting

from .conftest import QUICK, call, check


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("demo")
    with mock.patch.object(fitting, "TrainingConfig", return_value=QUICK):
        return folder, call(folder, "demo", "--runs", "10", "--proposals", "1", "--jobs", "2", "--out", "d")


@pytest.mark.slow
def test_the_demo_trains_searches_proposes_and_says_what_came_of_it(finished) -> None:
    folder, result = finished
    assert result.status == 0, result.err
    for text in ("epsopt search --target-coverage 0.95", "proposal_000: trained", "Hypervolume of the measured front"):
        assert text in result.out
    titles = ("6. train them", "7. merge what was trained", "8. spend some epochs", "9. what came of it")
    stages = [result.out.index(title) for title in titles]
    assert stages == sorted(stages)
    assert "epsopt propose -n 1 --reuse" in result.out
    assert "epsopt work --jobs 2 --learn-after 3 --prune-below 0.1" in result.out
    assert "learning from what came back, in the background" in result.out
    assert "epsopt merge --budget 12" in result.out
    named = [line.split()[-1] for line in result.out.splitlines() if line.strip().endswith(".pt")]
    assert named
    assert all((folder / "d" / path).is_file() for path in named)
    # Paths are never wrapped, nor what a worker tells of a run.
    lines = [line for line in result.out.splitlines() if "/" not in line and not line.startswith("proposal_")]
    assert [line for line in lines if len(line) > 80] == []
    assert "of 12 epochs spent" in result.out


@pytest.mark.slow
def test_a_second_demo_trains_nothing_and_its_document_fits_the_schema(finished) -> None:
    folder = finished[0]
    before = sorted((p, p.stat().st_mtime_ns) for p in (folder / "d" / "runs").rglob("*"))
    document = call(folder, "demo", "--json", "--out", "d").document
    check("demo", document)
    assert document["proposals"][0]["state"] == "complete"
    assert Path(document["proposals"][0]["path"]).is_file()
    merges = document["merges"]
    assert merges["count"] == len(list((folder / "d" / "runs").glob("merged_*/*/*.pt")))
    assert merges["before"] == document["hypervolume"]["after"]
    assert merges["after"] >= merges["before"]
    assert sorted((p, p.stat().st_mtime_ns) for p in (folder / "d" / "runs").rglob("*")) == before


def test_a_demo_of_an_earlier_version_goes_on_with_its_search(project, copy) -> None:
    mine = copy(project)
    file = mine.folder / "epsopt.toml"
    file.write_text(file.read_text().replace('name = "small"', 'name = "demo"'))
    assert mine("search", "--target-coverage", "0.3").status == 0
    with contextlib.chdir(mine.folder):
        (name,) = demo.recorded_searches()
        with contextlib.closing(sqlite3.connect("epsopt.db")) as database, database:
            database.execute("UPDATE studies SET study_name = 'demo/search/0123abcd' WHERE study_name = ?", [name])
        before = demo.recorded_searches()
        assert before == ["demo/search/0123abcd"]
        assert mine("search", "--target-coverage", "0.3").status == 0
        assert demo.searched_study(before, demo.recorded_searches()) == "demo/search/0123abcd", (
            "it is found by what was asked"
        )
        assert mine("search", "--target-coverage", "0.4").status == 0
        assert "0.4" in demo.searched_study(before, demo.recorded_searches())


def test_a_folder_that_cannot_be_made_is_named_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call(tmp_path, "demo", "--out", "file/demo")
    assert result.status == 2
    assert "file/demo: the demo's folder cannot be made: Not a directory: name another --out" in result.err


def test_the_demo_never_touches_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "months.pt").write_text("of work")
    for options in ([], ["--fresh"]):
        result = call(tmp_path, "demo", "--out", ".", *options)
        assert result.status == 2
        assert "left alone" in result.err
    assert (tmp_path / "runs" / "months.pt").read_text() == "of work"
