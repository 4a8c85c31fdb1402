"""Launch training runs side by side: argument lists, never shells; output kept; none left behind (D13)."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from epsopt.zoo.errors import EpsoptError

_GRACE = 10.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Launch:
    """A run to start.

    Attributes:
        arguments: program and arguments.
        out: the run's folder.
        log: file that takes its output.
    """

    arguments: tuple[str, ...]
    out: Path
    log: Path


@dataclass(frozen=True)
class Finished:
    """A run that ended.

    Attributes:
        launch: what was started.
        status: its exit status; negative when a signal ended it.
        seconds: how long it took.
    """

    launch: Launch
    status: int
    seconds: float

    def last_line(self) -> str:
        """Return the last line of its output: where a program says why it failed."""
        lines = self.launch.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "(it printed nothing)")


def launch_all(
    launches: Sequence[Launch],
    *,
    cwd: Path,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finished]:
    """Run training programs, ``jobs`` at a time, and wait for all of them.

    Args:
        launches: what to run.
        cwd: where they start.
        jobs: how many at a time; each is told to use its share of the cores (``OMP_NUM_THREADS``).
        progress: called as ``progress(done, total)``.

    Returns:
        How each ended, in the order given. If this is interrupted, the running ones are ended first.

    Raises:
        EpsoptError: a program could not be started.
    """
    running: set[subprocess.Popen[bytes]] = set()
    stopping = threading.Event()
    share = str(max(1, (os.cpu_count() or 1) // max(jobs, 1)))

    def one(launch: Launch) -> Finished:
        started = time.monotonic()
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        with launch.log.open("ab") as log:
            try:
                process = subprocess.Popen(
                    launch.arguments,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={"OMP_NUM_THREADS": share, **os.environ},
                )
            except OSError as error:
                raise EpsoptError(
                    f"the train command could not be started: {launch.arguments[0]}: {error.strerror or error}; "
                    "check train.command in epsopt.toml"
                ) from error
            running.add(process)
            try:
                status = process.wait()
            finally:
                running.discard(process)
        return Finished(launch, status, time.monotonic() - started)

    def guarded(launch: Launch) -> Finished:
        return Finished(launch, -15, 0.0) if stopping.is_set() else one(launch)

    with ThreadPoolExecutor(max_workers=max(jobs, 1)) as pool:
        futures = {pool.submit(guarded, launch): i for i, launch in enumerate(launches)}
        results: dict[int, Finished] = {}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                if progress is not None:
                    progress(len(results), len(launches))
        except BaseException:
            stopping.set()
            _end(list(running))
            raise
    return [results[i] for i in range(len(launches))]


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
