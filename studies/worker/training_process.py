"""Start and stop training programs: argument lists, never shells; output kept; none left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epsopt.studies.optuna_io.run_output import STDERR, STDOUT
from epsopt.studies.project.project import Project
from epsopt.studies.worker.supervisor import CANNOT_START
from epsopt.zoo.credentials import masked
from epsopt.zoo.errors import EpsoptError

SUPERVISOR = Path(__file__).parent / "supervisor.py"
_LAST = 12  # lines of each stream that the dashboard shows
_TAIL = 8192  # bytes of the output that are looked at for the reason of a failure
_REPORTED = 2  # lines of it that are reported
_NOTHING_TO_RUN = (CANNOT_START, 126)  # as shells say that a command is not there, or may not be executed
_NO_LAUNCH = re.compile(
    r"can't open file '.*': \[Errno \d+\]|can't find '__main__' module|^\S+: No module named [^'\s]|"  # python
    r"^\S+: Error while finding module specification for |"
    r"error: unrecognized arguments: |error: the following arguments are required: |error: argument \S+: expected |"
    r"^Error: (No such option|Missing (option|argument|parameter)|Got unexpected extra argument)|"  # click
    r"^Could not override '"  # Hydra
)
_FRAMES = ("Traceback (most", "File ", "^", "~", "raise ")  # how Python got there; what went wrong comes last


class LaunchError(EpsoptError):
    """No training program can be launched: command, script, arguments or folders are wrong, whatever the proposal."""


@dataclass(frozen=True)
class Launch:
    """A run to start.

    Attributes:
        arguments: program and arguments.
        out: the run's folder; it exists, and takes the program's output as stdout.txt and stderr.txt.
        cwd: where the program starts.
        threads: number of threads that the program may use (``OMP_NUM_THREADS``), unless the environment sets it.
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
                self.process = subprocess.Popen(
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
        return self.process.poll()

    def stop(self) -> None:
        """Ask the program to end: SIGTERM, SIGKILL after the grace time. A second call kills at once."""
        if self.process.stdin is not None and self._asked < 2:
            self._asked += 1
            with contextlib.suppress(OSError, ValueError):  # it has ended by itself
                self.process.stdin.write(b"x")
                self.process.stdin.flush()

    def close(self) -> int:
        """Wait for the end and let go of the pipe; returns the exit status."""
        status = self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        return status

    def was_launched(self, status: int) -> bool:
        """Whether a training program came to its work; False: command, script, permission or arguments are wrong.

        It is for a program that ended with this status and wrote no checkpoint. The supervisor and shells say by the
        status that there was nothing to run, interpreters and parsers of arguments by what they print.
        """
        if status in _NOTHING_TO_RUN:
            return False
        return status <= 0 or not any(_NO_LAUNCH.search(line) for line in _tail(self.launch.out / STDERR))

    def failure(self, status: int, *, launched: bool = True) -> str:
        """Say in one line how the program ended and what it said last."""
        reported = last_words(self.launch.out)
        if not launched:
            return (_why_not_launched(self.launch.out) or reported).removeprefix(
                "the train command could not be started: "
            )
        how = f"exit status {status}" if status >= 0 else f"ended by {signal.Signals(-status).name}"
        return f"{how}: {reported}"


def cannot_launch(arguments: Sequence[str], cwd: Path) -> str | None:
    """Say why a program cannot be launched, as far as it is known without trying; None: nothing is known.

    Args:
        arguments: program and arguments.
        cwd: where the program starts.
    """
    if not arguments:
        return "train.command is empty"
    if not cwd.is_dir():
        return f"there is no folder {cwd} to start it in (train.cwd)"
    program = arguments[0]
    place = str(cwd / program) if os.path.dirname(program) else program  # noqa: PTH120 - as execvp looks at it
    if shutil.which(place) is not None:
        return None
    if place == program or not Path(place).exists():
        return f"{program}: there is no such program"
    return f"{program}: it is no program that may be executed"


def cannot_be_launched(project: Project, why: str) -> str:
    """Say that the train command cannot be launched, and what to do."""
    return (
        f"the train command cannot be launched: {why}; mend [train] in {project.file}; no proposal was used up, what "
        "is queued stays queued"
    )


def clear(out: Path) -> None:
    """Remove the folder of a run that was never launched, unless there is anything of somebody else in it."""
    with contextlib.suppress(OSError):
        if {file.name for file in out.iterdir()} <= {STDOUT, STDERR}:
            for name in (STDOUT, STDERR):
                (out / name).unlink(missing_ok=True)
            out.rmdir()


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
        lines = [line for line in _tail(out / name) if not line.startswith(_FRAMES)]
        if lines:
            return masked(" | ".join(line[:200] for line in lines[-_REPORTED:]))  # it is kept in the study
    return "it printed nothing"


def last_lines(out: Path) -> list[str]:
    """Return the last lines that a run's program printed, its standard output before its standard error.

    Args:
        out: the run's folder; it may not be there.

    Returns:
        Lines without passwords; none where it printed nothing.
    """
    return [masked(line[:200]) for name in (STDOUT, STDERR) for line in _tail(out / name)[-_LAST:]]


def _why_not_launched(out: Path) -> str | None:
    """Return the line by which an interpreter or a parser of arguments says that it has nothing to run."""
    line = next((line for line in _tail(out / STDERR) if _NO_LAUNCH.search(line)), None)
    return None if line is None else masked(line[:400])


def _tail(file: Path) -> list[str]:
    """Return the last lines of a file that hold anything."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - _TAIL))
            lines = [line.strip() for line in opened.read().decode(errors="replace").splitlines()]
    except OSError:
        return []
    return [line for line in lines if line]
