"""Commands that only look something up load nothing of what learns: no torch, no BoTorch, no GPyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from epsopt.studies import load_project, open_storage, record_proposals
from epsopt.studies.optuna_io.queue import ProposalRecord

from .conftest import EPOCHS

HEAVY = ("torch", "botorch", "gpytorch", "sklearn", "lightgbm", "pandas", "plotly")
STORAGE = ("alembic", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql", "optuna.storages._rdb.models")
"""What Optuna's storage brings: as long to import as all the rest of such a command."""
READING = [["pareto"], ["nearest", "run_001:2"], ["runs"], ["report"], ["doctor"]]
LIGHT = [*READING, ["work", "--dry-run"], ["init", "--help"]]

_ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from epsopt.cli.main import main

loaded = {}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["epsopt", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
    loaded[" ".join(arguments)] = [status, err.getvalue(), [m for m in %s if m in sys.modules]]
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded(project, tmp_path_factory) -> dict[str, tuple[int, str, list[str]]]:
    """What each command ended with, said, and had loaded, in one process that begins with none of it."""
    folder = tmp_path_factory.mktemp("light") / "project"
    shutil.copytree(project.folder.with_name("untouched"), folder)
    file = folder / "epsopt.toml"
    found = load_project(file)
    assert found.space is not None
    arguments = [[f"--{p.name}", f"{{{p.name}}}"] for p in found.space.parameters]
    command = ["{python}", "train.py", "--out", "{out}", *arguments]
    file.write_text(f"{file.read_text()}\n[train]\ncommand = {json.dumps(command)}\n")
    proposal = ProposalRecord(found.space.low_discrepancy_sample(1, seed=0)[0])
    record_proposals(open_storage(found.storage), found.name, found.objectives, found.space, [proposal])
    done = subprocess.run(
        [sys.executable, "-c", _ONE_AFTER_THE_OTHER % ([*HEAVY, *STORAGE],), json.dumps(LIGHT)],
        cwd=folder, env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", [" ".join(arguments) for arguments in LIGHT])
def test_what_only_looks_something_up_does_not_wait_for_torch(loaded, command):
    status, err, modules = loaded[command]
    assert status == 0, err
    assert not set(modules) & set(HEAVY)


@pytest.mark.parametrize("command", [" ".join(arguments) for arguments in READING])
def test_what_only_reads_proposals_does_not_wait_for_optunas_storage(loaded, command):
    assert loaded[command][2] == []


def test_what_the_map_knows_has_the_same_neighbours_without_loading_the_map(project, monkeypatch):
    quick = project("nearest", f"run_001:{EPOCHS}", "--json").document
    monkeypatch.setattr("epsopt.studies.map_index.read_map_index", lambda _: None)
    whole = project("nearest", f"run_001:{EPOCHS}", "--json").document
    assert [n["path"] for n in quick["nearest"]] == [n["path"] for n in whole["nearest"]]
    assert [n["distance"] for n in quick["nearest"]] == pytest.approx(
        [n["distance"] for n in whole["nearest"]], abs=1e-4
    )


def test_a_damaged_map_is_called_so_where_only_a_part_of_it_is_read(project, copy):
    import sqlite3

    damaged = copy(project)
    with sqlite3.connect(damaged.folder / "epsopt.db") as connection:
        connection.execute(
            "UPDATE epsopt_artifacts SET data = substr(data, 1, length(data) - 9) WHERE kind = 'surrogate'"
        )
    result = damaged("nearest", f"run_001:{EPOCHS}")
    assert result.status == 1
    assert "the fitted map in the database is damaged" in result.err
