"""A metric's name tells what it can be, measurements have the last word, and no transform maps beyond."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epsopt.surrogate.ranges import guess_range, metric_range, positive_floor, range_text
from epsopt.surrogate.transforms import fit_transform

UNIT, PERCENT, POSITIVE, ANY = (0.0, 1.0), (0.0, 100.0), (0.0, math.inf), None


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        *((n, [0.3, 0.9], UNIT) for n in ("accuracy", "val/acc", "test_topAcc", "AUROC", "mAP", "AP50", "F1")),
        *((n, [0.3, 0.9], UNIT) for n in ("mIoU", "dice", "macro-F1", "hits@10", "ROC-AUC", "precision_1", "ece")),
        *((n, [0.1], UNIT) for n in ("error_rate", "dropout_fraction", "winRate", "MulticlassAccuracy")),
        *((n, [31.0, 90.0], PERCENT) for n in ("accuracy", "bbox/AP", "top5", "error_rate", "bleu")),
        *((n, [-0.2, 0.9], (-1.0, 1.0)) for n in ("dist_corr", "pearson", "SpearmanR", "matthews_corrcoef", "cosine")),
        *((n, [-7.0, 0.9], (-math.inf, 1.0)) for n in ("r2", "R²", "R2Score", "explained_variance")),
        *((n, [0.3, 12.0], POSITIVE) for n in ("loss", "valLoss", "test/MAE", "rmse", "cross_entropy")),
        *((n, [3.0, 12.0], POSITIVE) for n in ("latency_ms", "peak_memory", "n_params", "MeanSquaredError")),
        *((n, [3.0, 12.0], (1.0, math.inf)) for n in ("perplexity", "val_ppl")),
        ("neg_mean_squared_error", [-3.0, -0.5], (-math.inf, 0.0)),
        ("brier_score", [0.2, 1.4], (0.0, 2.0)),
    ],
)  # fmt: skip
def test_a_name_tells_what_a_metric_can_be(name, values, expected):
    assert guess_range(name, values) == expected


@pytest.mark.parametrize(
    "name",
    ["rad_hier", "x", "", "reward", "elbo", "val_nll", "log_likelihood", "policy_loss", "critic_loss", "acc_gap",
     "log_mse", "loss_improvement", "wasserstein_loss"],
)  # fmt: skip
def test_what_may_be_any_number_gets_no_range(name):
    assert guess_range(name, [0.2, 0.7]) is None


@pytest.mark.parametrize(
    ("name", "values"),
    [("val_loss", [-0.1, 3.0]), ("perplexity", [0.2]), ("pearson", [-130.0]), ("r2", [1.2]), ("mse", [-1e-3])],
)
def test_a_measurement_outside_leaves_no_guess(name, values):
    assert guess_range(name, values) is None


def test_rounding_contradicts_no_guess_and_a_wider_one_is_taken_before_none():
    assert guess_range("accuracy", [0.5, 1.0000001]) == UNIT
    assert guess_range("accuracy", [0.5, 1.2]) == PERCENT
    assert guess_range("accuracy", [0.5, 120.0]) == POSITIVE


def test_nothing_measured_gives_no_guess_and_infinities_count_for_nothing():
    assert guess_range("accuracy", []) is None
    assert guess_range("accuracy", [math.nan, math.inf]) is None
    assert guess_range("loss", [math.nan, math.inf, 0.3]) == POSITIVE


def test_what_is_declared_comes_first_and_may_be_that_there_is_no_range():
    assert metric_range("loss", [0.1, 0.4], {"loss": (0.0, 5.0)}) == (0.0, 5.0)
    assert metric_range("loss", [0.1, 0.4], {"loss": (-math.inf, math.inf)}) == (-math.inf, math.inf)
    assert metric_range("loss", [0.1, 0.4], {"other": (0.0, 1.0)}) == POSITIVE
    assert metric_range("rad_hier", [0.0, 0.4]) == UNIT  # by how its measurements lie
    assert metric_range("elbo", [0.0, 0.4]) is None  # its name says that they may lie anywhere


def test_ranges_are_said_as_people_say_them():
    assert range_text(UNIT) == "between 0 and 1"
    assert range_text(POSITIVE) == "at least 0"
    assert range_text((-math.inf, 1.0)) == "at most 1"
    assert range_text((-math.inf, math.inf)) == "any number"


@given(
    st.sampled_from([(0.0, 1.0), (0.1, 0.3), (-1.0, 1.0), (0.0, math.inf), (-math.inf, 1.0), (1.0, math.inf)]),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20),
)  # fmt: skip
def test_no_point_of_the_models_scale_maps_beyond_the_range(limits, shares, points):
    low, high = limits
    start, span = (low, high - low) if math.isfinite(high - low) else (max(low, -9.0), min(high, 10.0) - max(low, -9.0))
    transform = fit_transform(start + span * np.array(shares), limits)
    for dtype in (torch.float64, torch.float32):
        back = transform.backward(torch.tensor(points, dtype=dtype)).double().numpy()
        assert (back >= np.float32(low)).all() or (back >= low).all()
        assert (back <= np.float32(high)).all() or (back <= high).all()


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_a_metric_with_one_end_comes_back_as_it_went(values):
    transform = fit_transform(np.array(values), (0.0, math.inf))
    back = transform.backward(torch.from_numpy(transform.forward(np.array(values)))).numpy()
    np.testing.assert_allclose(back, values, atol=1e-9 * max(1.0, *values))


@pytest.mark.parametrize("name", ["latency_ms", "peak_memory", "n_params", "epoch_time", "gpu_mem", "throughput"])
def test_what_is_never_zero_is_never_predicted_to_be_zero(name):
    values = np.array([3.0, 5.0, 4.0, np.nan])
    floor = positive_floor(name, values)
    assert 0.0 < floor < 3.0
    for limits in (metric_range(name, values), (0.0, 100.0)):
        transform = fit_transform(values, limits, positive_floor(name, values, {name: limits}))
        for dtype in (torch.float32, torch.float64):
            back = transform.backward(torch.tensor([-1e9, -5.0, 0.0], dtype=dtype))
            assert (back > 0.0).all()
        np.testing.assert_allclose(transform.backward(torch.from_numpy(transform.forward(values[:3]))), values[:3])


@pytest.mark.parametrize(
    ("name", "values", "declared"),
    [
        ("loss", [3.0], {}), ("time_error", [3.0], {}), ("neg_latency", [-3.0], {}), ("size_ratio", [3.0], {}),
        ("latency", [0.0, 3.0], {}), ("latency", [], {}), ("latency", [math.nan], {}), ("x", [3.0], {}),
        ("latency", [3.0], {"latency": (-math.inf, math.inf)}),
    ],
)  # fmt: skip
def test_what_may_be_zero_has_no_floor(name, values, declared):
    assert positive_floor(name, values, declared) is None


@given(st.floats(1e-300, 1e299), st.floats(1.0, 1e3))
def test_no_measurement_lies_below_the_floor(smallest, times):
    assert 0.0 < positive_floor("latency", [smallest * times, smallest]) <= smallest
