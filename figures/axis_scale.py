"""Scales of metrics' axes: plain, or by the distance from a bound where values crowd at it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.ranges import guess_range

Floats = NDArray[np.float64]

_NEAR = 0.1  # of the metric's range: closer to the bound than that is next to it
_CROWDED = 0.4  # of what matters: so much of it next to the bound is a crowd
_BETTER = 1.5  # times as many bins of the axis must hold what matters on the other scale
_BINS = 25
_FEWEST = 4  # points: fewer do not crowd
_BEYOND = 0.35  # decades: how far beyond the nearest value the bound itself is drawn


@dataclass(frozen=True)
class AxisScale:
    """A metric's axis.

    Attributes:
        bound: distances from which are drawn, as ``-log10(|bound - x| / unit)``; ``None`` for a plain axis.
        unit: that distances are counted in.
        cap: largest coordinate, at which the bound itself is drawn.
        flipped: whether the bound lies below: then coordinates are ``log10((x - bound) / unit)``.
    """

    bound: float | None = None
    unit: float = 1.0
    cap: float = math.inf
    flipped: bool = False

    def __call__(self, values: Sequence[float | None] | Floats) -> Floats:
        """Turn values into coordinates; NaN and None stay NaN."""
        x = np.array([math.nan if v is None else float(v) for v in values], dtype=np.float64)
        if self.bound is None:
            return x
        away = (x - self.bound if self.flipped else self.bound - x) / self.unit
        with np.errstate(divide="ignore", invalid="ignore"):
            out = np.minimum(-np.log10(np.maximum(away, 0.0)), self.cap)
        out[np.isnan(x)] = np.nan
        return -out if self.flipped else out

    @property
    def words(self) -> str:
        """What a title says of the scale; empty for a plain one."""
        if self.bound is None:
            return ""
        away = f"x - {self.bound:g}" if self.flipped else f"{self.bound:g} - x"
        away = "x" if self.flipped and self.bound == 0.0 else away
        over = "" if self.unit == 1.0 else f" / {self.unit:g}"
        inner = f"({away}){over}" if over else away
        return f"{'log10' if self.flipped else '-log10'}({inner})".replace("-", "\N{MINUS SIGN}")

    def ticks(self, low: float, high: float) -> dict[str, Any]:
        """Return Plotly's ``tickvals`` and ``ticktext`` between two coordinates, named in the metric's unit."""
        if self.bound is None:
            return {}
        span = high - low
        steps = (1.0, 0.5, 0.2) if span < 1.6 else (1.0, 0.3) if span < 2.6 else (1.0,)
        found: list[tuple[float, str]] = []
        for decade in range(math.floor(-12), 13):
            for step in steps:
                away = step * 10.0**decade
                at = math.log10(away) if self.flipped else -math.log10(away)
                value = self.bound + (away if self.flipped else -away) * self.unit
                inside = low - 1e-9 <= at <= high + 1e-9 and abs(at) < self.cap - 0.12
                if inside:
                    found.append((at, f"{value:.12g}"))
        end = -self.cap if self.flipped else self.cap
        if math.isfinite(end) and low - 1e-9 <= end <= high + 1e-9:
            found.append((end, f"{self.bound:g}"))
        found.sort()
        return {"tickvals": [at for at, _ in found], "ticktext": [text for _, text in found]}


def choose_scale(name: str, maximize: bool, values: Sequence[float | None], important: Sequence[float]) -> AxisScale:
    """Choose how a metric's axis is drawn.

    Args:
        name: of the metric, by which its bounds are guessed (:func:`epsopt.surrogate.ranges.guess_range`).
        maximize: whether more is better; only the bound on the better side counts.
        values: all that is drawn; None and NaN do not count.
        important: those that must be distinguishable, such as the front's.

    Returns:
        A plain scale, unless the important values crowd at the bound and the other one spreads them over half as much
        of the axis again.
    """
    known = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=np.float64)
    front = np.array([v for v in important if math.isfinite(v)], dtype=np.float64)
    if len(front) < _FEWEST or len(known) < _FEWEST:
        return AxisScale()
    limits = guess_range(name, known)
    if limits is None:
        return AxisScale()
    bound = limits[1] if maximize else limits[0]
    if not math.isfinite(bound):
        return AxisScale()
    unit = limits[1] - limits[0] if all(map(math.isfinite, limits)) else 1.0
    away = np.abs(bound - known) / unit
    near = np.abs(bound - front) / unit
    positive = away[away > 0.0]
    if not len(positive) or np.median(near) <= 0.0:
        return AxisScale()
    # Rounding next to the bound would take the axis for itself.
    least = max(float(near[near > 0.0].min()), 1e-6)
    scale = AxisScale(bound, unit, -math.log10(least) + _BEYOND, flipped=not maximize)
    plain, other = (_distinct_share(at(front), at(known)) for at in (AxisScale(), scale))
    crowd = float((near < _NEAR).mean())
    return scale if crowd > _CROWDED and other > _BETTER * plain else AxisScale()


def _distinct_share(front: Floats, known: Floats) -> float:
    """How many of an axis' bins the important values fill: the exponential of the entropy of their histogram."""
    low, high = float(known.min()), float(known.max())
    counts, _ = np.histogram(front, bins=_BINS, range=(low, max(high, low + 1e-12)))
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
