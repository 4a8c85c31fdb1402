"""What a further budget is expected to add to the front: whether to go on.

The steps that would be taken are chosen in advance, one beside the other, until they cost the budget; nothing is
learned from one to the next, so that the answer is a little low where learning would steer the later ones. Their
checkpoints are sampled jointly, and what they add is corrected as the predictions of chosen runs are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.pareto import hypervolume
from epsopt.optimize.schedule.run_acquisition import Candidate, Start, optimize_acquisition
from epsopt.optimize.schedule.run_model import RunModel
from epsopt.zoo.errors import UsageError

Floats = NDArray[np.float64]

_MOST_STEPS = 6
"""Steps that are chosen in advance; the rest of a larger budget counts as much an epoch as the second half of them."""

SAMPLES = 128
"""Of what further runs would measure."""

_PER_RUN = 4  # checkpoints of each


@dataclass(frozen=True)
class RemainingGain:
    """What a budget is expected to add.

    Attributes:
        epochs: of the budget.
        volume: hypervolume of the front so far, in the product of the objectives' units.
        gain: hypervolume that is expected to be added, in the same units.
        low: lower end of its interval.
        high: upper end.
        level: share of outcomes that the interval is meant to hold.
    """

    epochs: float
    volume: float
    gain: float
    low: float
    high: float
    level: float

    def share(self, gain: float) -> float:
        """Return a gain as a share of the front's hypervolume; infinite where the front has none."""
        return gain / self.volume if self.volume > 0.0 else math.inf


def remaining_gain(
    model: RunModel,
    epochs: float,
    *,
    reference: Floats,
    starts: Sequence[Start] = (),
    base: Start | None = None,
    branch_epochs: float | None = None,
    running: Sequence[Candidate] = (),
    reliability: Callable[[Candidate], float] = lambda _candidate: 1.0,
    level: float = 0.9,
    seed: int = 0,
) -> RemainingGain:
    """Predict what so many further epochs add.

    Args:
        model: of all runs so far.
        epochs: of the budget, positive.
        reference: ``(m,)`` the reference point, in the objectives' own units.
        starts: checkpoints that a run may start from.
        base: where runs start, if that was measured.
        branch_epochs: epochs of a run from a checkpoint; ``None``: as long as any.
        running: runs under way: what they are expected to add is not counted.
        reliability: what a predicted gain is multiplied by, of each candidate, beside the model's own corrections.
        level: of the interval.
        seed: of the samples.

    Raises:
        UsageError: a budget of no epochs, or a level outside (0, 1).
    """
    if not epochs > 0.0:
        raise UsageError(f"the budget is {epochs:g} epochs, expected more than none")
    if not 0.0 < level < 1.0:
        raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
    support = model.support

    def weight(c: Candidate) -> float:
        kind = "branch" if c.start is not None and c.start.key else "run"
        return support.weight(c.config) * model.calibration.gain(kind) * reliability(c)

    rng, chosen, left, busy = np.random.default_rng(seed), list[Candidate](), epochs, list(running)
    while left >= 1.0 and len(chosen) < _MOST_STEPS:
        (choice,) = optimize_acquisition(
            model.curves, busy, starts=starts, base=base, branch_epochs=branch_epochs, reference=reference,
            reliability=weight, rng=rng,
        )  # fmt: skip
        candidate = choice.candidate
        if candidate.cost > left:
            candidate = replace(candidate, epochs=candidate.done + left)
        chosen.append(candidate)
        busy.append(candidate)
        left -= candidate.cost
    weights = [0.0] * len(running) + [weight(c) for c in chosen]
    drawn = _sampled(model, [*running, *chosen], reference, weights, seed)[:, len(running) :]
    spent = sum(c.cost for c in chosen)
    halfway = max(len(chosen) // 2, 1)
    late = sum(c.cost for c in chosen[halfway:])
    rest = (drawn[:, -1] - drawn[:, halfway - 1]) / late * max(epochs - spent, 0.0) if late > 0.0 else 0.0
    total = drawn[:, -1] + rest
    low, high = np.quantile(total, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    volume = _volume(model.curves.measured(), reference * model.curves.signs.numpy())
    return RemainingGain(epochs, volume, float(total.mean()), float(low), float(high), level)


def _sampled(
    model: RunModel, chosen: Sequence[Candidate], reference: Floats, weights: Sequence[float], seed: int
) -> Floats:
    """``(samples, steps)`` hypervolume that the steps so far add together, each discounted by its reliability."""
    curves = model.curves
    steps = np.stack([c.done + np.linspace(0.0, c.cost, _PER_RUN + 1)[1:] for c in chosen])
    first = len(curves.curves)
    x = curves.inputs(
        [c.config for c in chosen], steps, [None if c.start is None else c.start.values for c in chosen],
        [first + i if c.run is None else c.run for i, c in enumerate(chosen)],
    )  # fmt: skip
    with torch.no_grad():
        posterior = curves.model.posterior(x.reshape(1, -1, x.shape[-1]))
        (paths,) = curves.sample_futures(posterior, SAMPLES, seed)
    measured, corner = curves.measured(), reference * curves.signs.numpy()
    out = np.zeros((SAMPLES, len(chosen)))
    for i, sample in enumerate(paths.reshape(SAMPLES, len(chosen), _PER_RUN, -1)):
        known, before, total = measured, _volume(measured, corner), 0.0
        for k, (rows, weight) in enumerate(zip(sample, weights, strict=True)):
            known = np.vstack([known, rows])
            after = _volume(known, corner)
            total += weight * (after - before)
            out[i, k], before = total, after
    return out


def _volume(gains: Floats, corner: Floats) -> float:
    return hypervolume(gains, corner, [True] * len(corner))
