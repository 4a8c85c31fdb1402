"""Files that a command is asked to write: never over a checkpoint, a project or anything that is not epsopt's."""

from __future__ import annotations

import pytest

from .project import call, write_runs


@pytest.fixture
def project(whole):
    return whole


@pytest.mark.parametrize("name", ["runs/run_1/epoch_001.pt", "epsopt.toml", "epsopt.db", "runs"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_report_never_replaces_what_it_did_not_make(project, name, more):
    place = project / name
    before = place.read_bytes() if place.is_file() else None
    result = call(project, "report", "--html", name, *more)
    assert result.status == 2, result.out
    assert "Traceback" not in result.err
    assert before is None or place.read_bytes() == before


def test_a_report_replaces_the_last_one_and_a_strangers_page_only_when_asked(project):
    assert call(project, "report", "--html", "report.html").status == 0
    assert call(project, "report", "--html", "report.html").status == 0
    (project / "other.html").write_text("<p>mine</p>")
    refused = call(project, "report", "--html", "other.html")
    assert (refused.status, (project / "other.html").read_text()) == (2, "<p>mine</p>")
    assert "--overwrite" in refused.err
    assert call(project, "report", "--html", "other.html", "--overwrite").status == 0
    (project / "runs" / "run_1" / "notes.html").write_text("<p>the run's</p>")
    refused = call(project, "report", "--html", "runs/run_1/notes.html", "--overwrite")
    assert refused.status == 2
    assert "file of the run" in refused.err


@pytest.mark.parametrize("place", ["runs/run_2/epoch_001.pt", "pyproject.toml"])
def test_init_replaces_project_files_alone(project, place):
    if place == "pyproject.toml":
        (project / place).write_text("[tool.ruff]\n")
    before = (project / place).read_bytes()
    result = call(project, "init", "runs", "--project", place, "--force")
    assert result.status == 2
    assert (project / place).read_bytes() == before


@pytest.mark.parametrize("name", ["a/b", "a\x1b[31mb", "", "x" * 101])
def test_a_project_of_an_impossible_name_leaves_the_file_as_it_was(project, name):
    before = (project / "epsopt.toml").read_bytes()
    result = call(project, "init", "runs", "--name", name, "--force")
    assert result.status == 2
    assert "\x1b" not in result.err
    assert (project / "epsopt.toml").read_bytes() == before


def test_a_folder_of_an_impossible_name_still_gives_a_project(tmp_path):
    folder = tmp_path / ("line\nbreak\x1b" + "x" * 120)
    write_runs(folder / "runs")
    assert call(folder, "init", "runs").status == 0
    assert call(folder, "ingest", "-j", "1").status == 0
