"""What a model of curves expects of a run before it is launched: where it ends, and whether it joins the front.

Choosing draws from the scheduler's generators; this draws from one of its own, so what is chosen is the same whether
anybody asks what is expected or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from epsopt.optimize.forecast.learning_curve_gp import CurveModel
from epsopt.optimize.pareto import joins_front
from epsopt.optimize.schedule.run_acquisition import Candidate
from epsopt.zoo.errors import UsageError

LEVEL = 0.9
"""Share of measurements that intervals are meant to hold, as those of `epsopt propose`."""

_SAMPLES = 256
_PER_RUN = 6  # checkpoints of a run that are looked at


@dataclass(frozen=True)
class Expected:
    """What is expected of a run.

    Attributes:
        point: medians of the objectives on its last checkpoint, by name, in their own units.
        low: lower ends of their intervals.
        high: upper ends.
        level: share of measurements that the intervals are meant to hold.
        joins_front: probability that one of its checkpoints joins the measured front.
    """

    point: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    level: float
    joins_front: float


def expect(model: CurveModel, candidate: Candidate, level: float = LEVEL) -> Expected:
    """Foretell a run.

    Args:
        model: of all runs so far; what they and the merges measured is the front. Constraints are not looked at.
        candidate: the run; what it starts from is on the front, too.
        level: of the intervals.

    Returns:
        Quantiles of what will be measured, noise included: medians and intervals are exact, and the same for the same
        model; the probability is of samples, always the same ones.

    Raises:
        UsageError: a level outside (0, 1), or a candidate that has no epoch left.
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
    if not candidate.cost > 0.0:
        raise UsageError(f"a run of {candidate.epochs:g} epochs has {candidate.done:g} behind it: nothing is to come")
    # Where only the ends of runs were ever measured, nothing is known of the way there.
    per_run = min(_PER_RUN, max(int(np.median([len(c.steps) for c in model.curves])), 1))
    steps = np.linspace(candidate.done, candidate.epochs, per_run + 1)[1:]
    start = None if candidate.start is None else candidate.start.values
    run = len(model.curves) if candidate.run is None else candidate.run
    with torch.no_grad():
        posterior = model.model.posterior(model.inputs([candidate.config], steps, [start], run))
        mean = posterior.mean[0]
        stretch = torch.tensor(model.stretch or (1.0,) * len(model.processes), dtype=mean.dtype)
        noise = torch.stack([p.noise for p in model.processes]) * stretch.square()
        spread = (posterior.variance[0, -1] + noise).sqrt()
        reach = NormalDist().inv_cdf((1.0 + level) / 2.0)
        low, point, high = (
            (model.untransform(mean[-1] + side * reach * spread) * model.signs).tolist() for side in (-1.0, 0.0, 1.0)
        )
        (gains,) = model.sample_futures(posterior, _SAMPLES, seed=0)
    measured = model.measured()
    if start is not None and np.isfinite(start).all():
        measured = np.vstack([measured, start[: measured.shape[1]] * model.signs.numpy()])
    names = [o.name for o in model.objectives]
    return Expected(
        point=dict(zip(names, point, strict=True)),
        low=dict(zip(names, low, strict=True)),
        high=dict(zip(names, high, strict=True)),
        level=level,
        joins_front=float(joins_front(gains, measured).mean()),
    )
