"""Where there are more measurements than one process holds, answers come from those near a point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate import TrainingConfig, fit, metric_gp
from epsopt.surrogate.metric_gp import GPHyperparameters, build_model, solve
from epsopt.surrogate.neighbour_gp import NEIGHBOURS, NeighbourGP
from epsopt.surrogate.refinement import condition_on_observations
from epsopt.surrogate.surrogate import Surrogate

FEW = 60


def processes(n: int, seed: int = 0):
    """An exact process of some measurements, and one of those near a point."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 4, generator=g, dtype=torch.float64)
    y = (torch.sin(2.0 * z[:, 0]) + 0.5 * z[:, 1])[:, None]
    model = build_model(z, y, [GPHyperparameters(1.0, 0.01, 1.3, 0.5, 0.5)], torch.tensor([[1.0, 0.7, 0.1]])).models[0]
    return solve(model), NeighbourGP.of(model, z, y[:, 0]), z, y[:, 0]


def test_with_as_many_rows_as_neighbours_it_is_the_exact_process():
    exact, near, _, _ = processes(NEIGHBOURS)
    at = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for one, other in zip(exact.posterior_moments(at), near.posterior_moments(at), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    slopes = [torch.autograd.grad(p.posterior_moments(at)[0].sum(), at)[0] for p in (exact, near)]
    torch.testing.assert_close(*slopes, atol=1e-3, rtol=1e-3)


def test_with_many_rows_it_says_nearly_what_the_exact_process_says_and_is_never_surer():
    exact, near, z, y = processes(900)
    at = z[::9] + 0.05
    (mean, variance), (expected, least) = near.posterior_moments(at), exact.posterior_moments(at)
    assert float((mean - expected).abs().mean()) < 0.02 * float(y.std())
    assert bool((variance >= least - 1e-5).all())
    missing = near.of(metric_process(z, y), z, torch.where(torch.arange(900) % 2 == 0, y, torch.nan))
    assert len(missing.rows) == 450


def test_measurements_may_lie_far_out_and_close_together():
    g = torch.Generator().manual_seed(3)
    z = 100.0 + 0.01 * torch.randn(200, 4, generator=g, dtype=torch.float64)
    y = z.sum(dim=1) - 400.0
    model = build_model(z, y[:, None], [GPHyperparameters(0.5, 1e-3, 1.0)], torch.ones(1, 4)).models[0]
    mean, variance = NeighbourGP.of(model, z, y).posterior_moments(z)
    assert torch.isfinite(mean).all()
    assert torch.isfinite(variance).all()
    assert float((mean - y).abs().max()) < 0.05


def metric_process(z, y):
    settings = [GPHyperparameters(1.0, 0.01, 1.0)]
    return build_model(z[:5], y[:5, None], settings, torch.ones(1, 4)).models[0]


@pytest.fixture(scope="module")
def thinned(zoo):
    """A map of a zoo that is larger than what one process holds, and the same zoo in one process."""
    with pytest.MonkeyPatch.context() as few:
        few.setattr(metric_gp, "MAX_ROWS", FEW)
        surrogate, validation = fit(zoo[0], folds=3, recipe=TrainingConfig(steps=150))
    whole, of_whole = fit(zoo[0], folds=3, recipe=TrainingConfig(steps=150))
    return surrogate, validation, whole, of_whole


def test_measurements_that_one_process_has_no_room_for_are_honoured(zoo, thinned):
    surrogate, _, whole, _ = thinned
    train = zoo[0]
    assert len(surrogate.memory.head_rows) <= FEW < len(train)
    left = np.setdiff1d(np.arange(len(train)), surrogate.memory.head_rows.numpy())

    def off(model):
        found = model.predict(model.memory.latents[left]).point
        return np.nanmean(np.abs(found - train.metrics[left]), axis=0)

    of_few = replace(surrogate, memory=replace(surrogate.memory, prediction_rows=None))
    assert (off(surrogate) < off(of_few)).all()
    assert off(surrogate).sum() < 0.5 * off(of_few).sum()
    assert (off(surrogate) < 2.0 * off(whole) + 1e-3).all()


def test_its_intervals_are_calibrated_on_answers_of_all_rows(thinned):
    _, validation, _, of_whole = thinned
    for one, other in zip(validation.metrics, of_whole.metrics, strict=True):
        assert one.coverage > 0.8
        assert one.error < 1.3 * other.error
        assert one.width < 1.5 * other.width


def test_such_a_map_is_kept_and_learns_of_new_measurements(zoo, thinned):
    surrogate = thinned[0]
    again = Surrogate.from_bytes(*surrogate.to_bytes())
    some = surrogate.memory.latents[:5].double()
    torch.testing.assert_close(again.posterior_moments(some)[0], surrogate.posterior_moments(some)[0])
    assert torch.equal(again.memory.prediction_rows, surrogate.memory.prediction_rows)
    train = zoo[0]
    other = replace(train, keys=tuple(f"again {key}" for key in train.keys), metrics=train.metrics.copy())
    few = other.take(np.array([3]))
    few.metrics[:] = np.nanmin(train.metrics, axis=0)
    with pytest.MonkeyPatch.context() as held:
        held.setattr(metric_gp, "MAX_ROWS", FEW)
        longer = condition_on_observations(surrogate, few)
    assert len(longer.memory.prediction_rows) == len(train) + 1
    before, after = (m.predict(longer.memory.latents[-1:]).point[0] for m in (surrogate, longer))
    lower = before > few.metrics[0] + 1e-3
    assert lower.any()
    assert (after[lower] < before[lower]).all()


def test_a_map_of_an_earlier_version_answers_as_it_did(thinned):
    surrogate = thinned[0]
    old = replace(surrogate, memory=replace(surrogate.memory, prediction_rows=None))
    again = Surrogate.from_bytes(*old.to_bytes())
    z = surrogate.memory.latents[:4].double() + 0.1
    torch.testing.assert_close(again.posterior_moments(z)[0], old.posterior_moments(z)[0])
    exact = solve(again.model.models[0]).posterior_moments(z)[0]
    torch.testing.assert_close(again.posterior_moments(z)[0][:, 0], exact)
