"""What every fit is shown beside: predictors that need no map at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.dataset import TrainingSet
from epsopt.zoo.fingerprints.fingerprint import SECTIONS, Fingerprint

ROUNDS = 200
"""Trees of each booster."""
COLUMNS = 250
"""Columns that one tree looks at, at most: of a network with many tensors there are thousands."""

_VALUES = SECTIONS["VALUES"]
# Mean, standard deviation and the quantiles 0, .25, .5, .75 and 1: what Unterthiner et al. take of each tensor.
UNTERTHINER = [_VALUES.start + i for i in (0, 1, 6, 10, 11, 12, 16)]


def median_baseline(train: TrainingSet, test: TrainingSet) -> NDArray[np.float64]:
    """Predict the median of the training set for everything; returns ``(len(test), metrics)``."""
    medians = [_median(column) for column in train.metrics.T]
    return np.tile(np.array(medians), (len(test), 1))


def statistics_baseline(train: TrainingSet, test: TrainingSet, *, seed: int = 0) -> NDArray[np.float64]:
    """Per-tensor statistics of the weights and gradient boosting (Unterthiner et al. 2020, arXiv:2002.11448).

    Args:
        train: what to learn from.
        test: what to predict.
        seed: of the boosting.

    Returns:
        ``(len(test), metrics)``; a metric measured on fewer than ten training checkpoints gets its median.
    """
    names = sorted({name for f in train.fingerprints for name in f.kept.names})
    x_train, x_test = (feature_table(part.fingerprints, names, UNTERTHINER) for part in (train, test))
    out = median_baseline(train, test)
    for j in range(len(train.metric_names)):
        known = np.isfinite(train.metrics[:, j])
        if known.sum() < 10 or len(test) == 0:
            continue
        model = boosted(x_train[known], train.metrics[known, j], seed)
        out[:, j] = model.predict(x_test, num_threads=1)
    return out


def boosted(x: NDArray[np.float64], y: NDArray[np.float64], seed: int, most: int | None = COLUMNS) -> Any:
    """Boost regression trees on a small table.

    Args:
        x: ``(n, columns)``; NaN where missing.
        y: ``(n,)``.
        seed: of the sampling of rows and columns.
        most: columns that one tree looks at, at most; of a table with more than twice as many, values are cut into
            fewer bins, too. None: every tree looks at half of the columns.

    Returns:
        A LightGBM booster; the same seed gives the same trees.
    """
    import lightgbm  # takes a second to import, and only a fit needs it

    parameters = {
        "objective": "regression",
        "learning_rate": 0.06,
        "num_leaves": 15,
        "min_data_in_leaf": 5,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "seed": seed,
        "verbose": -1,
        "num_threads": 1,  # small tables: a second thread only waits
        "deterministic": True,
        "force_row_wise": True,
    }
    if most is not None and x.shape[1] > 2 * most:
        parameters |= {"feature_fraction": most / x.shape[1], "max_bin": 63}
    return lightgbm.train(parameters, lightgbm.Dataset(x, y), num_boost_round=ROUNDS)


def feature_table(
    fingerprints: Sequence[Fingerprint], names: Sequence[str], columns: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Lay feature columns of named rows of fingerprints side by side, one row a checkpoint.

    Args:
        fingerprints: ``n`` checkpoints.
        names: of rows (:attr:`epsopt.zoo.fingerprints.kept_rows.KeptRows.names`); others are left out.
        columns: which of a row's features.

    Returns:
        ``(n, len(names) * len(columns))``; NaN, which LightGBM takes as missing, for tensors that a checkpoint lacks.
    """
    place = {name: i for i, name in enumerate(names)}
    table = np.full((len(fingerprints), len(names), len(columns)), np.nan)
    statistics_alone = max(columns) < SECTIONS["PRODUCT"].start
    for i, fingerprint in enumerate(fingerprints):
        features = fingerprint.statistics if statistics_alone else fingerprint.features
        for row, name in enumerate(fingerprint.kept.names):
            if name in place:
                table[i, place[name]] = features[row, columns]
    return table.reshape(len(fingerprints), -1)


def _median(column: NDArray[np.float64]) -> float:
    finite = column[np.isfinite(column)]
    return float(np.median(finite)) if len(finite) else 0.0
