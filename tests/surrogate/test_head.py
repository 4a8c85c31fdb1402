from __future__ import annotations

import numpy as np
import pytest
import torch

from epsopt.surrogate.head import Fold, HeadSettings, build_model, choose, conformal_factor, grid, held_out, thin


def fold(rng: np.random.Generator, noise: float, k: int = 60) -> Fold:
    z = rng.normal(size=(120, 3))
    y = np.sin(z[:, :1]) + noise * rng.normal(size=(120, 1))
    return Fold(z[:k], y[:k], z[k:], y[k:], np.arange(120 - k) // 6, np.ones((1, 3)))


def test_held_out_predictions_are_those_of_the_model_that_is_built() -> None:
    part = fold(np.random.default_rng(0), 0.1)
    place = 13
    length, noise = grid()[place]
    found = held_out(part, 0)
    model = build_model(
        torch.from_numpy(part.z_train),
        torch.from_numpy(part.y_train),
        [HeadSettings(length, noise, 1.0)],
        torch.from_numpy(part.inverse_lengths),
    )
    posterior = model.posterior(torch.from_numpy(part.z_held), observation_noise=True)
    np.testing.assert_allclose(found.mean[place], posterior.mean[:, 0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(
        found.unit_variance[place], posterior.variance[:, 0].detach().numpy(), rtol=1e-3, atol=1e-5
    )


def test_noisier_metrics_get_a_noisier_head() -> None:
    quiet = choose([held_out(fold(np.random.default_rng(s), 0.01), 0) for s in range(3)])[1]
    loud = choose([held_out(fold(np.random.default_rng(s), 1.0), 0) for s in range(3)])[1]
    assert loud.noise * loud.variance > 5 * quiet.noise * quiet.variance


def test_a_metric_that_was_never_measured_still_has_settings() -> None:
    part = fold(np.random.default_rng(0), 0.1)
    empty = Fold(
        part.z_train, part.y_train, part.z_held, np.full_like(part.y_held, np.nan), part.runs_held, part.inverse_lengths
    )
    assert choose([held_out(empty, 0)])[1].variance > 0


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
    kept = thin(runs, 200)
    assert len(kept) == 200
    assert np.bincount(runs[kept]).min() >= 19
