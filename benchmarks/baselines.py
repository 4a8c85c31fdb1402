"""What a surrogate has to beat: cheap predictors of a checkpoint's metrics, whole runs held out.

Each is a function (training part of a zoo, held-out part) -> (held-out checkpoints, metrics). None sees a held-out
metric but `carry_forward`, which by its nature is given the earlier measurements of the same run.
The seeds' own models, which take hours, are in seeds_vae.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from zoos import Zoo

from epsopt.surrogate import TrainingSet, run_folds
from epsopt.surrogate.baselines import UNTERTHINER, boosted, feature_table, median_baseline, statistics_baseline
from epsopt.surrogate.hyperparameter_table import HyperparameterTable, with_epoch
from epsopt.zoo.fingerprints.fingerprint import SECTIONS

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Predictor = Callable[[Zoo, Zoo], Array]

MOST_NEIGHBOURS = 40
# A number for each run, not a choice that explains anything.
_NOT_EXPLAINING = ("seed",)
_WIDE = ("SHAPE", "VALUES", "DELTA")


def folds_of(zoo: Zoo, folds: int = 5, seed: int = 0) -> list[tuple[Rows, Rows]]:
    """The (training rows, held-out rows) of each fold; whole runs together, as `epsopt fit` does it."""
    every = np.arange(len(zoo))
    return [(np.setdiff1d(every, rows), rows) for rows in run_folds(zoo.train.runs, folds, seed)]


def held_out(zoo: Zoo, predictor: Predictor, folds: Sequence[tuple[Rows, Rows]]) -> Array:
    """(n, m) predictions of every checkpoint by a predictor that has not seen its run; NaN rows in no fold."""
    out = np.full(zoo.train.metrics.shape, np.nan)
    for inside, outside in folds:
        out[outside] = predictor(zoo.take(inside), zoo.take(outside))
    return out


def median(train: Zoo, test: Zoo) -> Array:
    """Predict each metric's median over the training part."""
    return median_baseline(train.train, test.train)


def carry_forward(train: Zoo, test: Zoo) -> Array:
    """Predict what the same run's previous checkpoint in the held-out part measured; the train median for the first.

    Not measured there: the newest measurement before it.
    """
    out = median(train, test)
    order = np.lexsort((test.epochs, test.train.runs))
    for before, row in pairwise(order):
        if test.train.runs[before] == test.train.runs[row]:
            known = test.train.metrics[before]
            out[row] = np.where(np.isfinite(known), known, out[before])
    return out


def nearest_neighbours(train: Zoo, test: Zoo) -> Array:
    """Mean of the k checkpoints with the most similar per-tensor statistics, each column standardised.

    A tensor that a checkpoint lacks counts as average. For each metric k (1 to 40) is the one with the least error
    on inner folds of whole runs.
    """
    x_train, x_test = statistics_tables(train.train, test.train, ("VALUES",))
    scaler = StandardScaler().fit(x_train)
    x_train, x_test = (np.nan_to_num(scaler.transform(x)) for x in (x_train, x_test))
    out = median(train, test)
    for j in range(out.shape[1]):
        y = train.train.metrics[:, j]
        known = np.flatnonzero(np.isfinite(y))
        runs = train.train.runs[known]
        if len(np.unique(runs)) < 2:
            continue
        errors = []
        for rows in run_folds(runs, 5, seed=0):
            inside, outside = np.delete(known, rows), known[rows]
            guesses = _neighbour_means(x_train[inside], y[inside], x_train[outside])
            errors.append(np.abs(guesses - y[outside, None]))
        most = min(e.shape[1] for e in errors)
        k = int(np.concatenate([e[:, :most] for e in errors]).mean(axis=0).argmin())
        out[:, j] = _neighbour_means(x_train[known], y[known], x_test)[:, k]
    return out


def hyperparameters(train: Zoo, test: Zoo, *, seed: int = 0) -> Array:
    """Extremely randomised trees on the run's hyperparameters and the epoch: what is known without weights.

    Inactive hyperparameters are -1, which none of them takes; categories are one-hot, unknown ones all zero.
    """
    x_train, x_test = _configurations(train), _configurations(test)
    x_test = x_test.reindex(columns=x_train.columns)
    numbers = [c for c in x_train if pd.api.types.is_numeric_dtype(x_train[c])]
    words = [c for c in x_train if c not in numbers]
    x_train, x_test = (
        pd.concat([x[numbers].apply(pd.to_numeric, errors="coerce").fillna(-1.0), x[words].astype(str)], axis=1)
        for x in (x_train, x_test)
    )
    encoder = ColumnTransformer([("words", OneHotEncoder(handle_unknown="ignore"), words)], remainder="passthrough")
    out = median(train, test)
    for j in range(out.shape[1]):
        y = train.train.metrics[:, j]
        known = np.isfinite(y)
        if known.any():
            trees = ExtraTreesRegressor(300, min_samples_leaf=2, random_state=seed, n_jobs=1)
            out[:, j] = make_pipeline(encoder, trees).fit(x_train[known], y[known]).predict(x_test)
    return out


def statistics_and_hyperparameters(train: Zoo, test: Zoo, *, seed: int = 0) -> Array:
    """Seven statistics of each tensor, the run's hyperparameters and the epoch, with gradient boosting.

    The columns of hyperparameters are the product's own (:mod:`epsopt.surrogate.hyperparameter_table`).
    """
    names = sorted({name for f in train.train.fingerprints for name in f.names})
    known, of_test = (
        [with_epoch(row, int(epoch)) for row, epoch in zip(part.hyperparameters, part.epochs, strict=True)]
        for part in (train, test)
    )
    columns = HyperparameterTable.of(known, train.train.runs)
    x_train, x_test = (
        np.hstack([feature_table(part.train.fingerprints, names, UNTERTHINER), columns(rows)])
        for part, rows in ((train, known), (test, of_test))
    )
    out = median(train, test)
    for j in range(out.shape[1]):
        y = train.train.metrics[:, j]
        known = np.isfinite(y)
        if known.sum() >= 10:
            out[:, j] = boosted(x_train[known], y[known], seed, None).predict(x_test, num_threads=1)
    return out


def statistics(train: Zoo, test: Zoo) -> Array:
    """Seven statistics of each tensor and gradient boosting (Unterthiner et al. 2020, arXiv:2002.11448)."""
    return statistics_baseline(train.train, test.train)


def wide_statistics(train: Zoo, test: Zoo, *, seed: int = 0) -> Array:
    """Gradient boosting on much more of each tensor.

    Sizes, moments, eleven quantiles, row and column norms, singular values, and all of these of the tensor's
    difference from the lineage's base.
    """
    x_train, x_test = statistics_tables(train.train, test.train, _WIDE)
    out = median(train, test)
    for j in range(out.shape[1]):
        y = train.train.metrics[:, j]
        known = np.isfinite(y)
        if known.sum() < 10:
            continue
        model = lightgbm.LGBMRegressor(
            n_estimators=200,
            learning_rate=0.06,
            num_leaves=15,
            min_child_samples=5,
            colsample_bytree=0.1,  # of thousands of columns; more of them, or 255 bins, is slower and no better
            max_bin=63,
            subsample=0.8,
            subsample_freq=1,
            random_state=seed,
            n_jobs=1,
            deterministic=True,
            force_row_wise=True,
            verbose=-1,
        )
        out[:, j] = model.fit(x_train[known], y[known]).predict(x_test)
    return out


BASELINES: Mapping[str, Predictor] = {
    "train median": median,
    "previous checkpoint of the run": carry_forward,
    "k nearest neighbours": nearest_neighbours,
    "hyperparameters + epoch": hyperparameters,
    "statistics + LightGBM": statistics,
    "statistics, hyperparameters, epoch + LightGBM": statistics_and_hyperparameters,
    "wide statistics + LightGBM": wide_statistics,
}


def statistics_tables(train: TrainingSet, test: TrainingSet, sections: Sequence[str]) -> tuple[Array, Array]:
    """Fingerprint columns of every tensor that the training part has, side by side; NaN where a checkpoint lacks it.

    Args:
        train: decides which tensors there are; columns that are constant over it are left out.
        test: gets the same columns.
        sections: of :data:`epsopt.zoo.fingerprints.fingerprint.SECTIONS`.

    Returns:
        ``(len(train), columns)`` and ``(len(test), columns)``.
    """
    names = sorted({name for f in train.fingerprints for name in f.names})
    columns = np.concatenate([np.arange(SECTIONS[s].start, SECTIONS[s].stop) for s in sections])
    tables = [feature_table(part.fingerprints, names, columns) for part in (train, test)]
    varies = np.fmax.reduce(tables[0], axis=0) > np.fmin.reduce(tables[0], axis=0)  # fmax and fmin pass NaN over
    return tables[0][:, varies], tables[1][:, varies]


def _neighbour_means(x_train: Array, y_train: Array, x_test: Array) -> Array:
    """(len(x_test), k) means over the nearest 1, 2, ... neighbours."""
    most = min(MOST_NEIGHBOURS, len(x_train))
    nearest = NearestNeighbors(n_neighbors=most).fit(x_train).kneighbors(x_test, return_distance=False)
    return np.asarray(np.cumsum(y_train[nearest], axis=1) / np.arange(1, most + 1))


def _configurations(zoo: Zoo) -> pd.DataFrame:
    table = pd.DataFrame(list(zoo.hyperparameters)).drop(columns=list(_NOT_EXPLAINING), errors="ignore")
    table["epoch "] = zoo.epochs  # with a space, so that it meets no hyperparameter of the name
    return table
