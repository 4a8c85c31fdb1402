"""One run: its path over the map so far, and what it measured or is forecast to measure at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from epsopt.optimize.forecast.run_forecaster import RunForecast, fit_run_forecaster
from epsopt.optimize.forecast.temporal_model import PredictedPath, fit_temporal_model
from epsopt.optimize.latent.trajectory import (
    MeasuredEnd,
    PathStatistics,
    RunPath,
    measured_end,
    median_speed,
    path_statistics,
    planned_total,
    run_paths,
)
from epsopt.optimize.space import Space
from epsopt.optimize.space_inference import infer_space
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import EmptyCatalogue, UsageError
from epsopt.zoo.fingerprints.fingerprint import Fingerprint


@dataclass(frozen=True, eq=False)
class RunTrajectory:
    """A run so far and its end.

    Attributes:
        path: the first checkpoints of the run, those that the forecast knows.
        whole: all of its checkpoints.
        moved: how the run moved over the map; None where the path is empty.
        end: what the run measured at its end; None while it is not over.
        forecast: of the run's end; None where there is none.
        reason: why there is no forecast; None where there is one.
        ahead: the next checkpoints, predicted; None where none were asked for or none can be.
        no_ahead: why the next checkpoints are not predicted; None where they are, or were not asked for.
        metric_names: metrics of the map, in the order of the forecast's arrays.
        counted_from_0: whether the run's files count epochs from 0; paths count from 1.
    """

    path: RunPath
    whole: RunPath
    moved: PathStatistics | None
    end: MeasuredEnd | None
    forecast: RunForecast | None
    reason: str | None
    metric_names: tuple[str, ...]
    counted_from_0: bool
    ahead: PredictedPath | None = None
    no_ahead: str | None = None


def run_trajectory(
    surrogate: Surrogate,
    checkpoints: Sequence[Checkpoint],
    latents: Tensor,
    name: str,
    *,
    fingerprints: Sequence[Fingerprint] | None = None,
    first: int | None = None,
    total: float | None = None,
    ahead: int = 0,
    space: Space | None = None,
    level: float = 0.9,
    seed: int = 0,
    progress: Callable[[str], object] = lambda _: None,
) -> RunTrajectory:
    """Follow a run over the map, and forecast its end unless it is over.

    Args:
        surrogate: the map.
        checkpoints: of all runs.
        latents: ``(n, latent)``, finite, positions of the `n` checkpoints.
        name: of the run.
        fingerprints: of the `n` checkpoints. Without them there is no forecast of a run whose architecture the map has
            not seen: they tell whether it has parts that no architecture of the map has.
        first: number of its checkpoints that the forecast knows, 0 for its hyperparameters alone; None for all.
        total: epochs that the run will have; None for what its configuration or past runs say.
        ahead: how many epochs after the last known checkpoint to predict, one by one, instead of the end; also of a
            run that is over.
        space: search space; None infers it from the other runs.
        level: probability that the forecast's intervals hold, 0 to 1.
        seed: RNG seed for the forecast.
        progress: called with what begins.

    Returns:
        The run's path, and the forecast of its end, or the next checkpoints if they are asked for. The end of a run
        that is over is not forecast.

    Raises:
        UsageError: no checkpoint of the run has a known epoch.
    """
    paths = run_paths(surrogate, checkpoints, latents)
    whole = next((path for path in paths if path.name == name), None)
    if whole is None:
        raise UsageError(f"the run {name} has no checkpoint with a known epoch, so it has no path")
    so_far = whole if first is None else whole.first(first)
    others = [p for p in paths if p is not whole]
    moved = path_statistics(so_far, median_speed(others)) if len(so_far) else None
    members = [c for c in checkpoints if c.run_id == whole.run_id]
    reason = _refusal(surrogate, members, checkpoints, fingerprints, level)
    end = measured_end(so_far, planned_total(so_far, others) if total is None else total)
    found = RunTrajectory(
        so_far, whole, moved, end, None, reason, tuple(surrogate.metric_names),
        any(c.trained != c.epoch for c in members), no_ahead=reason if ahead else None,
    )  # fmt: skip
    if end is not None:
        found = replace(found, reason=f"the run is over: what it measured up to epoch {end.total:g} is known")
    if reason is not None:
        return found
    if end is None and not ahead:
        progress("learning from the other runs")
        try:
            learned = space or infer_space([p.config for p in others if len(p) > 1])
            forecaster = fit_run_forecaster(surrogate, learned, others, seed)
            found = replace(found, forecast=forecaster.forecast(so_far, total=total, level=level, seed=seed))
        except (EmptyCatalogue, UsageError) as error:
            found = replace(found, reason=str(error))
    if not ahead:
        return found
    if end is None:
        found = replace(found, reason="its next checkpoints are predicted instead")
    progress("learning how runs go on")
    try:
        learned = space or infer_space([p.config for p in others if len(p) > 1])
        model = fit_temporal_model(surrogate, learned, others, seed)
        wanted = [float(so_far.epochs[-1]) + k for k in range(1, ahead + 1)] if len(so_far) else []
        return replace(found, ahead=model.predict(so_far, wanted, level=level, seed=seed))
    except (EmptyCatalogue, UsageError) as error:
        return replace(found, no_ahead=str(error))


def _refusal(
    surrogate: Surrogate,
    members: Sequence[Checkpoint],
    checkpoints: Sequence[Checkpoint],
    fingerprints: Sequence[Fingerprint] | None,
    level: float,
) -> str | None:
    """Say why the map cannot speak of a run's architecture; None: it can."""
    signatures = sorted({c.signature for c in members} - surrogate.architectures)
    kinds = {}
    for c, found in zip(checkpoints, fingerprints or (), strict=fingerprints is not None):
        if c.signature in signatures and c.signature not in kinds:
            kinds[c.signature] = found.tensor_kinds
    for signature in signatures:
        if (reason := surrogate.refusal(signature, level, kinds.get(signature, frozenset()))) is not None:
            return reason
        if signature not in kinds:
            return (
                "its architecture (tensor names and shapes) is none of those that the map was trained on, and without "
                "fingerprints nothing tells whether it has parts that none of them has"
            )
    return None
