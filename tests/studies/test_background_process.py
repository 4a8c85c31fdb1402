"""A process beside a worker: what is said to it, what it tells while it runs, and how it ends."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from epsopt.studies.background_process import Helper

pytestmark = pytest.mark.usefixtures("real_start")

ECHO = """
import json, subprocess, sys
for line in sys.stdin:
    said = json.loads(line)
    if "start" in said:
        print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
    elif "fail" in said:
        sys.exit("a reason\\nin lines\\n")
    else:
        print(said["say"], end=said["end"], flush=True)
"""


@pytest.fixture
def helper(tmp_path, monkeypatch):
    (tmp_path / "echo_helper.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Helper("echo_helper")
    yield made
    made.kill()


def heard(helper: Helper, n: int = 1) -> list[str]:
    lines = []
    while len(lines) < n:
        lines += helper.receive()
        time.sleep(0.01)
    return lines


def test_what_it_tells_while_it_runs_is_heard_once_and_in_whole_lines(helper):
    helper.send({"say": "one", "end": "\n"})
    assert heard(helper) == ["one"]
    assert helper.receive() == []
    helper.send({"say": "tw", "end": ""})
    helper.send({"say": "o", "end": "\n"})
    helper.send({"say": "three", "end": "\n"})
    assert heard(helper, 2) == ["two", "three"], "reading does not move where it writes"
    assert helper.runs()
    assert helper.failure() is None
    helper.close()
    helper.wait()
    assert not helper.runs()
    assert helper.failure() is None


def test_why_it_failed_is_its_last_line_and_nothing_more_can_be_said_to_it(helper):
    helper.send({"fail": True})
    helper.wait()
    assert helper.failure() == "in lines"
    helper.send({"say": "x", "end": ""})
    helper.close()
    helper.send({"say": "x", "end": ""})


def test_one_that_is_killed_says_so_and_leaves_no_process_behind(helper):
    helper.send({"start": True})
    child = int(heard(helper)[0])
    helper.kill()
    assert helper.failure() == "echo_helper was killed by SIGKILL (most likely memory ran out)"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it is gone
        while Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
            time.sleep(0.05)
