"""Fitting: one network per fold of held-out runs (validation and calibration), then one on everything (the map)."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.surrogate.baselines import median_baseline, statistics_baseline
from epsopt.surrogate.dataset import TrainingSet, run_folds
from epsopt.surrogate.head import (
    Fold,
    HeldOut,
    choose,
    conformal_factor,
    held_out,
    standardised,
    thin,
)
from epsopt.surrogate.network import EpsilonVAE, NetworkShape
from epsopt.surrogate.surrogate import FORMAT as SURROGATE_FORMAT
from epsopt.surrogate.surrogate import Memory, Surrogate
from epsopt.surrogate.training import Examples, Recipe, train_many
from epsopt.surrogate.transforms import MetricTransform, fit_transform, likely_bounds
from epsopt.surrogate.validation import MetricValidation, Validation, constant_width
from epsopt.surrogate.views import Tokenizer, fit_tokenizer
from epsopt.zoo.errors import EmptyCatalogue, UsageError
from epsopt.zoo.fingerprints import FORMAT as FINGERPRINT_FORMAT

FEWEST_RUNS = 3
Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """One trained network with the scales it was trained on; a fold's, or the final one's."""

    tokenizer: Tokenizer
    transforms: tuple[MetricTransform, ...]
    network: EpsilonVAE
    examples: Examples
    embedding_scale: tuple[torch.Tensor, torch.Tensor] | None

    def encode(self, part: TrainingSet) -> torch.Tensor:
        """Encode ``n`` checkpoints as ``(n, latent)``."""
        with torch.no_grad():
            return self.network.encode(self.tokenizer(part.fingerprints, part.embeddings))[0]

    def scaled(self, part: TrainingSet) -> NDArray[np.float64]:
        """``(n, m)`` measured metrics on the model's scale."""
        return np.stack([t.forward(part.metrics[:, j]) for j, t in enumerate(self.transforms)], axis=1)


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


def fit(
    train: TrainingSet,
    *,
    seed: int = 0,
    folds: int = 5,
    level: float = 0.9,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    recipe: Recipe | None = None,
    probes: bool = False,
    progress: Progress | None = None,
) -> tuple[Surrogate, Validation]:
    """Fit the Epsilon-VAE to a zoo and validate it on held-out runs.

    Args:
        train: checkpoints of at least three runs.
        seed: of everything random; the same seed gives the same predictions on the same machine.
        folds: folds of whole runs for validation and calibration.
        level: nominal coverage of the reported intervals.
        bounds: declared lowest and highest value of metrics by name.
        recipe: how to train.
        probes: read checkpoints with their anchor embeddings (which somebody ran the model for); otherwise embeddings
            are only learned from, and weights are enough to predict.
        progress: called as ``progress(what, share done)``.

    Returns:
        The surrogate, trained on everything, and what the folds said about it.

    Raises:
        EmptyCatalogue: too few runs or no measured metric.
        UsageError: a bound names no metric.
    """
    surrogate, validation, _ = fit_and_predict(
        train, seed=seed, folds=folds, level=level, bounds=bounds, recipe=recipe, probes=probes, progress=progress
    )
    return surrogate, validation


def fit_and_predict(
    train: TrainingSet,
    *,
    seed: int = 0,
    folds: int = 5,
    level: float = 0.9,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    recipe: Recipe | None = None,
    probes: bool = False,
    progress: Progress | None = None,
) -> tuple[Surrogate, Validation, HeldOutPredictions]:
    """Do what :func:`fit` does, and give the predictions that the validation is made of; same arguments and errors."""
    started = time.monotonic()
    recipe, bounds = recipe or Recipe(), bounds or {}
    _check(train, bounds, folds, level)
    if probes and (train.embeddings is None or not np.isfinite(train.embeddings).any()):
        raise UsageError("no checkpoint has anchor embeddings to probe with: set hooks.embed, then ingest again")
    # Guessed once on everything: folds that guessed for themselves would learn on different scales.
    scales = {name: limits for j, name in enumerate(train.metric_names)
              if (limits := bounds.get(name) or likely_bounds(train.metrics[:, j])) is not None}  # fmt: skip
    parts = run_folds(train.runs, folds, seed)
    inside = [train.take(np.setdiff1d(np.arange(len(train)), rows)) for rows in parts]
    outside = [train.take(rows) for rows in parts]

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(f"training network {min(done + 1, total)} of {total}", done / total)

    report(0, len(parts) + 1)
    *fold_networks, final = train_all([*inside, train], scales, recipe, seed, report, probes=probes)
    fold_parts = [
        (kept, left, trained, _as_fold(kept, left, trained))
        for kept, left, trained in zip(inside, outside, fold_networks, strict=True)
    ]
    held = predict_held_out([fold for *_, fold in fold_parts], len(train.metric_names))
    settings, scores = [], []
    for per_fold in held:
        place, chosen_settings = choose(per_fold)
        settings.append(chosen_settings)
        scores.append(torch.from_numpy(np.stack(standardised(per_fold, place, chosen_settings))).float())
    surrogate = Surrogate(
        metric_names=train.metric_names,
        transforms=final.transforms,
        tokenizer=final.tokenizer,
        network=final.network,
        memory=Memory(
            keys=train.keys,
            latents=final.encode(train),
            metrics=final.examples.metrics,
            runs=torch.from_numpy(train.runs),
            lineages=torch.from_numpy(train.lineages),
            head_rows=torch.from_numpy(thin(train.runs)),
        ),
        settings=tuple(settings),
        scores=tuple(scores),
        embedding_scale=final.embedding_scale,
        trained_on=fit_key(train, seed=seed, bounds=bounds, recipe=recipe, probes=probes),
    )
    predictions = _held_out_predictions(parts, fold_parts, held, level)
    metrics = tuple(_validate(j, parts, train, predictions, level, seed) for j in range(len(train.metric_names)))
    r2, cosine = _validate_embeddings(fold_parts)
    seconds = time.monotonic() - started
    validation = Validation(metrics, level, len(parts), train.n_runs, len(train), r2, cosine, seconds, probes)
    return surrogate, validation, predictions


def fit_key(
    train: TrainingSet,
    *,
    seed: int,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    recipe: Recipe | None = None,
    probes: bool = False,
) -> str:
    """Identify a fit before it is made: the same key, the same map. Other versions of the formats have other keys."""
    formats = [SURROGATE_FORMAT, FINGERPRINT_FORMAT]
    settings = [formats, seed, sorted((bounds or {}).items()), asdict(recipe or Recipe()), probes]
    return f"{train.digest}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"


def _check(train: TrainingSet, bounds: Mapping[str, tuple[float, float]], folds: int, level: float) -> None:
    if folds < 2:
        raise UsageError(f"the number of folds is {folds}, expected at least 2")
    if not 0.0 < level < 1.0:
        raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
    if not train.metric_names:
        raise EmptyCatalogue("no checkpoint has a measured metric, so there is nothing to learn")
    if train.n_runs < FEWEST_RUNS:
        raise EmptyCatalogue(
            f"the catalogue holds {train.n_runs} run{'' if train.n_runs == 1 else 's'} with measured checkpoints, "
            f"a map needs at least {FEWEST_RUNS} (validation holds out whole runs): ingest more runs"
        )
    unknown = sorted(set(bounds) - set(train.metric_names))
    if unknown:
        raise UsageError(f"bounds are declared for {unknown[0]!r}, known metrics: {', '.join(train.metric_names)}")


def train_all(
    parts: Sequence[TrainingSet],
    bounds: Mapping[str, tuple[float, float]],
    recipe: Recipe,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    probes: bool = False,
) -> list[TrainedNetwork]:
    """Train one network on each training set."""
    # Threads: most of it is in libraries that let go of the interpreter, and fingerprints are too large to hand around.
    workers = joblib.Parallel(n_jobs=min(os.cpu_count() or 1, len(parts)), prefer="threads")
    prepared = workers(joblib.delayed(_prepare)(part, bounds, probes) for part in parts)
    networks = train_many([(p.shape, p.examples) for p in prepared], recipe, seed, progress)
    return [
        TrainedNetwork(p.tokenizer, p.transforms, network, p.examples, p.embedding_scale)
        for p, network in zip(prepared, networks, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Prepared:
    tokenizer: Tokenizer
    transforms: tuple[MetricTransform, ...]
    shape: NetworkShape
    examples: Examples
    embedding_scale: tuple[torch.Tensor, torch.Tensor] | None


def predict_held_out(folds: Sequence[Fold], n_metrics: int) -> list[list[HeldOut]]:
    """Predict every metric of every fold's held-out rows, with every setting of the head; ``[metric][fold]``."""
    jobs = [(fold, j) for j in range(n_metrics) for fold in folds]
    workers = joblib.Parallel(n_jobs=min(os.cpu_count() or 1, len(jobs)))
    found = workers(joblib.delayed(held_out)(fold, j) for fold, j in jobs)
    return [found[j * len(folds) : (j + 1) * len(folds)] for j in range(n_metrics)]


def _prepare(train: TrainingSet, bounds: Mapping[str, tuple[float, float]], probes: bool) -> _Prepared:
    seen = train.embeddings if probes else None
    tokenizer = fit_tokenizer(train.fingerprints, train.runs, seen)
    transforms = tuple(
        fit_transform(train.metrics[:, j], bounds.get(name)) for j, name in enumerate(train.metric_names)
    )
    scaled = np.stack([t.forward(train.metrics[:, j]) for j, t in enumerate(transforms)], axis=1)
    embedding_scale = None
    embeddings = None
    if train.embeddings is not None and np.isfinite(train.embeddings).any():
        mean = torch.from_numpy(np.nanmean(train.embeddings, axis=0))
        scale = torch.tensor(max(float(np.nanstd(train.embeddings - mean.numpy())), 1e-6))
        embedding_scale = (mean, scale)
        embeddings = (torch.from_numpy(train.embeddings) - mean) / scale
    examples = Examples(
        tokens=tokenizer(train.fingerprints, seen),
        slices=tokenizer.slices,
        metrics=torch.from_numpy(scaled).float(),
        embeddings=embeddings,
        sketches=_sketches(train),
        runs=torch.from_numpy(train.runs),
        lineages=torch.from_numpy(train.lineages),
    )
    anchors = None if embeddings is None else (int(embeddings.shape[1]), int(embeddings.shape[2]))
    sizes = NetworkShape(tokenizer.slices[-1].stop, len(transforms), anchors)
    return _Prepared(tokenizer, transforms, sizes, examples, embedding_scale)


def _as_fold(inside: TrainingSet, outside: TrainingSet, trained: TrainedNetwork) -> Fold:
    rows = thin(inside.runs)
    return Fold(
        z_train=trained.encode(inside).double().numpy()[rows],
        y_train=trained.scaled(inside)[rows],
        z_held=trained.encode(outside).double().numpy(),
        y_held=trained.scaled(outside),
        runs_held=outside.runs,
        inverse_lengths=trained.network.inverse_lengths.double().numpy(),
    )


def _sketches(train: TrainingSet) -> torch.Tensor:
    """Sketches minus their lineage's mean, each lineage scaled to unit mean square."""
    out = np.stack([f.sketch for f in train.fingerprints]).astype(np.float32)
    for lineage in np.unique(train.lineages):
        mine = train.lineages == lineage
        centred = out[mine] - out[mine].mean(axis=0)
        out[mine] = centred / max(float(np.sqrt((centred**2).sum(axis=1).mean())), 1e-9)
    return torch.from_numpy(out)


def _held_out_predictions(
    parts: Sequence[NDArray[np.int64]],
    fold_parts: Sequence[tuple[TrainingSet, TrainingSet, TrainedNetwork, Fold]],
    held: Sequence[Sequence[HeldOut]],
    level: float,
) -> HeldOutPredictions:
    shape = (sum(len(rows) for rows in parts), len(held))
    point, low, high = np.empty(shape), np.empty(shape), np.empty(shape)
    for j, of_metric in enumerate(held):
        for k, (rows, (_, _, trained, _)) in enumerate(zip(parts, fold_parts, strict=True)):
            # What is reported on a fold was chosen and calibrated on the others.
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


def _validate(
    j: int,
    parts: Sequence[NDArray[np.int64]],
    train: TrainingSet,
    predictions: HeldOutPredictions,
    level: float,
    seed: int,
) -> MetricValidation:
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


def _validate_embeddings(
    fold_parts: list[tuple[TrainingSet, TrainingSet, TrainedNetwork, Fold]],
) -> tuple[float | None, float | None]:
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
