"""MLflow: runs in a file store (``mlruns/EXPERIMENT/RUN/{params, metrics, artifacts}``) or in ``mlflow.db`` (SQLite).

Checkpoints lie under ``artifacts``; or anywhere, if a parameter or a tag of the run names their folder.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.log_rows import EPOCH, whole
from epsopt.zoo.layouts.parsed import Row, RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideError, SideFileReader
from epsopt.zoo.layouts.sqlite import bounded_database
from epsopt.zoo.reading.plain_values import Plain, finite, number_or_text
from epsopt.zoo.reading.remote import RemotePath
from epsopt.zoo.reading.source import open_source
from epsopt.zoo.reading.text import sanitize

DATABASE = "mlflow.db"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ABOVE = 6
_TRASH = ".trash"
_FILES = 2_000  # parameters and metrics of one run
_VALUE_BYTES = 64 << 20
_ROWS = 1_000_000
_SYSTEM = "system/"  # use of the machine, with a clock of its own: no quality of a model
_TABLES = ("runs", "params", "metrics", "tags")


def run_of(file: Path, folders: Folders) -> Path | None:
    """Return the folder that is named by a run's id, or holds its meta.yaml, and has the file below it."""
    for folder in file.parents[:_ABOVE]:
        here = folders.names(folder)
        if "artifacts" in here and ({"meta.yaml", "metrics"} <= here or _RUN_ID.fullmatch(folder.name)):
            return folder
    return None


def is_trash(folder: Path, folders: Folders) -> bool:
    """Tell whether this is the folder into which a file store moves experiments that are deleted."""
    names = folders.names(folder) if folder.name == _TRASH else ()
    return any("meta.yaml" in folders.names(folder / name) for name in names)


def trashed_experiment(run: Path) -> Path | None:
    """Return the folder of the deleted experiment that holds a run, None for runs of others."""
    return next((folder for folder in run.parents if folder.parent.name == _TRASH), None)


def before_deletion(run: Path) -> Path:
    """Return the folder that a run of a deleted experiment had before."""
    trash = next(folder for folder in run.parents if folder.name == _TRASH)
    return trash.parent / run.relative_to(trash)


def restore_experiment(experiment: Path) -> str:
    """Say what brings an experiment back."""
    return f"'mlflow experiments restore --experiment-id {sanitize(experiment.name)}'"


def side_files(run: Path, _held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return the files of parameters and metrics, or the database of whose runs this may be one."""
    if "meta.yaml" in folders.names(run) and "artifacts" in folders.names(run):
        return [*_below(run / "params", folders), *_below(run / "metrics", folders)]
    above = [run, *run.parents[:_ABOVE]]
    return next(([folder / DATABASE] for folder in above if DATABASE in folders.names(folder)), [])


def _below(folder: Path, folders: Folders) -> list[Path]:
    """Return the files below a folder; a name with slashes in it is a path of folders."""
    found: list[Path] = []
    waiting = [folder]
    while waiting and len(found) < _FILES:
        here = waiting.pop()
        for name in sorted(folders.names(here)):
            if folders.identity(here / name) is not None:
                found.append(here / name)
            elif len(here.parts) < len(folder.parts) + _ABOVE:
                waiting.append(here / name)
    return sorted(found)


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read parameters and the history of metrics, by step."""
    metadata = RunMetadata(failures=reader.failures, pooled=True)
    for file in reader.files:
        if file.name == DATABASE:
            reader.attempt(file, lambda path: _read_database(metadata, path, reader))
            continue
        kind, *parts = file.relative_to(reader.run).parts
        name = sanitize("/".join(parts))
        if kind == "metrics":
            metadata.rows += reader.attempt(file, partial(_history, name, reader)) or []
        else:
            metadata.hyperparameters.update(reader.attempt(file, partial(_parameter, name, reader)) or {})
    _place(metadata, str(reader.files[0]) if reader.files else "")
    return metadata


def _place(metadata: RunMetadata, path: str) -> None:
    """Give rows their epochs, which Lightning logs as a metric at the same step; what has no step goes to the end.

    MLflow writes step 0 where the caller gives none: a metric that was never logged at any other is one of the whole
    run, or if it has several values, their order is all that is known.
    """
    rows = [row for row in metadata.rows if not any(name.startswith(_SYSTEM) for name in row.metrics)]
    epochs = {row.step: whole(value) for row in rows for name, value in row.metrics.items() if name in EPOCH}
    series: dict[str, list[Row]] = {}
    for row in rows:
        for name in row.metrics:
            if name not in EPOCH:
                series.setdefault(name, []).append(row)
    metadata.rows = []
    for name, entries in series.items():
        if any(row.step for row in entries):
            metadata.rows += [Row(epochs.get(row.step), row.step, row.metrics) for row in entries]
        elif len(entries) == 1:
            metadata.final[name] = entries[0].metrics[name]
        else:
            metadata.ordered.append((path, [Row(None, None, row.metrics) for row in entries]))


def lifecycle(run: Path, folders: Folders) -> Path | None:
    """Return the file that says whether a run was deleted: its meta.yaml, or the database."""
    if {"meta.yaml", "artifacts"} <= folders.names(run):
        return run / "meta.yaml"
    return next((file for file in side_files(run, (), folders) if file.name == DATABASE), None)


def deleted(reader: SideFileReader, runs: Sequence[Path]) -> dict[str, str]:
    """Return the runs that MLflow keeps as deleted, which it does until they are collected (``mlflow gc``)."""
    (file,) = reader.files
    if file.name != DATABASE:
        about = reader.yaml(file)
        stage = about.get("lifecycle_stage") if isinstance(about, Mapping) else None
        return {str(run): _restore(run.name) for run in runs} if stage == "deleted" else {}
    return reader.attempt(file, partial(_deleted_in, reader, runs)) or {}


def _deleted_in(reader: SideFileReader, runs: Sequence[Path], path: Path) -> dict[str, str]:
    with _opened(path, reader) as database:
        gone = {i for (i,) in database.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'deleted'")}
        idents = {str(run): _run_in(database, run) for run in runs} if gone else {}
    return {run: _restore(ident) for run, ident in idents.items() if ident is not None and ident in gone}


def _restore(ident: str) -> str:
    return f"deleted in MLflow: 'mlflow runs restore --run-id {sanitize(ident)}' brings it back"


def _parameter(name: str, reader: SideFileReader, file: Path) -> dict[str, Plain]:
    return {name: number_or_text(reader.text(file, _VALUE_BYTES))}


def _history(name: str, reader: SideFileReader, file: Path) -> list[Row]:
    """Read lines of timestamp, value and step (and, since MLflow 3, what the metric was measured on)."""
    rows = []
    for number, line in enumerate(reader.text(file, _VALUE_BYTES, lines=True).splitlines(), start=1):
        parts = line.split()
        try:
            value, step = float(parts[1]), int(parts[2]) if len(parts) > 2 else 0
        except (IndexError, ValueError) as error:
            raise SideError(f"line {number:,} is not a timestamp, a value and a step") from error
        rows.append(Row(None, step, {name: finite(value)}))
    return rows


def _read_database(metadata: RunMetadata, path: Path, reader: SideFileReader) -> None:
    with _opened(path, reader) as database:
        run = _run_in(database, reader.run)
        if run is None:
            return
        params = database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run,)).fetchmany(_FILES)
        metadata.hyperparameters = {sanitize(str(key)): number_or_text(str(value)) for key, value in params}
        query = "SELECT key, value, step, is_nan FROM metrics WHERE run_uuid = ? ORDER BY timestamp, step"
        for key, value, step, is_nan in database.execute(query, (run,)).fetchmany(_ROWS):
            known = isinstance(value, int | float) and not is_nan
            metadata.rows.append(Row(None, int(step), {sanitize(str(key)): finite(value) if known else None}))


def _run_in(database: sqlite3.Connection, folder: Path) -> str | None:
    """Return the id of the run whose folder this is: by its name, its artifacts, or what a parameter or tag says."""
    query = "SELECT run_uuid FROM runs WHERE run_uuid = ?"
    found = database.execute(query, (folder.name,)).fetchone() if _RUN_ID.fullmatch(folder.name) else None
    if found is None:
        names = [str(folder), f"{folder}/", f"file://{folder}", f"{folder}/artifacts"]
        marks = ", ".join("?" * len(names))
        query = (
            f"SELECT run_uuid FROM runs WHERE artifact_uri IN ({marks})"  # noqa: S608 - question marks alone
            f" UNION SELECT run_uuid FROM params WHERE value IN ({marks})"
            f" UNION SELECT run_uuid FROM tags WHERE value IN ({marks}) LIMIT 2"
        )
        rows = database.execute(query, names * 3).fetchall()
        found = rows[0] if len(rows) == 1 else None  # of two runs that name one folder neither is the one
    return None if found is None else str(found[0])


@contextlib.contextmanager
def _opened(path: Path, reader: SideFileReader) -> Iterator[sqlite3.Connection]:
    """Open a database as a file that nobody changes: SQLite then writes nothing beside it, neither locks nor logs."""
    log = path.with_name(f"{path.name}-wal")
    if log.is_file() and log.stat().st_size:
        reader.record_failure(path, "its newest values are in its write-ahead log: they come when MLflow has closed it")
    with open_source(path, replace(reader.limits, at_once=0)) as source:
        there = f"/proc/self/fd/{source.file.fileno()}" if isinstance(path, RemotePath) else str(path)
        with bounded_database(there, source.identity, _TABLES, "MLflow") as database:
            yield database


LAYOUT = Layout(
    "mlflow",
    run_of=run_of,
    side_files=side_files,
    parse_side_files=parse_side_files,
    lifecycle=lifecycle,
    deleted=deleted,
    tracks=True,
)
