"""A reader on a machine of a Ray cluster: an actor that has a child process of its own read, within the same limits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.fingerprints.lineage import KnownLineage, LineageBook
from epsopt.zoo.ray_cluster import check_version
from epsopt.zoo.reading.messages import decode, encode, unpack
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.remote import RemotePath, location
from epsopt.zoo.reading.source import Limits


class RayReader:
    """Reads one file at a time. It and the driver exchange the messages of a child process, and no objects.

    Args:
        driver: version of epsopt that asks.
        limits: fields of :class:`epsopt.zoo.reading.source.Limits`.
        folder: that the driver works in; a hook is looked for there, too.
    """

    def __init__(self, driver: str, limits: dict[str, Any], folder: str) -> None:
        self._driver = driver
        with contextlib.suppress(OSError):  # not on this machine: then no hook is either
            os.chdir(folder)
        self._pool = ReaderPool(1, Limits(**limits))
        self._book = LineageBook()

    def start(self) -> int:
        """Start the child process; return the process of this reader.

        Raises:
            EpsoptError: this machine has another epsopt, or the child does not start.
        """
        check_version(self._driver)
        self._pool.start(1)
        return os.getpid()

    def read(self, path: str, size: int, header: dict[str, Any], offers: Sequence[bytes]) -> bytes:
        """Have the child read a file.

        Args:
            path: of the file, or its URL.
            size: its bytes.
            header: what is asked of it.
            offers: messages about lineages, those first that this reader does not know yet.

        Returns:
            The child's message. A file that is not there at all says on which machine (``unseen_on``).
        """
        for offer in offers:
            self._take(*decode(offer))
        place = location(path)
        self._pool.start(1)
        self._pool.send(0, place, size, header, self._book)
        while not (answers := self._pool.receive()):
            pass
        ((_, (answer, blobs)),) = answers
        if answer["status"] == "failed" and not isinstance(place, RemotePath) and not os.path.lexists(place):
            answer["unseen_on"] = os.uname().nodename
        return encode(answer, blobs)

    def _take(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        if header.pop("kind") == "forget":
            self._book = LineageBook()
        else:
            self._book.add(KnownLineage(sketch=unpack(blobs[0]), **header))


def unseen(path: str, machine: str) -> EpsoptError:
    """Say that a machine of the cluster does not see a file that this one sees."""
    return EpsoptError(
        f"{path} is here, and not on {machine}, which is a machine of the Ray cluster: mount the runs at the same path "
        "on all machines, or keep them in a store such as s3://bucket/runs"
    )
