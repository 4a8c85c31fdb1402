from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from epsopt.surrogate import Surrogate, TrainingConfig, TrainingSet, fit
from epsopt.surrogate.hyperparameter_table import with_epoch
from epsopt.surrogate.view_process import MOST_ROWS, Lengths, condition, learn_lengths
from epsopt.zoo.fingerprints.fingerprint import fingerprint

SLICES = (slice(0, 2), slice(2, 4), slice(4, 5))


def inputs(runs: int = 20, each: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(runs, 1, 5)) / np.sqrt([2, 2, 2, 2, 1])
    x = (centres + 0.2 * rng.normal(size=(runs, each, 5))).reshape(-1, 5)
    return x, np.repeat(np.arange(runs), each)


def test_it_says_what_a_process_of_these_lengths_says() -> None:
    x, runs = inputs()
    x = x.astype(np.float32).astype(np.float64)
    y = np.stack([np.sin(x[:, 0]) + 3.0, x[:, 4]], axis=1)
    y[::7, 1] = np.nan
    lengths = Lengths(np.array([[1.0, 1.0, 0.0, 0.0, 0.5], [0.2, 0.2, 0.3, 0.3, 1.0]]), np.array([0.01, 0.1]))
    said, new = condition(x, y, runs, lengths, 10), inputs(seed=1)[0]
    for j in range(2):
        known, used = np.isfinite(y[:, j]), lengths.inverse[j] > 0
        kernel = Matern(1.0 / lengths.inverse[j][used], nu=2.5)
        other = GaussianProcessRegressor(kernel, alpha=lengths.noise[j], optimizer=None)
        other.fit(x[known][:, used], y[known, j] - y[known, j].mean())
        np.testing.assert_allclose(said(new)[:, j], other.predict(new[:, used]) + y[known, j].mean(), atol=1e-8)


def test_it_learns_what_tells_about_each_metric_and_predicts_new_runs() -> None:
    (x, runs), (new, _) = inputs(), inputs(seed=1)
    metrics = [lambda v: np.sin(2.0 * v[:, 0]) + v[:, 4] ** 2, lambda v: v[:, 2] - v[:, 3] ** 2]
    y, wanted = (np.stack([of(v) for of in metrics], axis=1) for v in (x, new))
    lengths = learn_lengths(x, SLICES, y, runs, 0)
    first, second = lengths.inverse[0, [0, 2, 4]], lengths.inverse[1, [0, 2, 4]]
    assert min(first[0], first[2]) > 2.0 * first[1]
    assert second[1] > 2.0 * max(second[0], second[2])
    errors = np.abs(condition(x, y, runs, lengths, 10)(new) - wanted).mean(axis=0)
    assert (errors < 0.6 * np.abs(wanted - np.median(y, axis=0)).mean(axis=0)).all()


def test_a_metric_that_was_hardly_measured_is_not_predicted() -> None:
    x, runs = inputs()
    y = np.stack([x[:, 0], np.where(np.arange(len(x)) < 9, 5.0, np.nan)], axis=1)
    said = condition(x, y, runs, learn_lengths(x, SLICES, y, runs, 0), 10)(x[:3])
    assert (said[:, 1] == 0.0).all()
    assert (said[:, 0] != 0.0).all()
    nothing = np.full_like(y, np.nan)
    assert (condition(x, nothing, runs, learn_lengths(x, SLICES, nothing, runs, 0), 10)(x[:3]) == 0.0).all()


def test_of_many_measurements_it_holds_some_of_every_run() -> None:
    x, runs = inputs(60, 12)
    assert len(x) > MOST_ROWS
    y = x[:, :1]
    said = condition(x, y, runs, Lengths(np.ones((1, 5)), np.array([1e-3])), 10)
    assert said.rows.shape == (MOST_ROWS, 5)
    held = {tuple(row) for row in said.rows}
    assert {
        int(run) for run, row in zip(runs, x.astype(np.float32).astype(float), strict=True) if tuple(row) in held
    } == set(range(60))
    assert np.abs(said(x) - y).mean() < 0.05


@pytest.mark.usefixtures("real_baseline")
def test_a_map_follows_what_a_hyperparameter_does_smoothly_to_new_runs() -> None:
    """A parabola of the learning rate's logarithm, and a slope along the size of the weights; trees see steps."""
    rng = np.random.default_rng(0)
    exponents = rng.uniform(-4.0, -1.0, 40)
    sizes = rng.uniform(0.5, 2.0, (40, 3))
    prints = [fingerprint([("a.weight", torch.from_numpy(s * rng.normal(size=(9, 9))).float())]) for s in sizes.ravel()]
    scores = ((exponents[:, None] + 2.5) ** 2 + np.log(sizes)).ravel()
    known = tuple(with_epoch({"lr": float(10.0**e)}, k) for e in exponents for k in range(3))
    every = TrainingSet(
        tuple(map(str, range(120))), tuple(prints), np.repeat(np.arange(40), 3), np.zeros(120, np.int64), ("score",),
        scores[:, None], hyperparameters=known,
    )  # fmt: skip
    train, new = every.take(range(60)), every.take(range(60, 120))
    surrogate = fit(train, recipe=TrainingConfig(steps=40, batch=32), folds=4)[0]
    trees = surrogate.trees
    assert trees.informed_shares[0] > 0.5
    data, meta = surrogate.to_bytes()
    opened = Surrogate.from_bytes(data, meta)
    said = [m.encode(new.fingerprints, hyperparameters=new.hyperparameters).numpy() for m in (surrogate, opened)]
    np.testing.assert_allclose(*said, atol=1e-5)
    own = surrogate.network.shape.latent
    target = surrogate.transforms[0].forward(new.metrics[:, 0])
    without = replace(surrogate, trees=replace(trees, process=None, informed_process=None))
    by_trees = without.encode(new.fingerprints, hyperparameters=new.hyperparameters).numpy()
    errors = [np.abs(z[:, own] - target).mean() for z in (said[0], by_trees)]
    assert errors[0] < 0.8 * errors[1]
    alone = surrogate.encode(new.fingerprints)[:, own].numpy()
    assert np.abs(alone - target).mean() > 1.5 * errors[0], "weights alone do not tell the learning rate"
    tokens = surrogate.tokenizer(new.fingerprints)
    both = trees.process_shares[0] * trees.process(tokens.double().numpy())[:, 0]
    both += (1.0 - trees.process_shares[0]) * trees(new.fingerprints)[:, 0]
    np.testing.assert_allclose(alone, both, atol=1e-5)
