"""Readers on a Ray cluster in place of child processes here: the same files, the same limits, the same answers.

Only this process writes the catalogue, in the order of the files. A reader that is lost took nothing with it but an
answer that nobody had yet: another one reads its file again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.fingerprints.lineage import LineageBook
from epsopt.zoo.ray_cluster import RayCluster, connect_ray, first_line
from epsopt.zoo.reading.messages import decode
from epsopt.zoo.reading.pool import LOST, Message, Offered
from epsopt.zoo.reading.ray_reader import RayReader, unseen
from epsopt.zoo.reading.source import Limits

LOSSES = 3
"""Readers that may be lost over one file; then it counts as what ends them."""

START = 600.0
"""Seconds in which a first reader must have started: clusters that grow take minutes to."""

_PATIENCE = 1.0  # seconds of waiting for an answer before somebody looks at the time


@dataclasses.dataclass(frozen=True)
class _File:
    ticket: int
    path: Path
    size: int
    header: dict[str, Any]
    book: LineageBook


class RemoteReader:
    """An actor, and the file that it is busy with."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.offered = Offered()
        self.ready = False
        self.process = 0  # its number on its machine, once it is ready
        self.file: _File | None = None
        self.answer = actor.start.remote()

    def give(self, file: _File) -> None:
        """Send it a file, with what it was not sent of lineages before."""
        self.file = file
        offers = self.offered.news(file.book)
        self.answer = self.actor.read.remote(str(file.path), file.size, file.header, offers)

    @property
    def waits(self) -> bool:
        """Tell whether it has an answer to give."""
        return self.file is not None or not self.ready


class RayPool:
    """Readers on a cluster that read one file each at a time, as :class:`epsopt.zoo.reading.pool.ReaderPool` has them.

    Args:
        cluster: that this process is connected to.
        jobs: readers at most; None: one a processor of the cluster.
        limits: what one file may cost.

    Attributes:
        lost: readers that were lost so far, and replaced.
    """

    def __init__(self, cluster: RayCluster, jobs: int | None = None, limits: Limits | None = None) -> None:
        self.cluster = cluster
        self.jobs = max(1, jobs or cluster.cpus)
        self.limits = limits or Limits()
        self.in_use = threading.Lock()
        self._readers: list[RemoteReader] = []
        self._again: deque[_File] = deque()
        self.lost = 0
        self._lost: Counter[int] = Counter()
        self._since = time.monotonic()

    def start(self, expected: int, *, a_file_each: bool = False) -> None:  # noqa: ARG002 - as other pools
        """Ask for readers for that many files; those that find a free processor begin.

        Args:
            expected: how many files there are to read.
            a_file_each: as of other pools.
        """
        self._since = time.monotonic()
        while len(self._readers) < min(expected, self.jobs):
            self._readers.append(self._new())

    def _new(self) -> RemoteReader:
        import ray

        actor = ray.remote(num_cpus=1, max_restarts=0)(RayReader)
        return RemoteReader(actor.remote(version("epsopt"), dataclasses.asdict(self.limits), _folder()))

    def has_room(self) -> bool:
        """Tell whether a reader is free, and no file that was lost waits for one."""
        return len(self._free()) > len(self._again)

    def _free(self) -> list[RemoteReader]:
        return [r for r in self._readers if not r.waits]

    def send(self, ticket: int, path: Path, size: int, header: dict[str, Any], book: LineageBook) -> None:
        """Give a file to a free reader, after the lineages that it does not know yet."""
        self._free()[0].give(_File(ticket, path, size, {"kind": "read", **header}, book))

    def receive(self) -> list[tuple[int, Message]]:
        """Wait for answers; a file whose reader was lost goes to another one.

        Raises:
            EpsoptError: no reader could start, or a machine does not see a file that this one sees.
        """
        import ray

        for reader, _ in zip(self._free(), list(self._again), strict=False):
            reader.give(self._again.popleft())
        waiting = {r.answer: r for r in self._readers if r.waits}
        if not waiting:
            return []
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=_PATIENCE)
        if done:
            self._since = time.monotonic()
            done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        elif not any(r.ready for r in self._readers) and time.monotonic() > self._since + START:
            raise EpsoptError(
                f"no reader could start within {START:.0f} seconds on {self.cluster}: it has no free processor; what "
                "was read is kept, and the same command goes on from there"
            )
        return [answer for ref in done if (answer := self._take(waiting[ref])) is not None]

    def _take(self, reader: RemoteReader) -> tuple[int, Message] | None:
        import ray

        try:
            answer = ray.get(reader.answer)
        except ray.exceptions.RayTaskError as error:  # what the reader itself raised
            raise (error.cause if isinstance(error.cause, EpsoptError) else _failed(error)) from None
        except ray.exceptions.RayError as error:
            return self._replace(reader, error)
        file, reader.file = reader.file, None
        if file is None:
            reader.ready, reader.process = True, answer
            return None
        header, blobs = decode(answer)
        machine = header.pop("unseen_on", None)
        if machine is not None and os.path.lexists(file.path):
            raise unseen(str(file.path), machine)
        self._lost.pop(file.ticket, None)
        return file.ticket, (header, blobs)

    def _replace(self, reader: RemoteReader, error: Exception) -> tuple[int, Message] | None:
        """Put another reader in the place of one that was lost, and have its file read again."""
        import ray

        self.lost += 1
        self._readers.remove(reader)
        with contextlib.suppress(Exception):  # it is gone, as a rule
            ray.kill(reader.actor)
        self._readers.append(self._new())
        file = reader.file
        if file is None:
            self._lost[-1] += 1
            if self._lost[-1] > LOSSES * self.jobs:
                raise EpsoptError(f"readers do not start on {self.cluster}: {first_line(error)}") from error
            return None
        self._lost[file.ticket] += 1
        if self._lost[file.ticket] < LOSSES:
            self._again.append(file)
            return None
        return file.ticket, ({"status": "failed", "reason": f"{LOSSES} {LOST}"}, [])

    def reset(self) -> None:
        """Stop readers that are still busy, after a caller gave up half-way."""
        import ray

        for reader in [r for r in self._readers if r.file is not None]:
            with contextlib.suppress(Exception):
                ray.kill(reader.actor)
            self._readers.remove(reader)
        self._again.clear()
        self._lost.clear()

    def close(self) -> None:
        """Stop all readers."""
        import ray

        for reader in self._readers:
            with contextlib.suppress(Exception):
                ray.kill(reader.actor)
        self._readers = []


def _failed(error: Exception) -> EpsoptError:
    return EpsoptError(f"a reader on the Ray cluster failed: {first_line(error)}: please report this")


def _folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/"


@contextlib.contextmanager
def ray_readers(address: str, jobs: int | None = None, limits: Limits | None = None) -> Iterator[RayPool]:
    """Connect to a Ray cluster and have readers there while the block runs.

    Args:
        address: as :func:`epsopt.zoo.connect_ray` takes it.
        jobs: readers at most; None: one a processor.
        limits: what one file may cost; the defaults when None.

    Returns:
        A context that gives what :func:`epsopt.zoo.ingest` takes as ``readers``.

    Raises:
        EpsoptError: Ray is not installed, or no cluster answers.
    """
    with connect_ray(address, jobs) as cluster:
        pool = RayPool(cluster, jobs, limits)
        try:
            yield pool
        finally:
            pool.close()
