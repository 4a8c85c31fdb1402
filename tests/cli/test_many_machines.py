"""Many processes on one PostgreSQL, runs in a bucket: propose, work, ingest, fit and report, and readers on Ray."""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import select

from epsopt.studies import open_storage
from epsopt.zoo import Catalogue
from epsopt.zoo.catalogue.tables import metadata

from .conftest import call

pytestmark = pytest.mark.slow  # nine processes import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORKERS, PROPOSALS, EPOCHS, EARLIER = 8, 40, 2, 12
PATIENCE = 600.0  # seconds: nine processes import torch on whatever machine this is
TRAIN = f"""
import runpy, sys, urllib.request
from pathlib import Path
from typing import Any

at = sys.argv.index("--store")
store, out = sys.argv[at + 1], Path(sys.argv[sys.argv.index("--out") + 1])
del sys.argv[at : at + 2]
runpy.run_path({str(BENCHMARKS / "fake_training.py")!r})
for file in sorted(out.glob("*.safetensors")):
    request = urllib.request.Request(f"{{store}}/{{out.name}}/{{file.name}}", file.read_bytes(), method="PUT")
    request.add_header("Content-Type", "application/octet-stream")
    urllib.request.urlopen(request, timeout=60).close()
"""
FILE = """
[project]
name = "many"
runs = "runs"
storage = "{url}"
[objectives.coverage]
direction = "maximize"
bounds = [0.0, 1.0]
[objectives.dist_corr]
direction = "maximize"
[space.lr]
type = "float"
low = 0.0
high = 5.0
[train]
command = ["{{python}}", "-I", "-S", "{program}", "--store", "{store}", "--out", "{{out}}", "--lr", "{{lr}}", \
"--epochs", "2", "--hold", "0"]
"""


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """The address of an empty bucket on moto's S3, over HTTP; epsopt finds it as s3://store."""
    from moto.server import ThreadedMotoServer

    from epsopt.zoo.reading import pool

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in (
        ("AWS_ENDPOINT_URL", address), ("AWS_ACCESS_KEY_ID", "none"), ("AWS_SECRET_ACCESS_KEY", "none"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pool, "SHARED", {})
    import boto3
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # one that is kept would ask the server of an earlier test
    # What the server of an earlier test held is held by this process, and may not be written over by strangers.
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST"), timeout=60).close()
    boto3.client("s3").create_bucket(Bucket="store")
    yield f"{address}/store"
    for shared in pool.SHARED.values():
        shared.close()
    server.stop()


def earlier_runs(folder: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish runs of another time to the bucket."""
    (folder / "train.py").write_text(TRAIN)
    for run in range(EARLIER):
        (out := folder / "earlier" / f"run_{run:02d}").mkdir(parents=True)
        arguments = ["--store", f"{store}/runs", "--out", str(out), "--lr", str(0.4 * run), "--epochs", str(EPOCHS)]
        monkeypatch.setattr("sys.argv", ["train.py", *arguments])
        runpy.run_path(str(folder / "train.py"))


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `epsopt ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-c", "from epsopt.cli.main import main; main()", *arguments, "--debug"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until_all_hold_one(runs: Path, workers: list[subprocess.Popen[str]]) -> None:
    """Programs wait for a file before they train, so that every worker comes to have one."""
    end = time.monotonic() + PATIENCE
    while len(list(runs.glob("*/attempts"))) < WORKERS:
        ended = [w.communicate()[1] for w in workers if w.poll() is not None]
        assert not ended, ended
        assert time.monotonic() < end, "not all workers took a proposal"
        time.sleep(0.05)


def test_eight_workers_run_every_proposal_once_and_nothing_is_lost(tmp_path, database, bucket, monkeypatch):
    earlier_runs(tmp_path, bucket, monkeypatch)
    program = tmp_path / "train.py"
    (tmp_path / "epsopt.toml").write_text(FILE.format(url=database, program=program, store=f"{bucket}/runs"))
    for command in (["ingest", "s3://store/runs"], ["fit"], ["propose", "-n", str(PROPOSALS)]):
        done = call(tmp_path, *command)
        assert done.status == 0, done.err
    workers = [start(tmp_path, "work", "--until-idle", "--json") for _ in range(WORKERS)]
    try:
        wait_until_all_hold_one(tmp_path / "runs", workers)
        (tmp_path / "runs" / "go").touch()
        for worker in workers:
            _, err = worker.communicate(timeout=PATIENCE)
            assert worker.returncode == 0, err
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    trials = optuna.load_study(study_name="many/proposals", storage=open_storage(database)).trials
    assert [t.state.name for t in trials] == ["COMPLETE"] * PROPOSALS
    assert len({t.user_attrs["folder"] for t in trials}) == PROPOSALS
    assert len({t.user_attrs["worker"] for t in trials}) == WORKERS
    attempts = [file.read_text().split() for file in (tmp_path / "runs").glob("*/attempts")]
    assert Counter(map(len, attempts)) == {1: PROPOSALS}, "every proposal was run once"
    again = call(tmp_path, "ingest", "s3://store/runs", "--json")
    assert again.document["found"] == EPOCHS * (PROPOSALS + EARLIER)
    assert again.document["added"] == EPOCHS * PROPOSALS
    with Catalogue.existing(database) as catalogue:
        known = catalogue.checkpoints()
    here = {c.sha256 for c in known if not c.path.startswith("s3://")}
    there = {c.sha256 for c in known if c.path.startswith("s3://store/runs/proposal_")}
    assert len(here) == EPOCHS * PROPOSALS
    assert here == there, "what workers read beside the programs is what these published"
    assert call(tmp_path, "fit").status == 0
    report = call(tmp_path, "report", "--json").document
    assert len(report["proposals"]) == PROPOSALS
    assert all(p["measured"] is not None and p["predicted"] for p in report["proposals"])


def test_a_bucket_in_postgresql_and_its_map_are_the_same_by_way_of_ray(tmp_path, database, bucket, monkeypatch):
    pytest.importorskip("ray", reason="needs Ray: pip install 'epsopt[ray]'")
    earlier_runs(tmp_path, bucket, monkeypatch)
    there = start(tmp_path, "ingest", "s3://store/runs", "--ray", "local", "--jobs", "2", "--storage", database)
    here = f"sqlite:///{tmp_path / 'here.db'}"
    assert call(tmp_path, "ingest", "s3://store/runs", "--storage", here).status == 0
    _, err = there.communicate(timeout=PATIENCE)
    assert there.returncode == 0, err
    assert rows(database) == rows(here)
    fitting = start(tmp_path, "fit", "--ray", "local", "--storage", database)
    _, err = fitting.communicate(timeout=PATIENCE)
    assert fitting.returncode == 0, err
    alone = start(tmp_path, "fit", "--storage", here)
    _, err = alone.communicate(timeout=PATIENCE)
    assert alone.returncode == 0, err
    assert fitted(database) == fitted(here)


def fitted(url: str) -> tuple[bytes, dict[str, Any]]:
    """The map that a catalogue keeps, but for how long it took."""
    with Catalogue.existing(url) as catalogue:
        data, description = catalogue.get_artifact("surrogate")
    validation = {**description["validation"], "seconds": 0.0}
    return data, {**description, "validation": validation, "digest": ""}


def rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of a catalogue."""
    with Catalogue.existing(url) as catalogue, catalogue.reading() as connection:
        tables = metadata.sorted_tables
        return {t.name: sorted((tuple(r) for r in connection.execute(select(t))), key=repr) for t in tables}
