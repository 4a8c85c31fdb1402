"""From held-out predictions to the figures of a table. NaN in the truth means not measured: such rows do not count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.metrics import mean_absolute_error, roc_auc_score

from epsopt.surrogate.validation import constant_width

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MetricScore:
    """Point predictions of one metric, all folds pooled.

    Attributes:
        mae: mean absolute error, in the metric's units.
        skill: ``1 - mae / mae of the constant``; 0 is no better than the train median, NaN if that is never wrong.
        tau: Kendall's tau-b between predicted and measured; NaN where either does not vary.
        n: checkpoints with a measurement.
    """

    mae: float
    skill: float
    tau: float
    n: int


@dataclass(frozen=True)
class IntervalScore:
    """Prediction intervals of one metric, all folds pooled.

    Attributes:
        coverage: share of measurements inside, ends included.
        width: mean width, in the metric's units.
        relative_width: width as a share of the constant's interval, which covers `level` of these very measurements.
        n: checkpoints with a measurement.
    """

    coverage: float
    width: float
    relative_width: float
    n: int


@dataclass(frozen=True)
class EmbeddingScore:
    """Predicted anchor embeddings, all folds pooled.

    Attributes:
        r2: share of the squared distance from the training folds' mean embedding that is explained.
        cosine: mean over anchors and checkpoints of the cosine of predicted and real point.
        flat_cosine: mean over checkpoints of the cosine of the whole embedding as one vector, as the seeds report it.
        n: checkpoints with an embedding.
    """

    r2: float
    cosine: float
    flat_cosine: float
    n: int


def metric_score(truth: Array, predicted: Array, constant: Array) -> MetricScore:
    """Score point predictions of one metric.

    Args:
        truth: ``(n,)`` measured values, NaN where not measured.
        predicted: ``(n,)`` predictions.
        constant: ``(n,)`` for each row the median of the training fold that predicted it.

    Raises:
        ValueError: the arrays differ in length, or nothing is measured.
    """
    truth, predicted, constant = _measured(truth, predicted, constant)
    mae = float(mean_absolute_error(truth, predicted))
    reference = float(mean_absolute_error(truth, constant))
    varies = np.ptp(truth) > 0 and np.ptp(predicted) > 0
    return MetricScore(
        mae=mae,
        skill=1.0 - mae / reference if reference > 0 else float("nan"),
        tau=float(kendalltau(truth, predicted).statistic) if varies else float("nan"),
        n=len(truth),
    )


def collapse_auroc(truth: Array, predicted: Array, below: float = 0.5) -> float:
    """Area under the ROC curve of telling collapsed checkpoints (measured below a bound) by a low prediction.

    Args:
        truth: ``(n,)`` measured values, NaN where not measured.
        predicted: ``(n,)`` predictions.
        below: a checkpoint has collapsed when it measures less.

    Returns:
        0.5 for guesses, 1 for a perfect order; NaN when all or none collapsed.
    """
    truth, predicted = _measured(truth, predicted)
    collapsed = truth < below
    if collapsed.all() or not collapsed.any():
        return float("nan")
    return float(roc_auc_score(collapsed, -predicted))


def interval_score(truth: Array, low: Array, high: Array, constant: Array, level: float = 0.9) -> IntervalScore:
    """Score prediction intervals of one metric.

    Args:
        truth: ``(n,)`` measured values, NaN where not measured.
        low: ``(n,)`` lower ends.
        high: ``(n,)`` upper ends.
        constant: ``(n,)`` for each row the median of the training fold that predicted it.
        level: nominal coverage, which the constant's symmetric interval is made to reach.
    """
    truth, low, high, constant = _measured(truth, low, high, constant)
    width = float((high - low).mean())
    reference = constant_width(truth - constant, 0.0, level)
    return IntervalScore(
        coverage=float(((truth >= low) & (truth <= high)).mean()),
        width=width,
        relative_width=width / reference if reference > 0 else float("nan"),
        n=len(truth),
    )


def embedding_score(truth: NDArray[np.float32], predicted: NDArray[np.float32], mean: Array) -> EmbeddingScore:
    """Score predicted embeddings.

    Args:
        truth: ``(n, anchors, dim)`` with NaN rows where there is none.
        predicted: ``(n, anchors, dim)``.
        mean: ``(n, anchors, dim)`` or ``(anchors, dim)``, the mean embedding of the training fold of each row.

    Raises:
        ValueError: shapes differ, or no row has an embedding.
    """
    if truth.shape != predicted.shape:
        raise ValueError(
            f"predicted embeddings have shape {predicted.shape}, expected that of the truth, {truth.shape}"
        )
    known = np.isfinite(truth).all(axis=(1, 2))
    if not known.any():
        raise ValueError("no row has a real embedding: there is nothing to score")
    reference = np.broadcast_to(mean, truth.shape)[known].astype(np.float64)
    real, guess = truth[known].astype(np.float64), predicted[known].astype(np.float64)
    n = len(real)
    return EmbeddingScore(
        r2=float(1.0 - ((guess - real) ** 2).sum() / ((reference - real) ** 2).sum()),
        cosine=float(_cosine(guess, real).mean()),
        flat_cosine=float(_cosine(guess.reshape(n, -1), real.reshape(n, -1)).mean()),
        n=n,
    )


def _cosine(left: Array, right: Array) -> Array:
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return np.asarray((left * right).sum(axis=-1) / np.maximum(norms, 1e-12))


def _measured(truth: Array, *others: Array) -> list[Array]:
    for other in others:
        if other.shape != truth.shape:
            raise ValueError(f"got {other.shape} values for {truth.shape} measurements: expected one each")
    known = np.isfinite(truth)
    if not known.any():
        raise ValueError("nothing is measured: there is nothing to score")
    return [np.asarray(values, dtype=np.float64)[known] for values in (truth, *others)]
