"""A trained network with the scales it was trained on: what a fold of the validation and the map have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.network import EpsilonVAE, NetworkShape
from epsopt.surrogate.training import Examples, Recipe, train_many
from epsopt.surrogate.transforms import MetricTransform, fit_transform
from epsopt.surrogate.views import Tokenizer, fit_tokenizer


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


def _prepare(train: TrainingSet, bounds: Mapping[str, tuple[float, float]], probes: bool) -> _Prepared:
    seen = train.embeddings if probes else None
    tokenizer = fit_tokenizer(train.fingerprints, train.runs, seen)
    transforms = tuple(
        fit_transform(train.metrics[:, j], bounds.get(name)) for j, name in enumerate(train.metric_names)
    )
    embedding_scale = None
    if train.embeddings is not None and np.isfinite(train.embeddings).any():
        mean = torch.from_numpy(np.nanmean(train.embeddings, axis=0))
        scale = torch.tensor(max(float(np.nanstd(train.embeddings - mean.numpy())), 1e-6))
        embedding_scale = (mean, scale)
    examples = as_examples(train, tokenizer, transforms, embedding_scale)
    embeddings = examples.embeddings
    anchors = None if embeddings is None else (int(embeddings.shape[1]), int(embeddings.shape[2]))
    sizes = NetworkShape(tokenizer.slices[-1].stop, len(transforms), anchors)
    return _Prepared(tokenizer, transforms, sizes, examples, embedding_scale)


def as_examples(
    train: TrainingSet,
    tokenizer: Tokenizer,
    transforms: Sequence[MetricTransform],
    embedding_scale: tuple[torch.Tensor, torch.Tensor] | None,
) -> Examples:
    """Put a training set on given scales.

    Args:
        train: ``n`` checkpoints.
        tokenizer: fingerprints to tokens; embeddings too, if it looks at them.
        transforms: one per metric.
        embedding_scale: mean ``(anchors, dim)`` and scale of embeddings; None leaves them out.
    """
    embeddings = None
    if embedding_scale is not None and train.embeddings is not None:
        embeddings = (torch.from_numpy(train.embeddings) - embedding_scale[0]) / embedding_scale[1]
    scaled = np.stack([t.forward(train.metrics[:, j]) for j, t in enumerate(transforms)], axis=1)
    return Examples(
        tokens=tokenizer(train.fingerprints, train.embeddings if tokenizer.probes else None),
        slices=tokenizer.slices,
        metrics=torch.from_numpy(scaled).float(),
        embeddings=embeddings,
        sketches=_sketches(train),
        runs=torch.from_numpy(train.runs),
        lineages=torch.from_numpy(train.lineages),
    )


def _sketches(train: TrainingSet) -> torch.Tensor:
    """Sketches minus their lineage's mean, each lineage scaled to unit mean square."""
    out = np.stack([f.sketch for f in train.fingerprints]).astype(np.float32)
    for lineage in np.unique(train.lineages):
        mine = train.lineages == lineage
        centred = out[mine] - out[mine].mean(axis=0)
        out[mine] = centred / max(float(np.sqrt((centred**2).sum(axis=1).mean())), 1e-9)
    return torch.from_numpy(out)
