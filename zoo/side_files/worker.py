"""The child's answer to what the files beside a run's checkpoints tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import PurePath
from typing import Any

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.formatting import count
from epsopt.zoo.layouts import hugging_face, plain
from epsopt.zoo.layouts.parsed import Position, Row, RunMetadata, match_rows
from epsopt.zoo.layouts.registry import BY_NAME
from epsopt.zoo.layouts.series import SHARED, leave_out_shared
from epsopt.zoo.layouts.side_file_reader import SideFileReader
from epsopt.zoo.layouts.training_state import is_score
from epsopt.zoo.reading.plain_values import MOST_METRICS
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Limits
from epsopt.zoo.side_files.run_tables import PATHS, entries_of


def parse_side_files(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Ask one layout about one run; only what concerns its checkpoints goes back to the parent."""
    positions = [Position(*position) for position in request["positions"]]
    files = [location(f) for f in request["files"]]
    reader = SideFileReader(location(request["path"]), files, limits, positions)
    metadata = BY_NAME[request["layout"]].parse_side_files(reader)
    if any(p.layout == hugging_face.LAYOUT.name for p in positions) and request["layout"] in ("tensorboard", "wandb"):
        hugging_face.trainer_names(metadata)
    if request["layout"] != plain.LAYOUT.name and _of_several(reader.run, positions) and leave_out_shared(metadata):
        metadata.failures.append((request["files"][0], SHARED))
    metrics = match_rows(metadata, positions)  # before the failures are collected: it may find some
    if metadata.rows and positions and not (metrics or metadata.failures):
        nowhere = all(p.epoch is p.step is None for p in positions)
        for log, rows in (metadata.logs or {_log_among(request["files"]): metadata.rows}).items():
            text = _without_place(len(rows), positions) if nowhere else _elsewhere(rows, positions)
            metadata.failures += [(log, text)] if rows else []
    elif metrics and request["layout"] == plain.LAYOUT.name:
        metadata.failures += _of_no_checkpoint(metadata, metrics, _log_among(request["files"]))
    return {
        "status": "parsed",
        "hyperparameters": metadata.hyperparameters,
        "metrics": at_most(metrics, MOST_METRICS, request["files"][0], metadata.failures),
        "failures": metadata.failures,
        "unfinished": reader.unfinished,
    }


def _log_among(files: Sequence[str]) -> str:
    """Return the first of a layout's files that is no configuration by its name."""
    return next((f for f in files if not plain.is_configuration(PurePath(f).name)), files[0])


def _of_several(run: PurePath, positions: Sequence[Position]) -> bool:
    """Tell whether a run is one of several trainings that share a folder: no folder of its own holds its files."""
    return any(p.path and PurePath(p.path).parent == run.parent for p in positions)


def _without_place(rows: int, positions: Sequence[Position]) -> str:
    """Say that a log is nobody's, since no checkpoint says where in the run it stands."""
    names = PurePath(positions[0].path).name + (" and others" if len(positions) > 1 else "")
    return (
        f"tells {count(rows, 'row')} of metrics, and none belongs to {names}, which say neither epoch nor step: give "
        'them in a CSV with columns checkpoint and metric.NAME ([runs] table = "runs.csv" in epsopt.toml)'
    )


def _elsewhere(rows: Sequence[Row], positions: Sequence[Position]) -> str:
    """Say that a log stands at no checkpoint's moment, with the moments of both."""
    logged = [f"{what} {span}" for what, of in _MOMENTS if (span := _span([of(row) for row in rows]))]
    saved = [f"{what} {span}" for what, of in _MOMENTS if (span := _span([of(p) for p in positions]))]
    at = " and ".join(logged) or "no epoch or step"
    return (
        f"tells {count(len(rows), 'row')} of metrics, at {at}, and none belongs to a checkpoint: those are at "
        f"{' and '.join(saved)}. Log the epoch of each row, or give them in a CSV with columns checkpoint and "
        'metric.NAME ([runs] table = "runs.csv")'
    )


def _of_no_checkpoint(
    metadata: RunMetadata, metrics: Mapping[str, Mapping[str, float | None]], log: str
) -> list[tuple[str, str]]:
    """Name the scores that were logged at no checkpoint's moment, where other metrics of the run were."""
    had = {name for row in metrics.values() for name in row}
    rows: dict[str, list[Row]] = {}
    for row in metadata.rows:
        for name, value in row.metrics.items():
            if value is not None and name not in had and _is_of_model(name) and not _OF_TRAINING.search(name):
                rows.setdefault(name, []).append(row)
    named = " ".join(reason for _, reason in metadata.failures)
    names = [name for name in rows if name not in named]
    if not names:
        return []
    first = rows[names[0]]
    file = next((file for file, held in metadata.logs.items() if any(row is first[0] for row in held)), log)
    logged = [f"{what} {span}" for what, of in _MOMENTS if (span := _span([of(row) for row in first]))]
    more = f" (so has {count(len(names) - 1, 'other')})" if names[1:] else ""
    reason = (
        f"no checkpoint has a value of {names[0][:60]!r}{more}, which was logged at "
        f"{' and '.join(logged) or 'no moment'}: save checkpoints there, or give the values in a CSV with columns "
        'checkpoint and metric.NAME ([runs] table = "runs.csv")'
    )
    return [(file, reason)]


def _is_of_model(name: str) -> bool:
    return is_score(name) or _OF_MODELS.search(name) is not None


_OF_MODELS = re.compile(r"(?:^|[^a-z])(?:val|valid|validation|eval|test|rew)(?:[^a-z]|$)", re.IGNORECASE)
_OF_TRAINING = re.compile(r"(?:^|[^a-z])train", re.IGNORECASE)
_MOMENTS: tuple[tuple[str, Callable[[Row | Position], int | None]], ...] = (
    ("epochs", lambda place: place.epoch),
    ("steps", lambda place: place.step),
)


def _span(numbers: Sequence[int | None]) -> str:
    known = [n for n in numbers if n is not None and n < 2**53]
    if not known:
        return ""
    return f"{min(known)}" if min(known) == max(known) else f"{min(known)} to {max(known)}"


def compare_logs(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Say what a log would tell of each of several runs, so that the one that it is of can be recognised.

    The answer has its hyperparameters, and for each run its values of the metrics that the checkpoints know themselves,
    by the checkpoint's key, and how many of the checkpoints it tells anything of; None where it holds no rows at all.
    """
    reader = SideFileReader(location(request["path"]), [location(f) for f in request["files"]], limits)
    metadata = BY_NAME[request["layout"]].parse_side_files(reader)
    runs = []
    for run in request["runs"]:
        again = replace(metadata, failures=[], final=dict(metadata.final), after=None)
        found = match_rows(again, [Position(*position) for position in run["positions"]])
        names = set(run["names"])
        runs.append({
            "values": {key: {n: v for n, v in row.items() if n in names} for key, row in found.items()},
            "matched": len(found) if metadata.rows or metadata.ordered else None,
        })  # fmt: skip
    return {"status": "compared", "hyperparameters": metadata.hyperparameters, "runs": runs}


def deleted(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Ask a layout which of the runs that a file knows were deleted.

    Raises:
        UnreadableCheckpoint: the file cannot be read.
    """
    path = location(request["path"])
    reader = SideFileReader(path.parent, [path], limits)
    reasons = BY_NAME[request["layout"]].deleted(reader, [location(run) for run in request["runs"]])
    if reader.failures and not reasons:
        raise UnreadableCheckpoint(path, reader.failures[0][1])
    return {"status": "deleted", "reasons": reasons}


def at_most(
    metrics: dict[str, dict[str, float | None]], most: int, file: str, failures: list[tuple[str, str]]
) -> dict[str, dict[str, float | None]]:
    """Keep the metrics that come first where a run has more of them than anybody compares, and say so."""
    names = dict.fromkeys(name for row in metrics.values() for name in row)
    if len(names) <= most:
        return metrics
    kept = set(list(names)[:most])
    failures.append((file, f"tells {len(names):,} metrics, of which the first {most:,} are read: log fewer"))
    return {key: {n: v for n, v in row.items() if n in kept} for key, row in metrics.items()}


def read_table(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Read a CSV table of runs.

    Raises:
        UnreadableCheckpoint: it cannot be read, or no column names the runs.
    """
    path = location(request["path"])
    reader = SideFileReader(path.parent, [path], limits)
    records = reader.table(path, growing=False)
    if reader.failures:
        raise UnreadableCheckpoint(path, reader.failures[0][1])
    entries = entries_of(records, request["params"], request["metrics"])
    if not entries:
        raise UnreadableCheckpoint(path, f"no row names its run: expected a column {' or '.join(PATHS[:4])}")
    return {"status": "table", "entries": [asdict(entry) for entry in entries]}
