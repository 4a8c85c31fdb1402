"""Probabilities of several metrics at once: exact where the truth is known, and independent where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from epsopt.surrogate.copula import log_probability_of_all, residual_correlation


def correlated(n: int, correlation: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(np.zeros(len(correlation)), correlation, n)


@pytest.mark.parametrize("r", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_two_metrics_hold_at_once_as_often_as_a_bivariate_normal_does(r):
    matrix = np.array([[1.0, r], [r, 1.0]])
    limits = torch.tensor([[0.0, 0.0], [-1.5, 0.7], [2.0, -2.0], [3.0, 3.0]], dtype=torch.float64)
    found = log_probability_of_all(limits, torch.from_numpy(matrix)).exp().numpy()
    truth = [multivariate_normal(np.zeros(2), matrix).cdf(row) for row in limits.numpy()]
    np.testing.assert_allclose(found, truth, atol=1e-6)


def test_three_and_four_metrics_come_near_the_truth():
    for k in (3, 4):
        matrix = np.full((k, k), 0.6) + 0.4 * np.eye(k)
        limits = torch.from_numpy(np.random.default_rng(k).normal(size=(20, k)))
        found = log_probability_of_all(limits, torch.from_numpy(matrix)).exp().numpy()
        truth = [multivariate_normal(np.zeros(k), matrix).cdf(row) for row in limits.numpy()]
        np.testing.assert_allclose(found, truth, atol=0.02)


def test_far_limits_stay_finite_between_the_bounds_of_any_dependence_and_gradients_too():
    matrix = torch.tensor([[1.0, -0.9], [-0.9, 1.0]], dtype=torch.float64)
    limits = torch.tensor([[-30.0, -30.0], [-30.0, 30.0], [30.0, 30.0], [-6.0, -6.0]], dtype=torch.float64)
    limits.requires_grad_()
    found = log_probability_of_all(limits, matrix)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(limits.grad).all()
    assert (found <= torch.special.log_ndtr(limits).min(dim=1).values).all()


def test_residuals_that_hang_together_are_found_and_noise_is_not():
    runs = np.repeat(np.arange(40), 5)
    together = residual_correlation(correlated(200, np.array([[1.0, 0.8], [0.8, 1.0]])), runs)
    assert together[0, 1] == pytest.approx(0.8, abs=0.12)
    apart = residual_correlation(correlated(200, np.eye(3)), runs)
    assert np.abs(apart - np.eye(3)).max() < 0.15


def test_few_runs_say_nothing_and_one_far_residual_little():
    few = residual_correlation(correlated(60, np.array([[1.0, 0.9], [0.9, 1.0]])), np.repeat(np.arange(3), 20))
    assert few[0, 1] == 0.0
    residuals = correlated(200, np.eye(2))
    residuals[0] = 1e10
    assert abs(residual_correlation(residuals, np.repeat(np.arange(40), 5))[0, 1]) < 0.2


def test_metrics_that_were_never_measured_together_are_taken_as_independent():
    residuals = correlated(100, np.full((3, 3), 0.9) + 0.1 * np.eye(3))
    residuals[:50, 0] = np.nan
    residuals[50:, 1] = np.nan
    found = residual_correlation(residuals, np.repeat(np.arange(50), 2))
    assert np.linalg.eigvalsh(found).min() > 0.0
    np.testing.assert_allclose(np.diag(found), 1.0)
    nothing = residual_correlation(np.full((10, 2), np.nan), np.arange(10))
    np.testing.assert_allclose(nothing, np.eye(2))
