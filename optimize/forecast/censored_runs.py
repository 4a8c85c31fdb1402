"""Where a run that was cut off would have ended: as far on as finished runs came from where it stands.

A run that was stopped, failed or still trains has a last checkpoint that is none of its end; taken for one, it would
teach that its hyperparameters lead there. Here it is moved on by what the nearest finished runs still had before them
at the same epoch. What that gains over taking it as it is, and over leaving it out: docs/decisions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.latent.trajectory import RunPath

NEAREST = 5
"""Finished runs that are asked."""
_FEWEST = 3


def expected_end(path: RunPath, finished: Sequence[RunPath]) -> Tensor | None:
    """Forecast the z that a run would have ended at.

    Args:
        path: its checkpoints so far, at least one.
        finished: whole runs on the same map.

    Returns:
        ``(latent,)``; None where fewer than three finished runs went on beyond its last epoch.
    """
    epoch, place = float(path.epochs[-1]), path.z[-1].double().numpy()
    longer = [p for p in finished if len(p) and p.epochs[-1] > epoch]
    if len(longer) < _FEWEST:
        return None
    then = np.stack([_at(p, epoch) for p in longer])
    ahead = np.stack([p.z[-1].double().numpy() for p in longer]) - then
    distance = np.linalg.norm(then - place, axis=1)
    nearest = np.argsort(distance, kind="stable")[:NEAREST]
    weights = 1.0 / (distance[nearest] + 1e-6)
    return torch.from_numpy(place + weights @ ahead[nearest] / weights.sum()).to(path.z)


def _at(path: RunPath, epoch: float) -> NDArray[np.float64]:
    """Where a run was at an epoch, between its checkpoints; before the first one, there."""
    z = path.z.double().numpy()
    return np.array([np.interp(epoch, path.epochs, column) for column in z.T])
