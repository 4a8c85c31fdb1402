from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from epsopt.studies.loop.launch import Launch, launch_all
from epsopt.zoo.errors import EpsoptError


def launch(folder: Path, name: str, code: str, *arguments: str) -> Launch:
    return Launch((sys.executable, "-c", code, *arguments), folder / name, folder / "logs" / f"{name}.log")


def test_runs_end_in_the_order_given_with_their_status_and_output(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    finished = launch_all(
        [
            launch(tmp_path, "slow", "import time; time.sleep(.5); print('slow')"),
            launch(tmp_path, "bad", "import sys; print('why'); sys.exit(3)"),
        ],
        cwd=tmp_path,
        jobs=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [f.status for f in finished] == [0, 3]
    assert [f.last_line() for f in finished] == ["slow", "why"]
    assert seen == [(1, 2), (2, 2)]


def test_hostile_values_stay_one_argument_and_run_nothing(tmp_path: Path) -> None:
    hostile = ["; touch X", "$(touch X)", "a b", "--flag", "line\nbreak", "`touch X`", "'\""]
    code = "import sys, pathlib; pathlib.Path('got').write_bytes('\\0'.join(sys.argv[1:]).encode())"
    launch_all([launch(tmp_path, "one", code, *hostile)], cwd=tmp_path)
    assert (tmp_path / "got").read_bytes() == "\0".join(hostile).encode()
    assert not (tmp_path / "X").exists()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EpsoptError, match=r"no-such-program.*train\.command"):
        launch_all([Launch(("no-such-program",), tmp_path, tmp_path / "log")], cwd=tmp_path)


@pytest.fixture
def heard():
    """Ctrl-C as a terminal delivers it: a background job inherits an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_an_interrupt_leaves_no_run_behind(tmp_path: Path) -> None:
    code = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"

    def interrupt() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        launch_all([launch(tmp_path, "long", code), launch(tmp_path, "next", "")], cwd=tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
