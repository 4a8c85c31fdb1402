"""`epsopt fit` refines the kept map when the catalogue has grown."""

from __future__ import annotations

import shutil
from unittest import mock

import pytest

from epsopt.studies import surrogate_store as maps

from .conftest import QUICK, Project, call, check


@pytest.fixture(scope="module")
def grown(tmp_path_factory, runs):
    """A project with a map of six runs, and then more of them; and the document of that fit."""
    folders = sorted(p for p in runs.iterdir() if p.is_dir())
    project = Project(folder := tmp_path_factory.mktemp("growing"), folder / "runs")
    for run in folders[:7]:
        shutil.copytree(run, project.runs / run.name)
    assert project("init", project.runs, "--name", "growing", "--minimize", "rad_hier").status == 0
    assert project("ingest").status == 0
    with quick_fits():
        first = project("fit", "--json").document
    for run in folders[7:]:
        shutil.copytree(run, project.runs / run.name)
    assert project("ingest").status == 0
    return project, first


def quick_fits():
    fit_map = maps.fit_map
    return mock.patch.object(maps, "fit_map", lambda *a, **k: fit_map(*a, **k, recipe=QUICK))


@pytest.fixture
def growing(grown, tmp_path):
    """A copy of it, whose fits are quick."""
    project, first = grown
    with quick_fits():
        yield Project(shutil.copytree(project.folder, tmp_path / "project"), project.runs), first


def test_fit_goes_on_from_the_map_that_is_there(growing) -> None:
    project, first = growing
    assert first["refined"] is None
    result = project("fit", "--json")
    check("fit", result.document)
    refined = result.document
    assert refined["fitted"]
    assert refined["refined"]["new_runs"] == refined["n_runs"] - first["n_runs"] > 0
    assert refined["refined"]["new_checkpoints"] == refined["n_checkpoints"] - first["n_checkpoints"]
    assert 0.0 <= refined["refined"]["drift"] < 0.5
    current = project("fit", "--json").document
    assert not current["fitted"]
    assert current["metrics"] == refined["metrics"]
    anew = project("fit", "--from-scratch", "--json").document
    assert anew["fitted"]
    assert anew["refined"] is None


@pytest.mark.slow
def test_fit_says_what_a_refinement_did_and_why_there_was_none(growing, monkeypatch) -> None:
    project, _ = growing
    monkeypatch.setattr(maps, "GROWTH", 1.0)
    printed = project("fit").out
    assert "was not refined: there are half as many runs again" in " ".join(printed.split())
    assert call(project.folder, "fit").out.count("current") == 1
