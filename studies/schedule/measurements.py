"""What was measured, in the order in which it was read, and what a part of it added to the front."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.optimize.pareto import hypervolume
from epsopt.zoo.catalogue.types import Checkpoint

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured on checkpoints, by the order in which they were read.

    Attributes:
        ids: ``(k,)`` of the catalogue; what was read later has a larger one.
        values: ``(k, m)`` objectives; NaN where not measured.
        maximize: of each objective, whether more is better.
    """

    ids: NDArray[np.int64]
    values: Floats
    maximize: tuple[bool, ...]

    @staticmethod
    def of(checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]) -> Measurements:
        """Take them from the catalogue's checkpoints."""
        values = measured_table([c.metrics for c in checkpoints], objectives)
        ids = np.array([c.id for c in checkpoints], dtype=np.int64)
        return Measurements(ids, values, tuple(Objectives(objectives).maximize))

    def realized_gain(self, own: Collection[int], reference: Sequence[float]) -> float:
        """Return the hypervolume that some of them added to the front of all that was read before the last of them.

        Args:
            own: ids of those.
            reference: the objectives' values that are just not good enough.
        """
        mine = np.isin(self.ids, list(own))
        if not mine.any():
            return 0.0
        before = (self.ids < self.ids[mine].max()) & ~mine
        old, new = (
            hypervolume(whole_rows(self.values[some]), np.asarray(reference), self.maximize)
            for some in (before, before | mine)
        )
        return new - old


def whole_rows(table: Floats) -> Floats:
    """Rows in which every objective was measured."""
    return np.asarray(table[np.isfinite(table).all(axis=1)])
