"""A map learns what somebody searches for; whatever else a trainer logged is kept as data."""

from __future__ import annotations

import pytest

from epsopt.studies.learned_metrics import MOST_LEARNED, learned_metrics
from epsopt.zoo.errors import UsageError

LOGGED = {"val_acc": 9, "val_loss": 9, "test_acc": 3, "eval_runtime": 9} | {f"grad/{i}": 9 for i in range(200)}


def test_objectives_and_what_is_asked_for_are_learned_and_nothing_else():
    chosen = learned_metrics(LOGGED, ["val_acc"], ["test_*", "eval_runtime"])
    assert chosen.names == ("val_acc", "test_acc", "eval_runtime")
    assert len(chosen.kept) == len(LOGGED) - 3
    assert chosen.rule == "the objectives and what [metrics] learn asks for"
    assert learned_metrics(LOGGED, ["val_acc"]).names == ("val_acc",)
    assert learned_metrics(LOGGED, (), ["val_*"]).names == ("val_acc", "val_loss")


def test_a_star_learns_everything():
    assert learned_metrics(LOGGED, ["val_acc"], ["*"]).kept == ()


def test_a_name_with_signs_of_a_pattern_means_itself():
    assert learned_metrics({"acc[0]": 1, "acc0": 1}, (), ["acc[0]"]).names == ("acc[0]", "acc0")
    assert learned_metrics({"acc[a-b]": 1, "acc1": 1}, (), ["acc[a-b]"]).names == ("acc[a-b]",)


def test_what_fits_no_metric_is_named_and_stops_nothing():
    chosen = learned_metrics(LOGGED, ["val_acc"], ["valid_*"])
    assert chosen.names == ("val_acc",)
    assert chosen.unmatched == ("valid_*",)


@pytest.mark.parametrize("beside", [[], ["val_acc"]])
def test_objectives_that_nobody_measured_are_an_error_that_names_what_was(beside):
    with pytest.raises(UsageError, match=r"has valacc measured.*did you mean val_acc\? Known: val_acc, val_loss"):
        learned_metrics({"val_acc": 3, "val_loss": 3, "never": 0}, ["valacc", *beside])


def test_without_objectives_few_metrics_are_all_learned_and_of_many_those_that_tell_of_the_model():
    few = learned_metrics({"x": 3, "coverage": 3, "never": 0})
    assert (few.names, few.kept) == (("x", "coverage"), ())
    many = learned_metrics(LOGGED)
    assert len(many.names) <= MOST_LEARNED
    assert {"val_acc", "val_loss", "test_acc"} <= set(many.names)
    assert "eval_runtime" not in many.names
    assert "at most 12" in many.rule
    assert learned_metrics({"lr": 3, "epoch": 3}).names == ("lr", "epoch"), "nothing else is there"
