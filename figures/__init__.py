"""Plotly figures of everything that epsopt shows: commands, report, dashboard, notebooks, documentation use these.

What was measured is filled, what is predicted is hollow with whiskers; the colour-blind can distinguish the colours.
Takes records and results of the other rooms, gives figures; it knows no files, servers or terminals.

Public is what ``__all__`` lists (docs/reference/api/figures.md). All else is internal and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epsopt.zoo.public_names import lazy_names

if TYPE_CHECKING:
    from epsopt.figures.calibrations import Comparison, calibration, held_out
    from epsopt.figures.embeddings import embedding
    from epsopt.figures.fronts import front
    from epsopt.figures.hyperparameters import parallel
    from epsopt.figures.interpolations import Way, interpolation
    from epsopt.figures.latent_plane import groups, map, trajectory  # noqa: A004 - epsopt.figures.map
    from epsopt.figures.samples import sampling
    from epsopt.figures.style import dark
    from epsopt.figures.volumes import hypervolume

__all__ = [
    "Comparison",
    "Way",
    "calibration",
    "dark",
    "embedding",
    "front",
    "groups",
    "held_out",
    "hypervolume",
    "interpolation",
    "map",
    "parallel",
    "sampling",
    "trajectory",
]

_HOMES = {
    "Comparison": "calibrations",
    "Way": "interpolations",
    "calibration": "calibrations",
    "dark": "style",
    "embedding": "embeddings",
    "front": "fronts",
    "groups": "latent_plane",
    "held_out": "calibrations",
    "hypervolume": "volumes",
    "interpolation": "interpolations",
    "map": "latent_plane",
    "parallel": "hyperparameters",
    "sampling": "samples",
    "trajectory": "latent_plane",
}

__getattr__ = lazy_names(__name__, _HOMES)
