"""What forecasts were worth: a probability is mapped to how often such forecasts came true (Platt 1999).

A logistic map of the forecast's logit, two numbers, held by a prior to what is usual: a few runs move it little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST = 0.999  # a forecast from samples is no surer than that
_DOUBTS = (0.5, 0.3)  # standard deviations, before anything is seen, of the shift and of the logarithm of the slope
_STEPS = 30
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A monotone map of probabilities: a shift and a slope of their logits; by default it changes nothing."""

    shift: float = 0.0
    slope: float = 1.0

    def __call__(self, probability: float) -> float:
        """What to believe of a forecast."""
        if (self.shift, self.slope) == (0.0, 1.0):
            return probability
        return float(_sigmoid(self.shift + self.slope * logit(np.array([probability])))[0])


IDENTITY = Calibration()


def fit_calibration(
    forecasts: Floats, outcomes: Floats, weights: Floats, *, usual: Calibration = IDENTITY
) -> Calibration:
    """Learn from forecasts of which it is known what came of them.

    Args:
        forecasts: ``(k,)`` probabilities.
        outcomes: ``(k,)`` 1 where it came true, 0 where not; between, where only that is known.
        weights: ``(k,)`` what each counts: those of one run are correlated, and should count as one together.
        usual: what such forecasts are worth before anything is seen.

    Returns:
        The most likely map; the usual one of none.
    """
    x, prior = logit(forecasts), np.array([usual.shift, np.log(usual.slope)])  # shift, logarithm of the slope
    at = prior.copy()
    doubts = np.square(np.array(_DOUBTS))

    def loss(at: Floats) -> float:
        s = at[0] + np.exp(at[1]) * x
        return float((weights * (np.logaddexp(0.0, s) - outcomes * s)).sum() + 0.5 * ((at - prior) ** 2 / doubts).sum())

    for _ in range(_STEPS):
        inner = np.stack([np.ones_like(x), np.exp(at[1]) * x])
        p = _sigmoid(at[0] + inner[1])
        gradient = inner @ (weights * (p - outcomes)) + (at - prior) / doubts
        curvature = (inner * weights * p * (1 - p)) @ inner.T + np.diag(1.0 / doubts)
        step = np.linalg.solve(curvature, gradient)
        while loss(at - step) > loss(at) + 1e-12 and np.abs(step).max() > 1e-9:
            step = step / 2.0
        at = at - step
        if np.abs(step).max() < 1e-8:
            break
    return Calibration(float(at[0]), float(np.exp(at[1])))


def logit(p: Floats) -> Floats:
    """Of probabilities of any shape, none taken for certain."""
    p = np.clip(p, 1.0 - _MOST, _MOST)
    return np.asarray(np.log(p / (1.0 - p)))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
