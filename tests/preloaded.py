"""Processes that begin as copies of one that has imported the libraries: torch and BoTorch take seconds to import.

Run as a program with a socket, it imports what it is asked to start and forks; the copy then runs the module as a
program of its own. :class:`Preloaded` is the other end, in the process of the tests, in place of
:func:`epsopt.zoo.child_processes.start`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# What the program imports when it has something to do, not when it begins.
_BOTH = ["alembic.command", "torch._dynamo", "botorch.models"]
LATER = {
    "epsopt.studies.schedule.scheduler_service": [*_BOTH, "botorch.acquisition"],
    "epsopt.studies.worker.refit_service": [*_BOTH, "epsopt.surrogate.fitting"],
}
_LONGEST = 1 << 17  # bytes of a request: an environment and a path
_ABOVE = 200  # descriptors are put there before they get their numbers


class Preloaded:
    """Starts modules as copies of a process that has imported them; the process begins with the first one."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._one = threading.Lock()

    def start(self, module: str, *arguments: str, pass_fds: Any = (), start_new_session: bool = False, **streams: Any):
        """Start a module as :func:`epsopt.zoo.child_processes.start` does."""
        from epsopt.zoo.child_processes import environment, import_path

        from .effort import LITTLE

        request = {
            "module": module,
            "arguments": arguments,
            "path": import_path(),
            "cwd": str(Path.cwd()),
            "environment": environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1"),
            "session": start_new_session,
            "numbers": [0, 1, 2, *pass_fds],
            "constants": {name: pkgutil.resolve_name(name) for name in LITTLE if module in LATER},
        }
        ended, say_ended = os.pipe()
        stdin = None
        with contextlib.ExitStack() as ours:
            ours.callback(os.close, say_ended)
            given = []
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                stream = streams.get(name)
                if stream == subprocess.DEVNULL:
                    stream = os.open(os.devnull, os.O_RDWR)
                    ours.callback(os.close, stream)
                elif stream == subprocess.PIPE:
                    assert name == "stdin", "nothing else is asked for"
                    stream, theirs = os.pipe()
                    ours.callback(os.close, stream)
                    stdin = os.fdopen(theirs, "wb", buffering=0)
                given.append(number if stream is None else stream if isinstance(stream, int) else stream.fileno())
            with self._one:
                connection = self._connection()
                socket.send_fds(connection, [json.dumps(request).encode()], [say_ended, *given, *pass_fds])
                pid = int(connection.recv(64))
        return Copy(pid, ended, stdin, [module, *arguments])

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            with theirs:
                self._process = subprocess.Popen(  # in a folder that outlives the test: torch asks for it later
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
                )
        return self._socket

    def close(self) -> None:
        """End the process; its copies have pipes that end with this process."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait()


class Copy:
    """A process that was started so, as far as :class:`subprocess.Popen` is used of one."""

    def __init__(self, pid: int, ended: int, stdin: Any, args: list[str]) -> None:
        self.pid, self.stdin, self.args = pid, stdin, args
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        """Return how it ended, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            status = os.read(self._ended, 4)
            os.close(self._ended)
            self.returncode = struct.unpack("i", status)[0] if status else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


def serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for every request until the other end closes; return the request in each copy, None in the end."""
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    ends: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([connection, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            with contextlib.suppress(ChildProcessError):
                while (found := os.waitpid(-1, os.WNOHANG))[0]:
                    end = ends.pop(found[0])
                    with contextlib.suppress(BrokenPipeError):
                        os.write(end, struct.pack("i", os.waitstatus_to_exitcode(found[1])))
                    os.close(end)
        if connection in ready:
            said, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, 32)
            if not said:
                return None
            request = json.loads(said)
            if request["module"].startswith("epsopt."):
                for name in (request["module"], *LATER.get(request["module"], ())):
                    importlib.import_module(name)
                if request["module"] in LATER:
                    for name, value in request["constants"].items():
                        module, _, constant = name.rpartition(".")
                        setattr(importlib.import_module(module), constant, value)
            gc.collect()
            gc.freeze()  # a collection in a copy would write to, and so copy, all of this process
            leads, led = os.pipe()
            if not (pid := os.fork()):
                if request["session"]:
                    os.setsid()  # before anybody knows the pid: whoever kills its group must find one
                os.close(leads)
                os.close(led)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return request, descriptors[1:]
            os.close(led)
            os.read(leads, 1)  # nothing comes: the copy closes its end when it leads its session
            os.close(leads)
            ends[pid] = descriptors[0]
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            connection.send(str(pid).encode())


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Give this copy what a process has that was started with these options."""
    numbers = request["numbers"]
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _ABOVE) for descriptor in descriptors]
    for descriptor, number in zip(high, numbers, strict=True):
        os.dup2(descriptor, number)
    for other in set(range(3, max(high) + 1)) - set(numbers):
        with contextlib.suppress(OSError):
            os.close(other)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = [request["module"], *request["arguments"]]
    sys.path[:] = request["path"]


def end(program: Callable[[], object]) -> NoReturn:
    """Run a program and end this copy as the interpreter would, but for the second in which it frees every module."""
    status, interrupted = 0, False
    try:
        program()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        status, interrupted = 1, isinstance(error, KeyboardInterrupt)
    with contextlib.suppress(Exception):
        threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        become(*asked)
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
        end(lambda: runpy.run_module(asked[0]["module"], run_name="__main__", alter_sys=True))
