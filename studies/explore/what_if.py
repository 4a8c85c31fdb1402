"""What the page asks of the map: neighbours, embeddings, a search and its answers made, a way, the next proposals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA

from epsopt.optimize.latent.interpolation import along, straight
from epsopt.optimize.latent.search import Answer, SearchResult, search
from epsopt.optimize.objectives import Target, limits_as_targets, parse_targets
from epsopt.studies.embedding_preview import real_embeddings
from epsopt.studies.explore.snapshot import Snapshot
from epsopt.studies.merge.decode_answers import decode_answers
from epsopt.studies.merge.interpolate import why_not_mergeable
from epsopt.studies.optuna_io.changed_objectives import follow_objectives
from epsopt.studies.worker.proposals import propose_next
from epsopt.surrogate.nearest import distances
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import UsageError
from epsopt.zoo.reading.text import visible

NEIGHBOURS = 5
_MOST_STEPS = 101
_MOST_PROPOSALS = 32


def neighbours(snapshot: Snapshot, row: int) -> dict[str, Any]:
    """Return the checkpoints that lie nearest to one, and those of other runs.

    Args:
        snapshot: what the page shows.
        row: of the checkpoint in the snapshot.

    Returns:
        Rows and distances, nearest first, none twice that is the same file; and the usual step of its run, which is
        None where it has one checkpoint.

    Raises:
        UsageError: there is no such checkpoint, or it has no place on the map.
    """
    own = snapshot.placed(row)
    away = distances(snapshot.latents[row : row + 1], snapshot.latents)[0]
    nearest: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    contents, runs = {own.sha256}, {own.run_id}
    for i in torch.nan_to_num(away, nan=math.inf).argsort(stable=True).tolist():
        c = snapshot.checkpoints[i]
        if not math.isfinite(float(away[i])) or len(others) == NEIGHBOURS:
            break
        found = {"row": i, "distance": float(away[i])}
        if c.sha256 not in contents and len(nearest) < NEIGHBOURS:
            contents.add(c.sha256)
            nearest.append(found)
        if c.run_id not in runs and c.sha256 != own.sha256:
            runs.add(c.run_id)
            others.append(found)
    return {"row": row, "nearest": nearest, "other_runs": others, "usual_step": snapshot.steps.get(own.run_id)}


def targets_of(snapshot: Snapshot, wanted: Mapping[str, float]) -> list[Target]:
    """Turn wanted values into targets, as ``epsopt search --target-NAME VALUE`` does, limits of objectives among them.

    Args:
        snapshot: names the objectives and what is known of them.
        wanted: value by metric.

    Raises:
        UsageError: a metric that is no objective, or a value that it cannot take.
    """
    surrogate, project = snapshot.surrogate, snapshot.project
    found = {n: t.bounds for n, t in zip(surrogate.metric_names, surrogate.transforms, strict=True) if t.bounds}
    observed = {}
    for name in wanted:
        values = [v for c in snapshot.checkpoints if (v := c.metrics.get(name)) is not None]
        if values:
            observed[name] = min(values), max(values)
    asked = parse_targets(wanted, snapshot.objectives, observed, {**found, **project.bounds})
    return limits_as_targets(snapshot.objectives, asked)


def answers(snapshot: Snapshot, wanted: Mapping[str, float], *, limit: int = 8, seed: int = 0) -> dict[str, Any]:
    """Search the map, as ``epsopt search`` does, and say where on the plane the answers and the ways to them lie.

    Args:
        snapshot: what the page shows.
        wanted: value by metric.
        limit: largest number of answers.
        seed: RNG seed; the same seed gives the same answers.

    Raises:
        UsageError: a metric that is no objective, or a value that it cannot take.
    """
    targets = targets_of(snapshot, wanted)
    with snapshot.lock:
        found = _searched(snapshot, targets, limit, seed)
        ways = [_climbed(snapshot, a) for a in found.answers]
    rows = {(c.path, c.run): i for i, c in enumerate(snapshot.checkpoints)}
    places = (
        snapshot.surrogate.plane_coordinates(torch.stack([a.z for a in found.answers])).tolist()
        if found.answers
        else []
    )
    return {
        "targets": [{"name": t.name, "value": t.value} for t in found.targets],
        "targets_met": found.targets_met,
        "level": found.level,
        "seed": seed,
        "n_candidates": found.n_candidates,
        "seconds": found.seconds,
        "answers": [
            {
                "place": place,
                "way": climbed,
                "predicted": _predicted(a.point, a.low, a.high),
                "probability": a.probability,
                "nearest": [{"row": rows[n.path, n.run], "distance": n.distance} for n in a.nearest],
            }
            for a, place, climbed in zip(found.answers, places, ways, strict=True)
        ],
    }


def _climbed(snapshot: Snapshot, answer: Answer) -> list[dict[str, Any]]:
    """Say where the search came through on its way to an answer, and what it is predicted to measure there."""
    names = snapshot.surrogate.metric_names
    places = snapshot.surrogate.plane_coordinates(answer.way).tolist()
    points = snapshot.surrogate.predict(answer.way, snapshot.level).point.tolist()
    return [{"place": at, "predicted": dict(zip(names, p, strict=True))} for at, p in zip(places, points, strict=True)]


def _searched(snapshot: Snapshot, targets: Sequence[Target], limit: int, seed: int) -> SearchResult:
    return search(
        snapshot.surrogate, snapshot.checkpoints, snapshot.objectives, targets,
        limit=limit, level=snapshot.level, seed=seed,
    )  # fmt: skip


def make_answer(
    snapshot: Snapshot, wanted: Mapping[str, float], number: int, *, limit: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Decode an answer of the search to real weights, measure them with the project's hook, and save them.

    Args:
        snapshot: what the page shows.
        wanted: value by metric, as it was searched for.
        number: of the answer, from 1.
        limit: largest number of answers, as it was searched for.
        seed: RNG seed of the search.

    Returns:
        The file, a new one among the runs; where the weights lie on the plane, what they are predicted to measure, and
        what they measured; None where the project has no hook.

    Raises:
        UsageError: there is no such answer, the nearest checkpoint belongs to no lineage, or the runs lie elsewhere.
        UnreadableCheckpoint: a parent is gone or has changed.
        HookError: the evaluate hook failed.
    """
    targets = targets_of(snapshot, wanted)
    if not snapshot.url:
        raise UsageError("nothing can be made: there is no catalogue of checkpoints to decode from")
    with snapshot.lock:
        found = _searched(snapshot, targets, limit, seed)
        if not 1 <= number <= len(found.answers):
            raise UsageError(f"there is no answer {number}: the search has {len(found.answers)}")
        answer = found.answers[number - 1]
        with Catalogue.existing(snapshot.url) as catalogue:
            (made,) = decode_answers(
                snapshot.project, catalogue, snapshot.checkpoints, snapshot.surrogate, [answer],
                by="search", keep=True, level=snapshot.level, evaluate=snapshot.project.evaluate is not None,
            )  # fmt: skip
        if made.merged is None or made.file is None:
            near = answer.nearest[0]
            raise UsageError(
                f"answer {number} cannot be decoded: {visible(near.run)}, the run nearest to it, belongs to no lineage"
            )
        place = snapshot.surrogate.plane_coordinates(made.merged.z[None])[0].tolist()
    weights = made.merged.assessment
    return {
        "number": number,
        "file": str(made.file.resolve()),
        "place": place,
        "predicted": _predicted(weights.point, weights.low, weights.high),
        "refused": weights.refused,
        "measured": made.merged.measured,
    }


def way(snapshot: Snapshot, start: int, end: int, steps: int = 21) -> dict[str, Any]:
    """Predict the straight way between two checkpoints of the map.

    Args:
        snapshot: what the page shows.
        start: row of the checkpoint that it begins at.
        end: row of the one that it ends at.
        steps: number of points, both ends included.

    Returns:
        Place, prediction and whether it lies within the data, a point; what was measured at the ends; and why the
        weights of the two cannot be merged, or None.

    Raises:
        UsageError: no such checkpoint, the same one twice, no place on the map, or a number of steps out of range.
    """
    if not 2 <= steps <= _MOST_STEPS:
        raise UsageError(f"the number of steps is {steps}, expected 2 to {_MOST_STEPS}")
    ends = [snapshot.placed(start), snapshot.placed(end)]
    if ends[0].sha256 == ends[1].sha256:
        raise UsageError("both ends are the same checkpoint: there is no way to go")
    for row, one in zip((start, end), ends, strict=True):
        if (refused := snapshot.refused.get(row)) is not None:
            raise UsageError(f"the way to {visible(one.path)} cannot be predicted: {refused}")
    z = straight(snapshot.latents[start], snapshot.latents[end], steps)
    with snapshot.lock:
        unseen = any(one.signature not in snapshot.surrogate.architectures for one in ends)
        points = along(snapshot.surrogate, snapshot.checkpoints, z, snapshot.level, unseen=unseen)
    places = snapshot.surrogate.plane_coordinates(z).tolist()
    return {
        "rows": [start, end],
        "level": snapshot.level,
        "not_mergeable": why_not_mergeable(*ends),
        "points": [
            {
                "share": p.share,
                "place": place,
                "within_data": p.trusted,
                "predicted": _predicted(p.point, p.low, p.high),
            }
            for p, place in zip(points, places, strict=True)
        ],
    }


def embedding(snapshot: Snapshot, row: int) -> dict[str, Any]:
    """Predict a checkpoint's anchor embeddings, and project them beside the real ones, as ``epsopt embed`` does.

    Args:
        snapshot: what the page shows.
        row: of the checkpoint in the snapshot.

    Returns:
        Points on the two principal components of the real ones, or of the predicted where no real ones are known; the
        share of the variance that these hold, and the mean cosine of predicted and real, or None.

    Raises:
        UsageError: no such checkpoint, no place on the map, or a map that learned no embeddings.
    """
    checkpoint = snapshot.placed(row)
    predicted = snapshot.surrogate.decode_embeddings(snapshot.latents[row : row + 1])[0].double().numpy()
    real = None
    if snapshot.url:
        with Catalogue.existing(snapshot.url) as catalogue:
            real = real_embeddings(catalogue, checkpoint, Path(checkpoint.path), None)
    if real is not None and (real.shape != predicted.shape or not np.isfinite(real).all()):
        real = None
    plane = PCA(2).fit(predicted if real is None else real)
    cosine = None
    if real is not None:
        lengths = np.linalg.norm(real, axis=1) * np.linalg.norm(predicted, axis=1)
        cosine = float(((real * predicted).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())
    return {
        "predicted": plane.transform(predicted).tolist(),
        "real": None if real is None else plane.transform(real).tolist(),
        "explained": float(plane.explained_variance_ratio_.sum()),
        "cosine": cosine,
    }


def next_runs(
    snapshot: Snapshot, wanted: Mapping[str, float], *, n: int = 4, seed: int = 0, record: bool = False
) -> dict[str, Any]:
    """Propose the next training configs, as ``epsopt propose`` does.

    Args:
        snapshot: what the page shows.
        wanted: value by metric that the runs are to reach.
        n: how many.
        seed: RNG seed; the same seed proposes the same, until something changes.
        record: whether they are queued for ``epsopt work``.

    Raises:
        UsageError: a target or a number that makes no sense, or nothing left to propose.
    """
    if not 1 <= n <= _MOST_PROPOSALS:
        raise UsageError(f"the number of proposals is {n}, expected 1 to {_MOST_PROPOSALS}")
    if record and snapshot.storage is None:
        raise UsageError("nothing can be queued: there is no database of studies")
    with snapshot.lock:
        if record and snapshot.storage is not None:
            follow_objectives(snapshot.storage, snapshot.project.name, snapshot.project.objectives)
        made = propose_next(
            snapshot.project, snapshot.storage, snapshot.checkpoints, snapshot.objectives, targets_of(snapshot, wanted),
            metrics=snapshot.surrogate.metric_names, n=n, level=snapshot.level, seed=seed, record=record,
        )  # fmt: skip
    return {
        "queued": record,
        "proposals": [
            {
                "number": number if record else None,
                "config": {**p.fixed, **p.params},
                "predicted": _predicted(p.point, p.low, p.high),
                "joins_front": p.joins_front,
                "probability": p.probability,
                "reason": None if p.reason is None else visible(_called(snapshot, p.reason)),
            }
            for p, number in zip(made.proposals, made.numbers, strict=True)
        ],
    }


def _called(snapshot: Snapshot, text: str) -> str:
    """Return a sentence with the names of runs in it as tables call them."""
    for run in sorted(snapshot.labels, key=len, reverse=True):
        text = text.replace(run, snapshot.labels[run])
    return text


def _predicted(
    point: Mapping[str, float], low: Mapping[str, float], high: Mapping[str, float]
) -> dict[str, Sequence[float]]:
    """Point, low and high end by metric, as JSON can say them."""
    return {name: [v if math.isfinite(v) else math.nan for v in (point[name], low[name], high[name])] for name in point}


def finite(value: Any) -> Any:
    """Return JSON values with None for every number that JSON has no word for.

    Args:
        value: of dicts, lists, texts and numbers; others become what they are called.
    """
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else visible(str(value))
