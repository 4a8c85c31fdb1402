"""Turn records of a log (rows of a CSV, lines of JSON) into rows of metrics with their epoch and step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from epsopt.zoo.layouts.parsed import Row
from epsopt.zoo.reading.plain_values import flatten, metrics_of, no_tensor, number_or_text

EPOCH = ("epoch", "epochs", "train/epoch", "trainer/epoch")
STEP = (
    *("step", "global_step", "global_steps", "iteration", "iter", "iter_num", "num_updates"),
    *("trainer/global_step", "train/global_step", "training_iteration", "_step", "current_steps", "steps"),
    *("time/total_timesteps", "total_timesteps", "timesteps_total", "timesteps"),  # of Stable-Baselines3 and RLlib
)
"""Columns that say where in a run a row was logged, the most certain first; capitals make no difference."""
TIMES = frozenset(
    "time timestamp _timestamp _runtime runtime wall_time date elapsed_time remaining_time percentage"
    " total_steps".split()
)
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
        rest = {k: v for k, v in record.items() if k.lower() not in _ABOUT and k != checkpoint and not _has_records(v)}
        values = {k: number_or_text(v) if isinstance(v, str) else v for k, v in rest.items()}
        metrics = metrics_of({**values, **_of_coco(values)}, no_tensor)
        if metrics:
            named = record.get(checkpoint) if checkpoint is not None else None
            epoch, step = place_of(about)
            out.append(Row(None if by_step else epoch, step, metrics, named if isinstance(named, str) else None))
    return out


def _of_coco(record: Mapping[str, Any]) -> dict[str, Any]:
    """Name the twelve numbers of a COCO evaluation, which DETR and its kin log as a list, by what they are."""
    lists = {k: v for k, v in record.items() if isinstance(v, list) and len(v) == len(_COCO) and "coco" in k.lower()}
    return {f"{name}.{what}": v for name, values in lists.items() for what, v in zip(_COCO, values, strict=True)}


_COCO = "AP AP50 AP75 AP_small AP_medium AP_large AR_1 AR_10 AR_100 AR_small AR_medium AR_large".split()
"""In the order of pycocotools' ``COCOeval.stats``."""


def _has_records(value: Any) -> bool:
    """Tell whether a value is a list of records: what a log keeps of each batch (skorch) is of no checkpoint."""
    return isinstance(value, list) and any(isinstance(v, Mapping) for v in value)


def no_numbers(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what columns hold that hold numbers with something beside (``51%``, ``1,024``), and never a number."""
    held: dict[str, str | None] = {}
    for record in records:
        for name, value in record.items():
            if name.lower() in _ABOUT or not isinstance(value, str):
                continue
            number = isinstance(number_or_text(value), int | float)
            if number or _ALMOST.fullmatch(value):
                held[name] = None if number or held.get(name, value) is None else held.get(name, value)
    return [
        f"its column {name[:60]!r} holds {value.strip()[:20]!r}, which is no number: write it without units, "
        "and with a point for decimals"
        for name, value in held.items()
        if value is not None
    ]


_SERIES_PLACE = ("epochs", "epoch", "steps", "step", "iterations", "iteration", "x")
_SERIES_VALUES = ("values", "value", "y")
_ALMOST = re.compile(r"\s*[-+]?\d[\d.,]*\s*(?:%|[kKmMG]|ms|s)?\s*")
_MOMENT = re.compile(r"(?:(epoch|ep|step|iter|iteration|checkpoint)[ _=:-]?)?(\d{1,15})", re.IGNORECASE)


def by_moment(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of ``{"1": {…}, "2": {…}}`` or ``{"epoch_1": {…}}`` in their order; none of other mappings."""
    found = {key: _MOMENT.fullmatch(key.strip()) for key in tree}
    if not tree or not all(m and isinstance(tree[key], Mapping) for key, m in found.items()):
        return []
    moments = sorted((int(m[2]), (m[1] or "epoch").lower(), tree[key]) for key, m in found.items() if m)
    return [{"step" if word in ("step", "iter", "iteration") else "epoch": n, **held} for n, word, held in moments]


def columns_of(tree: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of numbers in a mapping and in those inside, named with dots: columns of a log."""
    found: dict[str, list[Any]] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found.update({f"{name}.{k}": v for k, v in columns_of(value).items()})
        elif isinstance(value, list) and all(_is_plain(v) for v in value) and any(_is_number(v) for v in value):
            found[name] = value
    return found


def series_in(tree: Mapping[str, Any]) -> tuple[list[Row], dict[str, Any]]:
    """Take out ``{"val.acc": {"steps": […], "values": […]}}``: metrics with steps of their own, as Sacred keeps them.

    Returns:
        A row for each value, and the mapping without them. Names inside others are joined with dots.
    """
    rows: list[Row] = []
    rest: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, list) and (listed := _series_of(name, value)):
            rows += listed
            continue
        if not isinstance(value, Mapping):
            rest[name] = value
            continue
        place = next((k for k in _SERIES_PLACE if isinstance(value.get(k), list)), None)
        held = next((k for k in _SERIES_VALUES if isinstance(value.get(k), list)), None)
        if place is not None and held is not None and len(value[place]) == len(value[held]):
            by_epoch = place.startswith("epoch")
            for at, number in zip(value[place], value[held], strict=True):
                if (moment := whole(at)) is not None:
                    metrics = metrics_of({name: number}, no_tensor)
                    epoch, step = (moment, None) if by_epoch else (None, moment)
                    rows += [Row(epoch, step, metrics)] if metrics else []
            continue
        inside, left = series_in(value)
        rows += [Row(r.epoch, r.step, {f"{name}.{k}": v for k, v in r.metrics.items()}) for r in inside]
        if left or not inside:
            rest[name] = left
    return rows, rest


def _series_of(name: str, values: list[Any]) -> list[Row]:
    """Return the rows of ``[[1, 0.5], [2, 0.6]]`` and of ``[{"epoch": 1, "value": 0.5}, …]``; none of other lists.

    TensorBoard's export has a time before the moment and the value.
    """
    if values and all(isinstance(v, Mapping) and place_of(v) != (None, None) for v in values):
        named = [{_inside(name, key): value for key, value in v.items()} for v in values]
        return rows_of(named)
    pairs = [v for v in values if isinstance(v, list) and len(v) in (2, 3) and all(map(_is_number, v))]
    if not pairs or len(pairs) < len(values) or len({len(v) for v in pairs}) > 1:
        return []
    moments = [whole(v[-2]) for v in pairs]
    if any(n is None for n in moments) or any(b <= a for a, b in pairwise(n for n in moments if n is not None)):
        return []
    return [
        Row(None, n, metrics)
        for n, v in zip(moments, pairs, strict=True)
        if (metrics := metrics_of({name: v[-1]}, no_tensor))
    ]


def _inside(name: str, key: str) -> str:
    """Name a value of a list of records by the list, where that says more than that it is a log."""
    if says_place(key) or name.lower() in _LOG_WORDS:
        return key
    return name if key.lower() in _SERIES_VALUES else f"{name}.{key}"


_LOG_WORDS = frozenset(
    "log logs history log_history metrics results records rows epochs steps evaluations scores".split()
)


def without_lists(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping without its lists, nor those inside."""
    kept = {k: without_lists(v) if isinstance(v, Mapping) else v for k, v in tree.items() if not isinstance(v, list)}
    return {k: v for k, v in kept.items() if v != {}}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int | float | str)


def _is_number(value: object) -> bool:
    number = number_or_text(value) if isinstance(value, str) else value
    return isinstance(number, int | float) and not isinstance(number, bool)


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
