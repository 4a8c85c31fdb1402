"""Stands between a worker and a training program, so that the program never outlives the worker.

Run as a plain script, ``python -I -S guardian.py GRACE PROGRAM ARGUMENT...``, with a pipe from the worker as standard
input. It starts the program in a session of its own, with no standard input, and waits. A byte in the pipe, or its end
(the worker is gone, however it went), ends the program's whole process group: SIGTERM, then SIGKILL after GRACE
seconds; a second byte kills at once. It ends as the program ended: with its exit status, or by the same signal.
It imports nothing of epsopt: it starts in a few hundredths of a second and takes a few megabytes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

CANNOT_START = 127


def main() -> int:
    """Run the program; return its exit status."""
    grace, arguments = float(sys.argv[1]), sys.argv[2:]
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    try:
        child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.stderr.write(f"the train command could not be started: {arguments[0]}: {reason}\n")
        return CANNOT_START
    told = killed = False
    deadline = float("inf")
    pipe = [0]
    while child.poll() is None:
        wait = min(max(deadline - time.monotonic(), 0.0), 3600.0)
        ready, _, _ = select.select([*pipe, woken], [], [], wait)
        if woken in ready:
            os.read(woken, 1024)
        if 0 in ready:
            asked = os.read(0, 1)
            if not asked:
                pipe = []
            killed = killed or (told and bool(asked))
            if not told:
                told, deadline = True, time.monotonic() + grace
                _signal(child.pid, signal.SIGTERM)
        if told and not killed and time.monotonic() >= deadline:
            killed = True
        if killed:
            _signal(child.pid, signal.SIGKILL)
            deadline = float("inf")
    if told:  # what the program started and left behind ends with it
        _signal(child.pid, signal.SIGKILL)
    return child.returncode


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


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
