"""Queries of one answer see one state of the database, on SQLite as on PostgreSQL."""

from __future__ import annotations

from sqlalchemy import select

from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space
from epsopt.studies import open_storage, record_proposals
from epsopt.studies.optuna_io import stored_trials
from epsopt.studies.optuna_io.queue import ProposalRecord, take_proposal
from epsopt.studies.optuna_io.stored_trials import proposed_trials
from epsopt.studies.optuna_io.trial_leases import finish
from epsopt.zoo import Catalogue
from epsopt.zoo.catalogue.tables import meta

SPACE = Space((Parameter("lr", "float", 0.0, 1.0),))
OBJECTIVES = (Objective("coverage", maximize=True),)


def test_what_another_process_writes_between_two_queries_is_in_neither(anywhere):
    with Catalogue(anywhere) as one, Catalogue(anywhere) as other, one.reading() as connection:
        before = connection.execute(select(meta)).all()
        with other.writing() as writer:
            writer.execute(meta.insert().values(key="more", value="1"))
        assert connection.execute(select(meta)).all() == before
    with Catalogue(anywhere) as again, again.reading() as connection:
        assert len(connection.execute(select(meta)).all()) == len(before) + 1


def test_a_trial_that_ends_while_trials_are_read_has_all_of_its_outcome_or_none(database, monkeypatch):
    # On SQLite a transaction of Optuna's storage locks the whole file.
    storage, other = open_storage(database), open_storage(database)
    record_proposals(storage, "p", OBJECTIVES, SPACE, [ProposalRecord({"lr": 0.5})])
    taken = take_proposal(storage, "p", SPACE, worker="w")
    rows = stored_trials.defaultdict
    queries = []

    def counted(*arguments):
        queries.append(0)
        if len(queries) == 3:
            finish(other, taken.trial_id, stored_trials.TrialState.COMPLETE, [0.25], {})
        return rows(*arguments)

    monkeypatch.setattr(stored_trials, "defaultdict", counted)
    (trial,) = proposed_trials(storage, "p")
    assert len(queries) > 3
    assert (trial.state.name, trial.values) == ("RUNNING", None)
    assert [(t.state.name, t.values) for t in proposed_trials(storage, "p")] == [("COMPLETE", [0.25])]
