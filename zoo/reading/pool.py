"""A reusable pool of child processes that read files within limits; one that dies is replaced."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socketpair
from typing import Any, Protocol

from epsopt.zoo import child_processes
from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.fingerprints.lineage import KnownLineage, LineageBook
from epsopt.zoo.reading.messages import MAX_MESSAGE, decode, encode, pack
from epsopt.zoo.reading.remote import RemotePath
from epsopt.zoo.reading.source import Limits, needs_more

BYTES_PER_SECOND = 20e6  # added to a file's time limit: no disk is slower
_BYTES_PER_SECOND_FROM_AFAR = 1e6  # no network that is worth reading from is slower
_START = 600.0  # seconds for a child to import torch: minutes from a network disk, or on a busy machine

LOST = "processes of a Ray cluster that read it were lost"
"""A reason that may be one of the machines, not of the file: the next ingest reads it again."""

Message = tuple[dict[str, Any], list[bytes]]


class Readers(Protocol):
    """What reads files, each within limits: child processes here (:class:`ReaderPool`), or elsewhere."""

    jobs: int
    in_use: threading.Lock

    def start(self, expected: int, *, a_file_each: bool = False) -> None:
        """Start readers for that many files."""

    def has_room(self) -> bool:
        """Tell whether a reader is free."""

    def send(self, ticket: int, path: Path, size: int, header: dict[str, Any], book: LineageBook) -> None:
        """Give a file to a free reader, after the lineages that it does not know yet."""

    def receive(self) -> list[tuple[int, Message]]:
        """Wait for answers."""

    def reset(self) -> None:
        """Stop readers that are still busy, after a caller gave up half-way."""


class _Worker:
    """One child process and the file it is busy with."""

    def __init__(self, limits: Limits, slot: int) -> None:
        self.limits = limits
        self.slot = slot
        ours, theirs = socketpair()
        with ours, theirs:
            # A plain program on a pipe, not multiprocessing: nothing is pickled, and a user's script that
            # calls ingest needs no `if __name__ == "__main__"`. Its output goes to standard error: ours may
            # be a JSON document.
            self.process = child_processes.start(
                "epsopt.zoo.worker_process",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
            )
            self.connection = Connection(ours.detach())
        self.ready = False
        self.ticket: int | None = None
        self.deadline = time.monotonic() + _START
        self.seconds = 0.0
        self.queued: list[bytes] = []
        self.hook: str | None = None  # that is at work, and on what
        self.offered = Offered()
        with contextlib.suppress(OSError):  # it may be dead already; whoever waits for it sees how it ended
            self.connection.send_bytes(encode({"limits": dataclasses.asdict(limits)}))

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def exit_reason(self) -> str:
        """Say how the process ended; it has closed its end of the pipe."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        code = self.process.returncode
        if self.hook is not None:
            return f"{self.hook} {_ending(code)}: it must return, or raise an error"
        if code is None:
            return "the process that read it stopped answering"
        if code == -signal.SIGKILL:
            return "the process that read it was killed, most likely because memory ran out"
        died = f"the process that read it died of it ({_how(code)})"
        # Libraries of linear algebra end the process where they get no memory.
        return f"{died}, most likely because it {needs_more(self.limits)}" if code == 1 else died

    def lateness(self) -> str:
        """Say what took too long."""
        if self.hook is not None:
            return f"{self.hook} took longer than {self.limits.hook:.0f} seconds"
        return f"took longer than {self.seconds:.0f} seconds to read"


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _ending(code: int | None) -> str:
    """Say how a hook ended the process that it ran in."""
    if code is None:
        return "closed the pipe of its process"
    memory = ", most likely because memory ran out" if code == -signal.SIGKILL else ""
    return f"ended its process ({_how(code)}{memory})"


class ReaderPool:
    """Children that read one file each at a time.

    Args:
        jobs: children at most; they start when there is something to read.
        limits: what one file may cost.
    """

    def __init__(self, jobs: int = 2, limits: Limits | None = None) -> None:
        self.jobs = max(1, jobs)
        self.limits = limits or Limits()
        self.in_use = threading.Lock()
        self._workers: list[_Worker] = []
        self._dead: list[tuple[int, Message]] = []

    def start(self, expected: int, *, a_file_each: bool = False) -> None:
        """Start children for that many files, all at once: importing torch takes each a second or two.

        Args:
            expected: how many files there are to read.
            a_file_each: whether a single file is worth a child of its own.
        """
        wanted = expected if a_file_each else 1 if expected < 8 else self.jobs
        while len(self._workers) < min(wanted, self.jobs):
            self._workers.append(self._new())

    def _new(self) -> _Worker:
        taken = {w.slot for w in self._workers}
        return _Worker(self.limits, next(slot for slot in range(self.jobs) if slot not in taken))

    def processes(self) -> list[int]:
        """Return the process ids of the children that are there now."""
        return [w.process.pid for w in self._workers]

    def has_room(self) -> bool:
        """Tell whether a child is free."""
        return any(w.ticket is None for w in self._workers)

    def send(self, ticket: int, path: Path, size: int, header: dict[str, Any], book: LineageBook) -> None:
        """Give a file to a free child, after the lineages it does not know yet."""
        worker = next(w for w in self._workers if w.ticket is None)
        messages = worker.offered.news(book)
        messages.append(encode({"kind": "read", "path": str(path), "slot": worker.slot, **header}))
        worker.ticket = ticket
        worker.seconds = seconds_for(path, size, self.limits)
        if worker.ready:
            worker.deadline = time.monotonic() + worker.seconds
            self._deliver(worker, messages)
        else:
            worker.queued = messages

    def receive(self) -> list[tuple[int, Message]]:
        """Wait for answers; a child that died or took too long answers with a failure and is replaced.

        Raises:
            EpsoptError: a child could not even start.
        """
        if self._dead:
            answers, self._dead = self._dead, []
            return answers
        busy = {w.connection: w for w in self._workers if w.ticket is not None or not w.ready}
        if not busy:
            return []
        patience = max(0.0, min(w.deadline for w in busy.values()) - time.monotonic())
        answers = []
        for connection in wait(list(busy), timeout=min(patience, 1.0)):
            worker = busy[connection]  # type: ignore[index]
            answer = self._take(worker)
            if answer is not None:
                answers.append(answer)
        for worker in list(busy.values()):
            if worker in self._workers and time.monotonic() > worker.deadline:
                answers.extend(self._bury(worker, worker.lateness()))
        return answers

    def _take(self, worker: _Worker) -> tuple[int, Message] | None:
        try:
            header, blobs = decode(worker.connection.recv_bytes(MAX_MESSAGE))
        except (EOFError, OSError, ValueError):
            buried = self._bury(worker, worker.exit_reason())
            return buried[0] if buried else None
        if not worker.ready:
            worker.ready = True
            worker.deadline = time.monotonic() + worker.seconds
            queued, worker.queued = worker.queued, []
            self._deliver(worker, queued)
            return None
        if "at work" in header:
            worker.hook = header["at work"]
            patience = worker.seconds if worker.hook is None else worker.limits.hook
            worker.deadline = time.monotonic() + patience
            return None
        ticket, worker.ticket = worker.ticket, None
        worker.deadline = float("inf")
        return None if ticket is None else (ticket, (header, blobs))

    def _deliver(self, worker: _Worker, messages: list[bytes]) -> None:
        try:
            for message in messages:
                worker.connection.send_bytes(message)
        except OSError:
            self._dead.extend(self._bury(worker, worker.exit_reason()))

    def _bury(self, worker: _Worker, reason: str) -> list[tuple[int, Message]]:
        worker.stop()
        self._workers.remove(worker)
        if not worker.ready:
            self.close()
            raise EpsoptError(
                f"a process to read checkpoints could not start ({reason}): check that "
                f"'{sys.executable} -c \"import torch\"' works and that memory is free"
            )
        self._workers.append(self._new())
        status = "failed" if worker.hook is None else "hook"
        return [] if worker.ticket is None else [(worker.ticket, ({"status": status, "reason": reason}, []))]

    def reset(self) -> None:
        """Stop children that are still busy, after a caller gave up half-way."""
        for worker in [w for w in self._workers if w.ticket is not None]:
            worker.stop()
            self._workers.remove(worker)
        self._dead = []

    def close(self) -> None:
        """Stop all children."""
        for worker in self._workers:
            worker.stop()
        self._workers = []


class Offered:
    """The lineages that a reader knows."""

    def __init__(self) -> None:
        self._book: LineageBook | None = None
        self._known: dict[int, KnownLineage] = {}

    def news(self, book: LineageBook) -> list[bytes]:
        """Return messages about those of a book that it does not know; from here on they count as known."""
        messages = []
        if self._book is not book:
            self._book, self._known = book, {}
            messages.append(encode({"kind": "forget"}))
        for known in book:
            if self._known.get(known.id) is not known:
                self._known[known.id] = known
                fields = {k: v for k, v in vars(known).items() if k != "sketch"}
                messages.append(encode({"kind": "lineage", **fields}, [pack(known.sketch)]))
        return messages


def seconds_for(path: Path, size: int, limits: Limits) -> float:
    """Return how long reading a file may take."""
    speed = _BYTES_PER_SECOND_FROM_AFAR if isinstance(path, RemotePath) else BYTES_PER_SECOND
    return limits.seconds + size / speed


SHARED: dict[tuple[int, int, Limits], ReaderPool] = {}
"""Pools by process id, children and limits."""


def shared_pool(jobs: int, limits: Limits | None = None) -> ReaderPool:
    """Return this process's pool of that size: children start once, not once per call."""
    key = (os.getpid(), jobs, limits or Limits())
    if key not in SHARED:
        SHARED[key] = ReaderPool(jobs, limits)
    return SHARED[key]


@atexit.register
def _close_shared() -> None:
    for (pid, _, _), pool in SHARED.items():
        if pid == os.getpid():
            pool.close()
