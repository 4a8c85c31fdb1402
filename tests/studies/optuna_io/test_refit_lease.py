"""One learner of a database at a time, and what becomes of one that was taken for dead."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import select, update

from epsopt.studies import open_storage
from epsopt.studies.optuna_io.refit_lease import LEASE_SECONDS, Lease, LeaseLost, lease
from epsopt.studies.schedule.budget import Ledger, MeasuredMerge, save_measured_merge
from epsopt.studies.worker import refit_service as learning
from epsopt.zoo import Catalogue
from epsopt.zoo.catalogue.tables import meta

HELD = meta.c.key == "refit_lease"


@pytest.fixture
def catalogue(anywhere):
    with Catalogue(anywhere) as opened:
        yield opened


def since(catalogue: Catalogue) -> float:
    with catalogue.reading() as connection:
        return json.loads(connection.execute(select(meta.c.value).where(HELD)).scalar_one())["since"]


def age(catalogue: Catalogue, seconds: float) -> None:
    """Let so much time pass without a renewal, by the database's clock."""
    with catalogue.writing() as connection:
        held = json.loads(connection.execute(select(meta.c.value).where(HELD)).scalar_one())
        value = json.dumps({**held, "since": held["since"] - seconds})
        connection.execute(update(meta).where(HELD).values(value=value))


def test_one_learner_works_at_a_time(catalogue):
    with lease(catalogue, wait=False) as ours:
        assert ours is not None
        with lease(catalogue, wait=False) as theirs:
            assert theirs is None
        ours.assert_held()
    with lease(catalogue, wait=True) as theirs:
        assert theirs is not None


def test_a_dead_learner_of_this_machine_blocks_nobody_and_one_elsewhere_only_for_a_while(catalogue):
    gone = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    gone.wait()
    assert Lease(catalogue, gone.pid).acquire()
    assert Lease(catalogue, gone.pid, "elsewhere").acquire(), "its process is gone"
    ours = Lease(catalogue)
    assert not ours.acquire(), "another machine's cannot be asked, only waited for"
    age(catalogue, LEASE_SECONDS + 1)
    assert ours.acquire()


@pytest.mark.parametrize("wrong", [-1e6, 1e6])
def test_a_machine_whose_clock_is_wrong_takes_nobody_s_lease(catalogue, monkeypatch, wrong):
    now = time.time()
    with lease(catalogue, wait=False):
        monkeypatch.setattr(time, "time", lambda: now + wrong)
        assert not Lease(catalogue).acquire()
        assert abs(since(catalogue) - now) < LEASE_SECONDS, "seconds since 1970, whatever the session's time zone"


def test_a_lease_is_renewed_for_as_long_as_it_is_held_whatever_its_holder_does(catalogue):
    with lease(catalogue, wait=False, renew_after=0.05):
        age(catalogue, LEASE_SECONDS - 10)
        old = since(catalogue)
        while since(catalogue) == old:
            time.sleep(0.05)
        assert not Lease(catalogue).acquire()
    assert not any(thread.name == "epsopt-lease" for thread in threading.enumerate())


def test_a_worker_taken_for_dead_is_notified_and_leaves_the_other_one_s_lease_alone(catalogue):
    with lease(catalogue, wait=False) as ours:
        age(catalogue, LEASE_SECONDS + 1)
        theirs = Lease(catalogue)
        assert theirs.acquire()
        assert not ours.renew()
        with pytest.raises(LeaseLost, match="another learner took over"):
            ours.assert_held()
    theirs.assert_held()
    theirs.give_back()
    with pytest.raises(LeaseLost):
        ours.assert_held()


def test_a_learner_that_was_taken_for_dead_says_so_and_has_not_failed(monkeypatch, capsys):
    def lost(_task: learning.Task) -> None:
        raise LeaseLost("another learner took over")

    monkeypatch.setattr(learning, "learn", lost)
    monkeypatch.setattr(learning, "yield_to_training", lambda: None)
    monkeypatch.setattr("sys.stdin", io.StringIO('{"project": "epsopt.toml", "storage": "sqlite://"}'))
    assert learning.main() == 0, "or the worker that wants proposals would end"
    assert capsys.readouterr().out == "another learner took over\n"


@pytest.mark.parametrize(("propose", "yields"), [(0, True), (2, False)])
def test_learning_yields_to_training_and_proposals_that_a_launch_may_wait_for_do_not(monkeypatch, propose, yields):
    lowered: list[bool] = []
    monkeypatch.setattr(learning, "learn", lambda _task: None)
    monkeypatch.setattr(learning, "yield_to_training", lambda: lowered.append(True))
    said = {"project": "epsopt.toml", "storage": "sqlite://", "propose": propose}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(said)))
    assert learning.main() == 0
    assert bool(lowered) is yields


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this system weighs processes, not sessions")
def test_a_learner_lowers_the_priority_of_its_session_since_linux_weighs_sessions():
    code = (
        "import os; from pathlib import Path; "
        "from epsopt.studies.worker.refit_service import yield_to_training as f\n"
        "before = os.nice(0); f(); print(os.nice(0) - before, Path('/proc/self/autogroup').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, start_new_session=True
    )
    assert done.stdout.startswith("10 ")
    assert done.stdout.strip().endswith("nice 10")


def test_what_two_learners_remember_at_once_is_all_kept(anywhere, catalogue):
    def follow(who: float) -> None:
        with Catalogue(anywhere) as mine:
            for i in range(8):
                save_measured_merge(mine, "p", MeasuredMerge(who, 0.0, float(i), 1.0))

    threads = [threading.Thread(target=follow, args=(float(who),)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = Ledger.read(open_storage(anywhere), catalogue, "p").merges
    assert sorted((m.predicted_gain, m.cost) for m in kept) == [
        (float(w), float(i)) for w in range(3) for i in range(8)
    ]
