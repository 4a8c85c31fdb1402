"""What is known of a run at some moment, as numbers.

A moment is a run with its first few checkpoints. Its state is on the model's scale (logits for bounded metrics); a
metric that was not measured is what the map predicts from the checkpoint's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.latent.trajectory import RunPath
from epsopt.surrogate.surrogate import Surrogate

Floats = NDArray[np.float64]

NOT_BEGUN = -1.0
"""Progress of a run of which only hyperparameters are known: unlike any other moment, a first checkpoint included."""

_COMPONENTS = 6  # of z that the trees see: 8 were no better, and 64 runs hold no more
_MOMENTS = 12  # of each run that are learned from, besides its hyperparameters alone
_LATEST = 4  # checkpoints that a slope is taken over


@dataclass(frozen=True, eq=False)
class RunSnapshot:
    """One run at one moment.

    Attributes:
        progress: share of its epochs that are done; NOT_BEGUN where there is no checkpoint at all.
        state: ``(m,)`` metrics on the model's scale; None: not begun, and nothing known of where it starts.
        slope: ``(m,)`` change over the latest checkpoints, per whole run.
        step: ``(m,)`` change over the last step.
        place: ``(components,)`` of z.
        move: ``(components,)`` change of that over the last step.
    """

    progress: float
    state: Floats | None
    slope: Floats
    step: Floats
    place: Floats
    move: Floats


@dataclass(frozen=True, eq=False)
class Reader:
    """Turns a run's checkpoints into moments.

    Attributes:
        surrogate: scales, and fills in what was not measured.
        centre: ``(latent,)``.
        directions: ``(components, latent)``; components have unit variance over the zoo.
    """

    surrogate: Surrogate
    centre: Floats
    directions: Floats

    @cached_property
    def back(self) -> Floats:
        """``(components, latent)`` what a unit of each component is in z."""
        return np.asarray(np.linalg.pinv(self.directions.T))

    def curves(self, path: RunPath) -> tuple[Floats, Floats]:
        """``(e, m)`` metrics on the model's scale without gaps, and ``(e, components)`` of z."""
        z = path.z.double().numpy()
        scaled = np.stack(
            [t.forward(path.metrics[:, j]) for j, t in enumerate(self.surrogate.transforms)], axis=1
        ).reshape(len(path), len(self.surrogate.transforms))
        gaps = ~np.isfinite(scaled)
        if gaps.any():
            scaled = np.where(gaps, self.surrogate.posterior_mean(path.z).detach().numpy(), scaled)
        return scaled, (z - self.centre) @ self.directions.T

    def moment(self, epochs: Floats, curves: tuple[Floats, Floats], total: float) -> RunSnapshot:
        """Describe a run after its first ``len(epochs)`` checkpoints, given its curves up to there."""
        values, places = curves
        m, k = values.shape[1], places.shape[1]
        if len(epochs) == 0:
            return RunSnapshot(NOT_BEGUN, None, np.zeros(m), np.zeros(m), np.zeros(k), np.zeros(k))
        shares = epochs / total
        step, move, slope = np.zeros(m), np.zeros(k), np.zeros(m)
        if len(epochs) > 1:
            step, move = values[-1] - values[-2], places[-1] - places[-2]
            at = shares[-_LATEST:] - shares[-_LATEST:].mean()
            slope = at @ values[-_LATEST:] / (at @ at)
        return RunSnapshot(float(min(shares[-1], 1.0)), values[-1], slope, step, places[-1], move)


def reader(surrogate: Surrogate, paths: Sequence[RunPath], components: int = _COMPONENTS) -> Reader:
    """Choose the components of z that the zoo's runs vary along: at most so many."""
    z = torch.cat([p.z for p in paths]).double().numpy()
    centre = z.mean(axis=0)
    _, singular, right = np.linalg.svd(z - centre, full_matrices=False)
    k = min(components, len(singular))
    scale = np.maximum(singular[:k] / np.sqrt(len(z)), 1e-6)
    return Reader(surrogate, centre, right[:k] / scale[:, None])


def moments_of(
    reading: Reader, paths: Sequence[RunPath], curves: Sequence[tuple[Floats, Floats]]
) -> tuple[list[RunSnapshot], NDArray[np.int64]]:
    """Give moments of past runs, evenly over each run and before its start, and the run of each."""
    moments, owner = [], []
    for i, (path, (values, places)) in enumerate(zip(paths, curves, strict=True)):
        known = len(path) - 1
        counts = np.unique(np.linspace(0, known, min(_MOMENTS, known) + 1).round().astype(int))
        for n in counts.tolist():
            moments.append(reading.moment(path.epochs[:n], (values[:n], places[:n]), float(path.epochs[-1])))
            owner.append(i)
    return moments, np.array(owner, dtype=np.int64)
