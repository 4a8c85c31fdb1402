"""Metrics on the scale that the surrogate learns them on.

A bounded metric such as a coverage piles up at its ends: there, a squared error on the raw scale has neither the right
noise nor the right range. Bounded metrics are learned as logits, shrunk by ``SHRINK`` so that the ends stay finite;
every metric is then standardised. All transforms are monotone, so quantiles and intervals map straight back, and never
beyond the values that a metric can take: what lies beyond on the model's scale is the end itself.

A metric without two ends has heavy tails: one diverged run has a loss of 1e8 where all others have .3. Its centre and
scale are those of the values without their tails (winsorised, Tukey 1962), and beyond ``KNEES`` the scale of the model
is logarithmic, so that a value may lie far out without ruling every squared error. Draws of a model have no mean on
such a scale: those beyond every measurement continue along a straight line (:meth:`MetricTransform.backward_draws`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

SHRINK = 0.02
"""Bounds 0 and 1 become logits of about -3.9 and 3.9: far enough to be distinct, near enough not to rule the loss."""
KNEES = (4.0, 7.0)
"""Standard deviations from the centre where a logarithmic tail begins, and where the logarithm of that begins: normal
values hardly ever lie beyond the first; 7 is where the metric is 23 of its deviations away, 13.5 where it is 1e300."""
NO_TAILS = (-KNEES[0], KNEES[0])
"""The reach of a metric without outliers."""

_LARGEST = 1e300
_QUARTILES = 1.349  # a normal's interquartile range in standard deviations
_WIDE = 3.29  # the same of its central 90 %
_NO_SPREAD = 1e-9  # of the centre: rounding noise of a constant metric must not be blown up


@dataclass(frozen=True)
class MetricTransform:
    """One metric's way to the model's scale and back.

    Attributes:
        bounds: lowest and highest possible value, an end infinite where there is none; ``None`` for any value.
        centre: mean on the (logit) scale, tails left out.
        scale: standard deviation on the (logit) scale, tails left out; positive.
        floor: of a metric that is never zero (a time, a size): the smallest value that is predicted, positive; ``None``
            for a lower bound that can be reached.
        reach: lowest and highest value on the model's scale of anything measured, and at least the first of ``KNEES``
            from the centre; without effect on a metric with both ends.
    """

    bounds: tuple[float, float] | None
    centre: float
    scale: float
    floor: float | None = None
    reach: tuple[float, float] = NO_TAILS

    @property
    def both_ends(self) -> bool:
        """Whether the metric has a lowest and a highest value, so that it is learned as a logit."""
        return self.bounds is not None and all(map(math.isfinite, self.bounds))

    def forward(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map measured values of any shape to the model's scale; strictly increasing within the bounds.

        A value beyond a bound counts as the bound. NaN stays NaN, and so becomes an infinite value.
        """
        out = np.asarray(values, dtype=np.float64)
        out = np.where(np.isfinite(out), out, np.nan)
        if self.bounds is not None and self.both_ends:
            low, high = self.bounds
            unit = np.clip((out - low) / (high - low), 0.0, 1.0)
            shrunk = (unit + SHRINK) / (1.0 + 2.0 * SHRINK)
            return np.asarray((np.log(shrunk / (1.0 - shrunk)) - self.centre) / self.scale)
        if self.bounds is not None:
            out = np.clip(out, *self.bounds)
        with np.errstate(over="ignore"):
            out = (np.clip(out, -_LARGEST, _LARGEST) - self.centre) / self.scale
        return np.asarray(_compress(out))

    def backward(self, values: torch.Tensor) -> torch.Tensor:
        """Map values of any shape on the model's scale back to the metric's own, never beyond it; differentiable.

        The inverse of :meth:`forward`; what would be larger than a float is the largest float.
        """
        if self.bounds is not None and self.both_ends:
            low, high = self.bounds
            unit = torch.sigmoid(values * self.scale + self.centre) * (1.0 + 2.0 * SHRINK) - SHRINK
            return self._possible((low + (high - low) * unit).clamp(low, high))
        return self._in_units(_expand(values)[0])

    def backward_draws(self, values: torch.Tensor) -> torch.Tensor:
        """As :meth:`backward`, for what is averaged over draws of a model, such as an expected improvement.

        Beyond `reach` the way back is a straight line. The logarithmic tail would turn one draw in a thousand into
        1e65, and the average with it.
        """
        if self.both_ends:
            return self.backward(values)
        within = values.clamp(*self.reach)
        out, slope = _expand(within)
        return self._in_units(out + (values - within) * slope)

    def _in_units(self, deviations: torch.Tensor) -> torch.Tensor:
        largest = torch.finfo(deviations.dtype).max
        out = (deviations * self.scale + self.centre).clamp(-largest, largest)
        return self._possible(out if self.bounds is None else out.clamp(*self.bounds))

    def _possible(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.floor is None else values.clamp(min=self.floor)


def _compress(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take logarithms beyond each of ``KNEES``; any shape, NaN stays NaN."""
    out = np.clip(deviations, -_LARGEST, _LARGEST)
    for knee in KNEES:
        beyond = np.maximum(np.abs(out) - knee, 0.0)
        out = np.where(beyond > 0.0, np.sign(out) * (knee + np.log1p(beyond)), out)
    return out


def _expand(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inverse of :func:`_compress`, differentiable, and its slope as a constant; both finite."""
    most = math.log(torch.finfo(values.dtype).max) - 1.0
    out, log_slope = values, torch.zeros_like(values)
    for knee in reversed(KNEES):
        # Clamped on both sides: neither branch of `where` may be infinite, or gradients are not a number.
        beyond = (out.abs() - knee).clamp(0.0, most)
        out = torch.where(beyond > 0.0, out.sign() * (knee + torch.expm1(beyond)), out)
        log_slope = log_slope + beyond
    return out, log_slope.detach().clamp(max=most).exp()


def fit_transform(
    values: NDArray[np.float64], bounds: tuple[float, float] | None, floor: float | None = None
) -> MetricTransform:
    """Fit the transform of one metric.

    Args:
        values: ``(n,)`` measured values; NaN and infinite ones are ignored.
        bounds: lowest and highest possible value, either may be infinite; ``None`` for any value
            (:func:`epsopt.surrogate.ranges.metric_range` says which).
        floor: smallest value that is predicted of a metric that is never zero; ``None`` for any other
            (:func:`epsopt.surrogate.ranges.positive_floor` says which).

    Returns:
        The transform; identity-like when fewer than two different values were measured. Few values that lie far from
        all others, however far, change its centre and scale by less than one of the others' standard deviations.
    """
    logits = bounds is not None and all(map(math.isfinite, bounds))
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(finite) == 0:
        return MetricTransform(bounds, 0.0, 1.0, floor)
    if logits:
        finite = usual = MetricTransform(bounds, 0.0, 1.0).forward(finite)
    else:
        finite = np.clip(finite, *(bounds or (-_LARGEST, _LARGEST)))
        finite = usual = np.clip(finite, -_LARGEST, _LARGEST)
        middle, spread = robust_scale(finite)
        if spread > 0.0:
            reach = min(KNEES[0] * spread, _LARGEST)
            usual = np.clip(finite, middle - reach, middle + reach)
    # In units of the largest: squares of values beyond 1e154 are no floats.
    unit = max(float(np.abs(usual).max()), 1e-300)
    centre, scale = float((usual / unit).mean()) * unit, float((usual / unit).std()) * unit
    varies = np.ptp(usual) > 0.0 and scale > (1e-9 if logits else _NO_SPREAD * abs(centre))
    transform = MetricTransform(bounds, centre, scale if varies else 1.0, floor)
    if logits:
        return transform
    placed = transform.forward(finite)
    low, high = transform.reach
    return replace(transform, reach=(min(low, float(placed.min())), max(high, float(placed.max()))))


def robust_scale(values: NDArray[np.float64]) -> tuple[float, float]:
    """Centre and spread of most values: median, and the standard deviation of a normal with the same quartiles.

    For whatever must not be scaled by a few diverged or penalised values. Up to a quarter of the values on one side
    may be anything.

    Args:
        values: ``(n,)`` at least one; NaN and infinite ones are ignored.

    Returns:
        Median and spread in the values' units. Where half of all values are equal, the central 90 % give the spread;
        where nearly all are, the median distance of the others from them, at most the size of the value itself. Zero
        if all values are equal.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(finite) == 0:
        return 0.0, 0.0
    low, first, middle, third, high = (float(q) for q in np.quantile(finite, (0.05, 0.25, 0.5, 0.75, 0.95)))
    least = _NO_SPREAD * abs(middle)
    for spread in (third / _QUARTILES - first / _QUARTILES, high / _WIDE - low / _WIDE):
        if spread > least:
            return middle, min(spread, _LARGEST)
    away = np.abs(finite / 2.0 - middle / 2.0)
    away = away[away > least]
    if len(away) == 0:
        return middle, 0.0
    spread = 2.0 * min(float(np.median(away)), _LARGEST / 2.0)
    return middle, min(spread, abs(middle)) if middle != 0.0 else spread
