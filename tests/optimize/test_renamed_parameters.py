"""Two names of one hyperparameter are found, and two hyperparameters are left alone."""

from __future__ import annotations

import pytest

from epsopt.optimize.renamed_parameters import RenamedParameter, renamed_parameters
from epsopt.zoo.catalogue.renaming import under_new_names


def runs_of(old, new, times=(5, 7), **more):
    """Runs of before and after a program was changed."""
    before = [{old: 0.1 / (i + 1), "width": i, **more} for i in range(times[0])]
    return before + [{new: 0.1 / (i + 1), "width": i, **more} for i in range(times[1])]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr", "optimizer.lr"), ("optimizer.lr", "lr"), ("lr", "learning_rate"), ("lr", "optim.learning_rate"),
        ("optim/lr", "optimizer/lr"), ("weight_decay", "wd"), ("batchSize", "batch_size"), ("dropout", "model_dropout"),
    ],
)  # fmt: skip
def test_a_name_that_was_changed_between_runs_is_found(old, new):
    assert renamed_parameters(runs_of(old, new)) == [RenamedParameter(old, new, 5, 7)]


def test_the_commit_of_the_program_makes_no_two_hyperparameters_of_one():
    runs = [{**r, "commit": "a1b2c3d4e5f6" if "lr" in r else "0f1e2d3c4b5a"} for r in runs_of("lr", "optimizer.lr")]
    assert len(renamed_parameters(runs)) == 1


def test_the_name_that_the_project_uses_is_the_new_one():
    assert [r.new for r in renamed_parameters(runs_of("lr", "optimizer.lr"), kept=("lr",))] == ["lr"]


@pytest.mark.parametrize(
    "runs",
    [
        [{"optimizer": o, f"{o}.lr": 0.1 * i} for i in range(1, 6) for o in ("adam", "sgd")],  # two of two optimisers
        [
            {"adapter": a, ("lora.dropout" if a == "lora" else "dropout"): 0.1 * i}
            for i in range(5)
            for a in ("", "lora")
        ],
        [{"lr": 0.1, "optimizer.lr": 0.2}, {"lr": 0.1}, {"lr": 0.2}],  # a run has both
        [{"lr": 0.1}, {"lr": 0.2}, {"momentum": 0.9}, {"momentum": 0.8}],
        [{"model.name": "a"}, {"model.name": "b"}, {"name": 1.0}, {"name": 2.0}],  # a text and a number
        [*({"lr": 0.1 * i} for i in range(9)), *({} for _ in range(9)), {"optimizer.lr": 0.1}],  # most have neither
    ],
)
def test_what_is_two_hyperparameters_stays_two(runs):
    assert renamed_parameters(runs) == []


def test_a_value_that_stands_under_the_new_name_already_is_kept():
    rename = {"lr": "optimizer.lr"}
    assert under_new_names({"lr": 0.1, "width": 3}, rename) == {"optimizer.lr": 0.1, "width": 3}
    assert under_new_names({"lr": 0.1, "optimizer.lr": 0.2}, rename) == {"optimizer.lr": 0.2}
