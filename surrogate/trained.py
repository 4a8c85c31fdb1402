"""A trained network with the scales it was trained on: what a fold of the validation and the map have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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
class Prepared:
    """A training set as a network takes it: its views, its scales, and itself on them."""

    tokenizer: Tokenizer
    transforms: tuple[MetricTransform, ...]
    examples: Examples
    embedding_scale: tuple[torch.Tensor, torch.Tensor] | None

    @property
    def shape(self) -> NetworkShape:
        """Of the network that learns from it."""
        embeddings = self.examples.embeddings
        anchors = None if embeddings is None else (int(embeddings.shape[1]), int(embeddings.shape[2]))
        return NetworkShape(self.tokenizer.slices[-1].stop, len(self.transforms), anchors)


@dataclass(frozen=True, eq=False)
class TrainedNetwork(Prepared):
    """A network and what it was trained on; a fold's, or the final one's."""

    network: EpsilonVAE

    @cached_property
    def latents(self) -> torch.Tensor:
        """``(n, latent)`` encodings of what it was trained on."""
        return self._encode(self.examples.tokens)

    def encode(self, part: TrainingSet) -> torch.Tensor:
        """Encode ``n`` other checkpoints as ``(n, latent)``."""
        return self._encode(self.tokenizer(part.fingerprints, part.embeddings))

    def _encode(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.network.encode(tokens)[0]

    def scaled(self, part: TrainingSet) -> NDArray[np.float64]:
        """``(n, m)`` measured metrics on the model's scale."""
        return _scaled(self.transforms, part)


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
    return [TrainedNetwork(**vars(p), network=network) for p, network in zip(prepared, networks, strict=True)]


def _prepare(train: TrainingSet, bounds: Mapping[str, tuple[float, float]], probes: bool) -> Prepared:
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
    return Prepared(tokenizer, transforms, examples, embedding_scale)


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
    return Examples(
        tokens=tokenizer(train.fingerprints, train.embeddings if tokenizer.probes else None),
        slices=tokenizer.slices,
        metrics=torch.from_numpy(_scaled(transforms, train)).float(),
        embeddings=embeddings,
        sketches=_sketches(train),
        runs=torch.from_numpy(train.runs),
        lineages=torch.from_numpy(train.lineages),
    )


def _scaled(transforms: Sequence[MetricTransform], part: TrainingSet) -> NDArray[np.float64]:
    return np.stack([t.forward(part.metrics[:, j]) for j, t in enumerate(transforms)], axis=1)


def _sketches(train: TrainingSet) -> torch.Tensor:
    """Sketches minus their lineage's mean, each lineage scaled to unit mean square."""
    out = np.stack([f.sketch for f in train.fingerprints]).astype(np.float32)
    for lineage in np.unique(train.lineages):
        mine = train.lineages == lineage
        centred = out[mine] - out[mine].mean(axis=0)
        out[mine] = centred / max(float(np.sqrt((centred**2).sum(axis=1).mean())), 1e-9)
    return torch.from_numpy(out)
