from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epsopt.surrogate.transforms import fit_transform, likely_bounds

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
