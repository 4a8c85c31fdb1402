from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate.metric_gp import (
    Fold,
    GPHyperparameters,
    HeldOut,
    build_model,
    calibration_scores,
    conformal_factor,
    grid,
    held_out,
    run_weights,
    select_hyperparameters,
    solve,
    standardised,
    subsample_runs,
)


def fold(rng: np.random.Generator, noise: float, k: int = 60, trees: float | None = None) -> Fold:
    """A metric of z's first coordinate; `trees`: how far off they are that predict it, ``None``: they say nothing."""
    z = rng.normal(size=(120, 3))
    y = np.sin(z[:, :1]) + noise * rng.normal(size=(120, 1))
    said = np.zeros_like(y) if trees is None else y + trees * rng.normal(size=y.shape)
    z = np.concatenate([z, said], axis=1)
    return Fold(z[:k], y[:k], z[k:], y[k:], np.arange(120 - k) // 6, np.ones((1, 3)))


@pytest.mark.parametrize("place", [13, 40, 100, len(grid()) - 2])
def test_held_out_predictions_are_those_of_the_model_that_is_built(place: int) -> None:
    part = fold(np.random.default_rng(0), 0.1, trees=0.5)
    found = held_out(part, 0)
    model = build_model(
        torch.from_numpy(part.z_train),
        torch.from_numpy(part.y_train),
        [grid()[place]],
        torch.from_numpy(part.inverse_lengths),
    )
    posterior = model.posterior(torch.from_numpy(part.z_held), observation_noise=True)
    np.testing.assert_allclose(found.mean[place], posterior.mean[:, 0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(
        found.unit_variance[place], posterior.variance[:, 0].detach().numpy(), rtol=1e-3, atol=1e-5
    )
    alone = solve(model.models[0]).posterior_moments(torch.from_numpy(part.z_held))
    np.testing.assert_allclose(found.mean[place], alone[0].numpy(), atol=1e-5)


def test_trees_are_followed_as_far_as_they_were_right_on_runs_that_they_had_not_seen() -> None:
    rng = np.random.default_rng

    def share(noise: float, trees: float | None) -> float:
        return select_hyperparameters([held_out(fold(rng(s), noise, trees=trees), 0) for s in range(3)])[1].trees

    assert share(1.0, 0.05) >= 0.8, "what z does not tell, they do"
    assert share(0.01, 3.0) == 0.0, "what z tells better"


@pytest.mark.parametrize(("better", "taken"), [(0.05, "trees"), (0.4, "other")])
def test_another_setting_answers_only_if_runs_agree_that_it_is_better_than_trees(better: float, taken: str) -> None:
    rng = np.random.default_rng(0)
    runs, trees, other = np.repeat(np.arange(16), 3), grid().index(GPHyperparameters(0.15, 0.01, 1.0, 1.0)), 40
    residual = np.full((len(grid()), len(runs)), 5.0)
    residual[trees] = 1.0
    # Better on average, by as much for some runs as worse for others, or nearly so.
    residual[other] = 1.0 - better + np.repeat(rng.permutation(np.tile([-0.5, 0.5], 8)), 3)
    unit = np.ones_like(residual)
    found = HeldOut(np.zeros_like(unit), unit, residual, np.full(len(runs), 1.0 / 3.0), runs)
    assert select_hyperparameters([found])[0] == {"trees": trees, "other": other}[taken]


def test_where_nothing_tells_of_a_metric_its_median_answers() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(5):
        part = fold(np.random.default_rng(seed), 0.1, trees=0.1)
        parts.append(replace(part, y_train=rng.normal(size=(60, 1)), y_held=rng.normal(size=(60, 1))))
    found = [held_out(part, 0) for part in parts]
    place, _ = select_hyperparameters(found)
    assert np.abs(np.concatenate([h.mean[place] for h in found])).mean() < 0.3


def test_noisier_metrics_get_a_noisier_head() -> None:
    quiet = select_hyperparameters([held_out(fold(np.random.default_rng(s), 0.01), 0) for s in range(3)])[1]
    loud = select_hyperparameters([held_out(fold(np.random.default_rng(s), 1.0), 0) for s in range(3)])[1]
    assert loud.noise * loud.variance > 5 * quiet.noise * quiet.variance


def test_a_metric_that_was_never_measured_still_has_settings() -> None:
    part = fold(np.random.default_rng(0), 0.1)
    empty = Fold(
        part.z_train, part.y_train, part.z_held, np.full_like(part.y_held, np.nan), part.runs_held, part.inverse_lengths
    )
    assert select_hyperparameters([held_out(empty, 0)])[1].variance > 0


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_conformal_intervals_cover_new_runs_even_when_rows_of_a_run_agree(level: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        runs = np.abs(rng.standard_t(4, size=41))  # one residual per run, shared by all of its rows
        sizes = rng.integers(1, 20, size=41)
        factor = conformal_factor(np.repeat(runs[:40], sizes[:40]), np.repeat(1 / sizes[:40], sizes[:40]), level)
        covered.append(runs[40] <= factor)
    assert np.mean(covered) >= level - 0.05


def test_a_higher_level_never_narrows_the_interval() -> None:
    scores, weights = np.random.default_rng(1).exponential(size=50), np.ones(50)
    factors = [conformal_factor(scores, weights, level) for level in (0.1, 0.5, 0.9, 0.99)]
    assert factors == sorted(factors)


def test_a_large_zoo_is_thinned_run_by_run() -> None:
    runs = np.repeat(np.arange(10), 100)
    kept = subsample_runs(runs, 200)
    assert len(kept) == 200
    assert np.bincount(runs[kept]).min() >= 19


def interval(measured: np.ndarray, residuals: np.ndarray, per_run: int, level: float = 0.9) -> float:
    """Half the width of an interval whose residuals have unit deviation, through the folds as a fit sees them."""
    runs = np.repeat(np.arange(len(residuals)), per_run)
    y = np.where(measured, np.repeat(residuals, per_run), np.nan)[:, None]
    part = Fold(np.zeros((1, 2)), np.zeros((1, 1)), np.zeros((len(runs), 2)), y, runs, np.ones((1, 1)))
    held = held_out(part, 0)
    settings = GPHyperparameters(1.0, 0.0, 1.0)
    scores, weights = standardised([replace(held, unit_variance=np.ones_like(held.unit_variance))], 0, settings)
    return conformal_factor(scores, weights, level)


def test_a_metric_measured_at_the_end_of_a_run_weighs_as_much_as_one_measured_at_every_checkpoint() -> None:
    rng, per_run, runs = np.random.default_rng(0), 20, 40
    ends = np.arange(runs * per_run) % per_run == per_run - 1
    inside, widths, independent = [], [], []
    for _ in range(125):
        residuals = rng.normal(size=runs)
        half = interval(ends, residuals, per_run)
        assert half == interval(np.ones_like(ends), residuals, per_run), "rows of a run that agree are one residual"
        inside.append(math.erf(half / math.sqrt(2.0)))  # probability that a new run's residual lies in the interval
        widths.append(half)
        independent.append(np.sort(np.abs(residuals))[math.ceil(0.9 * (runs + 1)) - 1])
    assert widths == pytest.approx(independent), "split conformal prediction with 40 independent residuals"
    assert 0.87 < np.mean(inside) < 0.93


def test_intervals_of_a_setting_that_was_chosen_among_many_cover_new_runs() -> None:
    """Forty runs in five folds, of which no setting knows anything: the best of many fits them by chance alone."""
    rng, settings, runs = np.random.default_rng(0), len(grid()), 40
    covered, careless = [], []
    for _ in range(200):
        residuals = rng.normal(size=(settings, runs))
        parts = [
            HeldOut(
                np.zeros((settings, 8)),
                np.ones((settings, 8)),
                residuals[:, 8 * k : 8 * k + 8],
                np.ones(8),
                np.arange(8 * k, 8 * k + 8),
            )
            for k in range(5)
        ]
        place, chosen = select_hyperparameters(parts)
        for found, scored in ((covered, calibration_scores(parts)), (careless, standardised(parts, place, chosen))):
            half = conformal_factor(*scored, 0.9) * math.sqrt(chosen.variance)
            found.append(math.erf(half / math.sqrt(2.0)))
    assert 0.87 < np.mean(covered) < 0.94
    assert np.mean(careless) < 0.86


def test_a_metric_that_one_fold_alone_measured_is_scored_by_the_settings_that_it_chooses() -> None:
    part = held_out(fold(np.random.default_rng(0), 0.1), 0)
    blank = replace(part, residual=np.full_like(part.residual, np.nan), weight=np.zeros_like(part.weight))
    place, chosen = select_hyperparameters([part, blank])
    scores, weights = calibration_scores([part, blank])
    np.testing.assert_array_equal(scores, standardised([part], place, chosen)[0])
    assert weights.sum() == part.weight.sum()


def test_every_run_with_a_measurement_counts_once() -> None:
    runs = np.array([5, 5, 5, 2, 2, 9])
    measured = np.array([True, False, True, False, False, True])
    np.testing.assert_array_equal(run_weights(runs, measured), [0.5, 0.0, 0.5, 0.0, 0.0, 1.0])


def test_the_quantile_is_not_one_residual_further_for_rounding() -> None:
    for n in range(9, 200):
        assert conformal_factor(np.arange(1.0, n + 1), np.ones(n), 0.9) == math.ceil(round(0.9 * (n + 1), 9))
