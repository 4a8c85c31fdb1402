from __future__ import annotations

import json
import math

import pytest

from epsopt.zoo.layouts.merge_record import DIGITS, merged_parents, parents_of_record
from epsopt.zoo.layouts.parsed import RECOMBINED


def digest(digit):
    return digit * 64


def record(*parents):
    return {"parents": [{"sha256": digest(d), "coefficients": c} for d, c in parents]}


@pytest.mark.parametrize("written", [lambda r: r, json.dumps])
def test_the_largest_parents_are_kept_first_and_tiny_ones_left_out(written):
    made = record(("a", [0.2, 0.4]), ("b", [0.7, 0.6]), ("c", [0.001]), ("d", [0.0]))
    kept = parents_of_record(written(made))
    assert merged_parents({RECOMBINED: kept}) == [digest("b")[:DIGITS], digest("a")[:DIGITS]]


def test_of_many_parents_four_are_kept():
    made = record(*((d, [1.0 + i]) for i, d in enumerate("abcdef")))
    assert merged_parents({RECOMBINED: parents_of_record(made)}) == [digest(d)[:DIGITS] for d in "fedc"]


@pytest.mark.parametrize(
    "odd",
    [
        None, "", "{", "[" * 100_000, 7, [], {}, {"parents": 3}, {"parents": [1, None, {}]},
        {"parents": [{"sha256": "../x", "coefficients": [1.0]}]}, record(("a", [math.nan, math.inf])),
        record(("a", "x")),
        {"parents": [{"sha256": ["a"], "coefficients": [1.0]}]}, json.dumps([1]), "x" * (1 << 21),
    ],
)  # fmt: skip
def test_a_record_that_does_not_say_is_a_merge_without_parents(odd):
    assert parents_of_record(odd) is True
    assert merged_parents({RECOMBINED: parents_of_record(odd)}) == []


def test_what_was_trained_has_no_parents():
    assert merged_parents({"lr": 0.1}) == []
