"""The base is the file that runs' configurations name and that is there, whatever key names it."""

from __future__ import annotations

import pytest

from epsopt.studies.project.find_base import find_base


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "pretrained.pt").write_bytes(b"x")
    for i in range(4):
        (tmp_path / "runs" / f"r{i}").mkdir(parents=True)
        (tmp_path / "runs" / f"r{i}" / "last.pt").write_bytes(b"x")
    return tmp_path


def found(project, configurations):
    checkpoints = [project / "runs" / f"r{i}" / "last.pt" for i in range(len(configurations))]
    return [(b.path, b.key, b.runs) for b in find_base(configurations, checkpoints, project / "runs", project)]


@pytest.mark.parametrize("key", ["base", "model.pretrained", "init_from", "model_name_or_path"])
@pytest.mark.parametrize("value", ["base/pretrained.pt", "../../base/pretrained.pt", "{}/base/pretrained.pt"])
def test_a_file_that_is_there_is_the_base(project, key, value):
    configurations = [{key: value.format(project), "lr": 0.1}] * 3
    assert found(project, configurations) == [(project / "base" / "pretrained.pt", key, 3)]


def test_what_is_not_there_or_a_run_of_its_own_is_none(project):
    assert found(project, [{"base": "gone.pt"}] * 2) == []
    assert found(project, [{"resume_from": str(project / "runs" / "r3" / "last.pt")}] * 2) == []
    assert found(project, [{"base": "base/pretrained.pt"}, {}, {}, {}]) == []


def test_several_bases_are_all_named(project):
    (project / "base" / "other.pt").write_bytes(b"y")
    names = ["base/pretrained.pt", "base/other.pt", "base/pretrained.pt"]
    assert [p.name for p, _, _ in found(project, [{"base": n} for n in names])] == ["pretrained.pt", "other.pt"]
