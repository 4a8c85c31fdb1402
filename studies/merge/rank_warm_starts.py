"""Rank where the next run could start by what training from there is forecast to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from epsopt.optimize.forecast.continuation_model import Continuation, Start, learn_continuation
from epsopt.optimize.objectives import Objective, Target
from epsopt.optimize.proposals.past_runs import past_runs
from epsopt.optimize.proposals.warm_start import WarmStart, plan_runs
from epsopt.optimize.space import Space
from epsopt.optimize.space_inference import infer_space
from epsopt.studies.merge.decode import MergedCheckpoint
from epsopt.studies.merge.warm_start_candidates import merged_starts, real_starts
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
        continuation: the model that forecasts training from a start.
        space: the search space of the runs' hyperparameters.
        epochs: length of the runs, in epochs.
    """

    plans: list[WarmStart]
    merged: list[tuple[Start, MergedCheckpoint]]
    continuation: Continuation
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
    space: Space | None,
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
        space: search space; None infers it from the runs.
        objectives: what is to get better.
        targets: what the runs shall meet; empty for none.
        epochs: length of the runs; None for the median of past runs.
        real_only: whether merged checkpoints are left out.
        level: probability that the intervals hold, 0 to 1.
        seed: RNG seed for the forecasts and the search.
        progress: called with what is done and its share, None where that is not known.
        left_out: called with the name of a merged checkpoint that is no start, and why.

    Raises:
        UsageError: the space cannot be inferred, or no checkpoint says its epoch.
        EmptyCatalogue: too few runs are known to learn from.
    """
    space = space or infer_space([r.config for r in past_runs(surrogate, checkpoints)])
    progress("learning where training leads", None)
    continuation = learn_continuation(surrogate, checkpoints, space, seed=seed)
    starts = real_starts(surrogate, catalogue, objectives)
    merged = [] if real_only else merged_starts(
        decoder, catalogue, surrogate, objectives, progress=progress, left_out=left_out
    )  # fmt: skip
    progress("weighing starts", None)
    length = epochs or _usual_length(checkpoints)
    plans = plan_runs(
        continuation, [*starts, *(s for s, _ in merged)], checkpoints, objectives, targets,
        epochs=length, level=level, seed=seed,
    )  # fmt: skip
    return RankedStarts(list(plans), merged, continuation, space, length)


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
