"""The page's data: what every checkpoint measured, is predicted to, and where it lies, as columns."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.figures.axis_scale import AxisScale, choose_scale
from epsopt.optimize.bookkeeping import why_left_out
from epsopt.optimize.latent.clusters import cluster_runs
from epsopt.optimize.objectives import Objectives, measured_table
from epsopt.studies.explore.columns import Column, of_values, pack
from epsopt.studies.explore.links import links
from epsopt.studies.explore.snapshot import Snapshot
from epsopt.studies.explore.trust import trust
from epsopt.studies.explore.what_if import finite
from epsopt.surrogate.hyperparameter_table import hyperparameters_of
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.formatting import count
from epsopt.zoo.layouts.parsed import RECOMBINED
from epsopt.zoo.reading.text import visible

VERSION = 1
MOST_RUNS_GROUPED = 1500
"""Runs that are grouped: linkage compares all pairs."""


@dataclass(frozen=True, eq=False)
class View:
    """What a browser is sent.

    Attributes:
        about: JSON values: runs, columns and where they are in the data, objectives, trust.
        data: the columns.
        files: file of each checkpoint below the folder of its run, and what Python calls the whole path.
    """

    about: dict[str, Any]
    data: bytes
    files: list[str]


def view(snapshot: Snapshot) -> View:
    """Put together what the page shows.

    Args:
        snapshot: the catalogue and the map.

    Returns:
        The page's data; texts in it have no character that acts.
    """
    checkpoints = snapshot.checkpoints
    by_run: dict[int, list[int]] = {}
    for i, c in enumerate(checkpoints):
        by_run.setdefault(c.run_id, []).append(i)
    number = {run_id: k for k, run_id in enumerate(by_run)}
    firsts = [checkpoints[rows[-1]] for rows in by_run.values()]
    folders = [_folder([checkpoints[i].path for i in rows]) for rows in by_run.values()]
    plane = snapshot.surrogate.plane
    columns, notes = _columns(snapshot, by_run, number)
    described, data = pack(columns)
    about = {
        "version": VERSION,
        "project": visible(snapshot.project.name),
        "read": datetime.now(UTC).astimezone().isoformat(timespec="minutes"),
        "level": snapshot.level,
        "n": len(checkpoints),
        "runs": [
            {
                "name": visible(c.run),
                "label": visible(snapshot.labels.get(c.run, c.run)),
                "folder": folder,
                "usual_step": snapshot.steps.get(c.run_id),
            }
            for c, folder in zip(firsts, folders, strict=True)
        ],
        "columns": described,
        "metrics": list(snapshot.surrogate.metric_names),
        "objectives": [{"name": o.name, "maximize": o.maximize, "limit": o.limit} for o in snapshot.objectives],
        "axes": [
            {"title": title, "ends": [low, high]}
            for title, low, high in zip(plane.titles, plane.low, plane.high, strict=True)
        ],
        "links": links(checkpoints, snapshot.started, snapshot.merges),
        "notes": notes,
        "embeddings": snapshot.surrogate.embedding_scale is not None,
        "trust": trust(snapshot),
    }
    files = [os.path.relpath(c.path, folders[number[c.run_id]]) for c in checkpoints]
    return View(finite(about), data, files)


def _columns(
    snapshot: Snapshot, by_run: dict[int, list[int]], number: dict[int, int]
) -> tuple[list[Column], list[str]]:
    checkpoints = snapshot.checkpoints
    places = snapshot.surrogate.plane_coordinates(snapshot.latents)
    names = sorted({name for c in checkpoints for name, v in c.metrics.items() if v is not None})
    objectives = [o.name for o in snapshot.objectives]
    names = [n for n in objectives if n in names] + [n for n in names if n not in objectives]
    epochs = np.array([math.nan if c.epoch is None else float(c.epoch) for c in checkpoints])
    front = np.zeros(len(checkpoints), dtype=np.int32)
    front[
        Objectives(snapshot.objectives).front(measured_table([c.metrics for c in checkpoints], snapshot.objectives))
    ] = 1
    out = [
        Column("id", "id", "", np.array([c.id for c in checkpoints], dtype=np.int32)),
        Column("run", "run", "", np.array([number[c.run_id] for c in checkpoints], dtype=np.int32)),
        Column("x", "first axis of the map", "", places[:, 0].astype(np.float32)),
        Column("y", "second axis of the map", "", places[:, 1].astype(np.float32)),
    ]
    better = {o.name: o.maximize for o in snapshot.objectives}
    scales: dict[str, AxisScale] = {}
    for name in names:
        values = np.array([math.nan if (v := c.metrics.get(name)) is None else float(v) for c in checkpoints])
        if name in better:
            scales[name] = choose_scale(name, better[name], values.tolist(), values[front == 1].tolist())
        out.append(Column(f"metric:{name}", name, "measured", values, scale=scales.get(name)))
    predicted, refused = _predictions(snapshot)
    for j, name in enumerate(snapshot.surrogate.metric_names):
        for kind, values in zip(("predicted", "low", "high"), predicted, strict=True):
            group = "predicted" if kind == "predicted" else ""
            column = Column(f"{kind}:{name}", name, group, values[:, j].astype(np.float32), scale=scales.get(name))
            out.append(column)
    out.append(Column("epoch", "epoch", "training", epochs))
    kinds = np.array([_kind(c) for c in checkpoints], dtype=np.int32)
    out.append(Column("kind", "kind", "training", kinds, categories=("trained", "merged")))
    lineages = sorted({c.lineage_id for c in checkpoints})
    places_of = {lineage: i for i, lineage in enumerate(lineages)}
    texts = tuple(f"lineage {lineage}" if lineage else "no lineage" for lineage in lineages)
    out += [
        Column("lineage", "lineage", "training", np.array([places_of[c.lineage_id] for c in checkpoints], np.int32),
               categories=texts),
        Column("front", "measured front", "training", front, categories=("behind the front", "on the front")),
    ]  # fmt: skip
    groups, note = _groups(snapshot, number, len(by_run))
    if groups is not None:
        out.append(groups)
    out += _hyperparameters(checkpoints, by_run)
    return out, [*_notes(snapshot, refused), *([note] if note else [])]


def _predictions(snapshot: Snapshot) -> tuple[tuple[NDArray[np.float64], ...], int]:
    """Point, low and high end of every checkpoint that the map predicts, NaN elsewhere; and how many it refuses."""
    surrogate, level = snapshot.surrogate, snapshot.level
    predictable = np.array([i not in snapshot.refused for i in range(len(snapshot.checkpoints))])
    finite_rows = torch.isfinite(snapshot.latents).all(dim=1).numpy()
    rows = np.flatnonzero(predictable & finite_rows)
    out = tuple(np.full((len(predictable), len(surrogate.metric_names)), np.nan) for _ in range(3))
    if len(rows):
        unseen = np.array([snapshot.checkpoints[i].signature not in surrogate.architectures for i in rows.tolist()])
        known = hyperparameters_of(snapshot.checkpoints[i] for i in rows.tolist())
        alone = surrogate.lacks_hyperparameters(known) & ~snapshot.learned[rows]
        found = surrogate.predict(snapshot.latents[torch.from_numpy(rows)], level, unseen, alone)
        for table, values in zip(out, (found.point, found.low, found.high), strict=True):
            table[rows] = values
    return out, int((~predictable & finite_rows).sum())


def _kind(checkpoint: Checkpoint) -> int:
    return int(is_recombined(checkpoint))


def _groups(snapshot: Snapshot, number: dict[int, int], n_runs: int) -> tuple[Column | None, str | None]:
    """Group of each run, as ``epsopt cluster`` finds them, or why there are none."""
    if n_runs > MOST_RUNS_GROUPED:
        return None, f"{n_runs} runs are too many to group here: 'epsopt cluster' does"
    try:
        found, ends, _ = cluster_runs(snapshot.surrogate, snapshot.checkpoints)
    except EpsoptError as error:
        return None, f"no groups of runs: {error}"
    codes = np.full(n_runs, -1, dtype=np.int32)
    for k, group in enumerate(found.groups):
        for row in group.members:
            codes[number[ends[row].run_id]] = k
    names = tuple(f"group {k + 1}" for k in range(len(found.groups)))
    return Column("group", "group of runs", "training", codes, "run", names), None


def _hyperparameters(checkpoints: Sequence[Checkpoint], by_run: dict[int, list[int]]) -> list[Column]:
    """Return those that differ between runs, one column each, by name; seeds, paths and the like apart."""
    configs = [checkpoints[rows[-1]].hyperparameters for rows in by_run.values()]
    names = sorted({name for config in configs for name in config} - {RECOMBINED})
    out = []
    for name in names:
        values = [config.get(name) for config in configs]
        if len({repr(v) for v in values}) > 1:
            left_out = why_left_out(name, [v for v in values if v is not None])
            group = "hyperparameters" if left_out is None else "bookkeeping"
            out.append(of_values(f"hyperparameter:{name}", name, group, values))
    return out


def _notes(snapshot: Snapshot, refused: int) -> list[str]:
    finite_rows = torch.isfinite(snapshot.latents).all(dim=1).numpy()
    out = []
    if broken := int((~finite_rows).sum()):
        out.append(f"{count(broken, 'checkpoint')} with NaN weights: not on the map, and in the table of runs")
    if placed := int((finite_rows & ~snapshot.learned).sum()):
        out.append(f"the map was not trained on {count(placed, 'checkpoint')}: 'epsopt fit' learns what is new")
    if refused:
        example = next(iter(snapshot.refused.values()))
        out.append(f"no prediction for {count(refused, 'checkpoint')}, for example: {example}")
    return out


def _folder(paths: Sequence[str]) -> str:
    """Return the folder that holds all files of a run."""
    parents = [str(Path(p).parent) for p in paths]
    try:
        return os.path.commonpath(parents)
    except ValueError:  # some are relative, or on another drive
        return parents[0]
