"""Numbers beside their nouns."""

from __future__ import annotations

import pytest

from epsopt.zoo.formatting import count


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (count(0, "run"), "0 runs"),
        (count(1, "run"), "1 run"),
        (count(f"{1.0:g}", "epoch"), "1 epoch"),
        (count("0.5", "epoch"), "0.5 epochs"),
        (count(1, "launch", "launches"), "1 launch"),
        (count(2, "launch", "launches"), "2 launches"),
    ],
)
def test_a_noun_fits_its_number(said, wanted):
    assert said == wanted
