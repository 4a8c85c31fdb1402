"""Turn records of a log (rows of a CSV, lines of JSON) into rows of metrics with their epoch and step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from epsopt.zoo.layouts.reading import Row
from epsopt.zoo.reading.values import flatten, metrics_of, no_tensor, number_or_text

EPOCH = ("epoch", "epochs", "Epoch")
STEP = ("step", "global_step", "iteration", "iter", "trainer/global_step", "_step", "Step")
TIMES = frozenset("time timestamp _timestamp _runtime runtime wall_time date".split())
"""Columns that say when a row was written: no quality of a model."""


def whole(value: Any) -> int | None:
    """Return a number that is a whole one (``3.0`` is, ``0.5`` is not), None for everything else."""
    if isinstance(value, str):
        value = number_or_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 2**53 else None


def rows_of(records: Iterable[Mapping[str, Any]], *, later: int = 0, by_step: bool = False) -> list[Row]:
    """Return one row for each record that has any number besides its epoch, step and time.

    Args:
        records: column to value; numbers may be text, as in a CSV.
        later: added to each step, for logs that count the step before the update.
        by_step: take no notice of epochs.
    """
    out = []
    for record in records:
        epoch = next((e for name in EPOCH if (e := whole(record.get(name))) is not None), None)
        step = next((s for name in STEP if (s := whole(record.get(name))) is not None), None)
        rest = {k: v for k, v in record.items() if k not in EPOCH and k not in STEP and k not in TIMES}
        values = {k: number_or_text(v) if isinstance(v, str) else v for k, v in rest.items()}
        metrics = metrics_of(values, no_tensor)
        if metrics:
            out.append(Row(None if by_step else epoch, None if step is None else step + later, metrics))
    return out


def flat(tree: Any) -> dict[str, Any]:
    """Return a mapping's values flattened with dots; nothing for anything else."""
    found = flatten(tree, no_tensor) if isinstance(tree, Mapping) else {}
    found.pop("", None)
    return found
