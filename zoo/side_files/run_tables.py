"""Runs that somebody else kept a table of (a CSV file, an Optuna study), matched to the runs that were found."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epsopt.zoo.layouts.parsed import Position, Row, RunMetadata, match_rows

RunTableRows = dict[str, dict[str, Any]]
"""What tables say about one run, by the table's name: ``hyperparameters`` and, by SHA-256, ``metrics``."""


@dataclass(frozen=True)
class Entry:
    """One row of a table.

    Attributes:
        names: paths of the run's folder or of a checkpoint in it, the most certain first; relative ones start at the
            table's folder, at a folder that is ingested, or are the end of a run's path.
        number: of the run, for tables that know their runs by number alone: folder ``trial_7`` or ``0007``.
        hyperparameters: by name.
        metrics: by name; of the checkpoint named, or of that of the epoch or step, or of the run's last one.
        epoch: that the metrics were measured after, None when not said.
        step: the same in steps.
    """

    names: tuple[str, ...]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    epoch: int | None = None
    step: int | None = None
    number: int | None = None


@dataclass(frozen=True)
class RunTable:
    """A table of runs.

    Attributes:
        name: what the catalogue calls it; what it said before under this name is replaced.
        folder: that its relative paths start from.
        entries: its rows.
    """

    name: str
    folder: Path
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Matched:
    """What tables say of runs.

    Attributes:
        given: by the run's folder.
        unmatched: rows of each table that belong to no run found, by the table's name.
    """

    given: dict[str, RunTableRows]
    unmatched: dict[str, int]


def match(sheets: Sequence[RunTable], runs: Mapping[str, Sequence[Position]], roots: Sequence[Path]) -> Matched:
    """Find the run that each row means; a row that could mean two runs means none.

    Args:
        sheets: the tables.
        runs: the checkpoints of each run, by the run's folder.
        roots: folders that were ingested.
    """
    given: dict[str, RunTableRows] = {}
    unmatched: dict[str, int] = {}
    files = {p.path: (run, p.key) for run, positions in runs.items() for p in positions}
    for sheet in sheets:
        metadata: dict[str, RunMetadata] = {}
        exact: dict[str, dict[str, dict[str, float | None]]] = {}
        for entry in sheet.entries:
            run, key = _meant(entry, runs, files, (sheet.folder, *roots))
            if run is None:
                unmatched[sheet.name] = unmatched.get(sheet.name, 0) + 1
                continue
            known = metadata.setdefault(run, RunMetadata())
            known.hyperparameters.update(entry.hyperparameters)
            if key is not None:
                exact.setdefault(run, {}).setdefault(key, {}).update(entry.metrics)
            elif entry.epoch is None and entry.step is None:
                known.final.update(entry.metrics)
            else:
                known.rows.append(Row(entry.epoch, entry.step, dict(entry.metrics)))
        for run, known in metadata.items():
            metrics = match_rows(known, runs[run])
            for key, values in exact.get(run, {}).items():
                metrics[key] = {**metrics.get(key, {}), **values}
            given.setdefault(run, {})[sheet.name] = {"hyperparameters": known.hyperparameters, "metrics": metrics}
    return Matched(given, unmatched)


def _meant(
    entry: Entry, runs: Collection[str], files: Mapping[str, tuple[str, str]], bases: Sequence[Path]
) -> tuple[str | None, str | None]:
    """Return the run that a row means, and the key of the checkpoint if it names one."""
    for name in entry.names:
        for path in dict.fromkeys(str(base / name).rstrip("/") for base in bases):
            if path in runs:
                return path, None
            if path in files:
                return files[path]
            # A folder in the run ("…/checkpoints"), or one that holds this run and no other.
            near = [r for r in runs if path.startswith(f"{r}/")] or [r for r in runs if r.startswith(f"{path}/")]
            if len(near) == 1:
                return near[0], None
        ending = [r for r in runs if r.endswith(f"/{name.strip('/')}")] if name.strip("/") else []
        if len(ending) == 1:
            return ending[0], None
    if entry.number is not None:
        numbered = re.compile(rf"(?:.*[_-])?(?:trial|run|job)?[_-]?0*{entry.number}")
        found = [r for r in runs if numbered.fullmatch(Path(r).name)]
        if len(found) == 1:
            return found[0], None
    return None, None


def merged(given: RunTableRows) -> tuple[dict[str, Any], dict[str, dict[str, float | None]]]:
    """Put together what several tables say about one run: hyperparameters, and metrics by checkpoint."""
    hyperparameters: dict[str, Any] = {}
    metrics: dict[str, dict[str, float | None]] = {}
    for _, table in sorted(given.items()):
        hyperparameters.update(table["hyperparameters"])
        for key, values in table["metrics"].items():
            metrics.setdefault(key, {}).update(values)
    return hyperparameters, metrics


PATHS = ("path", "run", "checkpoint", "folder", "dir", "directory", "run_dir", "file")
_HYPERPARAMETER = ("param.", "params.", "params_", "param_", "hp.", "config.", "config/")
_METRIC = ("metric.", "metrics.", "metric_", "metrics_", "values_", "summary.", "summary/")


def entries_of(
    records: Iterable[Mapping[str, str]], params: Sequence[str] = (), metrics: Sequence[str] = ()
) -> tuple[Entry, ...]:
    """Read the rows of a CSV table: a column ``path``, then ``param.NAME`` and ``metric.NAME``, or declared ones.

    Args:
        records: cells by column, as text.
        params: columns without a prefix that are hyperparameters.
        metrics: columns without a prefix that are metrics.
    """
    from epsopt.zoo.layouts.log_rows import place_of
    from epsopt.zoo.reading.plain_values import metrics_of, no_tensor, number_or_text

    out = []
    for record in records:
        path = next((record[name] for name in PATHS if record.get(name)), None)
        if path is None:
            continue
        hyperparameters = {k: number_or_text(record[k]) for k in params if k in record}
        measured: dict[str, Any] = {k: number_or_text(record[k]) for k in metrics if k in record}
        for column, cell in record.items():
            if mark := next((m for m in _HYPERPARAMETER if column.startswith(m)), None):
                hyperparameters[column.removeprefix(mark)] = number_or_text(cell)
            elif mark := next((m for m in _METRIC if column.startswith(m)), None):
                measured[column.removeprefix(mark)] = number_or_text(cell)
        out.append(Entry((path,), hyperparameters, metrics_of(measured, no_tensor), *place_of(record)))
    return tuple(out)
