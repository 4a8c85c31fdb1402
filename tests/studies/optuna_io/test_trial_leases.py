"""Claims, heartbeats and retries: on SQLite and on a real PostgreSQL, whoever dies whenever."""

from __future__ import annotations

import threading
import time
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState

from epsopt.optimize.space import Parameter, Space
from epsopt.studies import open_storage, record_proposals, take_proposal
from epsopt.studies.optuna_io.heartbeat import Heartbeat
from epsopt.studies.optuna_io.trial_leases import fail_stale_trials, finish, heartbeat, release, unfinished

from ..fakes import COVERAGE, DIST_CORR, FakeProposal  # noqa: TID252

TWO = [COVERAGE, DIST_CORR]
SPACE = Space((Parameter("lr", "float", 0.0, 1.0), Parameter("kind", "categorical", choices=("a", "b"))))


def queue(storage, n: int) -> int:
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal({"lr": i / n, "kind": "a"}) for i in range(n)])
    return storage.get_study_id_from_name("p/proposals")


def take(storage, worker: str | None = "w:1"):
    return take_proposal(storage, "p", SPACE, worker=worker)


def trials(storage):
    return optuna.load_study(study_name="p/proposals", storage=storage).trials


@pytest.fixture
def shared(anywhere):
    return open_storage(anywhere)


def test_threads_of_several_connections_take_each_proposal_once(anywhere, shared):
    queue(shared, 40)
    taken: list[int] = []

    def work() -> None:
        mine = open_storage(anywhere)
        while (proposal := take(mine)) is not None:
            taken.append(proposal.number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == dict.fromkeys(range(40), 1)
    assert all(t.state == TrialState.RUNNING and t.params == {"lr": t.number / 40, "kind": "a"} for t in trials(shared))


def test_a_worker_that_beats_keeps_its_trial_and_one_that_does_not_loses_it(shared):
    study_id = queue(shared, 2)
    alive, dead = take(shared, "alive:1"), take(shared, "dead:2")
    age(shared, dead.trial_id, 900)
    with Heartbeat(shared, 0.2) as heart:
        age(shared, alive.trial_id, 900)
        heart.hold(alive.trial_id)
        while beats(shared, alive.trial_id, within=600) == 0:
            time.sleep(0.05)
        (lost,) = fail_stale_trials(shared, study_id, 600.0)
    assert (lost.number, lost.worker, lost.retry) == (dead.number, "dead:2", 2)
    assert [t.state.name for t in trials(shared)] == ["RUNNING", "FAIL", "WAITING"]
    assert fail_stale_trials(shared, study_id, 600.0) == []


def past(storage, seconds: int) -> str:
    """A moment, by the database's own clock."""
    sqlite = storage.engine.dialect.name == "sqlite"
    return f"datetime('now', '-{seconds} seconds')" if sqlite else f"current_timestamp - interval '{seconds} seconds'"


def age(storage, trial_id: int, seconds: int) -> None:
    """Make a heartbeat older than it is."""
    when = past(storage, seconds)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE trial_heartbeats SET heartbeat = {when} WHERE trial_id = {trial_id}")


def beats(storage, trial_id: int, within: int) -> int:
    """How many heartbeats of a trial are younger than so many seconds."""
    which = f"trial_id = {trial_id} AND heartbeat > {past(storage, within)}"
    with storage.engine.begin() as connection:
        return connection.exec_driver_sql(f"SELECT count(*) FROM trial_heartbeats WHERE {which}").scalar()


def test_what_a_dead_worker_ran_is_retried_exactly_once_with_all_that_was_predicted(shared):
    study_id = queue(shared, 1)
    first = take(shared)
    shared.set_trial_user_attr(first.trial_id, "folder", "/runs/proposal_000")
    age(shared, first.trial_id, 60)
    assert fail_stale_trials(shared, study_id, 30)[0].retry == 1
    again = take(shared)
    assert (again.number, again.params) == (1, first.params)
    retried = trials(shared)[1]
    assert retried.user_attrs["predicted.coverage"] == 0.9
    assert retried.user_attrs["retry_of"] == 0
    assert retried.system_attrs["failed_trial"] == 0  # as Optuna's own callback marks it
    assert "folder" not in retried.user_attrs
    age(shared, again.trial_id, 60)
    assert fail_stale_trials(shared, study_id, 30)[0].retry is None
    assert [t.state.name for t in trials(shared)] == ["FAIL", "FAIL"]
    assert take(shared) is None


def test_workers_that_look_at_once_retry_a_lost_trial_once(anywhere, shared):
    study_id = queue(shared, 3)
    for _ in range(3):
        age(shared, take(shared).trial_id, 60)
    found: list[int] = []
    together = threading.Barrier(4)

    def look() -> None:
        mine = open_storage(anywhere)
        together.wait()
        found.extend(lost.number for lost in fail_stale_trials(mine, study_id, 30))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2]
    assert [t.state.name for t in trials(shared)] == ["FAIL"] * 3 + ["WAITING"] * 3
    assert [t.number for t in trials(shared)] == list(range(6))


def test_an_interrupted_trial_is_queued_again_however_often(shared):
    study_id = queue(shared, 1)
    for number in range(3):
        taken = take(shared)
        assert taken.number == number
        assert release(shared, study_id, taken.trial_id, "interrupted") == number + 1
    age(shared, take(shared).trial_id, 60)
    assert fail_stale_trials(shared, study_id, 30)[0].retry == 4, (
        "an interruption is no death: the one retry is still due"
    )


def test_a_worker_taken_for_dead_is_notified_and_changes_nothing_any_more(shared):
    study_id = queue(shared, 1)
    taken = take(shared)
    assert heartbeat(shared, [taken.trial_id]) == set()
    age(shared, taken.trial_id, 60)
    fail_stale_trials(shared, study_id, 30)
    assert heartbeat(shared, [taken.trial_id]) == {taken.trial_id}
    assert not finish(shared, taken.trial_id, TrialState.COMPLETE, [1.0, 1.0], {"path": "x"})
    assert trials(shared)[0].values is None
    assert release(shared, study_id, taken.trial_id, "late") is None


def test_a_trial_that_is_finished_is_never_reaped_and_one_taken_by_hand_neither(shared):
    study_id = queue(shared, 2)
    done = take(shared)
    assert finish(shared, done.trial_id, TrialState.COMPLETE, [0.5, 0.6], {"path": "x", "worker": "other"})
    age(shared, done.trial_id, 1000)
    assert take(shared, worker=None) is not None
    assert fail_stale_trials(shared, study_id, 0.5) == []
    first = trials(shared)[0]
    assert (first.state.name, first.values, first.user_attrs["worker"]) == ("COMPLETE", [0.5, 0.6], "other")
    assert unfinished(shared, study_id) == (0, 0)


def test_a_queued_trial_is_what_optunas_own_enqueue_would_have_written(shared):
    queue(shared, 1)
    study = optuna.load_study(study_name="p/proposals", storage=shared)
    ours = study.trials[0]
    study.enqueue_trial(dict(ours.system_attrs["fixed_params"]), user_attrs=ours.user_attrs)
    theirs = study.trials[1]
    for name in ("state", "params", "values", "user_attrs", "system_attrs", "distributions", "datetime_complete"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert study.ask({"lr": optuna.distributions.FloatDistribution(0, 1)}).params["lr"] == 0.0


def test_what_somebody_queued_without_checking_fails_and_says_why(shared):
    queue(shared, 1)
    optuna.load_study(study_name="p/proposals", storage=shared).enqueue_trial({"lr": 5, "kind": "a"})
    assert take(shared).number == 0
    with pytest.raises(Exception, match="proposal 1 has lr = 5"):
        take(shared)
    assert trials(shared)[1].state.name == "FAIL"
    assert "lr = 5" in trials(shared)[1].user_attrs["failure"]
