from __future__ import annotations

import numpy as np
import pytest
import torch

from epsopt.surrogate.relevance import RunSampler, held_out_loss, learn_relevance, matern

RUNS = np.repeat(np.arange(12), 5)


def test_the_held_out_loss_is_that_of_predicting_each_run_from_all_others() -> None:
    g = torch.Generator().manual_seed(0)
    runs, each = 6, 3
    z = torch.randn(runs * each, 4, generator=g, dtype=torch.float64)
    y = torch.randn(runs * each, generator=g, dtype=torch.float64)
    covariance = matern(torch.cdist(z, z)) + 0.1 * torch.eye(len(y), dtype=torch.float64)
    total = 0.0
    for run in range(runs):
        mine = torch.arange(len(y)) // each == run
        solved = torch.linalg.solve(covariance[~mine][:, ~mine], covariance[~mine][:, mine])
        mean = solved.T @ y[~mine]
        variance = covariance[mine][:, mine].diagonal() - (covariance[~mine][:, mine] * solved).sum(dim=0)
        total += float((0.5 * (y[mine] - mean).square() / variance + 0.5 * variance.log()).sum())
    assert float(held_out_loss(covariance, y, runs)) == pytest.approx(total / len(y))


def test_jointly_a_run_is_predicted_from_all_others_and_from_its_own_past() -> None:
    g = torch.Generator().manual_seed(1)
    runs, each = 5, 4
    z = torch.randn(runs * each, 4, generator=g, dtype=torch.float64)
    y = torch.randn(runs * each, generator=g, dtype=torch.float64)
    covariance = matern(torch.cdist(z, z)) + 0.1 * torch.eye(len(y), dtype=torch.float64)
    total = 0.0
    for row in range(len(y)):
        known = torch.tensor([i // each != row // each or i < row for i in range(len(y))])
        solved = torch.linalg.solve(covariance[known][:, known], covariance[known][:, row])
        mean, variance = solved @ y[known], covariance[row, row] - covariance[known][:, row] @ solved
        total += float(0.5 * (y[row] - mean).square() / variance + 0.5 * variance.log())
    assert float(held_out_loss(covariance, y, runs, jointly=1.0)) == pytest.approx(total / len(y))
    halves = [float(held_out_loss(covariance, y, runs, share)) for share in (0.0, 0.5, 1.0)]
    assert halves[1] == pytest.approx((halves[0] + halves[2]) / 2)


def test_the_view_that_tells_weighs_more_than_one_that_only_names_the_run() -> None:
    rng = np.random.default_rng(0)
    cause = rng.normal(size=(60, 1))
    name = rng.normal(size=(12, 8))[RUNS] + 0.01 * rng.normal(size=(60, 8))  # perfect within a run, useless across
    y = np.sin(2 * cause)
    views = [torch.from_numpy(v / np.sqrt((v**2).sum(axis=1).mean())).float() for v in (cause, name)]
    found = learn_relevance(views, torch.from_numpy((y - y.mean()) / y.std()), RUNS, rng)
    assert found.weights[0, 0] > 10 * found.weights[0, 1]


def test_a_metric_measured_on_one_run_only_leaves_all_views_alike() -> None:
    y = torch.full((60, 1), torch.nan)
    y[:5, 0] = torch.arange(5.0)
    found = learn_relevance([torch.randn(60, 2), torch.randn(60, 2)], y, RUNS, np.random.default_rng(0))
    assert found.weights.tolist() == [[0.5, 0.5]]


def test_every_run_gives_as_many_rows_and_only_usable_ones() -> None:
    usable = np.ones(60, dtype=bool)
    usable[:4] = False  # run 0 keeps a single row, which is repeated
    sampler = RunSampler(RUNS, usable, 36, np.random.default_rng(0))
    rows = sampler.draw()
    assert rows.shape == (sampler.n_runs, sampler.per_run) == (12, 3)
    assert all(len(set(RUNS[r])) == 1 for r in rows)
    assert usable[rows].all()


def test_more_runs_than_rows_are_sampled_by_run() -> None:
    rows = RunSampler(np.arange(500), np.ones(500, dtype=bool), 100, np.random.default_rng(0)).draw()
    assert rows.shape == (100, 1)
