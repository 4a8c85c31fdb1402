"""Limits that keep models which learned nothing off the front: calibrated at chance level, they would be on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from epsopt.optimize.objectives import Objective, measured_table
from epsopt.optimize.pareto import non_dominated

_SHARE = 0.5  # of the best: a model below that is no trade-off that anybody asks for
_SHARES = ((0.0, 1.0), (0.0, 100.0))


def suggest_limits(
    objectives: Sequence[Objective],
    bounds: Mapping[str, tuple[float, float]],
    ends: Sequence[Mapping[str, float | None]],
) -> dict[str, float]:
    """Suggest a limit for each share to maximise of which the front holds less than half of the best.

    Args:
        objectives: with their directions.
        bounds: what they can be; only what lies between 0 and 1, or 0 and 100, is a share.
        ends: metrics at the end of each run.
    """
    if len(objectives) < 2:
        return {}
    table = measured_table([dict(end) for end in ends], objectives)
    front = table[non_dominated(table, [o.maximize for o in objectives]).indices]
    out = {}
    for j, o in enumerate(objectives):
        if o.maximize and bounds.get(o.name) in _SHARES and len(front):
            best = front[:, j].max()
            if (front[:, j] < _SHARE * best).any():
                out[o.name] = float(f"{_SHARE * best:.2g}")
    return out
