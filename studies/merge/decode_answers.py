"""Points of the map made: decoded to real weights, measured by the project's hook and saved, as far as asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from epsopt.optimize.latent.search import Answer
from epsopt.optimize.objectives import Objective, Target, meets
from epsopt.studies.merge.decode import MergedCheckpoint, decode_samples
from epsopt.studies.output_paths import decoded_file, save_folder
from epsopt.studies.project.project import Project
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance, labels
from epsopt.zoo.errors import UsageError


@dataclass(frozen=True, eq=False)
class DecodedPoint:
    """A point that was made.

    Attributes:
        merged: its weights and what is known of them; None: the nearest checkpoint belongs to no lineage.
        file: that they were saved in; None: they were not.
    """

    merged: MergedCheckpoint | None
    file: Path | None = None


@dataclass(frozen=True)
class Kept:
    """How well what was predicted of points held for their weights, as they were measured.

    Attributes:
        measured: points whose weights were measured.
        met: of those, how many meet all targets.
        inside: measured objectives within the interval that was predicted at the point.
        values: measured objectives.
        expected: measured objectives within the interval that was predicted of the weights themselves.
    """

    measured: int
    met: int
    inside: int
    values: int
    expected: int = 0


def check_can_decode(project: Project, save: Path | None, *, evaluate: bool) -> None:
    """Refuse before anything is computed what could not be done in the end.

    Raises:
        UsageError: there is no hook to measure with, or the folder holds something.
    """
    if evaluate and project.evaluate is None:
        raise UsageError(
            '--evaluate needs an evaluate hook: name it in epsopt.toml, as [hooks] evaluate = "package.module:function"'
        )
    if save is not None and save.exists() and (not save.is_dir() or any(save.iterdir())):
        raise UsageError(f"{save} is there already: name another folder, nothing is written over")


def decode_answers(
    project: Project,
    catalogue: Catalogue,
    checkpoints: Sequence[Checkpoint],
    surrogate: Surrogate,
    points: Sequence[Answer],
    *,
    by: str,
    save: Path | None = None,
    keep: bool = False,
    level: float = 0.9,
    evaluate: bool = False,
    progress: Callable[[str, float | None], None] | None = None,
) -> list[DecodedPoint]:
    """Decode points of the map, each out of the lineage of the real checkpoint nearest to it.

    Args:
        project: its hooks measure weights and mend their statistics.
        catalogue: its lineages give the fingerprints their reference.
        checkpoints: the catalogue's.
        surrogate: the fitted map.
        points: each with at least one neighbour.
        by: command that asks: names the folders, ``BY_001``, and stands in the files.
        save: folder of the weights.
        keep: save them in a new folder among the runs where ``save`` names none.
        level: coverage of the intervals.
        evaluate: measure the weights with the project's hook.
        progress: called as ``progress(what, share done)``.

    Returns:
        One for each point.

    Raises:
        UnreadableCheckpoint: a parent is gone or has changed.
        HookError: the evaluate hook failed.
        UsageError: the folder is a run's, or another command holds it.
    """
    by_key = {c.sha256: c for c in checkpoints}
    held: contextlib.AbstractContextManager[Path | None] = contextlib.nullcontext()
    if save is not None or keep:
        held = save_folder(save, project.runs, by, checkpoints)
    with (
        held as folder,
        WeightDecoder(
            project.evaluate, weights_key=catalogue.weights_key, calibrate=project.calibrate
        ) as decoder,
    ):  # fmt: skip
        merges = decode_samples(
            decoder, catalogue, checkpoints, surrogate, points, level=level, evaluate=evaluate, progress=progress
        )
        out = []
        for i, merged in enumerate(merges, 1):
            if merged is None or folder is None:
                out.append(DecodedPoint(merged))
                continue
            parents = [by_key[p.sha256] for p in merged.recombination.parents]
            file = decoded_file(folder, f"{by}_{i:03d}", None, parents)
            assessment = merged.assessment
            predicted = {
                n: {"value": v, "low": assessment.low[n], "high": assessment.high[n]}
                for n, v in assessment.point.items()
            }
            provenance = Provenance(by, predicted, merged.measured, project.evaluate, labels(parents))
            decoder.save(merged.decoded, file, provenance)
            out.append(DecodedPoint(merged, file))
    return out


def kept_predictions(
    objectives: Sequence[Objective], targets: Sequence[Target], points: Sequence[Answer], made: Sequence[DecodedPoint]
) -> Kept:
    """Count what held of what was predicted.

    Args:
        objectives: what counts.
        targets: what the points were asked for.
        points: as they were predicted.
        made: one for each point.

    Returns:
        Counts over all points whose weights were measured; a metric that the hook did not return counts for no value
        and meets no target.
    """
    measured = met = inside = values = expected = 0
    for point, each in zip(points, made, strict=True):
        if each.merged is None or each.merged.measured is None:
            continue
        got = {name: value for name, value in each.merged.measured.items() if value is not None}
        measured += 1
        met += meets(got, targets, objectives)
        for o in objectives:
            if o.name in got and o.name in point.low:
                values += 1
                inside += point.low[o.name] <= got[o.name] <= point.high[o.name]
                own = each.merged.assessment
                expected += own.low[o.name] <= got[o.name] <= own.high[o.name]
    return Kept(measured, met, inside, values, expected)
