"""The faults benchmark in small: workers at once, a killed one, hostile values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "faults.py"


@pytest.mark.slow
def test_workers_that_run_at_once_and_die_lose_nothing_and_do_nothing_twice(tmp_path):
    sizes = ["--repeats", "1", "--queued", "20", "--kills", "2", "--database", "sqlite"]
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *sizes, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 workers on 20 queued trials, 1 times: 20 complete, 0 run twice" in done.stdout
    assert "2 times kill -9 among 4 workers on 16 queued trials" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout, "what is done is not done again"
