"""Continual learning: new checkpoints refine a fitted map instead of starting over.

Encoder and heads go on from where they are, on old and new checkpoints together, so that nothing is forgotten; views,
scales and the encoder's start stay, so that z keeps its orientation and yesterday's picture is still right. New runs
are predicted *before* they are learned from: the test on held-out runs, and what intervals are recalibrated with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.surrogate.baselines import median_baseline, statistics_baseline
from epsopt.surrogate.cross_validation import each_weights_once
from epsopt.surrogate.dataset import TrainingSet, shared_weights
from epsopt.surrogate.metric_gp import run_weights, subsample_runs
from epsopt.surrogate.nearest import within_reach
from epsopt.surrogate.network import load_network
from epsopt.surrogate.outliers import Screened, lies_far_out, pull_in, screen
from epsopt.surrogate.statistics_trees import grow_all, weights_digest
from epsopt.surrogate.surrogate import EncodedCheckpoints, Prediction, Surrogate
from epsopt.surrogate.trained import as_examples, scaled_by
from epsopt.surrogate.training import TrainingConfig, train_network
from epsopt.surrogate.validation import MetricValidation, Validation, constant_width, share_inside, worst_tenth
from epsopt.zoo.errors import UsageError

STEPS = 80
"""Optimiser steps of a refinement: a third of a fit's (benchmarks/refine.py)."""
_RATE = 0.3  # of the fit's learning rates: it starts near where it will end
GROWTH = 1.5
"""A zoo that has grown by this factor since its last fit is fitted anew: its views and scales were chosen on too
little. Up to there refinements lost nothing on held-out runs; beyond, perhaps a little (benchmarks/results/refine.txt).
"""


@dataclass(frozen=True)
class Refinement:
    """What a refinement changed.

    Attributes:
        new_runs: runs that the old map had not seen.
        new_checkpoints: checkpoints that it had not seen.
        drift: how far the old checkpoints moved in the latent space, root mean square, as a share of their spread
            around their mean.
        seconds: what it took.
    """

    new_runs: int
    new_checkpoints: int
    drift: float
    seconds: float


def refinable(old: Surrogate, train: TrainingSet) -> str | None:
    """Say why a map cannot be refined with a training set; None: it can.

    Args:
        old: the fitted map.
        train: everything known now.
    """
    known = dict(zip(old.memory.keys, old.memory.metrics, strict=True))
    rows = {key: i for i, key in enumerate(train.keys)}
    if old.metric_names != train.metric_names:
        return "the metrics are not the same"
    if any(key not in rows for key in known):
        return "some of its checkpoints are gone"
    shared = [rows[key] for key in known]
    scaled = np.stack([t.forward(train.metrics[:, j]) for j, t in enumerate(old.transforms)], axis=1)[shared]
    before = torch.stack(list(known.values())).numpy()
    # A far-out value is not what was learned: it only has to lie far out still.
    far_out = old.memory.far_out.numpy()
    same = np.isclose(scaled, before, atol=1e-4, equal_nan=True) | (far_out & lies_far_out(scaled))
    if not same.all():
        return "metrics of its checkpoints have changed"
    if old.tokenizer.refusal(train.fingerprints) is not None:
        return "another version of epsopt took its fingerprints"
    kinds = set(old.tokenizer.kinds)
    if any(not kinds.intersection(f.kinds) for key, f in zip(train.keys, train.fingerprints, strict=True)
           if key not in known):  # fmt: skip
        return "there are checkpoints of another architecture"
    embedded = train.embeddings is not None and bool(np.isfinite(train.embeddings).any())
    if embedded != (old.embedding_scale is not None) or (
        old.embedding_scale is not None
        and train.embeddings is not None
        and train.embeddings.shape[1:] != tuple(old.embedding_scale[0].shape)
    ):
        return "its anchor embeddings are not the same"
    return None


def condition_on_observations(old: Surrogate, train: TrainingSet) -> Surrogate:
    """Tell a fitted map of checkpoints that it was not trained on; nothing is trained, so it takes milliseconds.

    They are encoded as the map encodes any checkpoint, and its heads see what was measured on them. Intervals stay as
    wide as the runs that were held out of the fit ask for.

    Args:
        old: the fitted map; what it knows stays as it is.
        train: everything known now. Left out is what has no block that the map knows, or none of its metrics.

    Returns:
        The map, its memory longer.
    """
    known, kinds = set(old.memory.keys), set(old.tokenizer.kinds)
    column = {name: train.metrics[:, j] for j, name in enumerate(train.metric_names)}
    nothing = np.full(len(train), np.nan)
    scaled = np.stack(
        [t.forward(column.get(name, nothing)) for name, t in zip(old.metric_names, old.transforms, strict=True)], axis=1
    )
    measured = np.asarray(np.isfinite(scaled).any(axis=1))
    rows = [
        i for i, (key, fingerprint) in enumerate(zip(train.keys, train.fingerprints, strict=True))
        if key not in known and measured[i] and kinds.intersection(fingerprint.kinds)
    ]  # fmt: skip
    if not rows:
        return old
    new, memory = train.take(np.array(rows)), old.memory
    runs = torch.cat([memory.runs, torch.from_numpy(new.runs)])
    latents = torch.cat([memory.latents, old.encode(new.fingerprints, new.embeddings, new.hyperparameters)])
    metrics = torch.cat([memory.metrics, torch.from_numpy(scaled[rows]).to(memory.metrics)])
    far_out = pull_in(metrics, latents, runs.numpy(), old.transforms, first=len(memory.keys))
    weights = tuple(map(weights_digest, new.fingerprints)) if old.trees is not None else ()
    # Where most of its checkpoints were only placed on it, heads hold what they were learned with, and what is new.
    held = np.concatenate([np.arange(memory.n_learned), np.arange(len(memory.keys), len(runs))])
    longer = memory.longer(
        new.keys, latents[len(memory.keys) :], metrics[len(memory.keys) :], torch.from_numpy(new.runs),
        torch.from_numpy(new.lineages), far_out, weights, torch.from_numpy(held[subsample_runs(runs.numpy()[held])]),
        None if memory.prediction_rows is None else torch.from_numpy(held),
    )  # fmt: skip
    return replace(old, memory=longer)


def refine(
    old: Surrogate,
    validation: Validation,
    train: TrainingSet,
    *,
    trained_on: str,
    seed: int = 0,
    recipe: TrainingConfig | None = None,
) -> tuple[Surrogate, Validation, Refinement]:
    """Refine a fitted map with what is new.

    Args:
        old: the fitted map.
        validation: what it was validated with.
        train: everything known now, the old map's checkpoints among it.
        trained_on: identity of the result (:func:`epsopt.surrogate.fitting.fit_key`).
        seed: of batches.
        recipe: how the map was trained; steps and rates are lowered here.

    Returns:
        The refined map; its validation, in which every run was predicted by a map that had not seen it (the old runs by
        the folds of the last fit, the new ones by the old map); and what changed.

    Raises:
        UsageError: :func:`refinable` says why not.
    """
    started = time.monotonic()
    if (reason := refinable(old, train)) is not None:
        raise UsageError(f"the map cannot be refined: {reason}; fit it from scratch")
    recipe = recipe or TrainingConfig()
    shorter = replace(
        recipe,
        steps=max(recipe.steps * STEPS // TrainingConfig().steps, 1),
        learning_rate=recipe.learning_rate * _RATE,
        encoder_rate=recipe.encoder_rate * _RATE,
    )
    known = set(old.memory.keys)
    seen = np.array([key in known for key in train.keys])
    fresh = np.flatnonzero(~seen & ~np.isin(train.runs, train.runs[seen]))
    screened = screen(
        train, old.transforms, lambda: old.encode(train.fingerprints, train.embeddings, train.hyperparameters)
    )
    scores, validation = _predict_before_learning(old, validation, screened, fresh, seed)
    examples = as_examples(screened.usual, old.tokenizer, old.transforms, old.embedding_scale)
    with torch.random.fork_rng():
        network = load_network(old.network.shape, old.network.state_dict())
        network.requires_grad_(requires_grad=True)
        train_network(network, examples, shorter, seed, trained=True)
        network.requires_grad_(requires_grad=False)
    with torch.no_grad():
        latents = network.encode(examples.tokens)[0]
    scaled = scaled_by(old.transforms, screened.answered)
    trees, weights = old.trees, old.memory.weights
    if trees is not None:  # grown anew in a few seconds: new epochs of runs that the old ones have seen must be unseen
        ((trees, unseen),) = grow_all([(screened.answered, scaled, old.tokenizer.seen(examples.tokens))], seed)
        latents = torch.cat([latents, torch.from_numpy(unseen).float()], dim=1)
        weights = tuple(map(weights_digest, train.fingerprints))
    memory = EncodedCheckpoints(
        keys=train.keys,
        latents=latents,
        metrics=torch.from_numpy(scaled).float(),
        runs=torch.from_numpy(train.runs),
        lineages=torch.from_numpy(train.lineages),
        head_rows=torch.from_numpy(subsample_runs(train.runs)),
        prediction_rows=None if old.memory.prediction_rows is None else torch.arange(len(train)),
        far_out=torch.from_numpy(screened.far_out),
        weights=weights,
    )
    architectures = old.architectures | {f.signature for f in train.fingerprints}
    kinds = old.tensor_kinds and old.tensor_kinds | frozenset().union(*(f.tensor_kinds for f in train.fingerprints))
    refined = replace(
        old, network=network, memory=memory, scores=scores, architectures=architectures, trained_on=trained_on,
        tensor_kinds=kinds, trees=trees,
    )  # fmt: skip
    seconds = time.monotonic() - started
    change = Refinement(len(np.unique(train.runs[fresh])), int((~seen).sum()), drift(old, refined), seconds)
    return refined, replace(validation, seconds=seconds), change


def drift(old: Surrogate, new: Surrogate) -> float:
    """How far checkpoints that both maps know moved, root mean square, as a share of their spread; NaN without any."""
    places = {key: i for i, key in enumerate(new.memory.keys)}
    pairs = [(i, places[key]) for i, key in enumerate(old.memory.keys) if key in places]
    if not pairs:
        return float("nan")
    # Of the encoder's coordinates: trees are grown anew.
    encoded = old.network.shape.latent
    before, after = (m.memory.latents[[p[k] for p in pairs], :encoded].double() for k, m in enumerate((old, new)))
    spread = (before - before.mean(dim=0)).square().sum(dim=1).mean()
    return float(((after - before).square().sum(dim=1).mean() / spread.clamp(min=1e-12)).sqrt())


def _predict_before_learning(
    old: Surrogate, validation: Validation, screened: Screened, fresh: NDArray[np.int64], seed: int
) -> tuple[tuple[torch.Tensor, ...], Validation]:
    """Scores for the intervals, and the validation, with the runs that the old map has not seen."""
    train = screened.answered
    seen = train.take(np.setdiff1d(np.arange(len(train)), fresh))
    counted = tuple(
        replace(m, far_out=int(n)) for m, n in zip(validation.metrics, screened.far_out.sum(axis=0), strict=True)
    )
    validation = replace(validation, metrics=counted)
    both = replace(validation, n_runs=train.n_runs, n_checkpoints=len(train))
    if len(fresh) == 0:
        return old.scores, both
    part = _new_weights(screened.usual, fresh)
    z = old.encode(part.fingerprints, part.embeddings, part.hyperparameters)
    predicted = old.predict(z, validation.level)
    with torch.no_grad():
        mean, deviation = (t.numpy() for t in old.posterior_moments(z))
    scores = []
    for j, (transform, before) in enumerate(zip(old.transforms, old.scores, strict=True)):
        # moments() is widened so that 1.645 deviations cover 90 %: back to the deviations that scores are counted in.
        residual = np.abs(transform.forward(part.metrics[:, j]) - mean[:, j])
        known = np.isfinite(residual)
        weights = run_weights(part.runs, known)
        added = np.stack([(residual / deviation[:, j] * old.calibration_factor(j))[known], weights[known]])
        scores.append(torch.cat([before, torch.from_numpy(added).float()], dim=1))
    near = within_reach(old.memory.latents, old.memory.runs.numpy(), z)
    metrics = tuple(_pooled(m, j, seen, part, predicted, near, seed) for j, m in enumerate(validation.metrics))
    return tuple(scores), replace(both, metrics=metrics)


def _new_weights(scored: TrainingSet, fresh: NDArray[np.int64]) -> TrainingSet:
    """Take the rows of new runs; what was measured on weights that the old map knows, or twice, is left out."""
    same = shared_weights(scored)
    old = np.isin(same, same[np.setdiff1d(np.arange(len(scored)), fresh)])
    hidden = np.where((old & np.isin(np.arange(len(scored)), fresh))[:, None], np.nan, scored.metrics)
    return each_weights_once(replace(scored, metrics=hidden), same).take(fresh)


def _pooled(
    before: MetricValidation,
    j: int,
    seen: TrainingSet,
    part: TrainingSet,
    predicted: Prediction,
    near: NDArray[np.bool_],
    seed: int,
) -> MetricValidation:
    """One metric's validation over the old map's held-out rows and the new runs' together."""
    y = part.metrics[:, j]
    known = np.isfinite(y)
    n = int(known.sum())
    if n == 0:
        return before
    one, other = (
        replace(p, metric_names=p.metric_names[j : j + 1], metrics=p.metrics[:, j : j + 1]) for p in (seen, part)
    )
    low, high = predicted.low[known, j], predicted.high[known, j]
    median = median_baseline(one, other)[known, 0]
    share = n / (n + before.n)
    held = (y[known] >= low) & (y[known] <= high)
    near = near[known]

    def of_some(old: float | None, n_old: int, rows: NDArray[np.bool_]) -> float | None:
        new = share_inside(held, rows)
        if old is None or new is None:
            return new if old is None else old
        return (n_old * old + int(rows.sum()) * new) / (n_old + int(rows.sum()))

    def both(old: float, new: float) -> float:
        return (1.0 - share) * old + share * float(new)

    return MetricValidation(
        name=before.name,
        error=both(before.error, np.abs(predicted.point[known, j] - y[known]).mean()),
        median_error=both(before.median_error, np.abs(median - y[known]).mean()),
        statistics_error=both(
            before.statistics_error, np.abs(statistics_baseline(one, other, seed=seed)[known, 0] - y[known]).mean()
        ),
        coverage=both(before.coverage, held.mean()),
        width=both(before.width, (high - low).mean()),
        median_width=both(before.median_width, constant_width(y[known], float(np.median(y[known])), predicted.level)),
        n=n + before.n,
        far_out=before.far_out,
        worst_tenth=None
        if before.worst_tenth is None
        else both(before.worst_tenth, worst_tenth(held, part.runs[known])),
        near_coverage=of_some(before.near_coverage, before.n - before.n_far, near),
        far_coverage=of_some(before.far_coverage, before.n_far, ~near),
        n_far=before.n_far + int((~near).sum()),
    )
