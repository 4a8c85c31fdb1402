from __future__ import annotations

import math

import numpy as np
import pytest
from scores import collapse_auroc, embedding_score, interval_score, metric_score

TRUTH = np.array([0.0, 0.2, np.nan, 0.6, 1.0])
CONSTANT = np.full(5, 0.4)


def test_the_constant_has_no_skill_and_the_truth_has_all_of_it():
    nothing, everything = metric_score(TRUTH, CONSTANT, CONSTANT), metric_score(TRUTH, TRUTH, CONSTANT)
    assert (nothing.skill, nothing.n) == (0.0, 4)
    assert nothing.mae == pytest.approx((0.4 + 0.2 + 0.2 + 0.6) / 4)
    assert math.isnan(nothing.tau)
    assert (everything.mae, everything.skill, everything.tau) == (0.0, 1.0, 1.0)


def test_tau_asks_for_order_only_and_skill_for_values():
    score = metric_score(TRUTH, TRUTH**3 - 5, CONSTANT)
    assert score.tau == 1.0
    assert score.skill < 0
    assert metric_score(TRUTH, -TRUTH, CONSTANT).tau == -1.0


def test_skill_is_unknown_where_the_constant_is_never_wrong():
    assert math.isnan(metric_score(np.ones(3), np.ones(3), np.ones(3)).skill)


def test_auroc_counts_pairs_of_a_collapsed_and_a_healthy_checkpoint_in_the_right_order():
    # Collapsed: .0 and .2; of their four pairs with .6 and 1.0 three are in order.
    assert collapse_auroc(TRUTH, np.array([0.1, 0.7, 0.0, 0.5, 0.9])) == 0.75
    assert math.isnan(collapse_auroc(np.array([0.6, 0.9]), np.array([0.6, 0.9])))


def test_intervals_are_counted_ends_included_and_measured_against_one_around_the_constant():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, 2000)
    score = interval_score(truth, truth - 0.1, truth + 0.3, np.zeros(2000))
    assert score.coverage == 1.0
    assert score.width == pytest.approx(0.4)
    assert score.relative_width == pytest.approx(0.4 / 1.8, rel=0.05)  # ±.9 covers 90 % of a uniform on ±1
    assert interval_score(truth, np.full(2000, -0.5), np.full(2000, 0.5), np.zeros(2000)).coverage == pytest.approx(
        0.5, abs=0.05
    )
    exact = interval_score(TRUTH, TRUTH, TRUTH, CONSTANT)
    assert (exact.coverage, exact.width, exact.n) == (1.0, 0.0, 4)


def test_the_mean_embedding_explains_nothing_and_the_real_one_everything():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(6, 4, 3)).astype(np.float32)
    truth[2] = np.nan
    mean = np.nanmean(truth, axis=0)
    nothing = embedding_score(truth, np.broadcast_to(mean, truth.shape), mean)
    everything = embedding_score(truth, truth, mean)
    assert nothing.r2 == pytest.approx(0.0)
    assert (everything.r2, everything.n) == (1.0, 5)
    assert everything.cosine == pytest.approx(1.0)
    halfway = embedding_score(truth, (truth + mean) / 2, mean)
    assert halfway.r2 == pytest.approx(0.75)


def test_the_flat_cosine_lets_long_points_outweigh_short_ones_and_the_other_does_not():
    truth = np.array([[[10.0, 0.0], [1.0, 0.0]]], dtype=np.float32)
    guess = np.array([[[10.0, 0.0], [0.0, 1.0]]], dtype=np.float32)
    score = embedding_score(truth, guess, np.zeros((2, 2)))
    assert score.cosine == pytest.approx(0.5)
    assert score.flat_cosine == pytest.approx(100 / 101)


def test_arrays_that_do_not_fit_and_nothing_measured_are_refused():
    with pytest.raises(ValueError, match="expected one each"):
        metric_score(TRUTH, TRUTH[:3], CONSTANT)
    with pytest.raises(ValueError, match="nothing is measured"):
        collapse_auroc(np.full(3, np.nan), np.zeros(3))
    with pytest.raises(ValueError, match="expected that of the truth"):
        embedding_score(np.zeros((2, 3, 4)), np.zeros((2, 4, 3)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="no row has a real embedding"):
        embedding_score(np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2)), np.zeros((2, 2)))
