"""Axes of metrics that crowd at a bound: drawn by the distance from it, named in the metric's unit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsopt.figures.axis_scale import AxisScale, choose_scale

CROWDED = [0.1, 0.5, 0.9, 0.99, 0.995, 0.998, 0.999, 0.9995]


def test_an_accuracy_whose_front_crowds_at_one_is_drawn_by_its_distance_from_one():
    scale = choose_scale("accuracy", True, CROWDED, CROWDED[3:])
    assert scale.bound == 1.0
    np.testing.assert_allclose(scale([0.9, 0.99, 0.999]), [1.0, 2.0, 3.0])
    assert scale.words == "\N{MINUS SIGN}log10(1 \N{MINUS SIGN} x)"
    ticks = scale.ticks(0.0, scale.cap)
    assert {"0", "0.9", "0.99", "0.999", "1"} <= set(ticks["ticktext"])
    assert ticks["tickvals"] == sorted(ticks["tickvals"])


def test_a_percentage_and_a_loss_are_too():
    scale = choose_scale("top1_acc", True, [100 * v for v in CROWDED], [100 * v for v in CROWDED[3:]])
    np.testing.assert_allclose(scale([90.0, 99.0]), [1.0, 2.0])
    losses = [3.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5]
    scale = choose_scale("loss", False, losses, losses[3:])
    np.testing.assert_allclose(scale([1.0, 0.01]), [0.0, -2.0])
    assert scale.words == "log10(x)"
    assert {"0.01", "0.001"} <= set(scale.ticks(-5.5, 0.5)["ticktext"])


@pytest.mark.parametrize(
    ("name", "values", "front"),
    [
        ("accuracy", [0.1, 0.3, 0.5, 0.7, 0.9], [0.3, 0.5, 0.7, 0.9]),  # nothing crowds
        ("accuracy", CROWDED, CROWDED[-2:]),  # two points crowd nowhere
        ("accuracy", [0.1, 0.5, *[1.0] * 6], [1.0] * 6),  # all at the bound: no scale tells them apart
        ("score", CROWDED, CROWDED[3:]),  # nobody knows a bound
        ("accuracy", [math.nan, None], []),
    ],
)
def test_other_axes_stay_plain(name, values, front):
    assert choose_scale(name, True, values, front).words == ""


def test_the_bound_itself_has_a_place_beyond_the_nearest_value():
    scale = choose_scale("accuracy", True, [*CROWDED, 1.0, None], CROWDED[3:])
    at = scale([1.0, 0.9995, None])
    assert at[0] == scale.cap > at[1]
    assert math.isnan(at[2])


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_order_is_kept(values):
    for scale in (AxisScale(1.0, 1.0, 5.0), AxisScale(0.0, 1.0, 5.0, flipped=True), AxisScale()):
        at = scale(sorted(values))
        assert (np.diff(at) >= 0.0).all()
        assert np.isfinite(at).all()
