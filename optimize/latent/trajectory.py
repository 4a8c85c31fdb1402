"""The path of a run through the latent space: how far, how fast and how straight it went, and whether it stands still.

:mod:`epsopt.optimize.forecast.run_forecaster` forecasts where the path leads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.planned_epochs import epochs_parameter
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

Floats = NDArray[np.float64]

STILL = 0.05
"""A run stands still when it moves slower than this share of the zoo's median speed (seeds: "short trajectory = not
learning")."""
_PATIENCE = 2  # latest steps that must all be slow: one slow step is a pause


@dataclass(frozen=True, eq=False)
class RunPath:
    """What is known of one run, finished or not: its checkpoints on the map, in the order of training.

    Attributes:
        name: the run's name.
        config: its hyperparameters.
        epochs: ``(e,)`` epochs of training behind each, strictly increasing; 0 is the checkpoint it started from. May
            be empty (not begun).
        z: ``(e, latent)`` encoded checkpoints.
        metrics: ``(e, m)`` measured values in the metrics' own units; NaN where not measured.
        run_id: of its row in the catalogue, which no other run has; ``None`` for a run of no catalogue.
    """

    name: str
    config: Mapping[str, Any]
    epochs: Floats
    z: Tensor
    metrics: Floats
    run_id: int | None = None

    def __post_init__(self) -> None:
        if not len(self.epochs) == len(self.z) == len(self.metrics):
            raise UsageError(
                f"run {self.name} has {len(self.epochs)} epochs, {len(self.z)} latents and {len(self.metrics)} rows "
                "of metrics: expected as many of each"
            )
        if bool((np.diff(self.epochs) <= 0).any()):
            raise UsageError(f"run {self.name}: its epochs {self.epochs.tolist()} do not increase")

    def __len__(self) -> int:
        return len(self.epochs)

    def first(self, n: int) -> RunPath:
        """Return the run as it was when it had ``n`` checkpoints.

        Args:
            n: number of checkpoints to keep; 0 leaves the hyperparameters alone.
        """
        return RunPath(self.name, self.config, self.epochs[:n], self.z[:n], self.metrics[:n], self.run_id)


@dataclass(frozen=True, eq=False)
class PathStatistics:
    """How a run moved.

    Attributes:
        epochs: ``(e,)``.
        steps: ``(e - 1,)`` latent distance from checkpoint to checkpoint.
        length: their sum.
        displacement: distance from the first to the last checkpoint.
        straightness: displacement over length; 1 is a straight line, NaN for a run that never moved.
        direction: ``(latent,)`` unit vector from the first to the last checkpoint; zero for a run that never moved.
        speed: ``(e - 1,)`` steps per epoch.
        turning: ``(e - 2,)`` angle between consecutive steps in radians; NaN beside a step of length zero.
        curvature: ``(e - 2,)`` turning per latent distance: the angle over the mean of both steps.
        relative_speed: latest speed over the zoo's median speed; NaN with fewer than two checkpoints.
        stagnant_since: epoch since which every step was slower than ``STILL`` of that median; None: it moves.
    """

    epochs: Floats
    steps: Floats
    length: float
    displacement: float
    straightness: float
    direction: Floats
    speed: Floats
    turning: Floats
    curvature: Floats
    relative_speed: float
    stagnant_since: float | None


def path_statistics(path: RunPath, typical_speed: float) -> PathStatistics:
    """Describe how a run moved.

    Args:
        path: at least one checkpoint.
        typical_speed: what the zoo's runs typically do an epoch (:func:`median_speed`).

    Returns:
        Length, direction, speed and curvature of the path.

    Raises:
        UsageError: the run has no checkpoint.
    """
    if len(path) == 0:
        raise UsageError(f"run {path.name} has no checkpoint on the map")
    z = path.z.double().numpy()
    moves = np.diff(z, axis=0)
    steps = np.linalg.norm(moves, axis=1)
    speed = steps / np.diff(path.epochs)
    whole = z[-1] - z[0]
    displacement, length = float(np.linalg.norm(whole)), float(steps.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (moves[1:] * moves[:-1]).sum(axis=1) / (steps[1:] * steps[:-1])
        turning = np.arccos(np.clip(cosine, -1.0, 1.0))
        curvature = turning / (0.5 * (steps[1:] + steps[:-1]))
    slow = speed < STILL * typical_speed
    moving = np.flatnonzero(~slow)
    still = len(slow) - (int(moving[-1]) + 1 if len(moving) else 0)
    return PathStatistics(
        epochs=path.epochs,
        steps=steps,
        length=length,
        displacement=displacement,
        straightness=displacement / length if length > 0 else float("nan"),
        direction=whole / displacement if displacement > 0 else np.zeros_like(whole),
        speed=speed,
        turning=turning,
        curvature=curvature,
        relative_speed=float(speed[-1] / typical_speed) if len(speed) and typical_speed > 0 else float("nan"),
        stagnant_since=float(path.epochs[len(slow) - still]) if still >= _PATIENCE else None,
    )


@dataclass(frozen=True, eq=False)
class MeasuredEnd:
    """What a run that is over measured.

    Attributes:
        total: epochs that it was to have.
        epochs: ``(m,)`` of the last checkpoint that each metric was measured on; NaN where it never was.
        values: ``(m,)`` what was measured there, in the metrics' own units; NaN where it never was.
    """

    total: float
    epochs: Floats
    values: Floats


def measured_end(path: RunPath, total: float) -> MeasuredEnd | None:
    """Return what a run measured at its end, if it is over: then there is nothing to forecast.

    Args:
        path: its checkpoints so far.
        total: epochs that it is to have; 0 where nobody knows.

    Returns:
        The last value of each metric up to that epoch; ``None`` while the run is not there yet.
    """
    if len(path) == 0 or total <= 0.0 or path.epochs[-1] < total:
        return None
    epochs, values = np.full((2, path.metrics.shape[1]), np.nan)
    within = path.epochs <= total
    for j in range(len(values)):
        rows = np.flatnonzero(np.isfinite(path.metrics[:, j]) & within)
        if len(rows):
            epochs[j], values[j] = path.epochs[rows[-1]], path.metrics[rows[-1], j]
    return MeasuredEnd(total, epochs, values)


def planned_total(path: RunPath, others: Sequence[RunPath]) -> float:
    """Return how many epochs a run is to have: as its hyperparameters say, or as other runs had; 0: nobody knows."""
    total, name = planned_epochs(others)
    planned = path.config.get(name) if name else None
    return float(planned) if isinstance(planned, int | float) and planned > 0 else total


def median_speed(paths: Sequence[RunPath]) -> float:
    """Median latent distance an epoch over all steps of all runs; 0 without any step."""
    speeds = [
        (torch.linalg.norm(p.z[1:].double() - p.z[:-1].double(), dim=1).numpy() / np.diff(p.epochs))
        for p in paths
        if len(p) > 1
    ]
    return float(np.median(np.concatenate(speeds))) if speeds else 0.0


def run_paths(surrogate: Surrogate, checkpoints: Sequence[Checkpoint], latents: Tensor) -> list[RunPath]:
    """Group encoded checkpoints by run.

    Args:
        surrogate: names the metrics.
        checkpoints: ``n`` of the catalogue's; those without an epoch are numbered in their order.
        latents: ``(n, latent)`` of the same checkpoints, finite.

    Returns:
        One path per run, in the order of the checkpoints, its epochs counted as training goes whatever the files call
        them (Lightning calls the first one 0); of several files of one epoch the last counts.
    """
    members: dict[int, list[int]] = {}
    for i, c in enumerate(checkpoints):
        members.setdefault(c.run_id, []).append(i)
    out = []
    for rows in members.values():
        known = all(checkpoints[i].epoch is not None for i in rows)
        places = {(checkpoints[i].trained if known else k): i for k, i in enumerate(rows)}
        order = sorted(places, key=lambda epoch: epoch or 0)
        kept = [places[epoch] for epoch in order]
        first = checkpoints[kept[0]]
        metrics = np.array(
            [
                [np.nan if (v := checkpoints[i].metrics.get(n)) is None else float(v) for n in surrogate.metric_names]
                for i in kept
            ]
        )
        epochs = np.array([float(epoch or 0) for epoch in order])
        out.append(RunPath(first.run, first.hyperparameters, epochs, latents[kept], metrics, first.run_id))
    return out


def planned_epochs(paths: Sequence[RunPath]) -> tuple[float, str | None]:
    """How long runs of this zoo train.

    Args:
        paths: past runs.

    Returns:
        The median of their last epochs, and the hyperparameter that says it (its value is the last epoch of nine in
        ten runs), if there is one.
    """
    trained = [p for p in paths if len(p) > 1]
    if not trained:
        return 0.0, None
    last = [float(p.epochs[-1]) for p in trained]
    return float(np.median(last)), epochs_parameter([p.config for p in trained], last)
