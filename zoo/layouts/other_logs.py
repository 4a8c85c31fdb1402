"""Logs of any name: tables with a column of epochs or steps, in a run's folder or in one of its folders for logs.

``train.csv`` and ``val.csv``, ``csv_logger/valid.csv`` (Catalyst), ``logs/csv/version_0/metrics.csv`` (LitGPT),
``eval/similarity_evaluation_results.csv`` (Sentence Transformers). Nothing follows from their names, so what they
hold decides: a table without such a column, or whose rows do not go forward, is data and no log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.log_rows import place_of, says_place
from epsopt.zoo.layouts.side_file_reader import SideFileReader

_SUFFIXES = (".csv", ".tsv", ".jsonl")
_FOR_LOGS = frozenset(
    "log logs logger csv csv_log csv_logs csv_logger eval evals evaluation evaluations metrics results history".split()
)
_VERSION = re.compile(r"version_(\d+)")
_DEPTH = 3
_MOST = 500
"""Files of a folder that are looked into."""
_LIGHTNING = ".ckpt"


def other_logs(run: Path, held: Sequence[Path], folders: Folders, taken: Collection[str]) -> list[Path]:
    """Return the tables that may be logs of a run.

    Args:
        run: its folder.
        held: folders that hold its checkpoints.
        folders: what lies where.
        taken: names that are read in the run's folder anyway.
    """
    found = []
    for folder in dict.fromkeys((run, *held)):
        found += [folder / name for name in _tables(folder, folders) if name not in taken]
    if not any(name.endswith(_LIGHTNING) for folder in held for name in folders.names(folder)):
        found += [folder / name for folder in _for_logs(run, set(held), folders) for name in _tables(folder, folders)]
    return found


def is_other(file: PurePath, run: PurePath, taken: Collection[str]) -> bool:
    """Tell whether a file is one that :func:`other_logs` found."""
    if file.suffix.lower() not in _SUFFIXES:
        return False
    if file.name not in taken:
        return True
    inside = file.parent.relative_to(run).parts if file.is_relative_to(run) else ()
    return bool(inside) and all(part.lower() in _FOR_LOGS or _VERSION.fullmatch(part) for part in inside)


def records_of(reader: SideFileReader, file: Path) -> list[Mapping[str, Any]]:
    """Return the rows of such a table that say their epoch or step; none of one that is no log."""
    if not names_moments(reader, file):
        return []
    rows = reader.json_lines(file) if file.suffix.lower() == ".jsonl" else reader.table(file)
    placed = [(row, place) for row in rows if (place := place_of(row)) != (None, None)]
    return [row for row, _ in placed] if _goes_forward([place for _, place in placed]) else []


def names_moments(reader: SideFileReader, file: Path) -> bool:
    """Tell whether the first line of a table names epochs or steps."""
    return any(says_place(name) for name in _names(reader.first_line(file), file))


def _names(line: str, file: Path) -> list[str]:
    """Return the names of columns, from the first line of a table or of objects."""
    if file.suffix.lower() == ".jsonl":
        try:
            held = json.loads(line)
        except ValueError:
            return []
        return list(held) if isinstance(held, dict) else []
    return [name.strip().strip('"') for name in re.split(r"[,;\t]", line.lstrip().removeprefix("#"))]


def _goes_forward(places: Sequence[tuple[int | None, int | None]]) -> bool:
    """Tell whether rows go on in time but for a few: a training resumes now and then, episodes begin all the time."""
    back = sum(
        any(a is not None and b is not None and b < a for a, b in zip(one, other, strict=True))
        for one, other in pairwise(places)
    )
    return back <= len(places) // 10 + 1


def _tables(folder: Path, folders: Folders) -> list[str]:
    return sorted(name for name in folders.names(folder) if PurePath(name).suffix.lower() in _SUFFIXES)[:_MOST]


def _for_logs(run: Path, held: Collection[Path], folders: Folders, depth: int = 0) -> Iterator[Path]:
    """Return the folders for logs inside a run's, the newest of several versions alone."""
    names = sorted(folders.names(run))
    versions = [name for name in names if depth and _VERSION.fullmatch(name)]
    newest = max(versions, key=lambda name: int(name.removeprefix("version_")), default=None)
    for name in names:
        folder = run / name
        if folder not in held and (name.lower() in _FOR_LOGS or name == newest):
            yield folder
            if depth + 1 < _DEPTH:
                yield from _for_logs(folder, held, folders, depth + 1)
