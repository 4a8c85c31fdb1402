"""Merge checkpoints of the catalogue: choose parents, measure merges, keep those that widen the front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.merge.patience import Patience
from epsopt.optimize.merge.simplex_merge import Evaluation, MergeResult, choose_parents, merge
from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.measuring import Metrics
from epsopt.zoo.decoding.operator_names import DENSITY, LINEAR, require_operator
from epsopt.zoo.decoding.provenance import Provenance, labels
from epsopt.zoo.decoding.recombination import Parent, Recombination, recombination, require_one_lineage
from epsopt.zoo.errors import EmptyCatalogue, EpsoptError

_DIFFERENT = 1e-3  # of a metric's range: what the hook says of a parent against what its file says


@dataclass(frozen=True, eq=False)
class Merged:
    """What merging came to.

    Attributes:
        parents: the checkpoints that were merged.
        groups: patterns of tensor names with coefficients of their own.
        result: every merge that was measured.
        saved: file of each merge that joined the front, by its place among the evaluations.
        disagreements: sentences about parents of which the hook says something else than their files, and about what
            merging cannot do right by itself.
        how: operator, base and density of the merges (:class:`epsopt.zoo.decoding.recombination.Recombination`).
    """

    parents: tuple[Checkpoint, ...]
    groups: tuple[str, ...]
    result: MergeResult
    saved: dict[int, Path]
    disagreements: tuple[str, ...]
    how: Mapping[str, Any] = field(default_factory=dict)

    def recombination(self, evaluation: Evaluation) -> Recombination:
        """Return what a merge is made of."""
        return recombination(self.parents, evaluation.coefficients.tolist(), self.groups, **self.how)


def front_lineage(checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]) -> tuple[int, list[int]]:
    """Return the lineage that holds most of the measured front, and the rows of its measured checkpoints.

    Raises:
        EmptyCatalogue: no lineage has two measured checkpoints.
    """
    table = measured_table([c.metrics for c in checkpoints], objectives)
    known = np.flatnonzero(np.isfinite(table).all(axis=1))
    sizes = Counter(checkpoints[i].lineage_id for i in known.tolist())
    rows = Objectives(objectives).front(table)
    front = Counter(checkpoints[i].lineage_id for i in rows.tolist())
    usable = [lineage for lineage, size in sizes.items() if size > 1]
    if not usable:
        raise EmptyCatalogue(
            "no two measured checkpoints are of one lineage, so there is nothing to merge: ingest runs that start from "
            "one base and name it (init_from), or several checkpoints of a run"
        )
    best = max(usable, key=lambda lineage: (front[lineage], sizes[lineage], -lineage))
    return best, [i for i in known.tolist() if checkpoints[i].lineage_id == best]


def front_parents(checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective], count: int) -> list[Checkpoint]:
    """Choose parents on the measured front: of the lineage that holds most of it, those that dominate most together.

    Raises:
        EmptyCatalogue: no lineage has two measured checkpoints.
    """
    _, rows = front_lineage(checkpoints, objectives)
    table = measured_table([c.metrics for c in checkpoints], objectives)
    own = Objectives(objectives).front(table[rows]).tolist()
    chosen = [rows[i] for i in choose_parents(table[rows], objectives, count)]
    if len(own) < 2:  # one checkpoint beats all: the best of the others beside it
        rest = [i for i in rows if i not in chosen]
        chosen += [rest[i] for i in choose_parents(table[rest], objectives, 1)]
    return [checkpoints[i] for i in chosen]


def merge_checkpoints(
    decoder: WeightDecoder,
    project: Project,
    checkpoints: Sequence[Checkpoint],
    parents: Sequence[Checkpoint],
    files: Callable[[int], Path],
    *,
    groups: Sequence[str] = (),
    budget: int = 30,
    reach: float = 0.0,
    seed: int = 0,
    operator: str = LINEAR,
    base: Parent | None = None,
    density: float = DENSITY,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Measure merges of checkpoints and save those that nothing measured dominates.

    Args:
        decoder: decodes, and measures with the project's hook.
        project: objectives and bounds.
        checkpoints: the catalogue's; what was measured on them is the front to be widened.
        parents: 2 to 5 of one lineage.
        files: the file of a merge, by its place among the evaluations.
        groups: patterns of tensor names with coefficients of their own; all other tensors share the last row.
        budget: evaluations.
        reach: see :func:`epsopt.optimize.merge.simplex_merge.merge`.
        seed: of the search.
        operator: ``linear``, or one of mergekit's (:data:`epsopt.zoo.decoding.operator_names.OPERATORS`).
        base: what the operator takes differences from, if it does.
        density: share of each difference that the operator keeps.
        progress: called as ``progress(evaluations done, budget)``.

    Raises:
        UsageError: the parents are not of one lineage, or too few, or too many; or no evaluate hook.
        HookError: the hook failed on a parent. What it fails on later measures nothing, and the others are kept.
    """
    require_one_lineage(parents)
    require_operator(operator, len(parents))
    how: dict[str, Any] = {"operator": operator, "base": base, "density": density}

    def evaluate_all(several: Sequence[NDArray[np.float64]]) -> list[Metrics | EpsoptError]:
        return decoder.evaluate_all([recombination(parents, c.tolist(), groups, **how) for c in several])

    objectives = project.objectives
    result = merge(
        None, len(parents), objectives,
        known=measured_table([c.metrics for c in checkpoints], objectives),
        bounds=project.bounds, budget=budget, groups=len(groups) + 1, reach=reach, seed=seed, progress=progress,
        evaluate_all=evaluate_all, at_a_time=decoder.jobs,
    )  # fmt: skip
    differing = [s for p, e in zip(parents, result.evaluations, strict=False)
                 for s in disagreements(p, e.measured, objectives, decoder.calibrate)]  # fmt: skip
    notes = [*differing, *decoder.notes, *Patience(list(result.failures)).notes()]
    notes += missing_values([e.measured for e in result.evaluations[len(parents) :]], objectives)
    merged = Merged(tuple(parents), tuple(groups), result, {}, tuple(notes), how)
    for place in result.joined:
        evaluation = result.evaluations[place]
        decoded = decoder.decode(merged.recombination(evaluation))
        provenance = Provenance("merge", evaluation.predicted, evaluation.measured, decoder.hook, labels(parents))
        decoder.save(decoded, files(place), provenance)
        decoder.forget(decoded)
        merged.saved[place] = files(place)
    return merged


def missing_values(measured: Sequence[Mapping[str, float | None]], objectives: Sequence[Objective]) -> list[str]:
    """Return one sentence for each objective that the hook did not find on some merges; of failed ones nothing is said.

    Args:
        measured: metrics of each merge; empty where its evaluation failed.
        objectives: what counts.
    """
    some = [m for m in measured if m]
    counts = {o.name: sum(m.get(o.name) is None for m in some) for o in objectives}
    return [
        f"the hook found no finite {name} on {n} of {len(some)} merges, which count as the worst that was measured"
        for name, n in counts.items() if n
    ]  # fmt: skip


def disagreements(
    checkpoint: Checkpoint,
    measured: Mapping[str, float | None],
    objectives: Sequence[Objective],
    calibrate: str | None = None,
) -> list[str]:
    """Return one sentence that names the objectives of which the hook says something else than the file, or none.

    Args:
        checkpoint: that was measured again.
        measured: what the hook says, by name.
        objectives: what counts.
        calibrate: the hook that computed its statistics anew before; None: none did.
    """
    out = []
    for objective in objectives:
        stated, found = checkpoint.metrics.get(objective.name), measured.get(objective.name)
        if stated is None:
            continue
        if found is None:
            out.append(f"no {objective.name} where its file says {stated:.4g}")
            continue
        if abs(stated - found) > _DIFFERENT * max(abs(stated), abs(found), 1e-9):
            out.append(f"{objective.name} {found:.4g} where its file says {stated:.4g}")
    anew = f", whose statistics {calibrate} computed anew," if calibrate else ""
    return [f"the hook measures of {checkpoint.path}{anew} {', '.join(out)}"] if out else []
