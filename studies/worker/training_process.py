"""Start and stop training programs: argument lists, never shells; output kept; none left behind (D13)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epsopt.studies.worker.supervisor import CANNOT_START
from epsopt.zoo.credentials import masked
from epsopt.zoo.errors import EpsoptError

SUPERVISOR = Path(__file__).parent / "supervisor.py"
STDOUT, STDERR = "stdout.txt", "stderr.txt"
_TAIL = 8192  # bytes of the output that are looked at for the reason of a failure
_SAID = 2  # lines of it that are told
_FRAMES = ("Traceback (most", "File ", "^", "~", "raise ")  # how Python got there; what went wrong comes last


@dataclass(frozen=True)
class Launch:
    """A run to start.

    Attributes:
        arguments: program and arguments.
        out: the run's folder; it exists, and takes the program's output as stdout.txt and stderr.txt.
        cwd: where the program starts.
        threads: how many the program is told to use (``OMP_NUM_THREADS``), unless the environment says it already.
        grace: seconds between SIGTERM and SIGKILL.
    """

    arguments: tuple[str, ...]
    out: Path
    cwd: Path
    threads: int = 1
    grace: float = 30.0


class Training:
    """A training program that runs; it ends when it is stopped, or when this process ends, however that happens.

    Args:
        launch: what to start.

    Raises:
        EpsoptError: its output cannot be written, or no process can be started.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.started = time.monotonic()
        self._asked = 0
        command = [sys.executable, "-I", "-S", str(SUPERVISOR), str(launch.grace), *launch.arguments]
        try:
            with (launch.out / STDOUT).open("ab") as out, (launch.out / STDERR).open("ab") as err:
                self._process = subprocess.Popen(
                    command,
                    cwd=launch.cwd,
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    env={"OMP_NUM_THREADS": str(launch.threads), **os.environ},
                )
        except OSError as error:
            raise EpsoptError(f"{launch.out}: the run cannot be started: {error.strerror or error}") from error

    def poll(self) -> int | None:
        """Return the exit status, negative when a signal ended the program; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask the program to end: SIGTERM, SIGKILL after the grace time. A second call kills at once."""
        if self._process.stdin is not None and self._asked < 2:
            self._asked += 1
            with contextlib.suppress(OSError, ValueError):  # it has ended by itself
                self._process.stdin.write(b"x")
                self._process.stdin.flush()

    def close(self) -> int:
        """Wait for the end and let go of the pipe; returns the exit status."""
        status = self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        return status

    def was_started(self, status: int) -> bool:
        """Whether there was a program to end with this status: the guardian says when none could be started."""
        return status != CANNOT_START or "could not be started" not in last_words(self.launch.out)

    def failure(self, status: int) -> str:
        """Say in one line how the program ended and what it said last."""
        said = last_words(self.launch.out)
        if not self.was_started(status):
            return f"{said}; check train.command in epsopt.toml"
        how = f"exit status {status}" if status >= 0 else f"ended by {signal.Signals(-status).name}"
        return f"{how}: {said}"


def stop_all(trainings: Sequence[Training]) -> None:
    """Stop training programs and wait until all are gone; a second interrupt meanwhile kills them at once."""
    for training in trainings:
        training.stop()
    try:
        for training in trainings:
            training.close()
    except KeyboardInterrupt:
        for training in trainings:
            training.stop()
        for training in trainings:
            training.close()


def last_words(out: Path) -> str:
    """Return the last lines of a run's standard error, or else of its output: where a program says why it failed."""
    for name in (STDERR, STDOUT):
        with contextlib.suppress(OSError), (out / name).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
            lines = [line for line in lines if line and not line.startswith(_FRAMES)]
            if lines:
                return masked(" | ".join(line[:200] for line in lines[-_SAID:]))  # it is kept in the study
    return "it printed nothing"
