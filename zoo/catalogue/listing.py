"""The checkpoints of a catalogue as they are listed: rows, what side files tell of them, and runs that are one."""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

from epsopt.zoo.catalogue.copies import Held, parts_of_others
from epsopt.zoo.catalogue.run_names import distinct_names
from epsopt.zoo.catalogue.tables import checkpoints, files, run_metadata, runs
from epsopt.zoo.layouts.named_values import named_values
from epsopt.zoo.layouts.parsed import known_metrics
from epsopt.zoo.layouts.registry import TRACKERS
from epsopt.zoo.reading.plain_values import numeral, with_defaults

Metrics = dict[str, float | None]


class CheckpointRow(NamedTuple):
    """A row of the table of checkpoints without its metadata: a plain tuple, since a large catalogue has many."""

    id: int
    run_id: int
    path: str
    sha256: str
    epoch: int | None
    metrics: str
    signature: str
    lineage_id: int
    n_parameters: int
    step: int | None
    layout: str | None


_COLUMNS = tuple(checkpoints.c[name] for name in CheckpointRow._fields)


@dataclass(slots=True)
class Listed:
    """One checkpoint.

    Attributes:
        row: of the table.
        metrics: what its files and its run's side files say; the files count.
        run_id: of the run that it is listed under.
        epoch: epoch; the step where all checkpoints share one (:func:`count_steps`).
        paths: of its files, those of copies included.
    """

    row: CheckpointRow
    metrics: Metrics
    run_id: int
    epoch: int | None
    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Listing:
    """All of them.

    Attributes:
        checkpoints: as they are listed.
        runs: rows of the runs that they are listed under, by id.
        hyperparameters: of those runs, by id.
        parts: id of the run that counts, by the id of one that is a part of it.
        names: of the runs that they are listed under, by id; no two are the same.
    """

    checkpoints: list[Listed]
    runs: dict[int, Row[Any]]
    hyperparameters: dict[int, dict[str, Any]]
    parts: dict[int, int]
    names: dict[int, str]


def parts_of_runs(connection: Connection) -> dict[int, int]:
    """Return the runs that are a part of another one: see :func:`parts_of_others`."""
    if connection.execute(select(runs.c.id).where(runs.c.layout.in_(TRACKERS)).limit(1)).first() is None:
        return {}
    columns = (checkpoints.c.run_id, runs.c.layout, files.c.sha256, files.c.size, files.c.mtime_ns, files.c.inode)
    query = select(*columns).select_from(files).join(checkpoints, files.c.checkpoint_id == checkpoints.c.id).join(runs)
    contents: dict[int, set[str]] = {}
    identities: dict[int, set[Hashable]] = {}
    layouts: dict[int, str] = {}
    for r in connection.execute(query.where(files.c.sha256.is_not(None))):
        layouts[r.run_id] = r.layout or ""
        contents.setdefault(r.run_id, set()).add(r.sha256)
        identities.setdefault(r.run_id, set()).add((r.size, r.mtime_ns, r.inode))
    held = {i: Held(layouts[i], frozenset(contents[i]), frozenset(identities[i])) for i in contents}
    return parts_of_others(held, TRACKERS)


@dataclass(frozen=True)
class WholeRuns:
    """The runs under which checkpoints are listed, without those.

    Attributes:
        runs: rows of the runs, by id.
        hyperparameters: of the runs, by id.
        parts: id of the run that counts, by the id of one that is a part of it.
        names: by id; no two are the same.
    """

    runs: dict[int, Row[Any]]
    hyperparameters: dict[int, dict[str, Any]]
    parts: dict[int, int]
    names: dict[int, str]


def whole_runs(connection: Connection) -> WholeRuns:
    """Read all runs, and put together what is one."""
    parts = parts_of_runs(connection)
    known = {r.id: r for r in connection.execute(select(runs))}
    of_whole: dict[int, list[int]] = {}
    for part, whole in parts.items():
        of_whole.setdefault(whole, []).append(part)
    parsed: dict[str, dict[str, Any]] = {}
    hyperparameters = {}
    for i, run in known.items():
        if i not in parts:
            metadata = _once(parsed, run.hyperparameters)
            for part in of_whole.get(i, ()):
                metadata = with_defaults(metadata, _once(parsed, known[part].hyperparameters))
            hyperparameters[i] = metadata or named_values(run.path)
    kept = {i: run for i, run in known.items() if i not in parts}
    names = distinct_names({i: (run.name, run.path) for i, run in kept.items()})
    return WholeRuns(kept, hyperparameters, parts, names)


def listing(connection: Connection) -> Listing:
    """Read all checkpoints, and put together what is one."""
    found = whole_runs(connection)
    parts = found.parts
    side_metrics = _side_file_metrics(connection)
    # Most checkpoints have one file, which their own row names: only the others' are read.
    other = (files.c.path != checkpoints.c.path) | func.coalesce(files.c.sha256 != checkpoints.c.sha256, True)
    several = select(files.c.checkpoint_id).join(checkpoints, files.c.checkpoint_id == checkpoints.c.id).where(other)
    held = select(files.c.checkpoint_id, files.c.path, files.c.sha256).where(files.c.checkpoint_id.in_(several))
    members: dict[int, list[Any]] = {}
    for file in connection.execute(held.order_by(files.c.path)).all():
        members.setdefault(file[0], []).append(file)
    listed: dict[int, Listed] = {}
    holding: dict[tuple[int, str], int] = {}
    joined = bool(side_metrics or parts)  # of most catalogues nothing is: that halves the time
    rows = list(map(CheckpointRow._make, connection.execute(select(*_COLUMNS)).all()))
    measured: list[Metrics] = json.loads(f"[{','.join([row.metrics for row in rows])}]")  # at once: in half the time
    for row, own_metrics in zip(rows, measured, strict=True):
        metrics = own_metrics
        own = members.get(row.id) if members else None
        if joined:
            from_side_files: Metrics = {}
            for sha256 in dict.fromkeys([*(m.sha256 for m in own or () if m.sha256 is not None), row.sha256]):
                from_side_files.update(side_metrics.get((row.run_id, sha256), {}))
                holding[row.run_id, sha256] = row.id
            metrics = known_metrics(row.layout or "plain", metrics, from_side_files)
        paths = [row.path] if own is None else [m[1] for m in own]
        listed[row.id] = Listed(row, metrics, row.run_id, row.epoch, paths)
    for part, whole in parts.items():
        _join(part, whole, listed, holding, side_metrics)
    shown = [one for one in listed.values() if one.run_id not in parts] if parts else list(listed.values())
    count_steps(shown)
    return Listing(shown, found.runs, found.hyperparameters, parts, found.names)


def count_steps(listed: Collection[Listed]) -> None:
    """Let steps stand for epochs where all checkpoints of most runs share one, as in a training that takes one epoch.

    It holds for a whole catalogue, so that runs can be compared; a run with a checkpoint of no step keeps its epochs.
    """
    if all(one.row.step is None for one in listed):
        return
    moments: dict[int, set[tuple[int, int]]] = {}
    members: dict[int, list[Listed]] = {}
    stepless: set[int] = set()
    for one in listed:
        step = one.row.step
        if one.epoch is None:
            continue
        members.setdefault(one.run_id, []).append(one)
        if step is None:
            stepless.add(one.run_id)
        else:
            moments.setdefault(one.run_id, set()).add((one.epoch, step))
    several = [{epoch for epoch, _ in found} for found in moments.values() if len(found) > 1]
    if 2 * sum(len(epochs) == 1 for epochs in several) <= len(several):
        return
    for run, found in members.items():
        if run not in stepless:
            for one in found:
                one.epoch = one.row.step


def says_not_finite(connection: Connection) -> bool:
    """Whether any metric of a checkpoint or of a run's side files may be kept as null: NaN or infinite."""
    for table in (checkpoints, run_metadata):
        if connection.execute(select(table).where(table.c.metrics.contains("null")).limit(1)).first() is not None:
            return True
    return False


def metadata_of_files(connection: Connection, key: str) -> dict[str, Any]:
    """Return what files say under a key that few have, by path."""
    query = select(files.c.path, files.c.metadata).where(files.c.metadata.contains(f'"{key}"', autoescape=True))
    by_path = {r.path: json.loads(r.metadata) for r in connection.execute(query.order_by(files.c.path))}
    return {path: metadata[key] for path, metadata in by_path.items() if key in metadata}


def _join(
    part: int,
    whole: int,
    listed: dict[int, Listed],
    holding: Mapping[tuple[int, str], int],
    side_metrics: Mapping[tuple[int, str], Metrics],
) -> None:
    """Add what is known of the checkpoints of one run to those of the run that it is a part of."""
    for (run_id, sha256), metrics in side_metrics.items():
        if run_id == part and (i := holding.get((whole, sha256))) is not None:
            listed[i].metrics = {**metrics, **listed[i].metrics}
    for (run_id, sha256), j in holding.items():
        if run_id == part and (i := holding.get((whole, sha256))) is not None:
            one, other = listed[i], listed[j]
            one.metrics = {**other.metrics, **one.metrics}
            one.epoch = other.epoch if one.epoch is None else one.epoch
            one.paths += [path for path in other.paths if path not in one.paths]


def _side_file_metrics(connection: Connection) -> dict[tuple[int, str], Metrics]:
    """Return what side files tell of checkpoints, by run and SHA-256."""
    query = select(run_metadata.c.run_id, run_metadata.c.metrics).where(run_metadata.c.metrics != "{}")
    rows = connection.execute(query).all()
    return {(r.run_id, sha): metrics for r in rows for sha, metrics in json.loads(r.metrics).items()}


def _once(parsed: dict[str, dict[str, Any]], text: str) -> dict[str, Any]:
    if text not in parsed:
        parsed[text] = {name: numeral(value) for name, value in json.loads(text).items()}
    return parsed[text]
