"""How a run ranks among others that came as far: the rule of asynchronous successive halving, for several objectives.

A run is compared at rungs, which lie a factor apart (Li et al. 2020), with the runs that came so far before it. Of
several objectives, fronts rank one after another, and within a front what lies farthest from those ranked already
comes next (MOASHA, Schmucker et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.pareto import non_dominated

FACTOR = 3.0
"""How much longer a run is at each rung; of those that reach one, the best 1 / ``FACTOR`` are clearly worth more."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rank:
    """Where a run stands at its last rung.

    Attributes:
        epoch: of its checkpoint there.
        count: checkpoints that it had there.
        place: counted from one, the best first.
        of: runs that are ranked, itself among them.
    """

    epoch: float
    count: int
    place: int
    of: int

    @property
    def is_outranked(self) -> bool:
        """Whether it is not among the best 1 / ``FACTOR``; the best of all never is."""
        return (self.place - 1) / self.of > 1.0 / FACTOR

    def __str__(self) -> str:
        return f"at epoch {self.epoch:g} it ranks {self.place} of {self.of} runs"


def rank_at_rung(so_far: Curve, others: Sequence[Curve], signs: Floats, grace: float) -> Rank | None:
    """Rank a run at the last rung that it reached, by what was measured at the first checkpoint there.

    Args:
        so_far: the run.
        others: all other runs; those that did not come so far, or measured something else there, are left out.
        signs: ``(m,)`` 1 for an objective to be maximized, -1 for one to be minimized.
        grace: epochs at the first rung; where it is 0, one.

    Returns:
        Its rank; None before the first rung, and where none of its objectives was measured there.
    """
    first = grace or 1.0
    if not len(so_far.steps) or so_far.steps[-1] < first:
        return None
    rung = first
    while rung * FACTOR <= so_far.steps[-1]:
        rung *= FACTOR
    at, m = _reached(so_far, rung), len(signs)
    own = so_far.values[at, :m] * signs
    measured = np.isfinite(own)
    if not measured.any():
        return None
    there = [c.values[i, :m] * signs for c in others if (i := _reached(c, rung)) < len(c.steps)]
    rows = np.array([row[measured] for row in (*there, own) if np.isfinite(row[measured]).all()])
    ranges = np.ptp(rows, axis=0)
    place = place_of_last(rows / np.where(ranges > 0.0, ranges, 1.0))
    return Rank(float(so_far.steps[at]), at + 1, place, len(rows))


def _reached(curve: Curve, rung: float) -> int:
    """Row of the first checkpoint at a rung or after it; the number of rows where there is none."""
    return int(np.searchsorted(curve.steps, rung * (1.0 - 1e-9)))


def place_of_last(values: Floats) -> int:
    """Place of the last row, front after front; of a front the row farthest from those before it comes next.

    Args:
        values: ``(n, m)`` finite, larger is better, on scales that can be compared.

    Returns:
        Its place, the best is 1.
    """
    last, left, better = len(values) - 1, np.arange(len(values)), 0
    while True:
        front = left[non_dominated(values[left], [True] * values.shape[1]).indices]
        if last in front:
            return better + 1 + _spread_order(values[front]).index(int(np.flatnonzero(front == last)[0]))
        better += len(front)
        left = np.setdiff1d(left, front)


def _spread_order(values: Floats) -> list[int]:
    """Rows of a front, each as far as can be from those before it; the first one comes first."""
    away, out = np.full(len(values), np.inf), list[int]()
    while len(out) < len(values):
        out.append(int(np.argmax(away)))
        away = np.minimum(away, np.linalg.norm(values - values[out[-1]], axis=1))
        away[out] = -1.0
    return out
