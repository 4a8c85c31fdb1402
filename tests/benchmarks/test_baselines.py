from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from baselines import (
    BASELINES,
    carry_forward,
    folds_of,
    held_out,
    hyperparameters,
    nearest_neighbours,
    statistics_tables,
)
from zoos import Zoo

from epsopt.zoo.fingerprints.fingerprint import FEATURES


def with_metrics(zoo: Zoo, metrics: np.ndarray) -> Zoo:
    return replace(zoo, train=replace(zoo.train, metrics=metrics))


def errors(zoo: Zoo, name: str) -> np.ndarray:
    guesses = held_out(zoo, BASELINES[name], folds_of(zoo))
    return np.abs(guesses - zoo.train.metrics).mean(axis=0)


def test_folds_cover_every_checkpoint_once_and_never_split_a_run(bench_zoo):
    folds = folds_of(bench_zoo)
    assert sorted(np.concatenate([out for _, out in folds])) == list(range(len(bench_zoo)))
    for inside, outside in folds:
        assert not set(bench_zoo.train.runs[inside]) & set(bench_zoo.train.runs[outside])
        assert len(inside) + len(outside) == len(bench_zoo)


@pytest.mark.parametrize("name", [n for n in BASELINES if n not in ("train median", "k nearest neighbours")])
def test_what_looks_at_something_beats_the_median(bench_zoo, name):
    assert (errors(bench_zoo, name) < errors(bench_zoo, "train median")).all()


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "previous checkpoint of the run"])
def test_no_baseline_but_carry_forward_sees_held_out_measurements(bench_zoo, name):
    inside, outside = folds_of(bench_zoo)[0]
    train, test = bench_zoo.take(inside), bench_zoo.take(outside)
    hidden = with_metrics(test, np.full_like(test.train.metrics, np.nan))
    np.testing.assert_array_equal(BASELINES[name](train, test), BASELINES[name](train, hidden))


@pytest.mark.parametrize("name", BASELINES)
def test_missing_measurements_are_left_out_and_predictions_are_finite(bench_zoo, name):
    metrics = bench_zoo.train.metrics.copy()
    metrics[::3, 0] = np.nan
    inside, outside = folds_of(bench_zoo)[1]
    zoo = with_metrics(bench_zoo, metrics)
    assert np.isfinite(BASELINES[name](zoo.take(inside), zoo.take(outside))).all()


def test_carrying_forward_takes_the_runs_newest_earlier_measurement_in_any_order_of_rows(bench_zoo):
    rows = np.flatnonzero(bench_zoo.train.runs == 3)
    rest = np.flatnonzero(bench_zoo.train.runs != 3)
    metrics = bench_zoo.train.metrics.copy()
    metrics[rows[1], 0] = np.nan  # so that epoch 3 falls back on epoch 1
    zoo = with_metrics(bench_zoo, metrics)
    shuffled = rows[::-1]
    guess = carry_forward(zoo.take(rest), zoo.take(shuffled))[::-1]
    np.testing.assert_array_equal(guess[0], np.median(metrics[rest], axis=0))
    np.testing.assert_array_equal(guess[1], metrics[rows[0]])
    np.testing.assert_array_equal(guess[2], [metrics[rows[0], 0], metrics[rows[1], 1]])
    np.testing.assert_array_equal(guess[4], metrics[rows[3]])


def test_nearest_neighbours_choose_few_where_the_nearest_tells_all(bench_zoo):
    """Every held-out checkpoint has a twin in the training part under another run; the rest would only blur it."""
    twins = bench_zoo.take(np.concatenate([np.arange(len(bench_zoo))] * 2))
    runs = np.concatenate([bench_zoo.train.runs, bench_zoo.train.runs + 100])
    twins = replace(twins, train=replace(twins.train, runs=runs))
    outside = np.flatnonzero(runs == 102)
    guess = nearest_neighbours(twins.take(np.flatnonzero(runs != 102)), twins.take(outside))
    np.testing.assert_allclose(guess, twins.train.metrics[outside])


def test_hyperparameters_take_absent_words_and_unknown_values_and_never_the_seed(bench_zoo):
    inside, outside = folds_of(bench_zoo)[0]
    train, test = bench_zoo.take(inside), bench_zoo.take(outside)
    configs = [{k: v for k, v in c.items() if k != "lr" or i % 2} for i, c in enumerate(test.hyperparameters)]
    odd = replace(test, hyperparameters=tuple({**c, "mode": "never seen", "new": 1.0} for c in configs))
    assert np.isfinite(hyperparameters(train, odd)).all()
    reseeded = replace(test, hyperparameters=tuple({**c, "seed": 10**6} for c in test.hyperparameters))
    np.testing.assert_array_equal(hyperparameters(train, reseeded), hyperparameters(train, test))


def test_tables_have_the_training_parts_columns_and_nan_for_tensors_that_a_checkpoint_lacks(bench_zoo):
    train = bench_zoo.train
    whole = train.fingerprints[0]
    part = replace(
        whole, names=whole.names[:2], shapes=whole.shapes[:2], statistics=whole.statistics[:2], maps=whole.maps[:2]
    )
    renamed = replace(whole, names=tuple("other." + n for n in whole.names))
    test = replace(train.take([0, 1, 2]), fingerprints=(whole, part, renamed))
    left, right = statistics_tables(train, test, ("VALUES",))
    assert left.shape[1] == right.shape[1] < 4 * FEATURES
    np.testing.assert_array_equal(right[0], left[0])
    assert np.isfinite(right[0]).all()
    assert 0 < np.isfinite(right[1]).sum() < right.shape[1]
    assert np.isnan(right[2]).all()
