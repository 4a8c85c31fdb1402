"""`epsopt fit` refines the kept map when the catalogue has grown."""

from __future__ import annotations

import shutil

import pytest

from epsopt.studies import surrogate_store as maps

from .conftest import QUICK, Project, call, check


@pytest.fixture
def growing(tmp_path, runs, monkeypatch):
    """A project of six runs with a map, and a function that adds the others."""
    fit_map = maps.fit_map
    monkeypatch.setattr(maps, "fit_map", lambda *a, **k: fit_map(*a, **k, recipe=QUICK))

    folders = sorted(p for p in runs.iterdir() if p.is_dir())
    some = tmp_path / "runs"
    for folder in folders[:7]:
        shutil.copytree(folder, some / folder.name)
    project = Project(tmp_path, some)
    assert project("init", some, "--name", "growing", "--minimize", "rad_hier").status == 0
    assert project("ingest").status == 0

    def grow() -> None:
        for folder in folders[7:]:
            shutil.copytree(folder, some / folder.name)
        assert project("ingest").status == 0

    return project, grow


def test_fit_goes_on_from_the_map_that_is_there(growing) -> None:
    project, grow = growing
    first = project("fit", "--json").document
    assert first["refined"] is None
    grow()
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


def test_fit_says_what_a_refinement_did_and_why_there_was_none(growing, monkeypatch) -> None:
    project, grow = growing
    assert project("fit").status == 0
    grow()
    monkeypatch.setattr(maps, "GROWTH", 1.0)
    told = project("fit").out
    assert "was not refined: there are half as many runs again" in " ".join(told.split())
    assert call(project.folder, "fit").out.count("current") == 1
