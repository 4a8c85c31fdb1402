"""Hyperparameters that were renamed between past runs: ``lr`` in the old ones, ``optimizer.lr`` in the new ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epsopt.optimize.bookkeeping import why_left_out

_ALIKE = (  # other words for one thing
    frozenset(("lr", "learning_rate", "base_lr", "learningrate")), frozenset(("wd", "weight_decay", "weightdecay")),
    frozenset(("bs", "batch_size", "batchsize")), frozenset(("epochs", "max_epochs", "num_epochs", "n_epochs")),
)  # fmt: skip
_MOST = 0.9  # of the runs have one of the two


@dataclass(frozen=True)
class RenamedParameter:
    """Two names of one hyperparameter.

    Attributes:
        old: the name that some runs have.
        new: the name that all others have.
        old_runs: how many have the first one.
        new_runs: how many have the second one.
    """

    old: str
    new: str
    old_runs: int
    new_runs: int


def renamed_parameters(runs: Sequence[Mapping[str, Any]], kept: Sequence[str] = ()) -> list[RenamedParameter]:
    """Find names that mean one hyperparameter: no run has both, nearly every run has one, and they end alike.

    ``adam.lr`` and ``sgd.lr`` are two hyperparameters, since a text of the run tells which of them it has: one that all
    runs have, and whose values in runs with the one name are none of those with the other. So does a truth value.

    Args:
        runs: hyperparameters of each, the oldest first; None is no value.
        kept: names that the project uses: these are the new ones.

    Returns:
        By the old name; a name is in one pair at most.
    """
    having: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        for name, value in run.items():
            if value is not None:
                having.setdefault(name, []).append(i)
    partly = sorted(name for name, places in having.items() if len(places) < len(runs))
    found: list[RenamedParameter] = []
    taken: set[str] = set()
    for i, one in enumerate(partly):
        for other in partly[i + 1 :]:
            a, b = set(having[one]), set(having[other])
            if a & b or len(a | b) < _MOST * len(runs) or {one, other} & taken or not _means_the_same(one, other):
                continue
            values = [[runs[k][name] for k in having[name]] for name in (one, other)]
            if len({_kind(v) for v in (*values[0], *values[1])}) > 1 or why_left_out(one, values[0]) is not None:
                continue
            if _set_apart(runs, a, b, having):
                continue
            old, new = (one, other) if (other in kept, max(b)) > (one in kept, max(a)) else (other, one)
            found.append(RenamedParameter(old, new, len(having[old]), len(having[new])))
            taken |= {one, other}
    return sorted(found, key=lambda r: r.old)


def _parts(name: str) -> list[str]:
    return [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).replace("-", "_").lower() for part in re.split(r"[./]", name)]


def _longer(one: str, other: str) -> bool:
    """Whether one is the other with more in front: ``lr`` and ``optimizer.lr``, or ``optimizer_lr``."""
    short, long = sorted(("_".join(_parts(one)), "_".join(_parts(other))), key=len)
    return short == long or long.endswith(f"_{short}")


def _means_the_same(one: str, other: str) -> bool:
    a, b = _parts(one)[-1], _parts(other)[-1]
    return a == b or any(a in words and b in words for words in _ALIKE) or _longer(one, other)


def _kind(value: object) -> type:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return float if numeric else type(value)


def _set_apart(
    runs: Sequence[Mapping[str, Any]], a: set[int], b: set[int], having: Mapping[str, Sequence[int]]
) -> bool:
    """Whether a text or truth value that all runs have tells which of two names a run has."""
    for name in (n for n, places in having.items() if len(places) == len(runs)):
        if why_left_out(name, [run[name] for run in runs]) is not None:
            continue  # the state of the program, not a choice
        values = [{repr(runs[i][name]) for i in group if isinstance(runs[i][name], str | bool)} for group in (a, b)]
        if all(values) and not values[0] & values[1] and len(values[0]) + len(values[1]) < len(runs):
            return True
    return False
