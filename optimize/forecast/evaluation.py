"""What came of proposals: by how much the front moved, and how far prediction and measurement were apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.objectives import Objective, Objectives
from epsopt.optimize.outliers import bulk
from epsopt.optimize.pareto import hypervolume, non_dominated


@dataclass(frozen=True)
class FrontGain:
    """How new measurements moved the measured front.

    Attributes:
        before: hypervolume of the old measurements.
        after: hypervolume of old and new together.
        reference: reference point, one value per objective: the worst of the old measurements that is no outlier.
        joined: rows of the new measurements that are on the joint front.
    """

    before: float
    after: float
    reference: tuple[float, ...]
    joined: tuple[int, ...]

    @property
    def relative(self) -> float:
        """``after / before - 1``; infinite when the old front had no volume."""
        if self.before > 0.0:
            return self.after / self.before - 1.0
        return float("inf") if self.after > 0.0 else 0.0


def front_gain(old: NDArray[np.float64], new: NDArray[np.float64], objectives: Sequence[Objective]) -> FrontGain:
    """Compare the front before and after new measurements.

    Args:
        old: ``(n, objectives)`` earlier measurements, at least one row without NaN.
        new: ``(k, objectives)`` new ones; rows with NaN count for nothing.
        objectives: the columns, with their directions.

    Returns:
        Hypervolumes against one reference point, and the new rows that are on the joint front.
    """
    maximize = Objectives(objectives).maximize
    known = old[~np.isnan(old).any(axis=1)]
    reference = np.array([bulk(known[:, j], maximize=better)[0] for j, better in enumerate(maximize)])
    both = np.vstack([old, new])
    front = non_dominated(both, maximize).indices
    return FrontGain(
        before=hypervolume(known, reference, maximize),
        after=hypervolume(both[~np.isnan(both).any(axis=1)], reference, maximize),
        reference=tuple(float(v) for v in reference),
        joined=tuple(int(i) - len(old) for i in front if i >= len(old)),
    )


@dataclass(frozen=True)
class Accuracy:
    """Predictions made before runs, against what the runs measured, for one metric.

    Attributes:
        name: the metric.
        error: mean absolute error, in the metric's own units.
        inside: how many measurements lay in their intervals.
        n: how many there were.
    """

    name: str
    error: float
    inside: int
    n: int


def accuracy(
    predicted: Sequence[tuple[Mapping[str, float], Mapping[str, float], Mapping[str, float]]],
    measured: Sequence[Mapping[str, float | None]],
    names: Sequence[str],
) -> list[Accuracy]:
    """Compare predictions with measurements.

    Args:
        predicted: ``(point, low, high)`` of each run, by metric name.
        measured: what each run measured; missing values are left out.
        names: the metrics to compare.

    Returns:
        One entry per metric; its error is NaN when it was never measured.
    """
    out = []
    for name in names:
        rows = [
            (point[name], low[name], high[name], float(value))
            for (point, low, high), values in zip(predicted, measured, strict=True)
            if (value := values.get(name)) is not None
        ]
        errors = [abs(value - point) for point, _, _, value in rows]
        inside = sum(low <= value <= high for _, low, high, value in rows)
        out.append(Accuracy(name, float(np.mean(errors)) if errors else float("nan"), inside, len(rows)))
    return out


def share_interval(inside: int, n: int, level: float = 0.9) -> tuple[float, float]:
    """Return the exact binomial interval of a share, ``inside`` of ``n`` (Clopper and Pearson 1934)."""
    tail = (1.0 - level) / 2.0
    from scipy.special import betaincinv  # takes a fifth of the time of a command that only looks something up

    low = float(betaincinv(inside, n - inside + 1, tail)) if inside else 0.0
    high = float(betaincinv(inside + 1, n - inside, 1.0 - tail)) if inside < n else 1.0
    return low, high
