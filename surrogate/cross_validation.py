"""What held-out runs say: predictions by networks, settings and intervals that never saw them, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.surrogate.baselines import median_baseline, statistics_baseline
from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.hyperparameter_table import Hyperparameters
from epsopt.surrogate.interval_reach import cut, interval_reach
from epsopt.surrogate.metric_gp import (
    CROSS_VALIDATED,
    Fold,
    HeldOut,
    calibration_scores,
    conformal_factor,
    from_all_rows,
    held_out,
    run_weights,
    select_hyperparameters,
    subsample_runs,
)
from epsopt.surrogate.nearest import within_reach
from epsopt.surrogate.side_by_side import in_order
from epsopt.surrogate.statistics_trees import StatisticsTrees
from epsopt.surrogate.trained import TrainedNetwork
from epsopt.surrogate.validation import (
    HeldOutPredictions,
    MetricValidation,
    constant_width,
    share_inside,
    worst_tenth,
)
from epsopt.zoo.ray_cluster import RayCluster

Floats = NDArray[np.float64]

_FEWEST_RUNS = 2  # that a fold learns from
_WORTH_A_GPU = 1e9  # of the summed cubes of the folds' rows: a few seconds of one processor


def each_weights_once(scored: TrainingSet, same: NDArray[np.int64]) -> TrainingSet:
    """Leave what was measured on weights that several runs share with one of them: it is one observation.

    Args:
        scored: what errors and intervals are counted on.
        same: ``(n,)`` of :func:`epsopt.surrogate.dataset.shared_weights`.

    Returns:
        The same rows; a metric is NaN where the first run that measured it on these weights is another one.
    """
    metrics = scored.metrics.copy()
    owner: dict[tuple[int, int], np.int64] = {}
    for row, j in np.argwhere(np.isfinite(metrics)).tolist():
        if owner.setdefault((int(same[row]), j), scored.runs[row]) != scored.runs[row]:
            metrics[row, j] = np.nan
    return replace(scored, metrics=metrics)


def unseen_rows(scored: TrainingSet, same: NDArray[np.int64], held_out: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that a fold may learn from: of other runs, and without the weights that it is tested on.

    Args:
        scored: what errors and intervals are counted on, from :func:`each_weights_once`.
        same: ``(n,)`` of :func:`epsopt.surrogate.dataset.shared_weights`.
        held_out: rows of the fold's runs.
    """
    others = np.setdiff1d(np.arange(len(scored)), held_out)
    tested = held_out[np.isfinite(scored.metrics[held_out]).any(axis=1)]
    new = others[~np.isin(same[others], same[tested])]
    # Where hardly any other weights are left, there is nothing to learn from but those that it is tested on.
    return new if len(np.unique(scored.runs[new])) >= _FEWEST_RUNS else others


def as_fold(
    inside: TrainingSet, outside: TrainingSet, trained: TrainedNetwork, trees: StatisticsTrees, unseen: Floats
) -> Fold:
    """Encode both parts of a fold with the network and the trees that never saw `outside`.

    Args:
        inside: what the fold learns from.
        outside: its held-out runs.
        trained: the fold's network.
        trees: the fold's trees.
        unseen: ``(n, m)`` what trees say of `inside` that have not seen the run they speak of.
    """
    rows = subsample_runs(inside.runs)
    z_held, seen = trained.encode(outside)

    def held(known: Sequence[Hyperparameters | None] | None) -> Floats:
        return np.concatenate([z_held.double().numpy(), trees(outside.fingerprints, seen, known)], axis=1)

    z, y = np.concatenate([trained.latents.double().numpy(), unseen], axis=1), trained.scaled(inside)
    return Fold(
        z_train=z[rows],
        y_train=y[rows],
        z_all=z if len(rows) < len(z) else None,
        y_all=y if len(rows) < len(z) else None,
        z_held=held(outside.hyperparameters),
        z_weights_alone=held(None) if trees.informed else None,
        y_held=trained.scaled(outside),
        runs_held=outside.runs,
        inverse_lengths=trained.network.inverse_lengths.double().numpy(),
    )


def predict_held_out(folds: Sequence[Fold], n_metrics: int, cluster: RayCluster | None = None) -> list[list[HeldOut]]:
    """Predict every metric of every fold's held-out rows, with every setting of the head; ``[metric][fold]``.

    On a GPU where PyTorch sees one and the folds are large (benchmarks/gpu.py).
    """
    pairs = [(fold, j) for j in range(n_metrics) for fold in folds]
    found = _on_gpu(pairs) if cluster is None else None
    found = found or in_order(held_out, pairs, cluster)
    by_metric = [found[j * len(folds) : (j + 1) * len(folds)] for j in range(n_metrics)]
    return [from_all_rows(parts, folds, j) for j, parts in enumerate(by_metric)]


def _on_gpu(pairs: Sequence[tuple[Fold, int]]) -> list[HeldOut] | None:
    """Predict on a GPU; None: there is none, it fails or is full, or the way there takes longer."""
    if not torch.cuda.is_available() or sum(len(fold.z_train) ** 3 for fold, _ in pairs) < _WORTH_A_GPU:
        return None
    try:
        return [held_out(fold, j, "cuda") for fold, j in pairs]
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        return None


def unseen_architectures(held: HeldOut, inside: TrainingSet, outside: TrainingSet) -> HeldOut:
    """Leave of a fold's held-out rows those of architectures that its network has never seen; each counts once.

    Args:
        held: predictions of `outside`.
        inside: what the fold's network was trained on.
        outside: what it was not trained on.
    """
    known = {f.signature for f in inside.fingerprints}
    signatures = [f.signature for f in outside.fingerprints]
    names = {signature: i for i, signature in enumerate(dict.fromkeys(signatures))}
    unseen = np.array([signature not in known for signature in signatures])
    residual = np.where(unseen, held.residual, np.nan)
    weight = run_weights(np.array([names[s] for s in signatures]), np.isfinite(residual[0]))
    return HeldOut(held.mean, held.unit_variance, residual, weight, held.runs)


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
    reaches = [interval_reach(inside.metrics, inside.runs) for inside, *_ in fold_parts]
    for j, of_metric in enumerate(held):
        for k, (rows, (_, _, trained, _)) in enumerate(zip(parts, fold_parts, strict=True)):
            others = [h for i, h in enumerate(of_metric) if i != k]
            place, settings = select_hyperparameters(others)
            factor = conformal_factor(*calibration_scores(others), level, CROSS_VALIDATED)
            deviation = np.sqrt(of_metric[k].unit_variance[place] * settings.variance)
            mean, back = of_metric[k].mean[place], trained.transforms[j].backward_draws
            for out, values in (
                (point, mean), (low, mean - factor * deviation), (high, mean + factor * deviation),
            ):  # fmt: skip
                out[rows, j] = back(torch.tensor(values)).numpy()  # a copy: what comes from Ray is not to be written to
    for rows, reach in zip(parts, reaches, strict=True):
        low[rows], high[rows] = cut(low[rows], point[rows], high[rows], reach)
    return HeldOutPredictions(point, low, high)


def validate(
    parts: Sequence[NDArray[np.int64]],
    train: TrainingSet,
    fold_parts: Sequence[tuple[TrainingSet, TrainingSet, TrainedNetwork, Fold]],
    predictions: HeldOutPredictions,
    level: float,
    seed: int,
) -> tuple[MetricValidation, ...]:
    """Score every metric on held-out rows, beside the train median and statistics + LightGBM on the same folds.

    Args:
        parts: held-out rows of each fold.
        train: everything.
        fold_parts: training part and held-out part of each fold, and what was made of them.
        predictions: of the map.
        level: nominal coverage of its intervals.
        seed: of the boosting.
    """
    boost = partial(statistics_baseline, seed=seed)
    boosted = in_order(boost, [(inside, outside) for inside, outside, *_ in fold_parts], threads=True)
    median, statistics = np.empty_like(train.metrics), np.empty_like(train.metrics)
    near = np.ones(len(train), dtype=bool)
    for rows, (inside, _, _, fold) in zip(parts, fold_parts, strict=True):
        near[rows] = _near(inside, fold)
    for rows, (inside, outside, *_), guess in zip(parts, fold_parts, boosted, strict=True):
        median[rows], statistics[rows] = median_baseline(inside, outside), guess
    return tuple(_score(train, j, predictions, median, statistics, near, level) for j in range(len(train.metric_names)))


def _near(inside: TrainingSet, fold: Fold) -> NDArray[np.bool_]:
    """Tell which held-out rows of a fold lie within the trust region around what it learned from."""
    runs = inside.runs[subsample_runs(inside.runs)]
    return within_reach(torch.from_numpy(np.array(fold.z_train)), runs, torch.from_numpy(np.array(fold.z_held)))


def _score(
    train: TrainingSet,
    j: int,
    predictions: HeldOutPredictions,
    median_of_others: NDArray[np.float64],
    statistics_of_others: NDArray[np.float64],
    near: NDArray[np.bool_],
    level: float,
) -> MetricValidation:
    known = np.isfinite(train.metrics[:, j])
    y, median, statistics, point, low, high = (
        values[known, j]
        for values in (
            train.metrics, median_of_others, statistics_of_others, predictions.point, predictions.low, predictions.high,
        )
    )  # fmt: skip
    n, near = len(y), near[known]
    held = (y >= low) & (y <= high)
    return MetricValidation(
        name=train.metric_names[j],
        error=float(np.abs(point - y).mean()) if n else 0.0,
        median_error=float(np.abs(median - y).mean()) if n else 0.0,
        statistics_error=float(np.abs(statistics - y).mean()) if n else 0.0,
        coverage=float(held.mean()) if n else 0.0,
        width=float((high - low).mean()) if n else 0.0,
        median_width=constant_width(y, float(np.median(y)), level) if n else 0.0,
        n=n,
        worst_tenth=worst_tenth(held, train.runs[known]) if n else None,
        near_coverage=share_inside(held, near),
        far_coverage=share_inside(held, ~near),
        n_far=int((~near).sum()),
    )


def validate_embeddings(
    fold_parts: list[tuple[TrainingSet, TrainingSet, TrainedNetwork, Fold]],
) -> tuple[float | None, float | None]:
    """Return R2 over the mean embedding and mean cosine of predicted embeddings; None without any."""
    error = spread = 0.0
    cosines = []
    for _, outside, fitted, fold in fold_parts:
        if fitted.embedding_scale is None or outside.embeddings is None:
            continue
        known = np.isfinite(outside.embeddings).all(axis=(1, 2))
        real = outside.embeddings[known].astype(np.float64)
        mean, scale = fitted.embedding_scale
        with torch.no_grad():
            z = torch.from_numpy(fold.z_held[known, : fitted.network.shape.latent]).float()
            predicted = fitted.network.decode_embeddings(z) * scale + mean
        guess = predicted.double().numpy()
        error += float(((guess - real) ** 2).sum())
        spread += float(((mean.numpy() - real) ** 2).sum())
        norm = np.linalg.norm(guess, axis=2) * np.linalg.norm(real, axis=2)
        cosines.append(((guess * real).sum(axis=2) / np.maximum(norm, 1e-12)).mean(axis=1))
    if not cosines or spread == 0.0:
        return None, None
    return 1.0 - error / spread, float(np.concatenate(cosines).mean())
