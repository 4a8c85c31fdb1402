"""Sweeps: some values in `make test`, all in `make test-full`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sweep(values: Iterable[Any], *, quick: int = 1) -> list[Any]:
    """Return parameters of a test, all but the first `quick` of them marked slow."""
    return [pytest.param(v, marks=[pytest.mark.slow] if i >= quick else []) for i, v in enumerate(values)]
