"""A Ray cluster (https://docs.ray.io): connected to when a command is asked to use one, and never imported before.

Ray's workers run what the driver sends them. Here they import epsopt as it is installed on their machine, and get
values: no code of the caller's, and no module from the folder that a command was started in.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import secrets
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from epsopt.zoo.child_processes import environment_variables, safe_children
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.formatting import count

LOCAL = "local"
"""The address of a cluster that is started on this machine, for as long as it is used."""

OBJECT_STORE = 256 << 20
"""Bytes of shared memory of a local cluster; what does not fit goes to its folder on the disk."""

_EXPECTED = (
    "expected 'local', 'auto' or HOST:PORT on a machine of the cluster, or ray://HOST:10001 from any other one "
    "(which needs: pip install 'ray[client]')"
)
_LONGEST = 40  # characters of the folder of a local cluster: below it lie sockets, whose paths may have 107
_KNOCK = 10.0  # seconds
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a cluster that epsopt starts reports to nobody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers see the devices that their machine shows; no warning either
}


@dataclass(frozen=True)
class RayCluster:
    """A cluster that this process is connected to.

    Attributes:
        address: as the user gave it.
        cpus: processors that it offers now.
    """

    address: str
    cpus: int

    def __str__(self) -> str:
        """Name it in a sentence."""
        where = "the local Ray" if self.address == LOCAL else f"the Ray cluster at {self.address}"
        return f"{where} ({count(self.cpus, 'CPU')})"

    def completed(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Run calls of a function on the cluster, one a processor, and give what they return as they end.

        A call whose process is lost is made again, three times.

        Args:
            function: of a module of epsopt; it depends on nothing but its arguments.
            calls: the arguments of each.

        Yields:
            The number of a call, and what it returned.

        Raises:
            EpsoptError: the processes of one call were lost again and again, or a machine has another epsopt.
        """
        import ray

        kept: dict[int, Any] = {}  # what several calls take travels once

        def put(value: Any) -> Any:
            if isinstance(value, int | float | str | bool | None):
                return value
            if id(value) not in kept:
                kept[id(value)] = ray.put(value)
            return kept[id(value)]

        remote = ray.remote(num_cpus=1, max_retries=3)(run_call)
        ours = version("epsopt")
        refs = {remote.remote(ours, function, *map(put, call)): i for i, call in enumerate(calls)}
        try:
            while refs:
                ready, _ = ray.wait(list(refs), num_returns=1)
                for ref in ready:
                    yield refs.pop(ref), self._result(ref)
        finally:
            for ref in refs:
                with contextlib.suppress(Exception):  # it ended meanwhile, or the cluster is gone
                    ray.cancel(ref, force=True)

    def _result(self, ref: Any) -> Any:
        import ray

        try:
            return ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, EpsoptError) else error.as_instanceof_cause()
            raise cause from None
        except ray.exceptions.RayError as error:
            raise EpsoptError(
                f"a part of the work was lost again and again on {self}: {first_line(error)}: check its machines, and "
                "run the command again"
            ) from error


def run_call(driver: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function: what a process of the cluster runs.

    Args:
        driver: version of epsopt that asks.
        function: what to call.
        arguments: of it.
    """
    check_version(driver)
    return function(*arguments)


def check_version(driver: str) -> None:
    """Check that this machine has the epsopt of the process that asks.

    Raises:
        EpsoptError: it has another one.
    """
    ours = version("epsopt")
    if ours != driver:
        raise EpsoptError(
            f"epsopt is version {ours} on {os.uname().nodename}, which is a machine of the Ray cluster, and version "
            f"{driver} here: install the same version on all machines"
        )


@contextlib.contextmanager
def connect_ray(address: str, cpus: int | None = None) -> Iterator[RayCluster]:
    """Connect to a Ray cluster while the block runs; a process that is connected already stays so.

    Args:
        address: ``local`` starts one on this machine; ``auto`` or ``HOST:PORT`` is one that this machine is part of;
            ``ray://HOST:10001`` goes through Ray's client.
        cpus: processors of a local one; None takes those that there are.

    Returns:
        A context that gives the cluster, and ends the connection, and a local Ray, with the block.

    Raises:
        EpsoptError: Ray is not installed.
        UsageError: no cluster answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise EpsoptError("--ray needs Ray, which is not installed: pip install 'epsopt[ray]'")
    import ray

    if ray.is_initialized():
        yield _cluster(address)
        return
    with contextlib.ExitStack() as stack:
        try:
            _knock(address)
            stack.enter_context(_silence())
            stack.callback(ray.shutdown)
            _connect(address, cpus, stack)
        except Exception as error:  # Ray has a type of its own for each of many reasons
            raise UsageError(f"no Ray cluster answers at {address!r} ({first_line(error)}): {_EXPECTED}") from error
        yield _cluster(address)


def _connect(address: str, cpus: int | None, stack: contextlib.ExitStack) -> None:
    import ray

    options: dict[str, Any] = {"configure_logging": True, "logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        folder = _folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(ray.shutdown)  # before its folder goes
        options |= {"num_cpus": cpus, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        stack.enter_context(_unless_set({"RAY_AUTH_TOKEN": _own_token()}))
        options["_temp_dir"] = f"{folder}/ray"  # Ray opens this one to everybody, and not the one around it
    with _nowhere(), safe_children(), _unless_set(_QUIET), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(address=address, **options)


def _knock(address: str) -> None:
    """Check that something listens at an address: Ray tries for minutes where nothing does."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


def _cluster(address: str) -> RayCluster:
    import ray

    return RayCluster(address, max(1, int(ray.cluster_resources().get("CPU", 0))))


def _folder() -> str:
    """Make a folder for the files of a local cluster; its path is short."""
    usual = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="ray-", dir=usual if len(usual) < _LONGEST else "/tmp")  # noqa: S108 - mkdtemp is safe


@functools.cache  # Ray reads it once a process
def _own_token() -> str:
    """Return what lets nobody else in: by default Ray writes one token for all clusters into the user's home."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _nowhere() -> Iterator[None]:
    """Be in the root folder while the block runs.

    Ray puts the current folder of the driver first on the path from which its workers import, and a folder of runs is a
    stranger's.
    """
    try:
        before: Path | None = Path.cwd()
    except FileNotFoundError:
        before = None
    os.chdir("/")
    try:
        yield
    finally:
        if before is not None:
            os.chdir(before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep Ray from printing that a process died to standard output, where a JSON document may go; it has no option."""
    from ray._private import worker

    printing = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = lambda *_data, **_options: None
    try:
        yield
    finally:
        worker.print_to_stdstream = printing


def _unless_set(variables: dict[str, str]) -> AbstractContextManager[None]:
    """Have environment variables set while a block runs; those that the user set stay as they are."""
    return environment_variables({name: value for name, value in variables.items() if name not in os.environ})


def first_line(error: BaseException) -> str:
    """Return what Ray says went wrong, without the traceback that follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
