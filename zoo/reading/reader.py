"""Read many checkpoint files in child processes; results come in the order of the files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.errors import EpsoptError, Failure, HookError
from epsopt.zoo.fingerprints.lineage import LineageBook
from epsopt.zoo.reading.messages import unpack
from epsopt.zoo.reading.pool import Message, Readers
from epsopt.zoo.reading.source import Identity

if TYPE_CHECKING:
    from epsopt.zoo.fingerprints.fingerprint import Fingerprint

_ATTEMPTS = 20
_WINDOW = 64  # files that may be answered ahead of the one whose turn it is
_WINDOW_A_READER = 4  # the same, where there are many readers


@dataclass(frozen=True)
class DeclaredBase:
    """The file that a run says it started from, with its content hash and sketch."""

    path: str
    sha256: str
    sketch: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CheckpointContents:
    """What a child found in one file.

    Attributes:
        path: of the file.
        sha256: of its content.
        size: bytes.
        hyperparameters: flattened with dots.
        metrics: by name; None where the file says NaN or infinity.
        epoch: epoch or step, None when nothing says it.
        embedding: (anchors, dimensions) float32 from the embed hook, None without one.
        lineage: id of the known lineage whose reference the fingerprint's deltas are taken from; None: of
            none.
        fingerprint_bytes: the fingerprint as it is stored.
        sketch: ``(SKETCH,)`` float32, the fingerprint's sketch.
        signature: digest of tensor names and shapes.
        n_parameters: floating-point values in it.
        nan_weights: number of those that are NaN.
        declared: its declared base, None without one.
        identity: size, time and inode while it was read.
        step: optimiser steps, None when nothing says it.
        layout: the layout that knows its keys.
        notes: sentences about what the file says and was not taken.
        best: the path, as the file says it, of the checkpoint that its run calls the best so far.
    """

    path: Path
    sha256: str
    size: int
    hyperparameters: dict[str, str | int | float | bool | None]
    metrics: dict[str, float | None]
    epoch: int | None
    embedding: NDArray[np.float32] | None
    lineage: int | None
    fingerprint_bytes: bytes
    sketch: NDArray[np.float32]
    signature: str
    n_parameters: int
    nan_weights: int
    declared: DeclaredBase | None
    identity: Identity
    step: int | None = None
    layout: str = "plain"
    notes: tuple[str, ...] = ()
    best: str | None = None

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint; parsed when asked for, so that ingesting needs no torch in this process."""
        from epsopt.zoo.fingerprints.fingerprint import Fingerprint

        return Fingerprint.from_bytes(self.fingerprint_bytes)


@dataclass(frozen=True)
class StillWriting:
    """A file that somebody wrote to while it was read."""

    path: Path


Outcome = CheckpointContents | Failure | StillWriting


def read_files(
    pool: Readers,
    files: Sequence[tuple[Path, int]],
    book: LineageBook,
    handle: Callable[[int, Outcome], bool],
    *,
    embed: str | None = None,
    weights_key: str = "",
    base: str = "",
    hints: Mapping[int, int] | None = None,
) -> None:
    """Read files and hand over each result, in the order of `files`.

    Args:
        pool: the readers.
        files: (path, size in bytes) of each.
        book: lineages on offer; `handle` may add to it.
        handle: takes the index of a file and what came of it; returns False to have the file read again,
            because it belongs to a lineage that was founded after it was sent.
        embed: hook ``package.module:function`` that children apply to the weights.
        weights_key: the keys that lead to the weights in each file, joined with dots; empty to find them.
        base: path of the checkpoint that those start from which name none; empty: none.
        hints: ids of the lineages that files are known to belong to, by the file's index; `handle` may add to them
            before it returns False.

    Raises:
        HookError: the hook failed; it names the path and the exception.
    """
    with pool.in_use:
        of_all = {"embed": embed, "weights_key": weights_key, "base": base}
        _read_files(pool, files, book, handle, of_all, {} if hints is None else hints)


def _read_files(
    pool: Readers,
    files: Sequence[tuple[Path, int]],
    book: LineageBook,
    handle: Callable[[int, Outcome], bool],
    header: dict[str, Any],
    hints: Mapping[int, int],
) -> None:
    pool.start(len(files))
    window = max(_WINDOW, _WINDOW_A_READER * pool.jobs)
    fresh = deque(range(len(files)))
    again: deque[int] = deque()
    ready: dict[int, Message] = {}
    turn = attempts = 0
    try:
        while turn < len(files):
            while pool.has_room() and (again or (fresh and fresh[0] < turn + window)):
                index = again.popleft() if again else fresh.popleft()
                pool.send(index, *files[index], {**header, "lineage": hints.get(index)}, book)
            if turn in ready:
                outcome = _parse(files[turn][0], ready.pop(turn), book)
                if handle(turn, outcome):
                    turn, attempts = turn + 1, 0
                else:
                    attempts += 1
                    if attempts > _ATTEMPTS:
                        raise EpsoptError(f"{files[turn][0]}: its lineage changed {attempts} times: please report this")
                    again.append(turn)
                continue
            ready.update(pool.receive())
    finally:
        pool.reset()


def ask(
    pool: Readers,
    questions: Sequence[tuple[Path, int, dict[str, Any]]],
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Put other questions than for checkpoints to the children; return the headers of their answers, in order.

    Args:
        pool: the readers.
        questions: (path that it is about, bytes to be read, header with its kind) of each.
        progress: called with (answers, questions).
    """
    answers: dict[int, dict[str, Any]] = {}
    fresh = deque(enumerate(questions))
    book = LineageBook()
    with pool.in_use:
        pool.start(len(questions))
        try:
            while len(answers) < len(questions):
                while fresh and pool.has_room():
                    ticket, (path, size, header) = fresh.popleft()
                    pool.send(ticket, path, size, header, book)
                answers.update((ticket, header) for ticket, (header, _) in pool.receive())
                if progress is not None:
                    progress(len(answers), len(questions))
        finally:
            pool.reset()
    return [answers[i] for i in range(len(questions))]


def _parse(path: Path, message: Message, book: LineageBook) -> Outcome:
    header, blobs = message
    if header["status"] == "failed":
        return Failure(str(path), header["reason"])
    if header["status"] == "waiting":
        return StillWriting(path)
    if header["status"] == "hook":
        raise HookError(header["reason"])
    for lineage_id in header["gone"]:
        book.close(lineage_id)
    try:
        return _contents(path, header, blobs)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EpsoptError(f"{path}: its reader gave a damaged answer ({error}): please report this") from error


def _contents(path: Path, header: dict[str, Any], blobs: list[bytes]) -> CheckpointContents:
    parts = deque(blobs)
    kept, sketch = parts.popleft(), unpack(parts.popleft())
    declared = None
    if header["declared"] is not None:
        declared = DeclaredBase(header["declared"]["path"], header["declared"]["sha256"], unpack(parts.popleft()))
    return CheckpointContents(
        path=path,
        sha256=header["sha256"],
        size=header["identity"][0],
        hyperparameters=header["hyperparameters"],
        metrics=header["metrics"],
        epoch=header["epoch"],
        embedding=unpack(parts.popleft()) if header["embedded"] else None,
        lineage=header["lineage"],
        fingerprint_bytes=kept,
        sketch=sketch,
        signature=header["signature"],
        n_parameters=header["n_parameters"],
        nan_weights=header["nan_weights"],
        declared=declared,
        identity=Identity(*header["identity"]),
        step=header["step"],
        layout=header["layout"],
        notes=tuple(map(str, header["notes"])),
        best=header["best"],
    )
