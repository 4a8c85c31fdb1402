"""`epsopt ingest --verify` names what changed since it was read, and its exit status says whether anything did."""

from __future__ import annotations

import shutil

import pytest

from .conftest import call, check


@pytest.fixture
def mine(tmp_path, fresh):
    """A catalogue of a copy of one run, so that its files may be damaged."""
    shutil.copytree(fresh.runs / "run_000", tmp_path / "runs" / "run_000")
    assert call(tmp_path, "ingest", "runs").status == 0
    return tmp_path


def test_an_intact_zoo_gives_status_0_and_a_document(mine):
    result = call(mine, "ingest", "--verify", "--json")
    assert result.status == 0, result.err
    check("ingest", result.document)
    verified = result.document["verified"]
    assert verified["checked"] == verified["intact"] > 0
    assert verified["failed"] == []


def test_a_damaged_file_is_named_and_gives_status_1(mine):
    path = next((mine / "runs").rglob("epoch_*.pt"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = call(mine, "ingest", "--verify")
    assert result.status == 1
    assert path.name in result.out
    assert "changed" in result.out
    assert "1 of" in result.err
    assert len(result.err.strip().splitlines()) == 1
    document = call(mine, "ingest", "--verify", "--json").document
    check("ingest", document)
    assert [t["path"] for t in document["verified"]["failed"]] == [str(path)]


def test_without_a_catalogue_or_its_files_the_first_command_is_named(mine, tmp_path):
    (tmp_path / "empty").mkdir()
    for result in (call(tmp_path / "empty", "ingest", "--verify"), call(mine, "ingest", "--verify", "empty")):
        assert result.status == 1
        assert "epsopt ingest" in result.err
    assert not list((tmp_path / "empty").iterdir())
