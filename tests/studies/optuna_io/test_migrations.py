"""Attributes of proposals that an earlier version wrote are renamed once a study, whole or not at all."""

from __future__ import annotations

import gzip
import multiprocessing
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from sqlalchemy import event

from epsopt.studies import open_storage
from epsopt.studies.optuna_io import migrations
from epsopt.studies.optuna_io.stored_trials import proposed_trials
from epsopt.studies.schedule.budget import plan_of
from epsopt.zoo.catalogue.catalogue import Catalogue

OLD = Path(__file__).parents[2] / "zoo" / "catalogue" / "old" / "version_2.sql.gz"


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(gzip.decompress(OLD.read_bytes()).decode())
    return path


def attributes(path: Path) -> list[tuple]:
    query = "SELECT trial_id, key, value_json FROM trial_user_attributes ORDER BY trial_id, trial_user_attribute_id"
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def marks(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT count(*) FROM study_system_attributes WHERE key = ?"
        return connection.execute(query, (migrations.MARK,)).fetchone()[0]


def test_every_attribute_of_a_proposal_has_its_new_name(old):
    before = attributes(old)
    found = proposed_trials(open_storage(f"sqlite:///{old}"), "young")
    names = {name for t in found for name in t.user_attrs}
    assert {"control.probability", "control.checkpoints", "pruned.probability", "pruned.reason"} <= names
    assert {"exploration_config", "checkpoints_after_loss", "idle_seconds"} <= names
    assert not names & {"audit.probability", "stopped.reason", "looked", "unseen", "waited"}
    plans = [p for t in found if (p := plan_of(t.user_attrs)) is not None]
    assert [p.kind for p in plans].count("exploration") == 1
    assert {p.takes_epochs for p in plans} == {True}
    assert plans[-1].predicted_gain == 0.05
    assert plans[-1].gain_per_epoch == 0.03
    after = attributes(old)
    assert len(after) == len(before)
    assert [v for t, k, v in after if k == "idle_seconds"] == [v for t, k, v in before if k == "waited"]


def test_other_studies_keep_what_they_have(old):
    storage = open_storage(f"sqlite:///{old}")
    study = optuna.create_study(storage=storage, study_name="mine/proposals")
    study.add_trial(optuna.create_trial(value=1.0, user_attrs={"waited": 3, "step": {"told": 1}}))
    before = optuna.load_study(study_name="young/measured", storage=storage).trials
    storage = open_storage(f"sqlite:///{old}")
    assert optuna.load_study(study_name="young/measured", storage=storage).trials == before
    (mine,) = optuna.load_study(study_name="mine/proposals", storage=storage).trials
    assert mine.user_attrs == {"waited": 3, "step": {"told": 1}}, "no proposal of epsopt"


def test_a_conversion_that_fails_at_any_statement_changes_nothing(old, monkeypatch):
    Catalogue(f"sqlite:///{old}").close()  # of the tables: test_revision_3.py
    before, fail_at = attributes(old), 0
    convert = migrations.convert_attributes

    def interrupted(storage):
        done = iter(range(10_000))

        def fail(*_):
            if next(done) == fail_at:
                raise KeyboardInterrupt

        event.listen(storage.engine, "before_cursor_execute", fail)
        convert(storage)

    monkeypatch.setattr("epsopt.studies.optuna_io.storage.convert_attributes", interrupted)
    while True:
        try:
            open_storage(f"sqlite:///{old}")
        except KeyboardInterrupt:
            assert (attributes(old), marks(old)) == (before, 0), f"statement {fail_at}"
            fail_at += 5  # each attribute is one statement
        else:
            break
    assert fail_at > 10
    assert marks(old) == 1


def _open(url: str) -> None:
    open_storage(url)


def test_two_processes_at_once_convert_once(old):
    Catalogue(f"sqlite:///{old}").close()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_open, [f"sqlite:///{old}"] * 2)
    assert marks(old) == 1
    after = attributes(old)
    open_storage(f"sqlite:///{old}")
    assert attributes(old) == after, "and never again"
