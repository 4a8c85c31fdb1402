"""A database of version 2, with runs, a map and studies, becomes one of version 3: whole or not at all, and once."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from epsopt.zoo.catalogue import database, migrations
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import CatalogueError

from ..conftest import opened_by_two_processes  # noqa: TID252

DUMP = gzip.decompress((Path(__file__).parent / "old" / "version_2.sql.gz").read_bytes()).decode()


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP)
    return path


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def rows(path: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_everything_is_kept_under_the_new_names(old):
    stored = rows(old, "SELECT run_id, state, hyperparameters, metrics, troubles, layouts, given FROM epsopt_told")
    said = rows(old, "SELECT path, said FROM epsopt_files")
    assert stored
    assert any(text for _, text in said)
    with Catalogue(f"sqlite:///{old}") as catalogue:
        assert len(catalogue.checkpoints()) == 25
        assert [Path(f.path).name for f in catalogue.side_file_failures()] == ["config.yaml"]
        merges = json.loads(catalogue.get_artifact("measured_merges", "young")[0])
        gains = json.loads(catalogue.get_artifact("merge_gains", "young")[0])
        assert catalogue.get_artifact("steps") is None is catalogue.get_artifact("mixing")
    columns = "run_id, state, hyperparameters, metrics, failures, layouts, run_tables"
    assert rows(old, f"SELECT {columns} FROM epsopt_run_metadata") == stored
    assert rows(old, "SELECT path, metadata FROM epsopt_files") == said
    assert merges[-1] == {
        "predicted_gain": 0.03, "realized_gain": 0.0, "cost": 0.5, "seconds": 2.0, "kind": "beyond",
        "path": "/somewhere/runs/mixed/mixed_000.safetensors", "ends": ["a" * 64, "b" * 64], "share": 0.25,
    }  # fmt: skip
    assert gains[0] == {"kind": "between", "predicted_gain": 0.1, "realized_gain": 0.05}
    assert rows(old, "SELECT key FROM epsopt_meta ORDER BY key") == [("refit_lease",), ("schema_version",)]
    assert rows(old, "PRAGMA foreign_key_check") == rows(old, "SELECT 1 WHERE 0")


def test_an_upgraded_database_has_the_tables_of_a_new_one(old, tmp_path):
    Catalogue(f"sqlite:///{old}").close()
    Catalogue(f"sqlite:///{tmp_path / 'new.db'}").close()
    shapes = []
    for path in (old, tmp_path / "new.db"):
        tables = rows(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'epsopt%'")
        shapes.append({t: rows(path, f"PRAGMA table_info({t})") for (t,) in tables})
    assert shapes[0] == shapes[1]


def test_an_upgrade_that_fails_at_any_statement_leaves_the_old_database_whole(old, monkeypatch):
    before, failed_at = content(old), 0
    open_at_will = database.create_engine

    def opened(*args, **options):
        engine = open_at_will(*args, **options)
        done = iter(range(10_000))

        @event.listens_for(engine, "before_cursor_execute")
        def fail(*_):
            if upgrading and next(done) == failed_at:
                raise KeyboardInterrupt

        return engine

    upgrading: list[bool] = []
    upgrade = migrations.upgrade

    def marked(connection):
        upgrading.append(True)
        upgrade(connection)

    monkeypatch.setattr(database, "create_engine", opened)
    monkeypatch.setattr(database, "upgrade", marked)
    while True:
        upgrading.clear()
        try:
            Catalogue(f"sqlite:///{old}").close()
        except KeyboardInterrupt:
            assert content(old) == before, f"statement {failed_at}"
            failed_at += 1
        else:
            break
    assert failed_at >= 8, "as many statements as the upgrade has"
    assert rows(old, "SELECT value FROM epsopt_meta WHERE key = 'schema_version'") == [("3",)]


KILLED = """
import os, signal, sys
from sqlalchemy import event
from epsopt.zoo.catalogue import database
from epsopt.zoo.catalogue.catalogue import Catalogue

n, make = 0, database.create_engine

def opened(*args, **options):
    engine = make(*args, **options)

    @event.listens_for(engine, "before_cursor_execute")
    def count(*_):
        global n
        n += 1
        if n == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return engine

database.create_engine = opened
for i, path in enumerate(sys.argv[1:], 1):
    if (child := os.fork()) == 0:
        last = 4 * i
        Catalogue(f"sqlite:///{path}").close()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_process_that_is_killed_while_it_upgrades_leaves_the_old_database_whole(old, tmp_path):
    before = content(old)
    copies = [tmp_path / f"{i}.db" for i in range(8)]
    for copy in copies:
        copy.write_bytes(old.read_bytes())
    out = subprocess.run([sys.executable, "-c", KILLED, *copies], capture_output=True, text=True, check=True).stdout
    states = [rows(copy, "SELECT value FROM epsopt_meta WHERE key = 'schema_version'")[0][0] for copy in copies]
    for copy, status, state in zip(copies, out.split(), states, strict=True):
        assert (status, state) in (("-9", "2"), ("-9", "3"), ("0", "3")), "before or after it was committed"
        if state == "2":
            assert content(copy) == before
        with Catalogue(f"sqlite:///{copy}") as catalogue:
            assert len(catalogue.checkpoints()) == 25
    assert "2" in states, "some were killed on the way"


def test_two_processes_at_once_upgrade_once(old):
    assert opened_by_two_processes(old) == ["25", "25"]
    assert len(rows(old, "SELECT * FROM epsopt_artifacts WHERE kind = 'measured_merges'")) == 1


def test_a_database_whose_version_was_lost_is_upgraded_by_its_columns(old):
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("DELETE FROM epsopt_meta WHERE key = 'schema_version'")
    with Catalogue(f"sqlite:///{old}") as catalogue:
        assert len(catalogue.checkpoints()) == 25


def test_a_database_that_cannot_be_written_gives_one_sentence(old, monkeypatch):
    def read_only(connection):
        connection.exec_driver_sql("PRAGMA query_only = 1")
        upgrade(connection)

    upgrade = migrations.upgrade
    monkeypatch.setattr(database, "upgrade", read_only)
    with pytest.raises(CatalogueError, match="make the file and its folder writable") as caught:
        Catalogue(f"sqlite:///{old}")
    assert "\n" not in str(caught.value)
    assert rows(old, "SELECT value FROM epsopt_meta WHERE key = 'schema_version'") == [("2",)]
