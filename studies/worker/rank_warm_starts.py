"""Rank where the next run could start by what training from there is expected to add to the front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial

from epsopt.optimize.acquisition.confidence_bounds import TargetScorer
from epsopt.optimize.forecast.catalogue_curves import objective_vector
from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.objectives import Objective, Target
from epsopt.optimize.proposals.proposals import History, learn_history
from epsopt.optimize.proposals.warm_start import Start, WarmStart, plan_runs
from epsopt.optimize.space import Space
from epsopt.studies.merge.decode import MergedCheckpoint
from epsopt.studies.merge.warm_start_candidates import merged_starts, real_starts
from epsopt.studies.project.project import Project
from epsopt.studies.schedule.budget import begun_short
from epsopt.studies.schedule.weight_geometry import shaping
from epsopt.studies.worker.proposals import history_of, runs_cut_off
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import UsageError


@dataclass(frozen=True, eq=False)
class RankedStarts:
    """Where the next run could start.

    Attributes:
        plans: a run from each start, the best first.
        merged: starts that are merged checkpoints, with their decoded weights.
        learned_from: past runs that the predictions rest on.
        space: the search space of the runs' hyperparameters.
        epochs: length of the runs, in epochs.
    """

    plans: list[WarmStart]
    merged: list[tuple[Start, MergedCheckpoint]]
    learned_from: int
    space: Space
    epochs: int

    def shown(self, count: int) -> list[WarmStart]:
        """Return the best so many plans, and that from a base for comparison."""
        base = next((p for p in self.plans if p.start.kind == "base"), None)
        best = self.plans[:count]
        return best if base is None or base in best else [*best, base]


def rank_warm_starts(
    decoder: WeightDecoder,
    catalogue: Catalogue,
    checkpoints: Sequence[Checkpoint],
    surrogate: Surrogate,
    project: Project,
    trials: Sequence[FrozenTrial],
    objectives: Sequence[Objective],
    targets: Sequence[Target],
    *,
    epochs: int | None = None,
    real_only: bool = False,
    level: float = 0.9,
    seed: int = 0,
    progress: Callable[[str, float | None], None] = lambda *_: None,
    left_out: Callable[[str, str], object] | None = None,
) -> RankedStarts:
    """Plan a run from each checkpoint of the front, from merges of neighbours and from the bases, and rank the plans.

    Args:
        decoder: merges weights.
        catalogue: where the checkpoints are.
        checkpoints: of the catalogue.
        surrogate: the map.
        project: its search space, or None to infer it from the runs, and bounds.
        trials: of its proposals.
        objectives: what is to get better.
        targets: what the runs shall meet; empty for none.
        epochs: length of the runs; None for the median of past runs.
        real_only: whether merged checkpoints are left out.
        level: probability that the intervals hold, 0 to 1.
        seed: RNG seed of the model and the configurations.
        progress: called with what is done and its share, None where that is not known.
        left_out: called with the name of a merged checkpoint that is no start, and why.

    Raises:
        UsageError: the space cannot be inferred, no checkpoint says its epoch, or the map does not know an objective.
        EmptyCatalogue: too few runs are known to learn from.
    """
    TargetScorer(surrogate, tuple(objectives), tuple(targets))  # refuses what the map does not know of starts
    progress("learning from past runs", None)
    history, names = history_of(
        project, trials, checkpoints, objectives, surrogate.metric_names, runs_cut_off(project, trials, checkpoints)
    )
    learned = learn_history(_from_base(history, names, catalogue, checkpoints), targets, level=level, seed=seed)
    starts = real_starts(surrogate.metric_names, catalogue, objectives)
    merged = [] if real_only else merged_starts(
        decoder, catalogue, surrogate, objectives, progress=progress, left_out=left_out
    )  # fmt: skip
    progress("weighing starts", None)
    short = begun_short(project, trials)
    length = epochs or _usual_length([c for c in checkpoints if short.isdisjoint(Path(c.path).parents)] or checkpoints)
    plans = plan_runs(
        learned, [*starts, *(s for s, _ in merged)], epochs=length,
        kept=[p.name for p in shaping(checkpoints, history.space)], seed=seed,
    )  # fmt: skip
    return RankedStarts(plans, merged, len(learned.model.curves.curves), history.space, length)


def _from_base(
    history: History, names: Mapping[int, str], catalogue: Catalogue, checkpoints: Sequence[Checkpoint]
) -> History:
    """The history, where runs that name no start begin at the declared base of their lineage."""
    columns = [*history.objectives, *(Objective(n, maximize=True) for n in history.metrics)]
    measured = {path: objective_vector(c.metrics, columns) for c in checkpoints for path in c.paths}
    bases = {lineage.id: measured.get(lineage.reference_path) for lineage in catalogue.lineages() if lineage.declared}
    begun = {names[c.run_id]: bases.get(c.lineage_id) for c in checkpoints if c.run_id in names}

    def begin(name: str, curve: Curve) -> Curve:
        base = begun.get(name)
        known = curve.start is None and base is not None and np.isfinite(base).all()
        return replace(curve, start=base) if known else curve

    return replace(history, curves={name: begin(name, curve) for name, curve in history.curves.items()})


def _usual_length(checkpoints: Sequence[Checkpoint]) -> int:
    last: dict[int, int] = {}
    for c in checkpoints:
        if is_recombined(c):
            continue
        last[c.run_id] = max(last.get(c.run_id, 0), c.epoch or 0)
    lengths = sorted(v for v in last.values() if v > 0)
    if not lengths:
        raise UsageError("no checkpoint says its epoch, so say with --epochs how long the run trains")
    return lengths[len(lengths) // 2]
