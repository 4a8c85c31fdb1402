from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epsopt.surrogate.ranges import likely_bounds
from epsopt.surrogate.transforms import KNEES, fit_transform, robust_scale

share = st.floats(0, 1)


@given(st.lists(share, min_size=2, max_size=30))
def test_bounded_metrics_come_back_as_they_went(values: list[float]) -> None:
    transform = fit_transform(np.array(values), (0.0, 1.0))
    back = transform.backward(torch.from_numpy(transform.forward(np.array(values)))).numpy()
    np.testing.assert_allclose(back, values, atol=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.floats(-5, 5), st.floats(0.001, 5))
def test_the_way_back_is_monotone_and_stays_in_bounds(values: list[float], at: float, step: float) -> None:
    for bounds in (None, (-1e3, 1e3)):
        transform = fit_transform(np.array(values), bounds)
        low, high = transform.backward(torch.tensor([at, at + step], dtype=torch.float64)).tolist()
        assert low <= high
        if bounds:
            assert bounds[0] <= low <= high <= bounds[1]


def test_nan_stays_nan_and_is_not_learned_from() -> None:
    with_nan = fit_transform(np.array([0.2, np.nan, 0.6]), (0.0, 1.0))
    without = fit_transform(np.array([0.2, 0.6]), (0.0, 1.0))
    assert with_nan == without
    assert np.isnan(with_nan.forward(np.array([np.nan]))[0])


def test_a_constant_metric_has_a_finite_transform() -> None:
    transform = fit_transform(np.full(5, 3.0), None)
    assert transform.forward(np.array([3.0]))[0] == 0.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.4], (0.0, 1.0)),
        ([0.5, 1.0], (0.0, 1.0)),
        ([0.004, 0.995], (0.0, 1.0)),
        ([0.3, 0.6], None),
        ([0.004, 0.9], None),
        ([-0.1, 1.0], None),
        ([0.0, 2.0], None),
    ],
)
def test_a_share_is_recognised_by_its_ends(values: list[float], expected: tuple[float, float] | None) -> None:
    assert likely_bounds(np.array(values)) == expected


anything = st.floats(-1e300, 1e300)


@given(st.lists(anything, min_size=1, max_size=30), anything)
def test_every_number_has_a_place_on_the_scale_and_comes_back(values: list[float], at: float) -> None:
    transform = fit_transform(np.array(values), None)
    there = transform.forward(np.array([at]))
    assert np.abs(there[0]) < 15.0
    back = float(transform.backward(torch.from_numpy(there))[0])
    assert np.isfinite(back)
    if abs(at) / 1e299 < transform.scale:  # beyond 1e300 deviations nothing is distinguished
        assert back == pytest.approx(at, rel=1e-6, abs=1e-6 * transform.scale + 1e-9 * abs(transform.centre))


@given(st.lists(anything, min_size=1, max_size=30), st.floats(-1e3, 1e3), st.floats(0.0, 1e3))
def test_the_way_back_of_heavy_tails_is_monotone_finite_and_differentiable(
    values: list[float], at: float, step: float
) -> None:
    transform = fit_transform(np.array(values), None)
    points = torch.tensor([at, at + step], dtype=torch.float64, requires_grad=True)
    back = transform.backward(points)
    assert torch.isfinite(back).all()
    assert back[0] <= back[1]
    (slope,) = torch.autograd.grad(back.sum(), points)
    assert not slope.isnan().any()


@given(
    st.lists(st.sampled_from([0.3, np.nan, np.inf, -np.inf, 1e8, -1e8, 1e300, 0.0, 5e-324]), min_size=1, max_size=8),
    st.sampled_from([None, (0.0, 1.0), (0.0, np.inf), (-np.inf, 1.0)]),
)
def test_no_list_of_values_gives_a_scale_that_is_not_a_number(values: list[float], bounds) -> None:
    transform = fit_transform(np.array(values), bounds)
    assert np.isfinite([transform.centre, transform.scale]).all()
    assert transform.scale > 0.0
    there = transform.forward(np.array(values))
    np.testing.assert_array_equal(np.isfinite(there), np.isfinite(values))
    back = transform.backward(torch.from_numpy(there)).numpy()
    if bounds:
        assert ((back[np.isfinite(back)] >= bounds[0]) & (back[np.isfinite(back)] <= bounds[1])).all()


@pytest.mark.parametrize("diverged", [1e2, 1e8, 1e300, -1e10])
def test_a_few_diverged_values_hardly_change_the_scale_of_all_others(diverged: float) -> None:
    ordinary = np.random.default_rng(0).normal(0.3, 0.02, size=95)
    clean = fit_transform(ordinary, None)
    dirty = fit_transform(np.append(ordinary, np.full(5, diverged)), None)
    assert abs(dirty.centre - clean.centre) < 0.3 * clean.scale
    assert 1.0 < dirty.scale / clean.scale < 1.5
    assert fit_transform(np.append(ordinary, diverged), None).scale < 1.15 * clean.scale


def test_values_without_tails_are_standardised_by_mean_and_standard_deviation() -> None:
    values = np.random.default_rng(0).uniform(5.0, 9.0, size=200)
    transform = fit_transform(values, None)
    assert (transform.centre, transform.scale) == pytest.approx((values.mean(), values.std()))
    assert np.abs(transform.forward(values)).max() < KNEES[0]
    np.testing.assert_allclose(transform.forward(values), (values - values.mean()) / values.std())


def test_the_scale_of_a_metric_that_is_nearly_always_the_same_is_not_that_of_its_one_outlier() -> None:
    assert robust_scale(np.append(np.full(95, 3.0), 1e8)) == (3.0, 3.0)
    assert robust_scale(np.append(np.zeros(95), np.arange(1.0, 4.0))) == (0.0, 2.0)
    assert robust_scale(np.full(9, 3.0)) == (3.0, 0.0)
    assert robust_scale(np.array([np.nan, np.inf])) == (0.0, 0.0)


@given(st.lists(anything, min_size=1, max_size=30), st.floats(-1.0, 1.0))
def test_draws_come_back_as_predictions_do_within_what_was_measured(values: list[float], share: float) -> None:
    transform = fit_transform(np.array(values), None)
    low, high = transform.reach
    assert low <= transform.forward(np.array(values)).min() <= transform.forward(np.array(values)).max() <= high
    point = torch.tensor([share * (high if share > 0 else -low)], dtype=torch.float64)
    torch.testing.assert_close(transform.backward_draws(point), transform.backward(point), rtol=1e-9, atol=0.0)


def test_the_mean_of_draws_beyond_every_measurement_is_that_of_a_straight_line() -> None:
    transform = fit_transform(np.random.default_rng(0).normal(0.3, 0.02, size=95), None)
    draws = 3.0 + 2.0 * torch.randn(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = float(transform.backward_draws(draws).mean())
    assert mean == pytest.approx(0.3 + 3.0 * 0.02, abs=0.005)
    assert float(transform.backward(draws).mean()) > 1.0, "the logarithmic tail has no such mean"


def test_draws_beyond_an_outlier_are_finite_and_differentiable() -> None:
    transform = fit_transform(np.array([0.1, 0.2, 0.3, 0.25, 0.15, 1e300]), None)
    points = torch.tensor([-1e3, -5.0, 0.0, 5.0, 13.0, 20.0, 1e3], dtype=torch.float64, requires_grad=True)
    back = transform.backward_draws(points)
    assert torch.isfinite(back).all()
    assert (back.diff() >= 0.0).all()
    (slope,) = torch.autograd.grad(back.sum(), points)
    assert not slope.isnan().any()
