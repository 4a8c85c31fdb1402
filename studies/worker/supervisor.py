"""Stands between a worker and a training program, so that neither the program nor what it starts outlives the worker.

Run as a plain script, ``python -I -S supervisor.py GRACE PROGRAM ARGUMENT...``, with a pipe from the worker as standard
input. It starts the program in a session of its own, with no standard input, and waits. A byte in the pipe, or its end
(the worker is gone, however it went), ends the program's whole process group: SIGTERM, then SIGKILL after GRACE
seconds; a second byte kills at once. It ends as the program ended: with its exit status, or by the same signal.

What the program leaves running when it ends is ended, too: with SIGKILL where the program was asked to end, otherwise
as the program would be. On Linux that is every process below it, whatever group or session it went to; elsewhere it is
the process group.

Should the guardian itself be killed, Linux kills the program with it, and a sentinel, a process that does nothing else,
kills the program's process group on any system.
It imports nothing of epsopt: it starts in a few hundredths of a second and takes a few megabytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

CANNOT_START = 127
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl
_UNKILLABLE = 10.0  # seconds to wait for what SIGKILL does not end: it hangs in a driver or a network file system


def main() -> int:
    """Run the program; return its exit status."""
    grace, arguments = float(sys.argv[1]), sys.argv[2:]
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    sentinel, sentinel_input = _sentinel()
    adopts = _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become children of this process
    try:
        program = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509 - this process has one thread
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.stderr.write(f"the train command could not be started: {arguments[0]}: {reason}\n")
        return CANNOT_START
    os.write(sentinel_input, str(program.pid).encode())
    signalled = killed = False
    deadline = give_up = float("inf")
    pipe = [0]
    asked_to_end: set[int] = set()
    while True:
        _reap(program)
        now, ended = time.monotonic(), program.returncode is not None
        left = _below(os.getpid()) - {sentinel} if adopts and (ended or killed) else set()
        if ended:
            if now >= give_up or not (left if adopts else _has_members(program.pid)):
                break
            deadline = min(deadline, now + grace)
        killed = killed or now >= deadline or (ended and signalled)
        if killed:
            _signal(program.pid if not (ended and adopts) else None, left, signal.SIGKILL)
            give_up = min(give_up, now + _UNKILLABLE) if ended else give_up
        elif ended:
            _signal(None if adopts or asked_to_end else program.pid, left - asked_to_end, signal.SIGTERM)
            asked_to_end |= left or {program.pid}
        wait = max((give_up if killed else deadline) - now, 0.0)
        # A signal tells that a child has ended. What is below others only is looked for again and again.
        ready, _, _ = select.select([*pipe, woken], [], [], min(wait, 0.1 if ended else 3600.0))
        if woken in ready:
            os.read(woken, 1024)
        if 0 in ready:
            asked = os.read(0, 1)
            pipe = pipe if asked else []
            killed = killed or (signalled and bool(asked))
            if not signalled:
                signalled, deadline = True, min(deadline, time.monotonic() + grace)
                if not ended:
                    _signal(program.pid, (), signal.SIGTERM)
    os.write(sentinel_input, b".")
    return int(program.returncode)


def _prctl(option: int, value: int) -> bool:
    """Set an attribute of this process in Linux; whether that worked."""
    try:
        return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _dies_with(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes the program: it has the system kill it when this process ends.

    This process has one thread only: Linux takes the thread that started a child for its parent.
    """

    def prepare() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(CANNOT_START)

    return prepare


def _sentinel() -> tuple[int, int]:
    """Start a process that kills a process group should this process be killed.

    Returns:
        Its id, and a pipe to it: for the group's id, and for a dot when there is nothing left to kill.
    """
    heard, written = os.pipe()
    sentinel = os.fork()
    if sentinel:
        os.close(heard)
        return sentinel, written
    try:
        os.setsid()
        os.dup2(heard, 0)
        os.closerange(1, 256)
        text = b""
        while part := os.read(0, 64):
            text += part
        if text and not text.endswith(b"."):
            os.killpg(int(text), signal.SIGKILL)
    finally:
        os._exit(0)


def _reap(program: subprocess.Popen[bytes]) -> None:
    """Take note of every child that has ended, adopted ones too."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == program.pid:
                program.returncode = os.waitstatus_to_exitcode(found[1])


def _has_members(group: int) -> bool:
    """Whether a process group has processes yet."""
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def _below(process: int) -> set[int]:
    """Return all processes below one, by what Linux says of each process's parent."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(file.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found: set[int] = set()
    new = [process]
    while new:
        new = [child for parent in new for child in children.get(parent, ()) if child not in found]
        found.update(new)
    return found


def _signal(group: int | None, processes: Iterable[int], number: int) -> None:
    if group is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


if __name__ == "__main__":
    # The worker alone says what happens, in the pipe. Handlers, since a program would inherit what is ignored.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    status = main()
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status if status >= 0 else 128 - status)
