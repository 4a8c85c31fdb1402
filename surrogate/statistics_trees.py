"""Gradient-boosted trees on statistics of the weights: what they predict is part of what z says of a checkpoint.

On many families of models such trees (Unterthiner et al. 2020, arXiv:2002.11448) see what no smooth function of the
views does. Their predictions are coordinates of z beside the encoder's, and the metrics' Gaussian processes take them
as far as they were right on runs that both had not seen (stacked generalisation: Wolpert 1992, Breiman 1996). What
they say of a checkpoint that they learn from is therefore always said by trees that have not seen its run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.baselines import UNTERTHINER, boosted, feature_table
from epsopt.surrogate.dataset import TrainingSet, run_folds
from epsopt.surrogate.side_by_side import in_order
from epsopt.zoo.fingerprints.fingerprint import Fingerprint

INNER_FOLDS = 4
"""Of whole runs, for what trees say of checkpoints that they learn from."""
FEWEST_ROWS = 10
"""Measured checkpoints that trees are grown from; with fewer they say nothing."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StatisticsTrees:
    """Trees of all metrics.

    Attributes:
        names: tensors whose statistics are looked at; those that a checkpoint lacks count as missing.
        models: per metric LightGBM's own text of the trees; ``None``: too few measurements, 0 is predicted.
    """

    names: tuple[str, ...]
    models: tuple[str | None, ...]

    @cached_property
    def _boosters(self) -> list[Any]:
        import lightgbm

        return [None if text is None else lightgbm.Booster(model_str=text) for text in self.models]

    def __call__(self, fingerprints: Sequence[Fingerprint]) -> Floats:
        """Predict ``n`` checkpoints: ``(n, m)`` on the model's scale."""
        out = np.zeros((len(fingerprints), len(self.models)))
        if not len(fingerprints):
            return out
        table = feature_table(fingerprints, self.names, UNTERTHINER)
        for j, booster in enumerate(self._boosters):
            if booster is not None:
                out[:, j] = booster.predict(table, num_threads=1)
        return out


def grow_trees(fingerprints: Sequence[Fingerprint], targets: Floats, seed: int) -> StatisticsTrees:
    """Grow trees.

    Args:
        fingerprints: ``n`` checkpoints.
        targets: ``(n, m)`` on the model's scale; NaN where not measured.
        seed: of the boosting.
    """
    names = tuple(sorted({name for f in fingerprints for name in f.names}))
    table = feature_table(fingerprints, names, UNTERTHINER)
    models: list[str | None] = []
    for column in targets.T:
        known = np.isfinite(column)
        few = known.sum() < FEWEST_ROWS
        models.append(None if few else boosted(table[known], column[known], seed).model_to_string())
    return StatisticsTrees(names, tuple(models))


def unseen_predictions(train: TrainingSet, targets: Floats, seed: int) -> Floats:
    """Predict every checkpoint of a training set by trees that have not seen its run: ``(n, m)``.

    Args:
        train: ``n`` checkpoints.
        targets: ``(n, m)`` on the model's scale; NaN where not measured.
        seed: of folds and boosting.
    """
    out = np.zeros(targets.shape)
    for rows in run_folds(train.runs, INNER_FOLDS, seed):
        others = np.setdiff1d(np.arange(len(train)), rows)
        if len(others):
            trees = grow_trees([train.fingerprints[i] for i in others.tolist()], targets[others], seed)
            out[rows] = trees([train.fingerprints[i] for i in rows.tolist()])
    return out


def grow_all(parts: Sequence[tuple[TrainingSet, Floats]], seed: int) -> list[tuple[StatisticsTrees, Floats]]:
    """Grow trees on several training sets and give what they say of their own checkpoints' runs unseen.

    Args:
        parts: training sets, and their ``(n, m)`` targets on the model's scale.
        seed: of folds and boosting.

    Returns:
        For each the trees, and :func:`unseen_predictions`.
    """
    return in_order(_grown, [(*part, seed) for part in parts], threads=True)


def _grown(train: TrainingSet, targets: Floats, seed: int) -> tuple[StatisticsTrees, Floats]:
    return grow_trees(train.fingerprints, targets, seed), unseen_predictions(train, targets, seed)


def weights_digest(fingerprint: Fingerprint) -> str:
    """Identify a checkpoint by its weights as far as its fingerprint tells them: 16 hexadecimal digits."""
    return hashlib.sha256(fingerprint.signature.encode() + fingerprint.sketch.tobytes()).hexdigest()[:16]
