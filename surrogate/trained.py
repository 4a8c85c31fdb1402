"""A trained network with the scales it was trained on: what a fold of the validation and the map have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.network import EpsilonVAE, NetworkShape
from epsopt.surrogate.ranges import positive_floor
from epsopt.surrogate.training import Examples, TrainingConfig, train_many
from epsopt.surrogate.transforms import MetricTransform, fit_transform
from epsopt.surrogate.views import FeatureEncoder, Seen, fit_tokenizer, memory_of_fit
from epsopt.zoo.ray_cluster import RayCluster

_MEMORY = 1_000_000_000  # bytes that views of several parts may be learned in side by side
_FAR = 10.0  # typical distances: no checkpoint of a run that trains lies so far out


@dataclass(frozen=True, eq=False)
class Prepared:
    """A training set as a network takes it: its views, its scales, and itself on them."""

    tokenizer: FeatureEncoder
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

    def encode(self, part: TrainingSet) -> tuple[torch.Tensor, Seen]:
        """Encode ``n`` other checkpoints: ``(n, latent)``, and what trees and processes look at."""
        tokens = self.tokenizer(part.fingerprints, part.embeddings)
        return self._encode(tokens), self.tokenizer.seen(tokens)

    @property
    def seen(self) -> Seen:
        """What trees and processes look at of what it was trained on."""
        return self.tokenizer.seen(self.examples.tokens)

    def _encode(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.network.encode(tokens)[0]

    def scaled(self, part: TrainingSet) -> NDArray[np.float64]:
        """``(n, m)`` measured metrics on the model's scale."""
        return scaled_by(self.transforms, part)


def train_all(
    parts: Sequence[TrainingSet],
    bounds: Mapping[str, tuple[float, float]],
    recipe: TrainingConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    probes: bool = False,
    cluster: RayCluster | None = None,
) -> list[TrainedNetwork]:
    """Train one network on each training set; their views are learned on this machine, networks on a cluster if any."""
    # Threads: most of it is in libraries that let go of the interpreter, and fingerprints are too large to hand around.
    workers = joblib.Parallel(n_jobs=min(joblib.cpu_count(), _side_by_side(parts)), prefer="threads")
    prepared = workers(joblib.delayed(_prepare)(part, bounds, probes) for part in parts)
    networks = train_many([(p.shape, p.examples) for p in prepared], recipe, seed, progress, cluster)
    return [TrainedNetwork(**vars(p), network=network) for p, network in zip(prepared, networks, strict=True)]


def _side_by_side(parts: Sequence[TrainingSet]) -> int:
    """How many may learn their views at the same time: of networks of hundreds of tensors one takes a gigabyte."""
    needed = max(memory_of_fit(part.fingerprints) for part in parts)
    return max(min(len(parts), int(_MEMORY / max(needed, 1))), 1)


def _prepare(train: TrainingSet, bounds: Mapping[str, tuple[float, float]], probes: bool) -> Prepared:
    seen = train.embeddings if probes else None
    usual = train.usual
    tokenizer = fit_tokenizer(
        [train.fingerprints[i] for i in usual.tolist()], train.runs[usual], None if seen is None else seen[usual]
    )
    transforms = tuple(
        fit_transform(values, bounds.get(name), positive_floor(name, values, bounds))
        for name, values in zip(train.metric_names, train.metrics.T, strict=True)
    )
    embedding_scale = None
    if train.embeddings is not None and np.isfinite(train.embeddings).any():
        some = train.embeddings[usual]
        embedding_scale = _embedding_scale(some if np.isfinite(some).any() else train.embeddings)
    examples = as_examples(train, tokenizer, transforms, embedding_scale)
    return Prepared(tokenizer, transforms, examples, embedding_scale)


def as_examples(
    train: TrainingSet,
    tokenizer: FeatureEncoder,
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
        size = embeddings.square().mean(dim=(1, 2), keepdim=True).sqrt()
        embeddings = torch.where(size > _FAR, torch.nan, embeddings)  # a diverged checkpoint's are not learned
    return Examples(
        tokens=tokenizer(train.fingerprints, train.embeddings if tokenizer.probes else None),
        slices=tokenizer.slices,
        metrics=torch.from_numpy(scaled_by(transforms, train)).float(),
        embeddings=embeddings,
        sketches=_sketches(train),
        runs=torch.from_numpy(train.runs),
        lineages=torch.from_numpy(train.lineages),
        usual=torch.from_numpy(train.usual),
    )


def _embedding_scale(embeddings: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean ``(anchors, dim)`` and scale of all embeddings but those many times as far from the median as most are."""
    known = embeddings[np.isfinite(embeddings).any(axis=(1, 2))]
    with np.errstate(over="ignore"):
        away = np.sqrt(np.nanmean((known - np.nanmedian(known, axis=0)).astype(np.float64) ** 2, axis=(1, 2)))
    ordinary = known[_ordinary(away)]
    mean = np.nanmean(ordinary, axis=0)
    return torch.from_numpy(mean), torch.tensor(max(float(np.nanstd(ordinary - mean)), 1e-6))


def _ordinary(away: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of ``(n,)`` distances from the middle are not many times the typical one; those of twins do not count."""
    apart = away[away > 0.0]
    return np.asarray(away <= _FAR * (float(np.median(apart)) if len(apart) else 0.0))


def scaled_by(transforms: Sequence[MetricTransform], part: TrainingSet) -> NDArray[np.float64]:
    """``(n, m)`` measured metrics on the scales of given transforms, one a metric."""
    return np.stack([t.forward(part.metrics[:, j]) for j, t in enumerate(transforms)], axis=1)


def _sketches(train: TrainingSet) -> torch.Tensor:
    """Sketches minus their lineage's mean, each lineage scaled to unit mean square.

    A sketch many times as far from the lineage's median as most are, a diverged checkpoint's, is neither in the mean
    nor in the scale, and is shortened to the length where that begins.
    """
    out = np.stack([f.sketch for f in train.fingerprints]).astype(np.float64)
    for lineage in np.unique(train.lineages):
        mine = train.lineages == lineage
        away = np.linalg.norm(out[mine] - np.median(out[mine], axis=0), axis=1)
        ordinary = _ordinary(away)
        if train.diverged is not None and (ordinary & ~train.diverged[mine]).any():
            ordinary &= ~train.diverged[mine]
        centred = out[mine] - out[mine][ordinary].mean(axis=0)
        length = np.linalg.norm(centred, axis=1)
        scale = max(float(np.sqrt((length[ordinary] ** 2).mean())), 1e-9)
        out[mine] = centred / scale * np.minimum(1.0, _FAR * scale / np.maximum(length, 1e-12))[:, None]
    return torch.from_numpy(out.astype(np.float32))
