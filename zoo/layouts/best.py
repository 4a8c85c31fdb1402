"""Which checkpoint its run called the best at its end: a test after training may have been of that one.

Lightning's ``trainer.test(ckpt_path="best")`` loads the best checkpoint and logs at the step where training ended, as
``trainer.test(model)`` does of the last weights; the log is the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import PurePath

from epsopt.zoo.layouts.parsed import Position

_TEST = re.compile(r"(^|[^a-z])test([^a-z]|$)", re.IGNORECASE)
_BEST = re.compile(r"(^|[_.-])best([_.-]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Claim:
    """What one file says of its run's best checkpoint.

    Attributes:
        key: of the position that the file belongs to.
        path: of the file.
        best: the path of the best checkpoint so far, as the file says it; None where it says none.
    """

    key: str
    path: str
    best: str | None


def is_test(name: str) -> bool:
    """Tell whether a metric's name says that it was measured in a test."""
    return _TEST.search(name) is not None


def named_best(claims: Sequence[Claim]) -> list[Claim]:
    """Return claims of files that are called the best, where one of a run's checkpoints is and none says which it is.

    Args:
        claims: of all files of one run.
    """
    if any(c.best for c in claims):
        return list(claims)
    called = [c for c in claims if _BEST.search(PurePath(c.path).name)]
    keys = {c.key for c in called}
    if len(keys) != 1:  # of several callbacks, or of several metrics
        return list(claims)
    return [replace(c, best=called[0].path) for c in claims]


def same_end(one: PurePath | str, other: str) -> int:
    """Return how many names two paths have in common, counted from the end."""
    first, second = PurePath(one).parts, PurePath(other.replace("\\", "/")).parts
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(first), reversed(second), strict=False))
    )


def with_best(positions: Sequence[Position], claims: Sequence[Claim]) -> list[Position]:
    """Return positions that know whether theirs is the best checkpoint, by the newest files that say which is.

    Args:
        positions: of one run.
        claims: of its files; several may belong to one position.
    """
    moments = {p.key: (-1 if p.step is None else p.step, -1 if p.epoch is None else p.epoch) for p in positions}
    made = [c for c in claims if c.best and c.key in moments]
    if not made:
        return list(positions)
    newest = max(moments[c.key] for c in made)
    places = [(c.path, c.key) for c in claims] + [(p.path, p.key) for p in positions if p.path]
    found = {_resolved(str(c.best), places) for c in made if moments[c.key] == newest}
    # A callback that saved earlier in this moment knew less than the one that saved the best.
    best = max((key for key in found if key is not None), key=lambda key: moments[key], default=None)
    return [replace(p, best=p.key == best) for p in positions]


def _resolved(best: str, places: Sequence[tuple[str, str]]) -> str | None:
    """Return the position of the file that has most of its path in common with the best one's; it may have moved."""
    ends = [(same_end(path, best), key) for path, key in places]
    most = max((end for end, _ in ends), default=0)
    keys = {key for end, key in ends if end == most}
    return next(iter(keys)) if most and len(keys) == 1 else None
