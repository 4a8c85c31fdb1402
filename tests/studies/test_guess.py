"""Names tell which way a metric is better, or honestly do not."""

from __future__ import annotations

import pytest

from epsopt.studies.project.guess import guess_bounds, guess_maximize


@pytest.mark.parametrize(
    "name", ["loss", "val_loss", "valLoss", "test/MAE", "perplexity", "eval.wer", "accuracy_error"]
)
def test_errors_are_minimized(name):
    assert guess_maximize(name) is False


@pytest.mark.parametrize("name", ["accuracy", "val/acc", "coverage", "dist_corr", "R2", "topAcc", "error_recall"])
def test_scores_are_maximized(name):
    assert guess_maximize(name) is True


@pytest.mark.parametrize("name", ["rad_hier", "x", "", "alpha_2", "glossary"])
def test_a_name_that_says_nothing_is_not_guessed(name):
    assert guess_maximize(name) is None


def test_a_share_lies_between_0_and_1_unless_a_value_disagrees():
    assert guess_bounds("val_acc", [0.3, 0.9]) == (0.0, 1.0)
    assert guess_bounds("val_acc", [30.0, 90.0]) is None
    assert guess_bounds("loss", [0.3, 0.9]) is None
    assert guess_bounds("val_acc", []) is None
