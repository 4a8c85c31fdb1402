"""How many epochs a run is planned to have, where a hyperparameter of past runs says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_AGREEING = 0.9


def epochs_parameter(
    configs: Sequence[Mapping[str, Any]], last_epochs: Sequence[float], *, fewest: int = 1
) -> str | None:
    """Name the hyperparameter that gives the number of epochs: it equals the last epoch of nine runs in ten.

    Args:
        configs: hyperparameters of ``n`` runs that ended by themselves.
        last_epochs: of the same runs.
        fewest: runs without which none is named: a few may agree by chance.

    Returns:
        The name of the hyperparameter, or None.
    """
    if len(configs) < max(fewest, 1):
        return None
    for name in sorted(set[str].intersection(*map(set, configs))):
        values = [positive_number(config[name]) for config in configs]
        if sum(v == last for v, last in zip(values, last_epochs, strict=True)) >= _AGREEING * len(configs):
            return name
    return None


def positive_number(value: Any) -> float | None:
    """Return a positive number as a float, and None for anything else, booleans included."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
