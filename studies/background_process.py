"""A background process of a worker: it takes lines of JSON and writes lines of text."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO, Any

from epsopt.zoo import child_processes
from epsopt.zoo.credentials import masked


class Helper:
    """A module of ours, run as a process that reads its standard input and tells on its standard output.

    Args:
        module: its name, as for ``python -m``.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - likewise
        self._bytes_read = 0  # bytes of its output that were read
        self.process = child_processes.start(
            module,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,  # a terminal's Ctrl-C is the worker's to hear
        )

    def send(self, document: Mapping[str, Any]) -> None:
        """Write a line to its standard input; nothing happens if it has ended."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            # Not as arguments: a database URL may hold a password, and anybody can list the arguments of a process.
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(document).encode() + b"\n")
                self.process.stdin.flush()

    def receive(self) -> list[str]:
        """Return its new lines of output; a line that is not whole yet waits."""
        file = self._output.fileno()
        new = os.fstat(file).st_size - self._bytes_read
        # Not with seek and read: where the process goes on to write, it shares with this one.
        whole, newline, _ = os.pread(file, new, self._bytes_read).rpartition(b"\n")
        self._bytes_read += len(whole) + len(newline)
        return [line for line in whole.decode(errors="replace").splitlines() if line.strip()]

    def close(self) -> None:
        """Say that nothing more will be said: it ends when it is done."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait(self) -> None:
        """Wait until it has ended."""
        self.process.wait()

    def failure(self) -> str | None:
        """Say why it failed, as the last line of its standard error does; None if it did not, or has not ended."""
        status = self.process.poll()
        if not status:
            return None
        if status < 0:
            memory = " (most likely memory ran out)" if status == -signal.SIGKILL else ""
            return f"{self._module} was killed by {signal.Signals(-status).name}{memory}"
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return masked(lines[-1]) if lines else f"{self._module} ended with status {self.process.returncode}"

    def kill(self) -> None:
        """Kill it and the processes that it started, unless it has ended."""
        if self.runs():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # it leads a session of its own
            self.process.wait()
        self.close()
