"""Sweeps: some values in `make test`, all in `make test-full`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings


def sweep(values: Iterable[Any], *, quick: int = 1, several: bool = False) -> list[Any]:
    """Return parameters of a test, all but the first `quick` of them marked slow.

    Args:
        values: of the parameter; where a test has several, tuples of theirs.
        quick: how many of them `make test` runs.
        several: whether each value is a tuple of several parameters.
    """
    return [
        pytest.param(*(v if several else (v,)), marks=[pytest.mark.slow] if i >= quick else [])
        for i, v in enumerate(values)
    ]


def examples(number: int) -> int:
    """Return how many examples a property test tries: a quarter in `make test`, all in `make sweeps`."""
    return number if settings.get_current_profile_name() == "sweeps" else -(-number // 4)
