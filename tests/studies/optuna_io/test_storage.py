from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import optuna
import pytest

from epsopt.optimize.space import Parameter, Space
from epsopt.studies import open_storage, record_proposals
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import CatalogueError

from ..fakes import COVERAGE, DIST_CORR, FakeProposal  # noqa: TID252

SPACE = Space((Parameter("lr", "float", 0.0, 1.0),))

QUEUED = 40
TAKE_ALL = """
import json, sys, optuna
optuna.logging.set_verbosity(optuna.logging.WARNING)
from epsopt.optimize.space import Parameter, Space
from epsopt.studies import open_storage, take_proposal
storage, taken = open_storage(sys.argv[1]), []
print("ready", flush=True)
sys.stdin.readline()
while (proposal := take_proposal(storage, "p", Space((Parameter("lr", "float", 0.0, 1.0),)))) is not None:
    taken.append(proposal.number)
print(json.dumps(taken))
"""


@pytest.mark.slow
def test_three_processes_that_start_together_take_each_queued_trial_exactly_once(url):
    proposals = [FakeProposal({"lr": i / QUEUED}) for i in range(QUEUED)]
    record_proposals(open_storage(url), "p", [COVERAGE, DIST_CORR], SPACE, proposals)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE_ALL, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    outputs = [worker.communicate()[0] for worker in workers]
    taken = Counter(number for output in outputs for number in json.loads(output))
    assert taken == dict.fromkeys(range(QUEUED), 1)


def test_every_transaction_on_sqlite_takes_the_write_lock_at_once(storage):
    from sqlalchemy import event

    said = []
    event.listen(storage.engine, "before_cursor_execute", lambda _c, _k, sql, *_: said.append(sql))
    optuna.create_study(storage=storage, study_name="a")
    assert "BEGIN IMMEDIATE" in said
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000


def test_studies_and_catalogue_share_one_database(url):
    catalogue = Catalogue(url)
    optuna.create_study(storage=open_storage(url), study_name="a")
    assert catalogue.runs() == []
    assert optuna.get_all_study_names(open_storage(url)) == ["a"]
    catalogue.close()


def test_a_database_that_must_be_there_and_is_not_says_what_to_run(tmp_path):
    with pytest.raises(CatalogueError, match="epsopt ingest"):
        open_storage(f"sqlite:///{tmp_path}/none.db", create=False)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite:////no/such/folder/x.db"])
def test_a_url_that_cannot_be_opened_is_one_sentence(url):
    with pytest.raises(CatalogueError) as caught:
        open_storage(url)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "x.db").write_bytes(b"something else, and long enough to be read as a header" * 100)
    with pytest.raises(CatalogueError, match=r"x\.db"):
        open_storage(f"sqlite:///{tmp_path}/x.db")


def test_studies_of_another_optuna_say_how_to_upgrade(url):
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    with pytest.raises(CatalogueError, match="optuna storage upgrade"):
        open_storage(url)
