from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epsopt.studies.worker.training_process import Launch, Training, cannot_launch, last_words, stop_all

PID = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); "


def start(folder: Path, code: str, *arguments: str, grace: float = 20.0) -> Training:
    out = folder / f"run_{len(list(folder.glob('run_*')))}"
    out.mkdir()
    return Training(Launch((sys.executable, "-I", "-S", "-c", code, *arguments), out, folder, grace=grace))


def pid(folder: Path) -> int:
    file = folder / "pid"
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    return int(file.read_text())


def is_gone(process: int) -> bool:
    for _ in range(12_000):
        stat = Path(f"/proc/{process}/stat")
        try:
            os.kill(process, 0)
            if stat.exists() and ") Z " in stat.read_text():
                return True  # it ended, and its status is still to be read
        except (ProcessLookupError, FileNotFoundError):  # it may go between the looks
            return True
        time.sleep(0.01)
    return False


def test_a_run_ends_with_its_own_status_and_its_output_is_kept(tmp_path):
    training = start(tmp_path, "import sys; print('said'); sys.stderr.write('why\\n'); sys.exit(3)")
    assert training.close() == 3
    assert (training.launch.out / "stdout.txt").read_text() == "said\n"
    assert training.failure(3) == "exit status 3: why"
    killed = start(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.failure(killed.close()) == "ended by SIGKILL: it printed nothing"


def test_the_reason_of_a_failure_is_what_python_says_last(tmp_path):
    training = start(tmp_path, "def f():\n    raise ValueError('lr is no good')\nf()")
    assert training.failure(training.close()) == "exit status 1: ValueError: lr is no good"


HOSTILE = [
    "; touch X", "$(touch X)", "`touch X`", "a b", "--flag", "-", "--", "", "line\nbreak", "'\"", "\\", "*", "~", "é🎉",
    "{lr}", "{{", "%s", "&& touch X", "| touch X", "> X", "\t", "\x01", "$HOME", "!!", "#", "\r\n", "=", "\ud800",
]  # fmt: skip


def test_hostile_values_stay_one_argument_and_run_nothing(tmp_path):
    values = [v for v in HOSTILE if v != "\ud800"]
    code = "import sys; open('got', 'wb').write('\\0'.join(sys.argv[1:]).encode(errors='surrogateescape'))"
    assert start(tmp_path, code, *values).close() == 0
    assert (tmp_path / "got").read_bytes() == "\0".join(values).encode()
    assert not (tmp_path / "X").exists()


def test_a_program_that_is_not_there_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    training = Training(Launch(("no-such-program",), tmp_path / "out", tmp_path))
    assert "could not be started: no-such-program: No such file" in training.failure(training.close())
    assert training.failure(127, launched=False) == "no-such-program: No such file or directory"
    assert not training.was_launched(127)


@pytest.mark.parametrize(
    ("status", "said", "launched"),
    [
        (127, "bash: train.sh: No such file or directory", False),
        (126, "bash: ./train.sh: Permission denied", False),
        (2, "/usr/bin/python: can't open file '/p/train.py': [Errno 2] No such file or directory", False),
        (1, "/usr/bin/python: No module named train", False),
        (1, "/usr/bin/python: Error while finding module specification for 'a.b' (ModuleNotFoundError: No ...)", False),
        (2, "usage: t.py [-h]\nt.py: error: unrecognized arguments: --wd 1", False),
        (2, "Error: No such option: --wd", False),
        (1, "Could not override 'wd'.\nKey 'wd' is not in struct\n    full_key: wd\n    object_type=dict", False),
        (2, "t.py: error: lr is too large", True),
        (1, "ModuleNotFoundError: No module named 'torch'", True),
        (1, "ValueError: lr is no good", True),
        (0, "warning: can't open file 'x': [Errno 2]", True),
        (-9, "", True),
    ],
)
def test_what_kept_a_program_from_its_work_is_distinguished_from_its_own_failures(tmp_path, status, said, launched):
    training = start(tmp_path, "")
    training.close()
    (training.launch.out / "stderr.txt").write_text(said)
    assert training.was_launched(status) is launched


def test_what_cannot_be_launched_is_known_before_it_is_tried(tmp_path):
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    assert cannot_launch((sys.executable, "x"), tmp_path) is None
    assert cannot_launch(("sh",), tmp_path) is None
    assert "may be executed" in cannot_launch(("./run.sh",), tmp_path)
    (tmp_path / "run.sh").chmod(0o755)
    assert cannot_launch(("./run.sh",), tmp_path) is None
    assert "no such program" in cannot_launch(("./other.sh",), tmp_path)
    assert "no folder" in cannot_launch(("sh",), tmp_path / "gone")
    assert "empty" in cannot_launch((), tmp_path)


def test_a_stopped_program_gets_sigterm_and_may_end_well(tmp_path):
    heed = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0))); "
    training = start(tmp_path, heed + PID + "time.sleep(60)")
    pid(tmp_path)
    training.stop()
    assert training.close() == 0
    assert last_words(training.launch.out) == "saved"


def test_what_ignores_sigterm_is_killed_after_the_grace_time_with_all_that_it_started(tmp_path):
    child = "import time; time.sleep(60)"
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"c = subprocess.Popen([sys.executable, '-I', '-S', '-c', {child!r}]); "
        "open('pid', 'w').write(str(c.pid)); time.sleep(60)"
    )
    training = start(tmp_path, code, grace=0.3)
    grandchild = pid(tmp_path)
    training.stop()
    assert training.close() == -signal.SIGKILL
    assert is_gone(grandchild)


def test_a_second_stop_does_not_wait(tmp_path):
    training = start(
        tmp_path,
        PID.replace("import os", "import signal; signal.signal(15, signal.SIG_IGN); import os") + "time.sleep(60)",
        grace=600,
    )
    pid(tmp_path)
    training.stop()
    training.stop()
    assert training.close() == -signal.SIGKILL


def test_no_program_outlives_a_worker_that_is_killed(tmp_path):
    (tmp_path / "out").mkdir()
    code = PID + "time.sleep(60)"
    worker = f"""
import sys, time
from pathlib import Path
from epsopt.studies.worker.training_process import Launch, Training
folder = Path(sys.argv[1])
Training(Launch((sys.executable, "-I", "-S", "-c", {code!r}), folder / "out", folder, grace=5))
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", worker, str(tmp_path)])
    training = pid(tmp_path)
    process.kill()
    process.wait()
    assert is_gone(training)


def test_stopping_all_waits_for_all(tmp_path):
    trainings = [start(tmp_path, "import time; time.sleep(60)") for _ in range(3)]
    stop_all(trainings)
    assert [t.poll() for t in trainings] == [-signal.SIGTERM] * 3


@pytest.mark.parametrize("name", ["stdout.txt", "stderr.txt"])
def test_output_in_no_encoding_is_no_failure(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe broken\n\n")
    assert "broken" in last_words(tmp_path)


SLEEPS = "import time; time.sleep(600)"
BELOW = """
import os, pathlib, signal, subprocess, sys, time
command = [sys.executable, "-I", "-S", "-c", {code!r}]
started = [subprocess.Popen(command, start_new_session=own) for own in (False, True)]
text = " ".join(str(p.pid) for p in started)
pathlib.Path("pids.new").write_text(text)
os.replace("pids.new", "pids")
{then}
"""


def pids(folder: Path) -> list[int]:
    while not (folder / "pids").exists():
        time.sleep(0.01)
    return [int(text) for text in (folder / "pids").read_text().split()]


def test_what_a_program_leaves_behind_ends_with_it_though_it_went_to_a_session_of_its_own(tmp_path):
    training = start(tmp_path, BELOW.format(code=SLEEPS, then="sys.exit(3)"))
    assert training.close() == 3
    assert [is_gone(p) for p in pids(tmp_path)] == [True, True]


def test_what_a_program_leaves_behind_may_end_well_within_the_grace_time(tmp_path):
    saves = (
        "import os, signal, sys, time; "
        "signal.signal(signal.SIGTERM, lambda *_: (open(f'saved{os.getpid()}', 'w').close(), sys.exit())); "
        "open(f'ready{os.getpid()}', 'w').close(); time.sleep(600)"
    )
    waits = "while len(list(pathlib.Path('.').glob('ready*'))) < 2: time.sleep(0.01)"
    training = start(tmp_path, BELOW.format(code=saves, then=waits), grace=600.0)
    assert training.close() == 0
    assert {f"saved{p}" for p in pids(tmp_path)} == {f.name for f in tmp_path.glob("saved*")}


def test_what_a_program_leaves_behind_and_ignores_sigterm_is_killed(tmp_path):
    deaf = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open(f'ready{os.getpid()}', 'w').close(); time.sleep(600)"
    )
    waits = "while len(list(pathlib.Path('.').glob('ready*'))) < 2: time.sleep(0.01)"
    training = start(tmp_path, BELOW.format(code=deaf, then=waits), grace=0.2)
    assert training.close() == 0
    assert [is_gone(p) for p in pids(tmp_path)] == [True, True]


def test_a_stop_kills_at_once_what_a_program_leaves_behind(tmp_path):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    training = start(tmp_path, BELOW.format(code=deaf, then="time.sleep(600)"), grace=600.0)
    processes = pids(tmp_path)
    training.stop()
    assert training.close() == -signal.SIGTERM
    assert [is_gone(p) for p in processes] == [True, True]


def test_with_its_guardian_killed_a_program_and_what_is_in_its_group_end(tmp_path):
    then = "pathlib.Path('new').write_text(f'{os.getpid()} {text}'); os.replace('new', 'pids'); time.sleep(600)"
    training = start(tmp_path, BELOW.format(code=SLEEPS, then=then))
    while len(pids(tmp_path)) < 3:
        time.sleep(0.01)
    program, in_group, in_a_session = pids(tmp_path)
    os.kill(training.process.pid, signal.SIGKILL)
    try:
        assert training.close() == -signal.SIGKILL
        assert is_gone(program)
        assert is_gone(in_group)
    finally:
        os.kill(in_a_session, signal.SIGKILL)  # nobody knows of it any more; the documentation says so


def test_nothing_stays_of_what_stands_beside_a_program(tmp_path):
    training = start(tmp_path, PID + "time.sleep(600)")
    pid(tmp_path)
    beside = processes_below(training.process.pid)
    assert len(beside) == 2, "the program, and the sentinel"
    training.stop()
    training.close()
    assert [is_gone(p) for p in beside] == [True, True]


def processes_below(process: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
