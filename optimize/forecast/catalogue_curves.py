"""What a catalogue knows of whole runs, as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from epsopt.optimize.forecast.learning_curve_gp import Curve, Floats
from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Space
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import is_recombined

STARTS = ("init_from", "base")
"""Hyperparameters under which a run says which checkpoint it started from."""


def past_curves(checkpoints: Sequence[Checkpoint], space: Space, objectives: Sequence[Objective]) -> dict[int, Curve]:
    """Return the curve of every run that the space describes and that has a measured checkpoint after its start.

    Args:
        checkpoints: of any number of runs.
        space: of the hyperparameters.
        objectives: what curves are of.

    Returns:
        Curves by the run's id; none of checkpoints that were decoded instead of trained. What was measured where a
        run started is known if the checkpoint that it names is among the checkpoints.
    """
    measured = {path: objective_vector(c.metrics, objectives) for c in checkpoints for path in c.paths}
    curves = {}
    for run_id, trained in trained_runs(checkpoints, space).items():
        config = trained[-1].hyperparameters
        values = np.stack([measured[c.path] for c in trained])
        if np.isfinite(values).any():
            start = next((measured[str(config[s])] for s in STARTS if str(config.get(s)) in measured), None)
            epochs = np.array([c.trained for c in trained], dtype=np.float64)
            curves[run_id] = Curve(space.given(config), epochs, values, start)
    return curves


def trained_runs(checkpoints: Sequence[Checkpoint], space: Space) -> dict[int, list[Checkpoint]]:
    """Return the checkpoints of every run that the space describes, by its id: after its start, one for each epoch."""
    runs: dict[int, dict[int, Checkpoint]] = {}
    for c in checkpoints:
        trained = c.trained or 0
        if trained > 0 and not is_recombined(c) and space.accepts(c.hyperparameters):
            runs.setdefault(c.run_id, {})[trained] = c
    return {run_id: [by_epoch[e] for e in sorted(by_epoch)] for run_id, by_epoch in runs.items()}


def objective_vector(metrics: Mapping[str, Any], objectives: Sequence[Objective]) -> Floats:
    """``(m,)`` measured objectives; NaN where not measured."""
    return np.array([math.nan if (v := metrics.get(o.name)) is None else float(v) for o in objectives])
