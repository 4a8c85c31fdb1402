"""The child's answer to what the files beside a run's checkpoints tell."""

from __future__ import annotations

from typing import Any

from epsopt.zoo.layouts.known import BY_NAME
from epsopt.zoo.layouts.reading import Position, joined
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.side import Sides
from epsopt.zoo.reading.source import Limits


def tell(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Ask one layout about one run; only what concerns its checkpoints goes back to the parent."""
    sides = Sides(location(request["path"]), [location(f) for f in request["files"]], limits)
    told = BY_NAME[request["layout"]].tell(sides)
    positions = [Position(*position) for position in request["positions"]]
    return {
        "status": "told",
        "hyperparameters": told.hyperparameters,
        "metrics": joined(told, positions),
        "troubles": told.troubles,
    }
