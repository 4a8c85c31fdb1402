"""The five bombs are refused from what their metadata says, and cost the parent process nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .bombs import BOMBS, write_bombs

PROGRAM = """
import json, resource, sys
from pathlib import Path
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # MB

with Catalogue(sys.argv[1]) as catalogue:
    before = peak()
    report = ingest(catalogue, Path(sys.argv[2]), jobs=1)
    print(json.dumps({"up": peak() - before, "failed": {Path(f.path).name: f.reason for f in report.failed}}))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    write_bombs(folder / "runs")
    url = f"sqlite:///{folder / 'epsopt.db'}"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, str(folder / "runs")], capture_output=True, text=True, check=True
    )
    return folder / "runs", json.loads(run.stdout)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_by_what_it_claims(outcome, bomb):
    folder, said = outcome
    assert (folder / bomb).stat().st_size < 500_000
    assert BOMBS[bomb][1] in said["failed"][bomb]


def test_the_parents_memory_stays_as_it_was(outcome):
    assert outcome[1]["up"] < 100
