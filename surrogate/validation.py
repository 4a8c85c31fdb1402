"""How far a fit can be trusted: errors and interval coverage on runs it has never seen, beside the baselines."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MetricValidation:
    """One metric on held-out runs. Errors are mean absolute errors in the metric's own units.

    Attributes:
        name: the metric.
        error: of the surrogate.
        median_error: of the training median.
        statistics_error: of per-tensor statistics + LightGBM.
        coverage: share of held-out checkpoints inside the intervals.
        width: mean width of the intervals.
        median_width: width of an interval around the median of all measurements that covers as much of them.
        n: held-out checkpoints with a measurement that is not far out.
        far_out: measurements too far from all others to be scored (:mod:`epsopt.surrogate.outliers`).
        worst_tenth: share inside the intervals in the tenth of the runs where it is smallest; ``None`` in a validation
            of an earlier version.
        near_coverage: share inside the intervals of the checkpoints that lie within the trust region around those that
            their fold learned from; ``None`` if there are none, and in a validation of an earlier version.
        far_coverage: the same of those beyond it.
        n_far: how many of the ``n`` lie beyond it.
    """

    name: str
    error: float
    median_error: float
    statistics_error: float
    coverage: float
    width: float
    median_width: float
    n: int
    far_out: int = 0
    worst_tenth: float | None = None
    near_coverage: float | None = None
    far_coverage: float | None = None
    n_far: int = 0

    @property
    def skill(self) -> float:
        """``1 - error / median_error``: 0 is no better than a constant, 1 is perfect."""
        return 1.0 - self.error / self.median_error if self.median_error > 0 else 0.0


@dataclass(frozen=True, eq=False)
class HeldOutPredictions:
    """Every checkpoint as predicted by networks, settings and intervals that never saw its run.

    Attributes:
        point: ``(n, m)`` in the metrics' own units, in the order of the training set.
        low: ``(n, m)`` lower ends of the intervals.
        high: ``(n, m)`` upper ends.
    """

    point: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Validation:
    """What `epsopt fit` ends with.

    Attributes:
        metrics: one entry per metric.
        level: nominal coverage of the intervals.
        folds: how many folds; whole runs were held out together.
        n_runs: runs in the zoo.
        n_checkpoints: checkpoints in the zoo.
        embedding_r2: of predicted anchor embeddings over the mean embedding; ``None`` without embeddings.
        embedding_cosine: mean cosine of predicted and real embeddings, as in the seeds; ``None`` without.
        seconds: what the fit took.
        probes: whether checkpoints were read with their anchor embeddings, or by their weights only.
        held_out: the predictions that the errors are of; ``None`` in a validation that was kept and read again.
    """

    metrics: tuple[MetricValidation, ...]
    level: float
    folds: int
    n_runs: int
    n_checkpoints: int
    embedding_r2: float | None
    embedding_cosine: float | None
    seconds: float
    probes: bool = False
    held_out: HeldOutPredictions | None = field(default=None, compare=False, repr=False)

    def _repr_html_(self) -> str:
        """Show it in a notebook: errors beside those of the baselines, coverage, and warnings."""
        from epsopt.zoo.html_text import escaped, html_table

        heads = ["metric", "error", "median", "statistics", f"inside {self.level:.0%} intervals", "n"]
        rows = [
            [
                m.name,
                f"{m.error:.3g}",
                f"{m.median_error:.3g}",
                f"{m.statistics_error:.3g}",
                f"{m.coverage:.0%}",
                f"{m.n}",
            ]
            for m in self.metrics
        ]
        caption = f"Mean absolute error on runs that were held out ({self.n_runs} runs, {self.folds} folds)"
        warnings = "".join(f"<p>Careful: {escaped(text)}.</p>" for text in self.warnings())
        return html_table(caption, heads, rows) + warnings

    def coverage_sentence(self) -> str:
        """Say what share of held-out checkpoints lay inside the intervals, of the metric where it is smallest.

        Returns:
            One sentence; empty where no held-out run measured anything.
        """
        known = [m for m in self.metrics if m.n]
        if not known:
            return ""
        worst = min(known, key=lambda m: m.coverage)
        share = f"{self.level:.0%} intervals hold at least {worst.coverage:.0%} ({worst.name})"
        return f"On runs held out of the fit, {share}."

    def region_sentence(self) -> str:
        """Say what the intervals hold within the trust region and beyond it, each of the metric where it is least.

        Returns:
            One sentence; empty where held-out checkpoints lie on one side alone, or nothing is known of it.
        """
        known = [m for m in self.metrics if m.near_coverage is not None and m.far_coverage is not None]
        if not known:
            return ""
        near = min(known, key=lambda m: m.near_coverage or 0.0)
        far = min(known, key=lambda m: m.far_coverage or 0.0)
        return (
            f"Within the trust region they hold at least {near.near_coverage:.0%} ({near.name}), beyond it at least "
            f"{far.far_coverage:.0%} ({far.name}); {max(m.n_far for m in known)} of {max(m.n for m in known)} "
            "held-out checkpoints lie beyond it."
        )

    def warnings(self) -> list[str]:
        """Say in plain words where the surrogate should not be trusted.

        Returns:
            One sentence a warning; empty where nothing speaks against it.
        """
        out = []
        if self.n_runs < 20:
            out.append(
                f"only {self.n_runs} runs: intervals are calibrated on whole held-out runs and need about 20 of them"
            )
        for metric in self.metrics:
            if metric.far_out:
                out.append(
                    f"{metric.name}: {metric.far_out} of {metric.n + metric.far_out} measured values lie far from all "
                    "others, as those of diverged runs do; errors and intervals are of the others"
                )
            if metric.n == 0:
                out.append(
                    f"{metric.name}: never measured on a held-out run, so nothing is known about its predictions"
                )
            elif metric.median_error == 0.0:
                out.append(f"{metric.name}: does not vary in this zoo, so there was nothing to learn")
            elif metric.skill < 0.1:
                out.append(f"{metric.name}: no better than the median on unseen runs; do not trust its predictions")
            elif metric.error > 1.05 * metric.statistics_error:
                out.append(
                    f"{metric.name}: statistics + LightGBM predicts it better "
                    f"({metric.statistics_error:.3g} against {metric.error:.3g})"
                )
        return out


def share_inside(inside: NDArray[np.bool_], rows: NDArray[np.bool_]) -> float | None:
    """Return the share of some rows that lie inside their intervals; None of no rows.

    Args:
        inside: ``(n,)`` whether each measured checkpoint is inside.
        rows: ``(n,)`` which of them count.
    """
    return float(inside[rows].mean()) if rows.any() else None


def worst_tenth(inside: NDArray[np.bool_], runs: NDArray[np.int64]) -> float:
    """Return the share of checkpoints inside their intervals in the worst tenth of the runs, one run at least.

    Args:
        inside: ``(n,)`` whether each measured checkpoint is inside.
        runs: ``(n,)`` run of each.
    """
    _, which = np.unique(runs, return_inverse=True)
    shares = np.sort(np.bincount(which, weights=inside) / np.bincount(which))
    return float(shares[: max(round(len(shares) / 10), 1)].mean())


def constant_width(values: np.ndarray, centre: float, level: float) -> float:
    """Width of the smallest interval around a constant that covers a share ``level`` of the values."""
    finite = values[np.isfinite(values)]
    return 2.0 * float(np.quantile(np.abs(finite - centre), level)) if len(finite) else 0.0
