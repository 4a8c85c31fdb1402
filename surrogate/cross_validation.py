"""What held-out runs say: predictions by networks, settings and intervals that never saw them, and their errors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.surrogate.baselines import median_baseline, statistics_baseline
from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.head import Fold, HeldOut, choose, conformal_factor, held_out, standardised, thin
from epsopt.surrogate.trained import TrainedNetwork
from epsopt.surrogate.validation import HeldOutPredictions, MetricValidation, constant_width


def as_fold(inside: TrainingSet, outside: TrainingSet, trained: TrainedNetwork) -> Fold:
    """Encode both parts of a fold with the network that never saw `outside`."""
    rows = thin(inside.runs)
    return Fold(
        z_train=trained.encode(inside).double().numpy()[rows],
        y_train=trained.scaled(inside)[rows],
        z_held=trained.encode(outside).double().numpy(),
        y_held=trained.scaled(outside),
        runs_held=outside.runs,
        inverse_lengths=trained.network.inverse_lengths.double().numpy(),
    )


def predict_held_out(folds: Sequence[Fold], n_metrics: int) -> list[list[HeldOut]]:
    """Predict every metric of every fold's held-out rows, with every setting of the head; ``[metric][fold]``."""
    jobs = [(fold, j) for j in range(n_metrics) for fold in folds]
    workers = joblib.Parallel(n_jobs=min(os.cpu_count() or 1, len(jobs)))
    found = workers(joblib.delayed(held_out)(fold, j) for fold, j in jobs)
    return [found[j * len(folds) : (j + 1) * len(folds)] for j in range(n_metrics)]


def held_out_predictions(
    parts: Sequence[NDArray[np.int64]],
    fold_parts: Sequence[tuple[TrainingSet, TrainingSet, TrainedNetwork, Fold]],
    held: Sequence[Sequence[HeldOut]],
    level: float,
) -> HeldOutPredictions:
    """Predict every row with what was chosen and calibrated without its fold.

    Args:
        parts: held-out rows of each fold.
        fold_parts: training part, held-out part, network and encodings of each fold.
        held: ``[metric][fold]``, from :func:`predict_held_out`.
        level: nominal coverage of the intervals.
    """
    shape = (sum(len(rows) for rows in parts), len(held))
    point, low, high = np.empty(shape), np.empty(shape), np.empty(shape)
    for j, of_metric in enumerate(held):
        for k, (rows, (_, _, trained, _)) in enumerate(zip(parts, fold_parts, strict=True)):
            others = [h for i, h in enumerate(of_metric) if i != k]
            place, settings = choose(others)
            factor = conformal_factor(*standardised(others, place, settings), level)
            deviation = np.sqrt(of_metric[k].unit_variance[place] * settings.variance)
            mean, back = of_metric[k].mean[place], trained.transforms[j].backward
            for out, values in (
                (point, mean), (low, mean - factor * deviation), (high, mean + factor * deviation),
            ):  # fmt: skip
                out[rows, j] = back(torch.from_numpy(values)).numpy()
    return HeldOutPredictions(point, low, high)


def validate(
    j: int,
    parts: Sequence[NDArray[np.int64]],
    train: TrainingSet,
    predictions: HeldOutPredictions,
    level: float,
    seed: int,
) -> MetricValidation:
    """Score metric `j` on held-out rows, beside the train median and statistics + LightGBM on the same folds."""
    one = replace(train, metric_names=(train.metric_names[j],), metrics=train.metrics[:, j : j + 1])
    median, statistics = np.empty(len(train)), np.empty(len(train))
    for rows in parts:
        inside, outside = one.take(np.setdiff1d(np.arange(len(train)), rows)), one.take(rows)
        median[rows] = median_baseline(inside, outside)[:, 0]
        statistics[rows] = statistics_baseline(inside, outside, seed=seed)[:, 0]
    known = np.isfinite(one.metrics[:, 0])
    y = one.metrics[known, 0]
    point, low, high = (values[known, j] for values in (predictions.point, predictions.low, predictions.high))
    n = len(y)
    return MetricValidation(
        name=train.metric_names[j],
        error=float(np.abs(point - y).mean()) if n else 0.0,
        median_error=float(np.abs(median[known] - y).mean()) if n else 0.0,
        statistics_error=float(np.abs(statistics[known] - y).mean()) if n else 0.0,
        coverage=float(((y >= low) & (y <= high)).mean()) if n else 0.0,
        width=float((high - low).mean()) if n else 0.0,
        median_width=constant_width(y, float(np.median(y)), level) if n else 0.0,
        n=n,
    )


def validate_embeddings(
    fold_parts: list[tuple[TrainingSet, TrainingSet, TrainedNetwork, Fold]],
) -> tuple[float | None, float | None]:
    """Return R2 over the mean embedding and mean cosine of predicted embeddings; None without any."""
    error = spread = 0.0
    cosines = []
    for _, outside, fitted, _ in fold_parts:
        if fitted.embedding_scale is None or outside.embeddings is None:
            continue
        known = np.isfinite(outside.embeddings).all(axis=(1, 2))
        real = outside.embeddings[known].astype(np.float64)
        mean, scale = fitted.embedding_scale
        with torch.no_grad():
            predicted = fitted.network.decode_embeddings(fitted.encode(outside)[torch.from_numpy(known)]) * scale + mean
        guess = predicted.double().numpy()
        error += float(((guess - real) ** 2).sum())
        spread += float(((mean.numpy() - real) ** 2).sum())
        norm = np.linalg.norm(guess, axis=2) * np.linalg.norm(real, axis=2)
        cosines.append(((guess * real).sum(axis=2) / np.maximum(norm, 1e-12)).mean(axis=1))
    if not cosines or spread == 0.0:
        return None, None
    return 1.0 - error / spread, float(np.concatenate(cosines).mean())
