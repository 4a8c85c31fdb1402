"""The contract that every layout keeps: where a run's files lie, and what they say.

The first half (``run_of``, ``ignores``, ``refuses``, ``side_files``, ``undecided``, ``lifecycle``) looks at names only,
in the parent process. The second half (``interpret``, ``parse_side_files``, ``deleted``) reads what strangers wrote, in
a child process with limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.parsed import ParsedCheckpoint, RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideFileReader

if TYPE_CHECKING:
    from epsopt.zoo.reading.tensors import OpenCheckpoint


def _nowhere(_file: Path, _folders: Folders) -> Path | None:
    return None


def _never(_file: Path, _folders: Folders) -> bool:
    return False


def _unrefused(_file: Path, _folders: Folders) -> tuple[Path, str] | None:
    return None


def _nothing(_run: Path, _held: Sequence[Path], _folders: Folders) -> list[Path]:
    return []


def _unknown(_checkpoint: OpenCheckpoint) -> ParsedCheckpoint | None:
    return None


def _silent(_reader: SideFileReader) -> RunMetadata:
    return RunMetadata()


def _none_deleted(_reader: SideFileReader, _runs: Sequence[Path]) -> dict[str, str]:
    return {}


Log = tuple[tuple[str, tuple[Path, ...]], ...]
"""The files of one log, by the name of the layout that reads them."""


@dataclass(frozen=True)
class Undecided:
    """Logs that may be those of a run, where their names do not say which of them is; their content may.

    Attributes:
        place: the folder that holds them.
        logs: the files of each.
        advice: what to do so that it shows.
    """

    place: Path
    logs: tuple[Log, ...]
    advice: str


def _decided(_run: Path, _held: Sequence[Path], _folders: Folders) -> Undecided | None:
    return None


@dataclass(frozen=True)
class Layout:
    """One way in which people keep runs. Every part has a default that recognises nothing.

    Attributes:
        name: as `epsopt ingest` shows it.
        run_of: ``(checkpoint file, folders)`` to the folder of the run that it belongs to, None when this layout does
            not recognise the place.
        ignores: ``(file, folders)``: whether a file that is named like a checkpoint is something else (the state
            of an optimiser) and is not to be read or complained about.
        refuses: ``(file, folders)``: the file or folder that a person would call the checkpoint, and why it is not
            read, with what to do. Asked after ``ignores``; several files may be parts of one that is refused.
        side_files: ``(run's folder, folders that hold its checkpoints, folders)`` to the files that tell more about it.
            ``parse_side_files`` is asked only about runs where there are some.
        undecided: ``(run's folder, folders that hold its checkpoints, folders)`` to logs nearby of which one may be
            this run's, and no name says which. Asked where ``side_files`` finds none; the log whose content agrees
            with the run's checkpoints, and with those of no other run, is then read.
        interpret: what a checkpoint says; None when it is not one of this layout.
        parse_side_files: what the files that ``side_files`` named say. A file that cannot be read is a failure in the
            answer, never an exception.
        lifecycle: ``(run's folder, folders)`` to the file that says whether the run was deleted; None where nothing
            does.
        deleted: ``(reader of one such file, folders of runs)`` to those that were deleted, each with a sentence.
        combines: it says something about runs of other layouts and is shown beside them.
        tracks: its folders may hold copies of, or links to, checkpoints that a run wrote to a folder of its own.
    """

    name: str
    run_of: Callable[[Path, Folders], Path | None] = _nowhere
    ignores: Callable[[Path, Folders], bool] = _never
    side_files: Callable[[Path, Sequence[Path], Folders], list[Path]] = _nothing
    interpret: Callable[[OpenCheckpoint], ParsedCheckpoint | None] = _unknown
    parse_side_files: Callable[[SideFileReader], RunMetadata] = _silent
    lifecycle: Callable[[Path, Folders], Path | None] = _nowhere
    deleted: Callable[[SideFileReader, Sequence[Path]], dict[str, str]] = _none_deleted
    refuses: Callable[[Path, Folders], tuple[Path, str] | None] = _unrefused
    undecided: Callable[[Path, Sequence[Path], Folders], Undecided | None] = _decided
    combines: bool = False
    tracks: bool = False
