"""The crash benchmark in small: two ingests at once, kill -9 of ingest, fit and a writer, and nothing differs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "crash.py"


@pytest.mark.slow
def test_what_is_killed_and_resumed_comes_to_the_same_result(tmp_path):
    sizes = ["--points", "2", "--repeats", "1", "--files", "60"]
    command = [sys.executable, str(SCRIPT), *sizes, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "two ingesters",
        "ingest killed and resumed",
        "fit killed and resumed",
        "writer killed while ingest polls",
    ]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout, "what is done is not done again"
