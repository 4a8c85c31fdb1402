"""Which value of a log belongs to which checkpoint.

Each metric is matched by itself, since one log may hold several clocks: a loss at each step, a score at each epoch.
Nothing is interpolated: a metric that was not logged at a checkpoint is not measured on it.

1. Where a log names checkpoints, their names count and nothing else.
2. By epoch; of several values the last that is not later than the checkpoint's step.
3. What no checkpoint matches by epoch (a test after training) or says no epoch: by step. Where the log has steps alone,
   they are those of the optimiser if any checkpoint stands at one of them; if none does they count epochs, but not if
   the log runs far beyond those of the checkpoints.
4. What says neither belongs to the checkpoint of the run's end (:mod:`epsopt.zoo.layouts.end_of_run`).
5. Of several models of one moment the log speaks of one (:mod:`epsopt.zoo.layouts.several_models`).

Lightning's loggers write the index of the last update, one less than the ``global_step`` of a checkpoint of the same
moment. Programs that count epochs from 0 in the log and from 1 in checkpoints (``"epoch": epoch + 1`` in PyTorch's own
examples) are recognised by the two ends: the log starts at 0 and ends one before the last checkpoint. Programs that
count from 1 in the log and in names, and from 0 in checkpoints, are recognised by the names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePath

from epsopt.zoo.formatting import count
from epsopt.zoo.layouts.best import is_test
from epsopt.zoo.layouts.end_of_run import end_of_run, moments_of_end
from epsopt.zoo.layouts.numbers_in_names import epoch_in_name
from epsopt.zoo.layouts.parsed import AfterTraining, Position, Row, RunMetadata

_Value = float | None
_LISTED = 8
_FEWEST = 3  # epochs that show how a log counts
_DIGITS = re.compile(r"\d+")
_DETECTRON2 = re.compile(r"model_(?:\d{7}|final)\.pth")
_SUFFIX = re.compile(r"\.(?:pt|pth|ckpt|safetensors)(?:\.tar)?$", re.IGNORECASE)


@dataclass(frozen=True)
class _Clocks:
    """What the whole log and all checkpoints say about how epochs and steps are counted.

    Attributes:
        last: the last epoch of any checkpoint, -1 if none says it.
        starts: the number that the log counts its first row by.
        strict: steps of rows and of checkpoints count the same.
        counted: some metric was logged at the optimiser steps of checkpoints.
        fewest: the end of the shortest metric that may count epochs by its steps.
        strides: some metric without an epoch was logged as often as there are epochs, and never at steps that follow
            each other: the steps count something else.
        pooled: as in :class:`~epsopt.zoo.layouts.parsed.RunMetadata`.
        lightning: a checkpoint is Lightning's.
        standing: steps of checkpoints that the metric with the most of them was logged at.
        ahead: the names of all checkpoints (``epoch_5.pth``) count one more than what they hold.
    """

    last: int
    starts: int
    strict: bool
    counted: bool
    fewest: int | None
    strides: bool
    pooled: bool
    lightning: bool
    standing: int
    ahead: bool


def matched(metadata: RunMetadata, positions: Sequence[Position]) -> dict[str, dict[str, _Value]]:
    """Match the rows to checkpoints; return the metrics of those that have any, by key.

    Of several models that were saved at one moment, those that the log may not speak of have none, and are named. A
    file whose rows say neither epoch nor step, and whose order fits no checkpoints, becomes a failure in `metadata`.
    """
    rows = [*metadata.rows, *_numbered(metadata, positions)]
    series: dict[str, list[tuple[Row, _Value]]] = {}
    for row in rows:
        for name, value in row.metrics.items():
            series.setdefault(name, []).append((row, value))
    # A log that names checkpoints speaks of no others; where files are known apart, another may count epochs.
    any_named = any(row.checkpoint for row in rows)
    by_name = any_named and not metadata.logs
    placed = rows if by_name else [row for row in rows if not row.checkpoint]
    counted = {n: those for n, held in series.items() if (those := [e for e in held if by_name or not e[0].checkpoint])}
    clocks = _clocks(metadata, placed, counted.values(), positions)
    out: dict[str, dict[str, _Value]] = {}
    unsure: list[str] = []
    for name, entries in series.items():
        found = _by_name(entries, positions) if any_named else {}
        if not by_name:
            found = {**_of_metric(name, counted.get(name, []), positions, clocks), **found}
        if name in counted and _of_best_or_last(name, counted[name], positions):
            unsure.append(name)
            continue
        for key, value in found.items():
            out.setdefault(key, {})[name] = value
    last = max(positions, key=_moment, default=None)
    end = _end(metadata, rows, positions, last)
    if end is not None and end.best is False:
        unsure += [name for name in metadata.final if is_test(name)]
        metadata.final = {name: value for name, value in metadata.final.items() if not is_test(name)}
    if unsure and last is not None:
        metadata.failures.append((last.path, _unsure(unsure)))
    if metadata.final and end is not None:
        out[end.key] = {**metadata.final, **out.get(end.key, {})}
    if metadata.after is not None:
        _give_after(metadata.after, metadata, positions, out)
    _take_from_rivals(metadata, positions, out)
    _give_own(metadata, positions, out)
    if (reason := _one_behind(placed, positions, clocks)) is not None and last is not None:
        metadata.failures.append((last.path, reason))
    return out


def _moment(p: Position) -> tuple[int, int, bool, str]:
    return -1 if p.epoch is None else p.epoch, -1 if p.step is None else p.step, p.rival is None, p.path


def _end(
    metadata: RunMetadata, rows: Sequence[Row], positions: Sequence[Position], last: Position | None
) -> Position | None:
    """Return the checkpoint that the values of the run's end are of, and say why where none is known to be it."""
    best, ended = moments_of_end(metadata.final)
    if last is None or not metadata.final:
        return last
    logged = {row.epoch for row in rows if row.epoch is not None}
    end, why = end_of_run(positions, last, logged, metadata.ended if ended is None else ended)
    if end is None and last.path:
        metadata.failures.append((last.path, f"{_named(list(metadata.final))}: {why}"))
    return replace(end, best=False) if end is not None and best is not None and end.epoch != best else end


def _one_behind(rows: Sequence[Row], positions: Sequence[Position], clocks: _Clocks) -> str | None:
    """Say that a log counts from 1 what may be the epochs that its checkpoints count from 0; None where it is clear.

    A first checkpoint of epoch 0 may as well be the untrained model, and the newest row ahead of its checkpoint.
    """
    logged, epochs = {row.epoch for row in rows if row.epoch is not None}, _epochs(positions)
    n = len(epochs)
    if n < _FEWEST or clocks.lightning or clocks.starts == 1:
        return None
    if epochs != set(range(n)) or logged != set(range(1, n + 1)) or any(p.epoch == p.step for p in positions):
        return None
    return (
        f"its log counts epochs 1 to {n}, and the checkpoints of its run 0 to {n - 1}: a value goes to the checkpoint "
        "of its number. If both mean the same epochs, every value is one epoch off: save epoch + 1, or name the "
        'checkpoint of each row in a CSV ([runs] table = "runs.csv")'
    )


def _take_from_rivals(metadata: RunMetadata, positions: Sequence[Position], out: dict[str, dict[str, _Value]]) -> None:
    """Leave checkpoints that the log may not speak of without its values, and say each reason once."""
    by_name: dict[str, dict[str, Position]] = {}
    for p in positions:
        if p.rival is not None and out.pop(p.key, None) is not None and p.rival:
            by_name.setdefault(_DIGITS.sub("#", p.rival), {}).setdefault(f"{p.epoch} {p.step}", p)
    for moments in by_name.values():
        first, *others = moments.values()
        more = f" (so it is at {count(len(others), 'other moment')})" if others else ""
        metadata.failures.append((first.path, f"{first.rival}{more}"))


def _give_own(metadata: RunMetadata, positions: Sequence[Position], out: dict[str, dict[str, _Value]]) -> None:
    """Give each checkpoint what a file of its name or in its folder says; name it where no checkpoint has any."""
    left = dict(metadata.own)
    for p in positions:
        if p.key and (own := left.pop(_SUFFIX.sub("", p.path), None)) is not None:
            out[p.key] = {**out.get(p.key, {}), **own}
        if p.key and p.rival is None and (of_folder := left.pop(str(PurePath(p.path).parent), None)) is not None:
            out[p.key] = {**out.get(p.key, {}), **of_folder}
    if left and not out and any(p.key for p in positions):
        metadata.failures.append(
            (next(iter(left)), "tells of a checkpoint that is a copy of another one, or not there")
        )


def _give_after(
    after: AfterTraining, metadata: RunMetadata, positions: Sequence[Position], out: dict[str, dict[str, _Value]]
) -> None:
    """Give what was measured after training to the model that was saved then, or else to the checkpoint it was of."""
    saved = [p for p in positions if p.epoch is None and p.step is None]
    named = [p for p in positions if after.checkpoint is not None and after.checkpoint in PurePath(p.path).parts]
    models = saved if len(saved) == 1 else named
    if len(models) == 1 and (after.checkpoint or after.file):
        out[models[0].key] = {**after.metrics, **out.get(models[0].key, {})}
    elif after.checkpoint is None and (after.file or saved):
        metadata.failures.append((after.file or saved[0].path, _unsure(list(after.metrics), "on the last checkpoint")))
    elif after.file is not None:
        names = _named(list(after.metrics))
        metadata.failures.append(
            (after.file, f"{names}: measured after training on {after.checkpoint}, which is not here")
        )


def _of_best_or_last(name: str, entries: list[tuple[Row, _Value]], positions: Sequence[Position]) -> bool:
    """Tell whether a test after training may have been of the last checkpoint or of the best, which is another one.

    Where a test was logged at the best one's own step, it was of that one.
    """
    if not is_test(name) or len({(row.epoch, row.step) for row, _ in entries}) != 1:
        return False
    row = entries[0][0]
    best = [p for p in positions if p.best]
    newest = max((p.step for p in positions if p.step is not None), default=-1)
    after = row.step is None or row.step + 1 >= newest or row.step == 0  # a trainer that only tests counts from 0
    return any(p.best is False for p in positions) and not any(p.step == newest for p in best) and after


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _unsure(names: Sequence[str], where: str = "on this last checkpoint") -> str:
    return (
        f"{_named(names)}: tested after training, and the log does not say whether {where} or on the best one, "
        "so neither has it: say it in a table of runs ([runs] table)"
    )


def _clocks(
    metadata: RunMetadata,
    rows: Sequence[Row],
    series: Collection[list[tuple[Row, _Value]]],
    positions: Sequence[Position],
) -> _Clocks:
    epochs = _epochs(positions)
    steps = {p.step for p in positions if p.step is not None}
    lightning = any(p.layout == "lightning" for p in positions)
    logged = {row.step for row in rows if row.step is not None}
    both = {(row.epoch, row.step) for row in rows}
    # Only of metrics with a history does the log say how far they go.
    ends = [
        max(at)
        for entries in series
        if len(at := {row.step for row, _ in entries if row.step is not None and row.epoch is None}) > 1 and at & epochs
    ]
    return _Clocks(
        last=max(epochs, default=-1),
        starts=metadata.starts,
        strict=lightning or any((p.epoch, p.step) in both for p in positions if None not in (p.epoch, p.step)),
        counted=bool(steps & logged),
        fewest=min(ends, default=None),
        strides=any(_at_strides(entries, max(epochs, default=0)) for entries in series),
        pooled=metadata.pooled,
        lightning=lightning,
        standing=max((len(steps & {row.step for row, _ in entries}) for entries in series), default=0),
        ahead=_names_ahead(positions),
    )


def _names_ahead(positions: Sequence[Position]) -> bool:
    """Tell whether checkpoints hold epochs that count from 0, and names that count from 1, as MMCV's and others do."""
    named = [(p.epoch, n) for p in positions if (n := epoch_in_name(PurePath(p.path).stem)) is not None]
    return len(named) > 1 and all(epoch is not None and n == epoch + 1 for epoch, n in named)


def _at_strides(entries: list[tuple[Row, _Value]], last: int) -> bool:
    """Tell whether a metric's steps lie apart, and are as many as the epochs up to the last checkpoint's."""
    at = sorted({row.step for row, _ in entries if row.step is not None and row.epoch is None})
    return len(at) >= max(last, 2) and all(b - a > 1 for a, b in pairwise(at)) and at[-1] > len(at) * 2


def _epochs(positions: Sequence[Position]) -> set[int]:
    """Return the epochs of checkpoints; that of one that stands in for any later one says nothing."""
    return {p.epoch for p in positions if p.epoch is not None and p.epoch < 2**53}


def _behind(logged: Collection[int], positions: Sequence[Position], clocks: _Clocks) -> int:
    """Return by how much the log's numbers are less than those of checkpoints: 1, 0 or -1."""
    epochs = _epochs(positions)
    if clocks.lightning or clocks.strict or not logged or not epochs:
        return 0
    if (clocks.starts == 1 and min(epochs) == 0) or (clocks.ahead and min(logged) == 1):
        return -1
    whole = min(logged) == 0 and len(logged) == max(logged) + 1
    return int(whole and min(epochs) > 0 and max(epochs) == max(logged) + 1)


def _by_name(entries: list[tuple[Row, _Value]], positions: Sequence[Position]) -> dict[str, _Value]:
    named = {row.checkpoint: value for row, value in entries if row.checkpoint}
    out = {}
    for position in positions:
        found = next((part for part in reversed(PurePath(position.path).parts) if part in named), None)
        if found is not None:
            out[position.key] = named[found]
    return out


def _of_metric(
    name: str, entries: list[tuple[Row, _Value]], positions: Sequence[Position], clocks: _Clocks
) -> dict[str, _Value]:
    """Match one metric by epoch, or else by step."""
    steps = {row.step: value for row, value in entries if row.step is not None}
    places = {p.step for p in positions if p.step is not None}
    if clocks.lightning and clocks.pooled and _stands_at(steps, places):
        return _at(steps, positions, 0)  # logged by the program itself, with its global_step
    by_epoch: dict[int, list[tuple[int | None, _Value]]] = {}
    for row, value in entries:
        if row.epoch is not None:
            by_epoch.setdefault(row.epoch, []).append((row.step, value))
    out: dict[str, _Value] = {}
    if by_epoch:
        behind = _behind(by_epoch, positions, clocks)
        for p in positions:
            if p.epoch is None or p.layout == "hugging-face":
                continue  # its epoch is a number of steps
            if p.epoch == p.step and steps.keys() & places:
                continue
            if (found := by_epoch.get(p.epoch - behind)) is not None:
                kept = _not_later(found, p, clocks)
                if kept:
                    out[p.key] = kept[-1][1]
        # A test after training is logged at the number of updates; all else in Lightning at the index of the last one.
        return out or _at(steps, positions, int(clocks.lightning and not is_test(name)))
    if clocks.lightning:
        return _at(steps, positions, _shift(steps, places))
    if steps.keys() & places and not _count_epochs(steps, positions, clocks):
        of_steps = _at(steps, positions, 0)
        return {**_after_the_end(steps, positions), **of_steps}
    return _as_epochs(steps, positions, clocks)


def _after_the_end(steps: dict[int, _Value], positions: Sequence[Position]) -> dict[str, _Value]:
    """Give detectron2's last model what was evaluated at the number of iterations, one more than its own."""
    ours = [p for p in positions if p.step is not None and _DETECTRON2.fullmatch(PurePath(p.path).name)]
    last = max((p.step for p in ours if p.step is not None), default=-1)
    return {p.key: steps[last + 1] for p in ours if p.step == last} if max(steps) == last + 1 else {}


def _count_epochs(steps: Collection[int], positions: Sequence[Position], clocks: _Clocks) -> bool:
    """Tell whether a metric's steps end where the epochs of checkpoints do, and stand at more epochs than steps.

    That says nothing unless others of the log stand at more of the steps.

    MMEngine writes scores at the number of the epoch and losses at that of the update, both as ``step``: with ten
    updates an epoch, the scores of epochs 10 and 20 stand at the steps of checkpoints 1 and 2.
    """
    both = [p for p in positions if p.epoch is not None and p.step is not None and p.epoch != p.step]
    at_epochs, at_steps = sum(p.epoch in steps for p in both), sum(p.step in steps for p in both)
    return clocks.standing > at_steps < at_epochs and max(steps) <= clocks.last + 1


def _stands_at(steps: Collection[int], places: set[int]) -> bool:
    """Tell whether a metric was logged at the very steps of checkpoints, several times, and not one before them."""
    return len(steps) > 1 and places.issuperset(steps) and not places.issuperset(s + 1 for s in steps)


def _shift(steps: Collection[int], places: set[int]) -> int:
    at, before = len(places.intersection(steps)), len(places.intersection(s + 1 for s in steps))
    return 0 if at > before else 1


def _at(steps: dict[int, _Value], positions: Sequence[Position], shift: int) -> dict[str, _Value]:
    return {p.key: steps[p.step - shift] for p in positions if p.step is not None and p.step - shift in steps}


def _not_later(
    found: list[tuple[int | None, _Value]], position: Position, clocks: _Clocks
) -> list[tuple[int | None, _Value]]:
    """Leave out what was logged after a step; all of it, unless no steps agree: then they count something else."""
    shift = 1 if clocks.lightning else 0
    kept = [(s, v) for s, v in found if position.step is None or s is None or s + shift <= position.step]
    return kept if kept or clocks.strict else found


def _as_epochs(steps: dict[int, _Value], positions: Sequence[Position], clocks: _Clocks) -> dict[str, _Value]:
    """Take steps for epochs, unless they are seen to count something else."""
    if not steps:
        return {}
    beyond = max(steps) > clocks.last + 1
    epochs = _epochs(positions)
    if clocks.counted and (beyond or len(epochs & steps.keys()) < min(2, len(epochs))):
        return {}  # other metrics of this log have the optimiser's steps
    if beyond and clocks.fewest is not None and max(steps) > 2 * clocks.fewest + 2:
        return {}  # others end far earlier: those count epochs
    if beyond and clocks.strides:
        return {}  # others come once an epoch, and far apart: steps count updates
    if max(steps) > clocks.last + _usual_gap(epochs) > clocks.last:
        return {}  # checkpoints that were saved all along would be there of the log's end, too
    behind = _behind(steps, positions, clocks)
    return {
        p.key: steps[p.epoch - behind]
        for p in positions
        if p.epoch is not None and p.epoch - behind in steps and not (beyond and p.step is not None)
    }


def _usual_gap(epochs: Collection[int]) -> int:
    """Return what lies between two checkpoints that were saved regularly, at least three of them; 0: they were not."""
    gaps = {b - a for a, b in pairwise(sorted(epochs))}
    return gaps.pop() if len(epochs) >= _FEWEST and len(gaps) == 1 else 0


def _numbered(metadata: RunMetadata, positions: Sequence[Position]) -> list[Row]:
    """Give epochs to rows that say none, where their number shows the first one; name the files where it does not."""
    epochs = _epochs(positions)
    out: list[Row] = []
    for path, rows in metadata.ordered:
        if len(rows) == 1:
            metadata.final = {**rows[0].metrics, **metadata.final}
            continue
        # With a checkpoint of epoch 0 the rows start there; with one of epoch n, n rows start at 1.
        start = 0 if 0 in epochs and max(epochs) < len(rows) else 1 if epochs and max(epochs) == len(rows) else None
        if start is None or (0 in epochs and start == 1):
            reason = (
                f"its {len(rows):,} rows say no epoch or step, and their number does not show which checkpoints they "
                f"belong to: add a column epoch"
            )
            metadata.failures.append((path, reason))
            continue
        out += [Row(start + i, None, row.metrics) for i, row in enumerate(rows)]
    return out
