"""Proposals are read by SQL alone, and are those that Optuna reads."""

from __future__ import annotations

import math
import sqlite3
from datetime import datetime

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial
from sqlalchemy import inspect

from epsopt.optimize.objectives import Objective
from epsopt.studies import open_storage
from epsopt.studies.optuna_io import optuna_tables
from epsopt.studies.optuna_io.stored_trials import (
    ReadDatabase,
    open_to_read,
    proposed_trials,
    recorded_objectives,
)
from epsopt.studies.optuna_io.study import open_study
from epsopt.zoo import Catalogue
from epsopt.zoo.errors import CatalogueError

OBJECTIVES = (Objective("accuracy", maximize=True), Objective("loss", maximize=False))
SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "width": IntDistribution(8, 64, step=8),
    "kind": CategoricalDistribution(("a", None, True, 2.5)),
}


def trial(state: TrialState, values: list[float] | None = None, **more):
    params = {"lr": 0.01, "width": 16, "kind": None}
    return create_trial(state=state, values=values, params=params, distributions=SPACE, **more)


def filled(url: str) -> RDBStorage:
    """A study with a trial of each state, and everything that one can hold."""
    storage = open_storage(url)
    study = open_study(storage, "p/proposals", OBJECTIVES)
    study.add_trial(trial(TrialState.COMPLETE, [0.5, math.inf], user_attrs={"folder": "/ü", "checkpoints": [1, 2]}))
    study.add_trial(trial(TrialState.COMPLETE, [-math.inf, 0.25], intermediate_values={3: math.nan, 1: 0.5}))
    study.add_trial(trial(TrialState.FAIL, user_attrs={"failure": "exit status 1"}))
    study.add_trial(trial(TrialState.PRUNED, user_attrs={"step": {"kind": "run", "cost": 1.5}}))
    study.enqueue_trial({"lr": 0.02}, user_attrs={"level": 0.9})
    study.ask(SPACE)
    study.ask(SPACE)
    other = open_study(storage, "q/proposals", OBJECTIVES[:1])
    other.add_trial(create_trial(state=TrialState.COMPLETE, values=[1.0]))
    return storage


def test_the_proposals_are_those_that_optuna_reads(anywhere):
    storage = filled(anywhere)
    theirs = optuna.load_study(study_name="p/proposals", storage=storage).get_trials(deepcopy=False)
    assert {t.state for t in theirs} == set(TrialState) - {TrialState.WAITING}
    ours = proposed_trials(open_to_read(anywhere), "p")
    for read, kept in zip(ours, theirs, strict=True):
        assert read.intermediate_values == pytest.approx(kept.intermediate_values, nan_ok=True)
        read.intermediate_values = kept.intermediate_values  # NaN is not NaN's equal
    assert ours == theirs
    assert isinstance(ours[0].datetime_complete, datetime)
    assert recorded_objectives(open_to_read(anywhere), "p") == OBJECTIVES
    assert [t.values for t in proposed_trials(storage, "q")] == [[1.0]]
    assert proposed_trials(storage, "nobody") == []
    assert recorded_objectives(storage, "nobody") is None


def test_a_proposal_that_waits_is_read_as_it_was_queued(anywhere):
    storage = open_storage(anywhere)
    open_study(storage, "p/proposals", OBJECTIVES).enqueue_trial({"lr": 0.02}, user_attrs={"level": 0.9})
    (waits,) = proposed_trials(open_to_read(anywhere), "p")
    assert (waits.state, waits.params, waits.values) == (TrialState.WAITING, {}, None)
    assert (waits.system_attrs["fixed_params"], waits.user_attrs) == ({"lr": 0.02}, {"level": 0.9})


def test_the_columns_that_are_read_are_optunas():
    ours = [t for t in vars(optuna_tables).values() if hasattr(t, "columns") and t is not optuna_tables.REVISION]
    assert len(ours) == 10
    for table in ours:
        assert set(table.columns.keys()) <= set(models.BaseModel.metadata.tables[table.name].columns.keys())


def test_the_schema_that_is_read_is_that_of_the_installed_optuna(url):
    storage = open_storage(url)
    assert storage.get_head_version() == optuna_tables.READABLE, "look at what changed, then read it"


def test_where_nothing_was_proposed_nothing_is_created(url):
    Catalogue(url).close()
    database = open_to_read(url)
    assert proposed_trials(database, "p") == []
    assert recorded_objectives(database, "p") is None
    assert not inspect(database.engine).has_table("studies")


def test_a_database_that_is_not_there_is_not_made(url, tmp_path):
    with pytest.raises(CatalogueError, match="there is no such database yet"):
        open_to_read(url)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "older",
    [
        "DELETE FROM study_system_attributes WHERE key = 'epsopt:attributes'",
        "DELETE FROM alembic_version",
    ],
)
def test_what_an_older_version_wrote_is_opened_by_optuna_and_upgraded(url, tmp_path, older):
    filled(url).engine.dispose()
    assert isinstance(open_to_read(url), ReadDatabase)
    with sqlite3.connect(tmp_path / "epsopt.db") as connection:
        connection.execute(older)
    database = open_to_read(url)
    assert isinstance(database, RDBStorage)
    assert len(proposed_trials(database, "p")) == 6
    assert isinstance(open_to_read(url), ReadDatabase), "it is of today's version from now on"


def test_a_schema_that_optuna_does_not_know_either_is_a_sentence(url, tmp_path):
    filled(url).engine.dispose()
    with sqlite3.connect(tmp_path / "epsopt.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    with pytest.raises(CatalogueError, match="written by another version of Optuna"):
        open_to_read(url)
