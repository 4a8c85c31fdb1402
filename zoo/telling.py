"""What the files beside checkpoints tell about a run: which of them to ask, and their answers put together."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.known import sources
from epsopt.zoo.layouts.reading import Position
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.reader import ask
from epsopt.zoo.reading.source import Identity
from epsopt.zoo.records import Failure

TELLER = 1
"""Raised when side files should be read again because a layout has learned something."""

_YOUNG = 10.0  # seconds: what a file this young says may be half of it


@dataclass(frozen=True)
class Beside:
    """The side files of one run.

    Attributes:
        run: its folder.
        files: by the layout that reads them, each with its identity.
    """

    run: Path
    files: Mapping[str, Sequence[tuple[Path, Identity]]]

    def state(self, positions: Sequence[Position]) -> str:
        """Return a digest of all that the answer depends on: as long as it is the same, nobody need ask again."""
        listed = {name: [(str(p), vars(i)) for p, i in files] for name, files in self.files.items()}
        places = sorted((p.key, p.path, p.epoch, p.step) for p in positions)
        text = json.dumps([TELLER, listed, places], default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def young(self) -> bool:
        """Tell whether a file was written to a moment ago."""
        now = time.time()
        return any(abs(now - i.mtime_ns / 1e9) < _YOUNG for files in self.files.values() for _, i in files)


@dataclass
class Answer:
    """What all side files of one run tell together.

    Attributes:
        hyperparameters: flattened with dots.
        metrics: by the key of the checkpoint.
        troubles: files that could not be read, and why.
        layouts: those that had something to say, or files that should have.
    """

    hyperparameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    troubles: list[Failure] = field(default_factory=list)
    layouts: set[str] = field(default_factory=set)


def beside(run: Path, held: Sequence[Path], folders: Folders) -> Beside:
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
    return Beside(run, found)


def ask_beside(
    pool: ReaderPool,
    runs: Sequence[tuple[Beside, Sequence[Position]]],
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Have the side files of runs read by children; return one answer for each run.

    Where two layouts say the same, the more particular one counts. A file that takes its reader with it costs what the
    other files of its layout tell, never the checkpoint.
    """
    questions, whose = [], []
    for i, (found, positions) in enumerate(runs):
        for layout, files in found.files.items():
            header = {
                "kind": "tell",
                "layout": layout,
                "files": [str(path) for path, _ in files],
                "positions": [[p.key, p.path, p.epoch, p.step] for p in positions],
            }
            questions.append((found.run, sum(identity.size for _, identity in files), header))
            whose.append(i)
    answers = [Answer() for _ in runs]
    for i, (_, _, question), said in zip(whose, questions, ask(pool, questions, progress), strict=True):
        answer = answers[i]
        if said["status"] != "told":
            reason = said.get("reason", "was written to while it was read: the next ingest takes it")
            answer.troubles.append(Failure(question["files"][0], reason))
            answer.layouts.add(question["layout"])
            continue
        if said["hyperparameters"] or said["metrics"] or said["troubles"]:
            answer.layouts.add(question["layout"])
        answer.hyperparameters = {**said["hyperparameters"], **answer.hyperparameters}
        for key, metrics in said["metrics"].items():
            answer.metrics[key] = {**metrics, **answer.metrics.get(key, {})}
        answer.troubles += [Failure(path, reason) for path, reason in said["troubles"]]
    return answers
