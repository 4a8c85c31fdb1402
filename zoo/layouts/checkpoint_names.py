"""Tables and mappings that name checkpoints: ``name,acc`` with a row for each file, ``{"epoch_1.pt": {"acc": 0.9}}``.

A name counts where it is that of one checkpoint of the run: of its file, with or without the suffix, or of its folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from epsopt.zoo.layouts.log_rows import place_of, rows_of, whole
from epsopt.zoo.layouts.parsed import Position, Row
from epsopt.zoo.layouts.row_kinds import rows_by_kind

_Record = Mapping[str, Any]
_COLUMNS = frozenset(
    "name model model_name arch architecture file filename file_name path weights checkpoint checkpoint_path"
    " checkpoint_name ckpt ckpt_path ckpt_name".split()
)
_OF_NUMBERS = frozenset("model file checkpoint ckpt".split())
_SUFFIX = re.compile(r"\.(?:pt|pth|ckpt|safetensors|bin|zip)(?:\.tar)?$", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(?<!\d)(\d{1,15})(?!.*\d)")
_SEVERAL = (
    "its column {!r} names {!r} in several rows, and nothing tells which of them is of the file: keep one row for each "
    "checkpoint"
)
_COLUMN = "checkpoint of a row"


def names_of(positions: Sequence[Position]) -> dict[str, str]:
    """Return what the checkpoints of a run may be called, and the name of the file or folder that is meant.

    A number stands for the one checkpoint whose name ends in it. What could mean two checkpoints means none.
    """
    paths = [PurePath(p.path) for p in positions if p.path]
    found: dict[str, set[str]] = {}
    files = Counter(path.name for path in paths)
    folders = Counter(path.parent.name for path in paths)
    for path in paths:
        own = path.name if files[path.name] == 1 else path.parent.name
        if own == path.name or folders[own] == 1:
            stem = _SUFFIX.sub("", own)
            called = {own, stem, *([path.parent.name] if folders[path.parent.name] == 1 and len(paths) > 1 else [])}
            called |= {str(int(number[1])) for number in [_LAST_NUMBER.search(stem)] if number}
            for name in called:
                found.setdefault(name, set()).add(own)
    return {name: own.pop() for name, own in found.items() if len(own) == 1}


def _meant(value: object, names: Mapping[str, str], *, numbers: bool = False) -> str | None:
    """Return the checkpoint that a cell names; of a path its end decides."""
    if (number := whole(value)) is not None:
        return names.get(str(number)) if numbers else None
    if not isinstance(value, str):
        return None
    parts = PurePath(value.strip().replace("\\", "/")).parts[-2:]
    return next((names[part] for part in reversed(parts) if part in names), None)


def rows_by_name(records: Sequence[_Record], names: Mapping[str, str]) -> tuple[list[Row], list[str]] | None:
    """Return a row for each checkpoint that a column names, and remarks; None where no column names any.

    Args:
        records: column to value, in the order of a log.
        names: of the run's checkpoints, as :func:`names_of` has them.
    """
    columns = sorted({c for record in records for c in record if c.lower() in _COLUMNS})
    nowhere = bool(columns) and all(place_of(record) == (None, None) for record in records)
    for column in columns:
        numbers = nowhere and column.lower() in _OF_NUMBERS
        values = {str(record[column]).strip(): record[column] for record in records if column in record}
        meant = {value: own for value, cell in values.items() if (own := _meant(cell, names, numbers=numbers))}
        files = all(_SUFFIX.search(value) for value in values)
        if meant and len(values) > 1 and (files or 2 * len(meant) >= len(values)):
            return _rows(records, column, meant)
    return None


def _rows(records: Sequence[_Record], column: str, meant: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    of: dict[str, list[_Record]] = {}
    for record in records:
        if (own := meant.get(str(record.get(column)).strip())) is not None:
            of.setdefault(own, []).append({name: value for name, value in record.items() if name != column})
    rows: list[Row] = []
    remarks: list[str] = []
    for own, those in of.items():
        named, notes = rows_by_kind(those)
        remarks += [remark for remark in notes if remark not in remarks]
        if len(named) > 1:
            remarks.append(_SEVERAL.format(column[:60], own[:60]))
            continue
        rows += rows_of([{**record, _COLUMN: own} for record in named], checkpoint=_COLUMN)
    return rows, remarks[:1]


def rows_of_mapping(tree: Mapping[str, Any], names: Mapping[str, str]) -> list[Row]:
    """Return the rows of a mapping whose keys name checkpoints; none of another mapping."""
    meant = {key: own for key, value in tree.items() if isinstance(value, Mapping) and (own := _meant(key, names))}
    if not meant or 2 * len(meant) < len(tree) or not all(_SUFFIX.search(k) or k in names for k in tree):
        return []
    return rows_of([{**tree[key], _COLUMN: own} for key, own in meant.items()], checkpoint=_COLUMN)


def by_number(tree: Mapping[str, Any], positions: Sequence[Position]) -> list[dict[str, Any]]:
    """Return the records of ``{"acc": {"1": 0.5, "2": 0.6}}``, metrics by epoch, or by row with a column of epochs.

    Numbers may be those of classes as well: they are epochs where each epoch of a checkpoint is among them.
    """
    columns = {name: held for name, held in tree.items() if isinstance(held, Mapping) and held}
    keys = {frozenset(held) for held in columns.values()}
    if len(keys) != 1 or len(columns) < len(tree):
        return []
    numbers = sorted((n, key) for key in keys.pop() if (n := whole(key)) is not None)
    if len(numbers) != len(next(iter(columns.values()))):
        return []
    records = [{name: held[key] for name, held in columns.items()} for _, key in numbers]
    if any(isinstance(value, Mapping | list) for record in records for value in record.values()):
        return []
    if any(name.lower() in ("epoch", "step", "global_step") for name in columns):  # as pandas writes a table
        return records
    epochs = {p.epoch for p in positions if p.epoch is not None and p.path}
    if len(epochs) < 2 or numbers[0][0] == 0 or not epochs <= {n for n, _ in numbers}:
        return []
    return [{"epoch": n, **record} for (n, _), record in zip(numbers, records, strict=True)]
