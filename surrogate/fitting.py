"""Fitting: one network per fold of held-out runs (validation and calibration), then one on everything (the map)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import numpy as np
import torch

from epsopt.surrogate.cross_validation import (
    as_fold,
    each_weights_once,
    held_out_predictions,
    predict_held_out,
    unseen_architectures,
    unseen_rows,
    validate,
    validate_embeddings,
)
from epsopt.surrogate.dataset import TrainingSet, run_folds, shared_weights
from epsopt.surrogate.map_format import FORMAT as SURROGATE_FORMAT
from epsopt.surrogate.metric_gp import (
    GPHyperparameters,
    calibration_scores,
    select_hyperparameters,
    subsample_runs,
    weights_alone_scores,
)
from epsopt.surrogate.outliers import Screened, screen
from epsopt.surrogate.ranges import metric_range
from epsopt.surrogate.statistics_trees import grow_all, weights_digest
from epsopt.surrogate.surrogate import EncodedCheckpoints, Surrogate
from epsopt.surrogate.trained import train_all
from epsopt.surrogate.training import TrainingConfig
from epsopt.surrogate.transforms import fit_transform
from epsopt.surrogate.validation import Validation
from epsopt.surrogate.views import fit_tokenizer
from epsopt.zoo.errors import EmptyCatalogue, UsageError
from epsopt.zoo.fingerprints.formats import WITHOUT_FOLLOWED
from epsopt.zoo.ray_cluster import RayCluster

FEWEST_RUNS = 3
Progress = Callable[[str, float], None]


def fit(
    train: TrainingSet,
    *,
    seed: int = 0,
    folds: int = 5,
    level: float = 0.9,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    recipe: TrainingConfig | None = None,
    probes: bool = False,
    progress: Progress | None = None,
    cluster: RayCluster | None = None,
) -> tuple[Surrogate, Validation]:
    """Fit the Epsilon-VAE to a zoo and validate it on held-out runs.

    Args:
        train: checkpoints of at least three runs.
        seed: of everything random; the same seed gives the same predictions on the same machine.
        folds: folds of whole runs for validation and calibration.
        level: nominal coverage of the reported intervals.
        bounds: declared lowest and highest value of metrics by name; others are guessed
            (:mod:`epsopt.surrogate.ranges`).
        recipe: how to train.
        probes: read checkpoints with their anchor embeddings (which somebody ran the model for); otherwise embeddings
            are only learned from, and weights are enough to predict.
        progress: called as ``progress(what, share done)``.
        cluster: of Ray, whose processors train the folds side by side (:func:`epsopt.zoo.connect_ray`).

    Returns:
        The surrogate, trained on everything, and what the folds said about it, their predictions included.

    Raises:
        EmptyCatalogue: too few runs or no measured metric.
        UsageError: a bound names no metric.
    """
    started = time.monotonic()
    recipe, bounds = recipe or TrainingConfig(), bounds or {}
    _check(train, bounds, folds, level)
    if probes and (train.embeddings is None or not np.isfinite(train.embeddings).any()):
        raise UsageError("no checkpoint has anchor embeddings to probe with: set hooks.embed, then ingest again")
    # Guessed once on everything: folds that guessed for themselves would learn on different scales.
    scales = {name: limits for j, name in enumerate(train.metric_names)
              if (limits := metric_range(name, train.metrics[:, j], bounds)) is not None}  # fmt: skip
    screened = _screened(train, scales)
    usual, answered, same = screened.usual, screened.answered, shared_weights(train)
    scored = each_weights_once(usual, same)
    parts = run_folds(train.runs, folds, seed)
    others = [unseen_rows(scored, same, rows) for rows in parts]
    inside = [answered.take(rows) for rows in others]
    outside = [scored.take(rows) for rows in parts]

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(f"training network {min(done + 1, total)} of {total}", done / total)

    report(0, len(parts) + 1)
    *fold_networks, final = train_all(
        [*map(usual.take, others), usual], scales, recipe, seed, report, probes=probes, cluster=cluster
    )
    learned = zip((*inside, answered), (*fold_networks, final), strict=True)
    *fold_trees, (trees, predicted_by_trees) = grow_all(
        [(part, trained.scaled(part), trained.seen) for part, trained in learned], seed, cluster
    )
    fold_parts = [
        (kept, left, trained, as_fold(kept, left, trained, *grown))
        for kept, left, trained, grown in zip(inside, outside, fold_networks, fold_trees, strict=True)
    ]
    just_folds = [fold for *_, fold in fold_parts]
    held = predict_held_out(just_folds, len(train.metric_names), cluster)
    settings: list[GPHyperparameters] = []
    scores: list[torch.Tensor] = []
    unseen_scores: list[torch.Tensor] = []
    weights_alone: list[torch.Tensor] = []
    for j, per_fold in enumerate(held):
        settings.append(select_hyperparameters(per_fold)[1])
        unseen = [
            unseen_architectures(h, *pair) for h, pair in zip(per_fold, zip(inside, outside, strict=True), strict=True)
        ]
        for found, parts_held in ((scores, per_fold), (unseen_scores, unseen)):
            found.append(torch.from_numpy(np.stack(calibration_scores(per_fold, parts_held))).float())
        weights_alone.append(torch.from_numpy(np.stack(weights_alone_scores(per_fold, just_folds, j))).float())
    surrogate = Surrogate(
        metric_names=train.metric_names,
        transforms=final.transforms,
        tokenizer=final.tokenizer,
        network=final.network,
        memory=EncodedCheckpoints(
            keys=train.keys,
            latents=torch.cat([final.latents, torch.from_numpy(predicted_by_trees).float()], dim=1),
            metrics=torch.from_numpy(final.scaled(answered)).float(),
            runs=torch.from_numpy(train.runs),
            lineages=torch.from_numpy(train.lineages),
            head_rows=torch.from_numpy(subsample_runs(train.runs)),
            prediction_rows=torch.arange(len(train)),
            far_out=torch.from_numpy(screened.far_out),
            weights=tuple(map(weights_digest, train.fingerprints)),
        ),
        trees=trees,
        settings=tuple(settings),
        scores=tuple(scores),
        architectures=frozenset(f.signature for f in train.fingerprints),
        tensor_kinds=kinds_of(train),
        unseen_scores=tuple(unseen_scores),
        weights_alone_scores=tuple(weights_alone),
        embedding_scale=final.embedding_scale,
        trained_on=fit_key(train.digest, seed=seed, bounds=bounds, recipe=recipe, probes=probes),
    )
    predictions = held_out_predictions(parts, fold_parts, held, level)
    metrics = validate(parts, scored, fold_parts, predictions, level, seed)
    metrics = tuple(replace(m, far_out=int(n)) for m, n in zip(metrics, screened.far_out.sum(axis=0), strict=True))
    r2, cosine = validate_embeddings(fold_parts)
    seconds = time.monotonic() - started
    sizes = (len(parts), train.n_runs, len(train))
    return surrogate, Validation(metrics, level, *sizes, r2, cosine, seconds, probes, predictions)


def kinds_of(train: TrainingSet) -> frozenset[str]:
    """Return the kinds of tensors of a training set's checkpoints."""
    return frozenset().union(*({f.signature: f.tensor_kinds for f in train.fingerprints}.values()))


def _screened(train: TrainingSet, scales: Mapping[str, tuple[float, float]]) -> Screened:
    """Tell far-out values apart; checkpoints are alike whose views are, all views weighing the same."""
    transforms = [fit_transform(train.metrics[:, j], scales.get(name)) for j, name in enumerate(train.metric_names)]
    return screen(train, transforms, lambda: fit_tokenizer(train.fingerprints, train.runs)(train.fingerprints))


def fit_key(
    digest: str,
    *,
    seed: int,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    recipe: TrainingConfig | None = None,
    probes: bool = False,
) -> str:
    """Identify a fit before it is made: the same key, the same map. Other versions of the formats have other keys.

    Args:
        digest: of everything that the map is to hold (:attr:`epsopt.surrogate.dataset.TrainingSet.digest`).
        seed: of the fit.
        bounds: declared bounds of metrics.
        recipe: how it is trained.
        probes: whether checkpoints are read with their anchor embeddings.
    """
    # What later formats of fingerprints see more of has signatures of its own.
    formats = [SURROGATE_FORMAT, WITHOUT_FOLLOWED]
    settings = [formats, seed, sorted((bounds or {}).items()), asdict(recipe or TrainingConfig()), probes]
    return f"{digest}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"


def enough_runs(n_runs: int) -> None:
    """Check that there are runs enough to learn from.

    Args:
        n_runs: how many there are.

    Raises:
        EmptyCatalogue: fewer than ``FEWEST_RUNS``.
    """
    if n_runs < FEWEST_RUNS:
        raise EmptyCatalogue(
            f"the catalogue holds {n_runs} run{'' if n_runs == 1 else 's'} with measured checkpoints, "
            f"a map needs at least {FEWEST_RUNS} (validation holds out whole runs): ingest more runs"
        )


def _check(train: TrainingSet, bounds: Mapping[str, tuple[float, float]], folds: int, level: float) -> None:
    if folds < 2:
        raise UsageError(f"the number of folds is {folds}, expected at least 2")
    if not 0.0 < level < 1.0:
        raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
    if not train.metric_names:
        raise EmptyCatalogue("no checkpoint has a measured metric, so there is nothing to learn")
    enough_runs(train.n_runs)
    unknown = sorted(set(bounds) - set(train.metric_names))
    if unknown:
        raise UsageError(f"bounds are declared for {unknown[0]!r}, known metrics: {', '.join(train.metric_names)}")
