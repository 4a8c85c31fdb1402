"""Turn records of a log (rows of a CSV, lines of JSON) into rows of metrics with their epoch and step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from epsopt.zoo.layouts.parsed import Row
from epsopt.zoo.reading.plain_values import flatten, metrics_of, no_tensor, number_or_text

EPOCH = ("epoch", "epochs", "train/epoch", "trainer/epoch")
STEP = (
    *("step", "global_step", "global_steps", "iteration", "iter", "iter_num", "num_updates"),
    *("trainer/global_step", "train/global_step", "training_iteration", "_step"),
)
"""Columns that say where in a run a row was logged, the most certain first; capitals make no difference."""
TIMES = frozenset("time timestamp _timestamp _runtime runtime wall_time date".split())
"""Columns that say when a row was written: no quality of a model."""
_PLACE = frozenset((*EPOCH, *STEP))
_ABOUT = _PLACE | TIMES


def whole(value: Any) -> int | None:
    """Return a number that is a whole one (``3.0`` is, ``0.5`` is not), None for everything else."""
    if isinstance(value, str):
        value = number_or_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 2**53 else None


def rows_of(records: Iterable[Mapping[str, Any]], *, by_step: bool = False, checkpoint: str | None = None) -> list[Row]:
    """Return one row for each record that has any number besides its epoch, step and time.

    Args:
        records: column to value; numbers may be text, as in a CSV.
        by_step: take no notice of epochs.
        checkpoint: the column that names the checkpoint a record belongs to.
    """
    out = []
    for record in records:
        about = {low: v for k, v in record.items() if (low := k.lower()) in _ABOUT}
        rest = {k: v for k, v in record.items() if k.lower() not in _ABOUT and k != checkpoint}
        values = {k: number_or_text(v) if isinstance(v, str) else v for k, v in rest.items()}
        metrics = metrics_of(values, no_tensor)
        if metrics:
            named = record.get(checkpoint) if checkpoint is not None else None
            epoch, step = place_of(about)
            out.append(Row(None if by_step else epoch, step, metrics, named if isinstance(named, str) else None))
    return out


def place_of(record: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the epoch and the step that a record says, None for what it does not say."""
    low = {k.lower(): v for k, v in record.items()}
    epoch, step = (next((n for k in names if (n := whole(low.get(k))) is not None), None) for names in (EPOCH, STEP))
    return epoch, step


def says_place(name: str) -> bool:
    """Tell whether a column says the epoch or step."""
    return name.lower() in _PLACE


def flat(tree: Any) -> dict[str, Any]:
    """Return a mapping's values flattened with dots; nothing for anything else."""
    found = flatten(tree, no_tensor) if isinstance(tree, Mapping) else {}
    found.pop("", None)
    return found
