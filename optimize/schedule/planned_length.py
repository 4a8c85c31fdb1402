"""How many epochs a run is planned to have, where a hyperparameter of past runs says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.schedule.pruner import FEWEST_RUNS


def planned_length(curves: Sequence[Curve]) -> str | None:
    """Name the hyperparameter that gives the number of epochs: it equals the last epoch of nine runs in ten.

    Args:
        curves: of runs that ended by themselves. Fewer than five may agree by chance, so they name none.

    Returns:
        The name of the hyperparameter, or None.
    """
    if len(curves) < FEWEST_RUNS:
        return None
    for name in sorted(set[str].intersection(*(set(c.config) for c in curves))):
        values = [positive_number(c.config[name]) for c in curves]
        if sum(v == c.steps[-1] for v, c in zip(values, curves, strict=True)) >= 0.9 * len(curves):
            return name
    return None


def positive_number(value: Any) -> float | None:
    """Return a positive number as a float, and None for anything else, booleans included."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
