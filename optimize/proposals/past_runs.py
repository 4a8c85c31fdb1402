"""What past runs ended at, as the map places it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from epsopt.optimize.forecast.censored_runs import expected_end
from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.latent.trajectory import run_paths
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import is_recombined


@dataclass(frozen=True, eq=False)
class PastRun:
    """A run to learn from.

    Attributes:
        name: the run's name.
        config: its hyperparameters.
        z: ``(latent,)`` of its last checkpoint, finite; of a censored run, what its end is expected to be.
        metrics: measured metrics of its last checkpoint; none for one that was cut off: it measured no end.
        finished: whether it was not cut off.
        run_id: id of the run in its catalogue; -1 where it is in none.
    """

    name: str
    config: Mapping[str, Any]
    z: Tensor
    metrics: dict[str, float | None]
    finished: bool = True
    run_id: int = -1


def past_runs(surrogate: Surrogate, checkpoints: Sequence[Checkpoint], cut_off: Collection[int] = ()) -> list[PastRun]:
    """Return what each run ended at: its last checkpoint (highest epoch) that the map knows.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's, ordered by run and epoch as it gives them.
        cut_off: ids of runs that did not end by themselves (stopped early, failed, still training): their last
            checkpoint is not taken for their end (:func:`epsopt.optimize.forecast.censored_runs.expected_end`).

    Returns:
        One past run for each run that was trained, in the order of the checkpoints; none for a run that was cut off
        where too few others tell how it would have gone on.

    Raises:
        UsageError: the map knows none of the checkpoints.
    """
    latents, known = known_latents(surrogate, checkpoints, of_runs=True)
    last = {c.run_id: i for i, c in enumerate(known) if not is_recombined(c)}
    ends = _ends_of_cut_off(surrogate, known, latents, last, set(cut_off))
    out = []
    for run_id, i in sorted(last.items(), key=lambda pair: pair[1]):
        if run_id not in ends:
            out.append(PastRun(known[i].run, known[i].hyperparameters, latents[i], known[i].metrics, run_id=run_id))
        elif (end := ends[run_id]) is not None:
            out.append(PastRun(known[i].run, known[i].hyperparameters, end, {}, finished=False, run_id=run_id))
    return out


def _ends_of_cut_off(
    surrogate: Surrogate,
    known: Sequence[Checkpoint],
    latents: Tensor,
    last: Mapping[int, int],
    cut_off: set[int],
) -> dict[int, Tensor | None]:
    """Expected ends by the run's id."""
    if not cut_off & last.keys():
        return {}
    rows = [i for i, c in enumerate(known) if c.run_id in last and not is_recombined(c)]
    ids = list(dict.fromkeys(known[i].run_id for i in rows))
    paths = dict(zip(ids, run_paths(surrogate, [known[i] for i in rows], latents[rows]), strict=True))
    finished = [path for run_id, path in paths.items() if run_id not in cut_off]
    return {run_id: expected_end(paths[run_id], finished) for run_id in ids if run_id in cut_off}
