"""Several logs of one run: ``train_log.csv`` beside ``metrics.csv``, ``train_metrics.csv`` beside ``val_metrics.csv``.

Where two of them log a metric of one name, a file whose name says a split (``train``, ``val``, …) measured it on that
split: its values are named by it, as those of rows that a column tells apart (:mod:`epsopt.zoo.layouts.row_kinds`). Of
files that say the same split, or none, the first one counts, and a later one that contradicts it is named.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from epsopt.zoo.layouts.parsed import Row, RunMetadata

_SPLITS = {word: word for word in ("train", "val", "valid", "validation", "eval", "evaluation", "test", "dev")}
_SPLITS["training"] = "train"  # as row_kinds and people's columns have it
_CLOSE = 1e-3  # relative: logs of one value differ in the digits that they write
_LISTED = 3
_Moment = tuple[str, int]
_Metrics = dict[str, float | None]
_History = dict[_Moment, float | None]
_END: _Moment = ("end", 0)


@dataclass(frozen=True)
class Log:
    """What one file of a run logs.

    Attributes:
        file: that was read; of several sessions of one log, the first.
        metadata: its rows, and what it says of the run's end.
    """

    file: Path
    metadata: RunMetadata


def split_of(file: Path) -> str:
    """Return the split that a file's name says; nothing where it says none, or several."""
    found = _splits(file.stem)
    return found.pop() if len(found) == 1 else ""


def _splits(name: str) -> set[str]:
    apart = re.sub(r"(?<=[a-z\d])(?=[A-Z])", " ", name)  # valLoss
    return {_SPLITS[word] for word in re.split(r"[^a-z]+", apart.lower()) if word in _SPLITS}


def put_together(metadata: RunMetadata, logs: Sequence[Log]) -> None:
    """Add the rows of a run's logs to `metadata`, each value under a name that is its own.

    Args:
        metadata: of the run; a file that contradicts another one of its split becomes a failure in it.
        logs: in the order in which they count.
    """
    for log in logs:
        metadata.hyperparameters = {**log.metadata.hyperparameters, **metadata.hyperparameters}
        for path, metrics in log.metadata.own.items():
            metadata.own[path] = {**metrics, **metadata.own.get(path, {})}
    held = [_values(log.metadata) for log in logs]
    files_of = Counter(name for values in held for name in values)
    common = {name for name, n in files_of.items() if n > 1}
    apart = {name for name in common if not _splits(name) and _differ(name, logs, held)}
    known: dict[str, _History] = {}
    first: dict[str, Path] = {}
    for log, values in zip(logs, held, strict=True):
        split = split_of(log.file)
        names = {name: f"{split}/{name}" if split and name in apart else name for name in values}
        earlier = {name: known[to] for name, to in names.items() if to in known}
        if contradicted := [n for n, before in earlier.items() if not _agree(before, values[n])]:
            other = first[names[contradicted[0]]].name
            reason = (
                f"its values of {_listed(contradicted)} are others than those of {other} at the same epochs or steps, "
                "which count: rename the metrics of one of the two files"
            )
            metadata.failures.append((str(log.file), reason))
        start = len(metadata.rows)
        _add(metadata, log.metadata, names, earlier)
        metadata.logs[str(log.file)] = metadata.rows[start:]
        for name in values.keys() & common:
            to = names[name]
            first.setdefault(to, log.file)
            at = known.setdefault(to, {})
            for moment, value in values[name].items():
                at.setdefault(moment, value)


def _values(held: RunMetadata) -> dict[str, _History]:
    """Return the values of a file by their names and moments."""
    found: dict[str, _History] = {}
    for moment, metrics in _by_moment(held):
        for name, value in metrics.items():
            found.setdefault(name, {})[moment] = value
    return found


def _by_moment(held: RunMetadata) -> Iterator[tuple[_Moment, _Metrics]]:
    yield from ((_moment(row), row.metrics) for row in held.rows)
    for _, rows in held.ordered:
        yield from ((_in_order(i, rows), row.metrics) for i, row in enumerate(rows))
    yield _END, held.final


def _in_order(i: int, rows: Sequence[Row]) -> _Moment:
    return ("row", i) if len(rows) > 1 else _END  # a table of a single row is of the run's end


def _moment(row: Row) -> _Moment:
    if row.checkpoint:
        return f"checkpoint {row.checkpoint}", 0
    if row.epoch is not None:
        return "epoch", row.epoch
    return _END if row.step is None else ("step", row.step)


def _differ(name: str, logs: Sequence[Log], held: Sequence[dict[str, _History]]) -> bool:
    """Tell whether files of different splits log other values of a metric; what they say at other moments is one."""
    of: dict[str, _History] = {}
    for log, values in zip(logs, held, strict=True):
        if name in values:
            split = split_of(log.file)
            of[split] = {**values[name], **of.get(split, {})}
    kinds = list(of.values())
    return any(not _agree(one, other) or not one.keys() & other.keys() for one in kinds for other in kinds)


def _agree(one: _History, other: _History) -> bool:
    return all(_same(one[moment], other[moment]) for moment in one.keys() & other.keys())


def _same(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-9)


def _add(metadata: RunMetadata, held: RunMetadata, names: dict[str, str], earlier: dict[str, _History]) -> None:
    """Add what a file says under other names, without what an earlier one says of the same moment."""

    def left(moment: _Moment, metrics: _Metrics) -> _Metrics:
        return {names[n]: v for n, v in metrics.items() if n not in earlier or moment not in earlier[n]}

    if not earlier and all(name == to for name, to in names.items()):
        metadata.rows += held.rows
        metadata.ordered += held.ordered
    else:
        rows = [replace(row, metrics=left(_moment(row), row.metrics)) for row in held.rows]
        metadata.rows += [row for row in rows if row.metrics]
        for path, ordered in held.ordered:
            kept = [replace(row, metrics=left(_in_order(i, ordered), row.metrics)) for i, row in enumerate(ordered)]
            metadata.ordered += [(path, kept)] if any(row.metrics for row in kept) else []
    metadata.final = {**left(_END, held.final), **metadata.final}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name[:60]) for name in names[:_LISTED]) + more
