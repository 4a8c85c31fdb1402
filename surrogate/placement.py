"""Placing further checkpoints on a fitted map: they are encoded as it encodes any, and nothing is learned from them.

That is how a map that is learned from a few thousand checkpoints holds any number of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.outliers import pull_in
from epsopt.surrogate.statistics_trees import weights_digest
from epsopt.surrogate.surrogate import Surrogate
from epsopt.surrogate.trained import scaled_by

_TOGETHER = 4096  # placed checkpoints whose far-out values are looked for together


def place_on_map(surrogate: Surrogate, batches: Iterable[TrainingSet]) -> Surrogate:
    """Place checkpoints on a map; what it predicts stays as it is.

    Args:
        surrogate: the fitted map. What was placed on it before is taken away.
        batches: checkpoints that it was not learned from, in any number of parts; each is let go of before the next is
            asked for. Their metrics are those of the map, in its order.

    Returns:
        The map, its memory longer; itself if there is nothing to place.
    """
    learned = surrogate.memory.learned_only
    keys: list[str] = []
    weights: list[str] = []
    columns: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for part in batches:
        keys += part.keys
        weights += map(weights_digest, part.fingerprints) if surrogate.trees is not None else ()
        scaled = torch.from_numpy(scaled_by(surrogate.transforms, part)).to(learned.metrics)
        latents = surrogate.encode(part.fingerprints, part.embeddings, part.hyperparameters)
        columns.append((latents, scaled, torch.from_numpy(part.runs), torch.from_numpy(part.lineages)))
    if not keys:
        return replace(surrogate, memory=learned)
    latents, metrics, runs, lineages = (torch.cat(some) for some in zip(*columns, strict=True))
    far_out = torch.cat([
        _pulled_in(surrogate, metrics[rows], latents[rows], runs[rows])
        for rows in (slice(start, start + _TOGETHER) for start in range(0, len(keys), _TOGETHER))
    ])  # fmt: skip
    known = replace(learned, learned=len(learned.keys))
    return replace(
        surrogate,
        memory=known.longer(
            keys, latents, metrics, runs, lineages, far_out, weights, learned.head_rows, learned.prediction_rows
        ),
    )


def _pulled_in(surrogate: Surrogate, metrics: torch.Tensor, latents: torch.Tensor, runs: torch.Tensor) -> torch.Tensor:
    """Set aside or pull in, in place, what lies far out beside what was learned; return which values those are."""
    learned = surrogate.memory.learned_only
    together = torch.cat([learned.metrics, metrics])
    first = len(learned.metrics)
    places, of_runs = torch.cat([learned.latents, latents]), np.concatenate([learned.runs.numpy(), runs.numpy()])
    far_out = pull_in(together, places, of_runs, surrogate.transforms, first=first)
    metrics.copy_(together[first:])
    return far_out
