"""What a surrogate learns from: fingerprints, the metrics measured on them, and which run each came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.hyperparameter_table import Hyperparameters, hyperparameters_digest
from epsopt.zoo.errors import UsageError
from epsopt.zoo.fingerprints.fingerprint import Fingerprint


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Checkpoints as arrays.

    Attributes:
        keys: one stable identity per checkpoint (its sha256), ``n`` of them.
        fingerprints: ``n`` fingerprints; architectures may be mixed.
        runs: ``(n,)`` int64, which run each checkpoint belongs to. Validation always holds out whole runs.
        lineages: ``(n,)`` int64, which lineage (weights comparable one by one) each belongs to.
        metric_names: ``m`` names, in the order of the columns of ``metrics``.
        metrics: ``(n, m)`` float64; NaN where a metric was not measured.
        embeddings: ``(n, anchors, dim)`` float32 with NaN rows where there is none, or ``None``.
        diverged: ``(n,)`` bool, checkpoints that views and z are not learned from (:mod:`epsopt.surrogate.outliers`);
            ``None``: there is none.
        hyperparameters: ``n`` dictionaries with the epoch in each
            (:func:`epsopt.surrogate.hyperparameter_table.with_epoch`), ``None`` for a checkpoint of which they are not
            known; ``None``: of none.
    """

    keys: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...]
    runs: NDArray[np.int64]
    lineages: NDArray[np.int64]
    metric_names: tuple[str, ...]
    metrics: NDArray[np.float64]
    embeddings: NDArray[np.float32] | None = None
    diverged: NDArray[np.bool_] | None = None
    hyperparameters: tuple[Hyperparameters | None, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.fingerprints)
        lengths = {
            "keys": len(self.keys),
            "runs": len(self.runs),
            "lineages": len(self.lineages),
            "metrics": len(self.metrics),
            "embeddings": n if self.embeddings is None else len(self.embeddings),
            "diverged": n if self.diverged is None else len(self.diverged),
            "hyperparameters": n if self.hyperparameters is None else len(self.hyperparameters),
        }
        for name, length in lengths.items():
            if length != n:
                raise UsageError(f"{name} has {length} rows, expected one for each of the {n} fingerprints")
        if self.metrics.shape != (n, len(self.metric_names)):
            raise UsageError(
                f"metrics has shape {self.metrics.shape}, expected ({n}, {len(self.metric_names)}): "
                "one column per metric name"
            )

    def __len__(self) -> int:
        return len(self.fingerprints)

    @property
    def n_runs(self) -> int:
        """Number of different runs."""
        return len(np.unique(self.runs))

    @property
    def digest(self) -> str:
        """What identifies this training set: the same checkpoints with the same values have the same digest."""
        content = hashlib.sha256(json.dumps([self.keys, self.metric_names]).encode())
        # Which rows share a run matters, not the number that a database gave the run.
        groups = [np.unique(ids, return_inverse=True)[1] for ids in (self.runs, self.lineages)]
        for array in (*groups, self.metrics, self.embeddings):
            content.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        # A fingerprint that follows more of the same weights or follows them otherwise, or keeps less, is another one.
        kinds = {(f.names, f.shapes, f.format): f for f in self.fingerprints}.values()
        content.update("".join(sorted(f.signature for f in kinds if f.is_followed)).encode())
        content.update("".join(sorted(f"wired {f.signature}" for f in kinds if f.is_wired)).encode())
        content.update("".join(sorted(f"bounded {f.signature}" for f in kinds if f.kept.is_bounded)).encode())
        content.update(hyperparameters_digest(self.hyperparameters or ()))
        return content.hexdigest()[:16]

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> TrainingSet:
        """Return the given rows as a training set of their own.

        Args:
            rows: ``(k,)`` indices of checkpoints; the order is kept, one may come more than once.
        """
        index = np.asarray(rows, dtype=np.int64)
        return TrainingSet(
            keys=tuple(self.keys[i] for i in index),
            fingerprints=tuple(self.fingerprints[i] for i in index),
            runs=self.runs[index],
            lineages=self.lineages[index],
            metric_names=self.metric_names,
            metrics=self.metrics[index],
            embeddings=None if self.embeddings is None else self.embeddings[index],
            diverged=None if self.diverged is None else self.diverged[index],
            hyperparameters=None if self.hyperparameters is None else tuple(self.hyperparameters[i] for i in index),
        )

    @property
    def usual(self) -> NDArray[np.int64]:
        """Rows of the checkpoints that have not diverged; all rows if every checkpoint has."""
        rows = np.arange(len(self)) if self.diverged is None else np.flatnonzero(~self.diverged)
        return rows if len(rows) else np.arange(len(self))


def shared_weights(train: TrainingSet) -> NDArray[np.int64]:
    """Tell which checkpoints hold the same weights, whatever else their files say.

    Every run of a sweep may save the untrained network with its own configuration: other bytes, the same weights.

    Returns:
        ``(n,)`` for each checkpoint the first row that has its weights: its own, if no other has them.
    """
    first: dict[tuple[str, bytes], int] = {}
    return np.array(
        [first.setdefault((f.signature, f.sketch.tobytes()), i) for i, f in enumerate(train.fingerprints)],
        dtype=np.int64,
    )


def run_folds(runs: NDArray[np.int64], folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Split checkpoints into folds, whole runs together.

    Args:
        runs: ``(n,)`` run of each checkpoint.
        folds: how many folds; at most as many as there are runs.
        seed: shuffles the runs.

    Returns:
        The held-out rows of each fold, ascending; every row is in exactly one fold.
    """
    names = np.random.default_rng(seed).permutation(np.unique(runs))
    parts = np.array_split(names, min(folds, len(names)))
    return [np.flatnonzero(np.isin(runs, part)) for part in parts]
