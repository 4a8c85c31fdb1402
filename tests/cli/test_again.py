"""Every command run twice changes nothing the second time."""

from __future__ import annotations

import pytest

from .conftest import call


def test_init_writes_once_and_says_so(runs, tmp_path):
    first = call(tmp_path, "init", runs, "--json").document
    text = (tmp_path / "epsopt.toml").read_text()
    assert first["changed"]
    again = call(tmp_path, "init", runs)
    assert again.status == 0
    assert "unchanged" in again.out
    assert (tmp_path / "epsopt.toml").read_text() == text


def test_init_refuses_to_replace_another_file(runs, tmp_path):
    (tmp_path / "epsopt.toml").write_text("# mine\n")
    result = call(tmp_path, "init", runs)
    assert result.status == 2
    assert "--force" in result.err
    assert (tmp_path / "epsopt.toml").read_text() == "# mine\n"
    assert call(tmp_path, "init", runs, "--force").status == 0
    assert "coverage" in (tmp_path / "epsopt.toml").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest"],
        ["search", "--target-coverage", "0.5"],
        ["pareto"],
        ["nearest", "run_001"],
    ],
    ids=lambda a: a[0],
)
def test_a_second_run_changes_nothing(project, copy, arguments):
    mine = copy(project)
    first = mine(*arguments)
    assert first.status == 0, first.err
    held = mine.database()
    second = mine(*arguments)
    assert second.status == 0
    assert mine.database() == held
    if arguments[0] != "ingest":
        assert second.out == first.out


def test_what_only_reads_leaves_the_database_alone(project, copy):
    mine = copy(project)
    held = mine.database()
    mine("pareto")
    mine("nearest", "run_001")
    mine("predict", mine.runs / "run_001")
    mine("search", "--no-record")
    mine("propose", "-n", "1", "--no-record")
    assert mine.database() == held
