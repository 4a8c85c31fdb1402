"""Which checkpoint the values of a run's end are of: ``results.json`` beside ``epoch_10.pt`` and ``final.pt``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePath

from epsopt.zoo.layouts.parsed import Position

_FINAL = re.compile(r"(^|[_.-])(final|last|latest)([_.-]|$)", re.IGNORECASE)
_BEST_EPOCH = re.compile(r"best_?epoch", re.IGNORECASE)
_LAST_EPOCH = re.compile(r"(final|last)_?epoch", re.IGNORECASE)
_UNKNOWN = 2**53  # the epoch of a checkpoint that stands in for any later one
_SAY = 'give them in a CSV with columns checkpoint and metric.NAME ([runs] table = "runs.csv" in epsopt.toml)'


def moments_of_end(values: dict[str, float | None]) -> tuple[int | None, int | None]:
    """Take out of the values of a run's end the epoch of its best checkpoint and that of its end, where they say it."""
    found: list[int | None] = []
    for pattern in (_BEST_EPOCH, _LAST_EPOCH):
        number = next((values.pop(name) for name in list(values) if pattern.fullmatch(name)), None)
        found.append(None if number is None else int(number))
    return found[0], found[1]


def end_of_run(
    positions: Sequence[Position], last: Position, logged: Collection[int], ended: int | None
) -> tuple[Position | None, str]:
    """Return the checkpoint of a run's end, or None with the reason why none is known to be it.

    Args:
        positions: of the run's checkpoints.
        last: the one of the highest epoch.
        logged: epochs of the log.
        ended: the epoch that the values say themselves.
    """
    folders = len({PurePath(p.path).parent for p in positions}) > 1  # else it is called as its run is
    alone = [p for p in positions if p.rival is None]
    called = [p for p in alone if p.epoch is p.step is None and _is_called_last(PurePath(p.path), folders=folders)]
    if len(called) == 1:
        return called[0], ""
    if called:
        names = ", ".join(sorted(PurePath(p.path).name for p in called)[:3])
        return None, f"values of the run's end, and {names} are all called its last checkpoint: {_SAY}"
    if last.epoch is None:
        several = len({p.key for p in alone}) > 1
        why = f"values of the run's end, and no epoch or name says which of its checkpoints is the last: {_SAY}"
        return (None, why) if several else (last, "")
    end = max([*logged, *([] if ended is None else [ended])], default=last.epoch)
    if last.epoch < _UNKNOWN and last.epoch != last.step and end > last.epoch + 1:
        return (
            None,
            (
                f"values of the run's end, at epoch {end}, and the last checkpoint is of epoch {last.epoch}: save one "
                f"at the end, or {_SAY}"
            ),
        )
    return last, ""


def _is_called_last(path: PurePath, *, folders: bool) -> bool:
    return _FINAL.search(path.stem) is not None or (folders and _FINAL.search(path.parent.name) is not None)
