"""Objectives that cannot be compared as they are: one under two names, apart on all checkpoints, in two units."""

from __future__ import annotations

import pytest

from epsopt.studies.project.metric_doubts import metric_doubts, renamed_metrics


def test_a_metric_that_is_spelled_otherwise_later_has_its_newest_name():
    runs = [{"val/acc": 0.7, "loss": 1.0}, {"val_acc": 0.6, "loss": 1.1}, {"valAcc": 0.5}]
    assert renamed_metrics(runs) == {"val_acc": "val/acc", "valAcc": "val/acc"}
    assert renamed_metrics(runs, kept=["val_acc"]) == {"valAcc": "val/acc"}


@pytest.mark.parametrize(
    "runs",
    [
        [{"val/acc": 0.7, "val_acc": 0.7}, {"val_acc": 0.6}],
        [{"val/acc": 0.7}, {"train/acc": 0.6}],
        [{"acc1": 0.7}, {"acc5": 0.9}],
    ],
)
def test_metrics_of_one_checkpoint_and_of_other_words_keep_their_names(runs):
    assert renamed_metrics(runs) == {}


def test_objectives_that_no_checkpoint_has_together_are_named():
    (text,) = metric_doubts(["a", "b", "c"], [[{"a": 1.0, "b": None, "c": 2.0}], [{"b": 2.0, "c": 2.0}]])
    assert text.startswith("No checkpoint has both a and b, so none is on a front")
    (text,) = metric_doubts(["a", "b", "c"], [[{"a": 1.0, "b": 1.0}, {"b": 2.0, "c": 2.0}, {"a": 1.0, "c": 3.0}]])
    assert text.startswith("No checkpoint has all of a, b, c")


@pytest.mark.parametrize("runs", [[[{"a": 1.0, "b": 1.0}], [{"a": 1.0}]], [[{"a": 1.0}]], [[{}]], []])
def test_one_checkpoint_that_has_them_all_is_enough_and_what_nobody_has_counts_for_nothing(runs):
    assert metric_doubts(["a", "b"], runs) == []


@pytest.mark.parametrize(("values", "n"), [((0.5, 0.6, 0.6), 1), ((0.5, 0.6, 0.7), 0)])
def test_the_best_so_far_is_no_value_of_a_later_checkpoint(values, n):
    found = metric_doubts(["best_acc1"], [[{"best_acc1": v} for v in values]])
    assert [text.startswith("best_acc1 is by its name the best of a run so far") for text in found] == [True] * n
    assert metric_doubts(["acc1"], [[{"acc1": v} for v in values]]) == []


def test_fractions_among_percentages_are_named():
    runs = [[{"val_acc": v / 2}, {"val_acc": v}] for v in (63.0, 71.0, 0.66, 0.69, 0.72)]
    (text,) = metric_doubts(["val_acc"], runs)
    assert text.startswith("val_acc is at most 1 in 3 runs and up to 71 in 2 others")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("val_acc", (63.0, 71.0, 0.1, 0.2)),  # two that failed, of a thousand classes
        ("val_acc", (63.0, 71.0, 0.66)),  # one alone
        ("val_acc", (0.6, 0.7, 0.8)),
        ("loss", (63.0, 71.0, 0.66, 0.69)),
    ],
)
def test_failed_runs_and_metrics_that_are_no_shares_are_not(name, values):
    assert metric_doubts([name], [[{name: v}] for v in values]) == []


@pytest.mark.parametrize(("values", "n"), [((0.5, 0.5, 0.5), 1), ((0.5, 0.5, 0.6), 0), ((0.5, 0.5), 0)])
def test_an_objective_of_one_value_is_named(values, n):
    found = metric_doubts(["acc"], [[{"acc": v, "loss": 1.0}] for v in values])
    assert [text.startswith("acc is 0.5 on all 3 measured checkpoints") for text in found] == [True] * n
