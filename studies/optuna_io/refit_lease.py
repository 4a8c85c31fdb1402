"""Of all learners of a database one is at work at a time: a lease in the catalogue says which.

It is renewed by a thread for as long as it is held, whatever the learner is busy with, and its age is taken by the
database's clock: the machines' clocks need not agree. A learner that could not renew it for too long finds out that it
is somebody else's now, and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.database import server_time
from epsopt.zoo.catalogue.tables import meta
from epsopt.zoo.errors import CatalogueError, EpsoptError

LEASE_SECONDS = 120.0
"""After so long without a renewal a lease is free. It is short, since no step, however long, keeps its holder from
renewing it: only one that died, or whose machine sleeps or cannot reach the database, loses it."""

RENEW_AFTER = LEASE_SECONDS / 4
"""Seconds between renewals: three may fail."""

_ASK_AGAIN = 1.0  # seconds between looks at a lease that another one holds
_KEY = "refit_lease"
_MINE = meta.c.key == _KEY


class LeaseLost(EpsoptError):  # noqa: N818 - it says what is so
    """Another learner took this one for dead: what it writes now would be written twice."""


class Lease:
    """The right to learn, held by one learner of a database at most; :func:`lease` gives it.

    Args:
        catalogue: of the database.
        process: of the learner; None: this one.
        machine: where it runs.
    """

    def __init__(self, catalogue: Catalogue, process: int | None = None, machine: str | None = None) -> None:
        self._catalogue = catalogue
        self._who = {
            "process": process or os.getpid(),
            "machine": machine or _machine(),
            "token": uuid.uuid4().hex,  # numbers of processes come again
        }

    def acquire(self) -> bool:
        """Take it if it is free; whether it is held now."""
        with self._catalogue.writing() as connection:
            held = _held(connection)
            if held is not None and not _has_ended(held, server_time(connection)):
                return False
            connection.execute(delete(meta).where(_MINE))
            connection.execute(insert(meta).values(key=_KEY, value=self._now(connection)))
            return True

    def renew(self) -> bool:
        """Say that its holder is alive; False when it is somebody else's, or nobody's, by now."""
        with self._catalogue.writing() as connection:
            if not self._is_held(connection):
                return False
            connection.execute(update(meta).where(_MINE).values(value=self._now(connection)))
            return True

    def assert_held(self) -> None:
        """Renew it before something is written.

        Raises:
            LeaseLost: it is somebody else's.
        """
        if not self.renew():
            raise LeaseLost("another learner took over, since this one was not heard of for too long")

    def give_back(self) -> None:
        """Let others have it; what somebody else holds by now stays theirs."""
        with self._catalogue.writing() as connection:
            if self._is_held(connection):
                connection.execute(delete(meta).where(_MINE))

    def _is_held(self, connection: Connection) -> bool:
        held = _held(connection)
        return held is not None and held.get("token") == self._who["token"]

    def _now(self, connection: Connection) -> str:
        return json.dumps({**self._who, "since": server_time(connection)})


@contextlib.contextmanager
def lease(catalogue: Catalogue, *, wait: bool, renew_after: float = RENEW_AFTER) -> Iterator[Lease | None]:
    """Be the only learner of a database; yields None when another one is, unless we wait for it.

    Args:
        catalogue: of the database.
        wait: whether to wait until it is free.
        renew_after: seconds between renewals.
    """
    mine = Lease(catalogue)
    while not mine.acquire():
        if not wait:
            yield None
            return
        time.sleep(_ASK_AGAIN)
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=(mine, ended, renew_after), name="epsopt-lease", daemon=True)
    thread.start()
    try:
        yield mine
    finally:
        ended.set()
        thread.join()
        mine.give_back()


def _keep(mine: Lease, ended: threading.Event, renew_after: float) -> None:
    """Renew until the end, or until it is somebody else's; a database that does not answer is asked again."""
    while not ended.wait(renew_after):
        with contextlib.suppress(CatalogueError):
            if not mine.renew():
                return


def _held(connection: Connection) -> dict[str, Any] | None:
    """Who holds the lease, and since when."""
    value = connection.execute(select(meta.c.value).where(_MINE)).scalar()
    return None if value is None else json.loads(value)


def _has_ended(held: dict[str, Any], now: float) -> bool:
    """Whether a lease is free again: too old, or its process on this machine is gone."""
    if now - float(held["since"]) > LEASE_SECONDS:
        return True
    if held.get("machine") != _machine():
        return False
    try:
        os.kill(int(held["process"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _machine() -> str:
    """Name what numbers of processes are known in: containers may share their machine's name, but not its processes."""
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        return f"{name} {Path('/proc/self/ns/pid').readlink()}"
    return name
