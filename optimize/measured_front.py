"""Which measured checkpoints are on the front: those that have every objective, and that none of the others beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from epsopt.optimize.objectives import Objective, Objectives, within_limits


class _Measured(Protocol):
    @property
    def metrics(self) -> Mapping[str, float | None]: ...


_AnyMeasured = TypeVar("_AnyMeasured", bound=_Measured)


def measured_front(
    objectives: Sequence[Objective], checkpoints: Sequence[_AnyMeasured]
) -> tuple[list[_AnyMeasured], list[_AnyMeasured]]:
    """Split checkpoints that have all objectives into those on the measured front and the others."""
    both = [(c, row) for c in checkpoints if (row := complete_values(objectives, c.metrics)) is not None]
    complete, values = [c for c, _ in both], [row for _, row in both]
    table = np.array(values, dtype=np.float64).reshape(len(complete), len(objectives))
    best = set(Objectives(objectives).front(within_limits(table, objectives)).tolist())
    return (
        [c for i, c in enumerate(complete) if i in best],
        [c for i, c in enumerate(complete) if i not in best],
    )


def complete_values(objectives: Sequence[Objective], metrics: Mapping[str, float | None]) -> list[float] | None:
    """Return the objectives' values in order, or None when one is missing or no finite number."""
    found = []
    for objective in objectives:
        value = metrics.get(objective.name)
        if value is None or not math.isfinite(value):
            return None
        found.append(float(value))
    return found
