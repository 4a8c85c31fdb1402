"""What the files beside checkpoints tell about a run: which of them to ask, and their answers put together."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from epsopt.zoo.errors import Failure, UsageError
from epsopt.zoo.layouts import hugging_face
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.parsed import Position
from epsopt.zoo.layouts.registry import sources
from epsopt.zoo.layouts.scan import CheckpointFile, Scan
from epsopt.zoo.reading.plain_values import with_defaults
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.reader import ask
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Identity, refusal
from epsopt.zoo.side_files.run_tables import Entry, RunTableRows, merged

TELLER = 6
"""Raised when side files should be read again because a layout has learned something."""

_YOUNG = 10.0  # seconds: what a file this young says may be half of it


@dataclass(frozen=True)
class SideFiles:
    """The side files of one run.

    Attributes:
        run: its folder.
        files: by the layout that reads them, each with its identity.
    """

    run: Path
    files: Mapping[str, Sequence[tuple[Path, Identity]]]

    def state(self, positions: Sequence[Position], given: RunTableRows) -> str:
        """Return a digest of all that the answer depends on: as long as it is the same, nobody need ask again."""
        listed = {name: [(str(p), vars(i)) for p, i in files] for name, files in self.files.items()}
        places = sorted((p.key, p.path, p.epoch, p.step, p.layout, p.best, p.rival) for p in positions)
        text = json.dumps([TELLER, listed, places, given], default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def recently_modified(self) -> bool:
        """Tell whether a file was written to a moment ago."""
        now = time.time()
        return any(abs(now - i.mtime_ns / 1e9) < _YOUNG for files in self.files.values() for _, i in files)


@dataclass
class SideFileResult:
    """What all side files of one run tell together.

    Attributes:
        hyperparameters: flattened with dots.
        metrics: by the key of the checkpoint.
        failures: files that could not be read, and why.
        layouts: those that had something to say, or files that should have.
        unfinished: a file ends in a line that somebody is writing.
        run_tables: what tables of runs say; it is in hyperparameters and metrics, too, and counts more than side files.
    """

    hyperparameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    layouts: set[str] = field(default_factory=set)
    unfinished: bool = False
    run_tables: RunTableRows = field(default_factory=dict)

    def give(self, given: RunTableRows) -> None:
        """Add what tables of runs say."""
        hyperparameters, metrics = merged(given)
        self.given = given
        self.hyperparameters = with_defaults(hyperparameters, self.hyperparameters)
        for key, values in metrics.items():
            self.metrics[key] = {**self.metrics.get(key, {}), **values}


def side_files_of(run: Path, held: Sequence[Path], folders: Folders) -> SideFiles:
    """Find the side files of a run, from names alone.

    Args:
        run: its folder.
        held: folders that hold its checkpoints.
        folders: what lies where.
    """
    found = {}
    for name, files in sources(run, held, folders):
        known = [(f, identity) for f in files if (identity := folders.identity(f)) is not None]
        if known:
            found[name] = known
    return SideFiles(run, found)


def side_files_by_run(seen: Scan) -> Iterator[tuple[list[CheckpointFile], SideFiles]]:
    """Return the checkpoint files of each run that was seen, with the side files that speak of them."""
    members: dict[str, list[CheckpointFile]] = {}
    for found in seen.files:
        members.setdefault(found.run_path, []).append(found)
    for path, files in members.items():
        yield files, side_files_of(location(path), list(dict.fromkeys(f.path.parent for f in files)), seen.folders)


def read_table(
    pool: ReaderPool, path: Path, params: Sequence[str] = (), metrics: Sequence[str] = ()
) -> tuple[Entry, ...]:
    """Have a CSV table of runs read by a child.

    Raises:
        UsageError: it cannot be read, or has no column that names its runs.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"{path}: the table of runs is {refusal(error)}") from error
    header = {"kind": "table", "params": list(params), "metrics": list(metrics)}
    (reply,) = ask(pool, [(path, size, header)])
    if reply["status"] != "table":
        raise UsageError(f"{path}: the table of runs cannot be read: {reply.get('reason', 'it is being written')}")
    return tuple(Entry(tuple(e.pop("names")), **e) for e in reply["entries"])


def read_side_files(
    pool: ReaderPool,
    runs: Sequence[tuple[SideFiles, Sequence[Position]]],
    progress: Callable[[int, int], None] | None = None,
) -> list[SideFileResult]:
    """Have the side files of runs read by children; return one answer for each run.

    Where two layouts say the same, the more particular one counts. A file that takes its reader with it costs what the
    other files of its layout tell, never the checkpoint.
    """
    questions, whose = [], []
    for i, (found, positions) in enumerate(runs):
        for layout, files in found.files.items():
            header: dict[str, Any] = {
                "kind": "tell",
                "layout": layout,
                "files": [str(path) for path, _ in files],
                "positions": [astuple(p) for p in positions],
            }
            questions.append((found.run, sum(identity.size for _, identity in files), header))
            whose.append(i)
    answers = [SideFileResult() for _ in runs]
    from_logs: list[dict[str, Any]] = [{} for _ in runs]
    for i, (_, _, question), reply in zip(whose, questions, ask(pool, questions, progress), strict=True):
        answer = answers[i]
        if reply["status"] != "parsed":
            reason = reply.get("reason", "was written to while it was read: the next ingest takes it")
            answer.failures.append(Failure(question["files"][0], reason))
            answer.layouts.add(question["layout"])
            continue
        if reply["hyperparameters"] or reply["metrics"] or reply["failures"]:
            answer.layouts.add(question["layout"])
        answer.unfinished |= reply["unfinished"]
        stated = reply["hyperparameters"]
        if question["layout"] == hugging_face.LAYOUT.name:
            from_logs[i] = {name: stated.pop(name) for name in hugging_face.FROM_THE_LOG if name in stated}
        answer.hyperparameters = with_defaults(answer.hyperparameters, stated)
        for key, metrics in reply["metrics"].items():
            answer.metrics[key] = {**metrics, **answer.metrics.get(key, {})}
        answer.failures += [Failure(path, reason) for path, reason in reply["failures"]]
    for answer, shown in zip(answers, from_logs, strict=True):  # what any file says counts more
        answer.hyperparameters = with_defaults(answer.hyperparameters, shown)
    return answers
