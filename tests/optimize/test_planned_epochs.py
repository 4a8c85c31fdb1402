"""The hyperparameter that says how long runs are, where one does."""

from __future__ import annotations

import pytest

from epsopt.optimize.planned_epochs import epochs_parameter, length_parameter, positive_number
from epsopt.optimize.space import Parameter, Space


def runs(*values: object) -> list[dict[str, object]]:
    return [{"epochs": value, "lr": 0.1} for value in values]


@pytest.mark.parametrize(
    ("configs", "last", "name"),
    [
        (runs(10, 10, 10), [10.0, 10.0, 10.0], "epochs"),
        (runs(*[10] * 9, 20), [10.0] * 10, "epochs"),
        (runs(*[10] * 8, 20, 20), [10.0] * 10, None),
        (runs(*[10] * 9, "many"), [10.0] * 10, "epochs"),
        (runs(True, True, True), [1.0, 1.0, 1.0], None),
        ([*runs(10, 10), {"lr": 0.1}], [10.0, 10.0, 10.0], None),
        ([], [], None),
    ],
    ids=["all agree", "nine in ten", "eight in ten", "a text", "flags", "one does not say", "no runs"],
)
def test_it_is_named_where_nine_runs_in_ten_end_as_it_says(configs, last, name):
    assert epochs_parameter(configs, last) == name


def test_a_few_runs_may_agree_by_chance():
    assert epochs_parameter(runs(*[10] * 4), [10.0] * 4, fewest=5) is None
    assert epochs_parameter(runs(*[10] * 5), [10.0] * 5, fewest=5) == "epochs"


@pytest.mark.parametrize(("value", "number"), [(3, 3.0), (0.5, 0.5), (0, None), (-1, None), (True, None), ("3", None)])
def test_a_number_of_epochs_is_positive(value, number):
    assert positive_number(value) == number


LR = Parameter("lr", "float", 0.0, 1.0)


def test_epochs_says_how_long_a_run_is_as_a_range_or_a_list():
    listed = Parameter("epochs", "categorical", choices=(6, 8))
    for epochs in (Parameter("epochs", "int", 1, 9), listed):
        assert length_parameter(Space((epochs, LR)), [], []) == "epochs"
    words = Parameter("epochs", "categorical", choices=("few", "many"))
    assert length_parameter(Space((words, LR)), [], []) is None


def test_another_name_is_known_by_the_runs_that_ended_there():
    space = Space((Parameter("rounds", "int", 1, 9), LR))
    configs = [{"rounds": i % 9 + 1, "lr": 0.1} for i in range(10)]
    assert length_parameter(space, configs, [c["rounds"] for c in configs]) == "rounds"
    assert length_parameter(space, configs, [3.0] * 10) is None
    assert length_parameter(space, configs[:3], [1.0, 2.0, 3.0]) is None, "a few agree by chance"
