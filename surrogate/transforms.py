"""Metrics on the scale that the surrogate learns them on.

A bounded metric such as a coverage piles up at its ends: there, a squared error on the raw scale has neither the right
noise nor the right range. Bounded metrics are learned as logits, shrunk by ``SHRINK`` so that the ends stay finite;
every metric is then standardised. All transforms are monotone, so quantiles and intervals map straight back, and never
beyond the values that a metric can take: what lies beyond on the model's scale is the end itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

SHRINK = 0.02
"""Bounds 0 and 1 become logits of about -3.9 and 3.9: far enough to be told apart, near enough not to rule the loss."""


@dataclass(frozen=True)
class MetricTransform:
    """One metric's way to the model's scale and back.

    Attributes:
        bounds: lowest and highest possible value, an end infinite where there is none; ``None`` for any value.
        centre: mean on the (logit) scale.
        scale: standard deviation on the (logit) scale, positive.
    """

    bounds: tuple[float, float] | None
    centre: float
    scale: float

    @property
    def both_ends(self) -> bool:
        """Whether the metric has a lowest and a highest value, so that it is learned as a logit."""
        return self.bounds is not None and all(map(math.isfinite, self.bounds))

    def forward(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map measured values of any shape to the model's scale; NaN stays NaN."""
        out = np.asarray(values, dtype=np.float64)
        if self.bounds is not None and self.both_ends:
            low, high = self.bounds
            unit = np.clip((out - low) / (high - low), 0.0, 1.0)
            shrunk = (unit + SHRINK) / (1.0 + 2.0 * SHRINK)
            out = np.log(shrunk / (1.0 - shrunk))
        return (out - self.centre) / self.scale

    def backward(self, values: torch.Tensor) -> torch.Tensor:
        """Map values of any shape on the model's scale back to the metric's own, never beyond it; differentiable."""
        out = values * self.scale + self.centre
        if self.bounds is not None:
            low, high = self.bounds
            if self.both_ends:
                unit = torch.sigmoid(out) * (1.0 + 2.0 * SHRINK) - SHRINK
                out = low + (high - low) * unit
            out = out.clamp(low, high)
        return out


def fit_transform(values: NDArray[np.float64], bounds: tuple[float, float] | None) -> MetricTransform:
    """Fit the transform of one metric.

    Args:
        values: ``(n,)`` measured values; NaN is ignored.
        bounds: lowest and highest possible value, either may be infinite; ``None`` for any value
            (:func:`epsopt.surrogate.ranges.metric_range` says which).

    Returns:
        The transform; identity-like when fewer than two different values were measured.
    """
    raw = MetricTransform(bounds, 0.0, 1.0).forward(values)
    finite = raw[np.isfinite(raw)]
    scale = float(finite.std()) if len(finite) else 0.0
    centre = float(finite.mean()) if len(finite) else 0.0
    return MetricTransform(bounds, centre, scale if scale > 1e-9 else 1.0)


def likely_bounds(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Guess whether a metric is a share: within [0, 1], and either exactly at an end or near both of them."""
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() < 0.0 or finite.max() > 1.0:
        return None
    at_an_end = finite.min() == 0.0 or finite.max() == 1.0
    near_both = finite.min() <= 0.01 and finite.max() >= 0.99
    return (0.0, 1.0) if at_an_end or near_both else None
