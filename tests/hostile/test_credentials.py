"""No password or key is seen in what commands print, in arguments of processes, in studies or in the catalogue."""

from __future__ import annotations

import subprocess
from pathlib import Path

import optuna
import pytest
import torch

from epsopt.cli.main import main
from epsopt.studies import open_storage
from epsopt.studies.schedule.scheduler_client import StepAsker, StepTask
from epsopt.studies.worker.refit_service import BackgroundLearner
from epsopt.studies.worker.training_process import last_words
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.ingestion.ingest import ingest

SECRET = "hUnTeR"
DATABASES = [
    "postgresql+psycopg://ann:hUnTeR@127.0.0.1:1/name",
    "postgres://ann:hUnTeR@127.0.0.1:1/name",
    "postgresql://ann:hUnTeR@127.0.0.1:1/name",
    "postgresql+psycopg://ann:hUnTeR@127.0.0.1:port/name",
    "postgresql+psycopg://ann:x@hUnTeR@127.0.0.1:1/name",
    "postgresql+psycopg://ann:x/hUnTeR@127.0.0.1:1/name",
    "postgresql+psycopg://a/nn:hUnTeR@127.0.0.1:1/name",
    "postgresql+psycopg://ann:hUnTeR",
    "postgresql+psycopg://ann:hUnTeR#1@127.0.0.1:1/name",
    "postgresql+psycopg://ann:%68UnTeR%20hUnTeR@127.0.0.1:1/name",
    "postgresql+psycopg://127.0.0.1:1/name?password=hUnTeR",
    "postgresql+psycopg://127.0.0.1:1/name?sslpassword=hUnTeR&user=ann",
    "postgresql+psycopg://127.0.0.1:1/name?no_such_option=1&password=hUnTeR",
    "mysql+pymysql://ann:hUnTeR@127.0.0.1:1/name",
    "nonsense://ann:hUnTeR@127.0.0.1:1/name",
    "ann:hUnTeR@127.0.0.1:1/name",
    "postgresql+psycopg:/ann:hUnTeR@127.0.0.1:1/name",
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "runs").mkdir()
    torch.save({"model": {"w": torch.eye(3)}, "metrics": {"loss": 1.0}, "epoch": 1}, tmp_path / "runs" / "epoch_1.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, capfd, *arguments: str) -> tuple[object, str]:
    monkeypatch.setattr("sys.argv", ["epsopt", *arguments])
    status: object = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    said = capfd.readouterr()
    return status, said.out + said.err


@pytest.mark.parametrize("url", DATABASES)
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_no_command_shows_the_password_of_a_database(folder, monkeypatch, capfd, url, debug):
    commands = [
        ["ingest", "runs", "--storage", url], ["pareto", "--storage", url],
        ["ingest", "runs", "--study", f"{url}#study"], ["init", "runs", "--force", "--storage", url, "--json"],
    ]  # fmt: skip
    for command in commands:
        status, said = run(monkeypatch, capfd, *command, *debug)
        assert status in (0, 1, 2)
        assert SECRET not in said, said
        assert "UnTeR" not in said, said
        assert "this is a defect" not in said, said
        if not debug:
            assert "Traceback" not in said


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAKEY:hUnTeR@bucket/runs", "s3://AKIAKEY:hU/nTeR+hUnTeR@bucket/runs", "ftp://ann:hUnTeR@127.0.0.1/runs",
        "https://127.0.0.1/runs?X-Amz-Signature=hUnTeR", "https://hUnTeR@127.0.0.1/runs", "abfs://runs@x/a?sig=hUnTeR",
    ],
)  # fmt: skip
def test_a_remote_folder_with_a_password_is_refused_before_anything_keeps_it(folder, monkeypatch, capfd, url):
    for command in (["ingest", url], ["init", url], ["ingest", url, "--debug"]):
        status, said = run(monkeypatch, capfd, *command)
        assert status == 2
        assert "UnTeR" not in said
        assert "nTeR" not in said
        assert "would be kept in the catalogue" in said
    assert SECRET.encode() not in b"".join(f.read_bytes() for f in folder.rglob("*") if f.is_file())


def test_no_process_beside_a_worker_has_the_password_among_its_arguments(folder, monkeypatch):
    url, started = DATABASES[0], []
    real = subprocess.Popen

    def popen(arguments, **how):
        started.append(arguments)
        return real(arguments, **how)

    monkeypatch.setattr("epsopt.studies.background_process.subprocess.Popen", popen)
    learner = BackgroundLearner(folder / "epsopt.toml", url)
    learner.start(1)
    asker = StepAsker(StepTask(str(folder / "epsopt.toml"), url, 1.0))
    asker.start(1)
    asker.stop()
    learner.stop()
    assert len(started) == 2
    assert SECRET not in repr(started)


def test_what_a_study_keeps_of_a_failure_holds_no_password(folder):
    (folder / "stderr.txt").write_text("connecting to postgresql://ann:hUnTeR@db/name failed: password=hUnTeR\n")
    assert last_words(folder) == "connecting to postgresql://ann:***@db/name failed: password=***"


def test_what_a_driver_says_is_masked_and_still_says_it(folder):
    with pytest.raises(EpsoptError) as caught, Catalogue(DATABASES[0]) as catalogue:
        ingest(catalogue, folder / "runs")
    assert "postgresql+psycopg://ann:***@127.0.0.1:1/name: the database cannot be opened" in str(caught.value)
    assert "refused" in str(caught.value)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with pytest.raises(EpsoptError, match=r"ann:\*\*\*@"):
        open_storage(DATABASES[0])
