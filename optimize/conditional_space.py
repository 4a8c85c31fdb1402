"""When a hyperparameter is there at all: learned from runs that had it and runs that had not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from epsopt.optimize.space import Parameter, Space, Span, Value, identity, is_number

Condition = tuple[str, tuple[Value | Span, ...]]

_BY_CHANCE = 0.1
"""A number divides runs at some value by chance, too: a division that is likelier than this says nothing."""


def condition_of(
    name: str,
    runs: Sequence[Mapping[str, Any]],
    parents: Sequence[Parameter],
    present: Sequence[bool] | None = None,
) -> Condition | None:
    """Find the parameter whose values tell exactly which runs have another parameter.

    Choices are asked first, whole numbers before others; a number tells by a range of values. Where a parent is
    inactive itself its child is absent.

    Args:
        name: of the child.
        runs: one mapping per run; None, and no value, say that a parameter is absent.
        parents: parameters that it may depend on, each after its own parent.
        present: whether each run has it, where None is one of its values.

    Returns:
        As ``Parameter.active_when``; None where no parameter tells.
    """
    space = Space(tuple(parents))
    active = [{p.name for p in space.active(run)} for run in runs]
    there = [run.get(name) is not None for run in runs] if present is None else present
    order = ("categorical", "int", "float")
    for parent in sorted(parents, key=lambda p: order.index(p.kind)):
        if any(t and parent.name not in a for t, a in zip(there, active, strict=True)):
            continue
        seen = [(run.get(parent.name), t) for run, t, a in zip(runs, there, active, strict=True) if parent.name in a]
        values = _choices_that_tell(parent, seen) if parent.kind == "categorical" else _span_that_tells(parent, seen)
        if values and any(not t for t in there):
            return parent.name, values
    return None


def _choices_that_tell(parent: Parameter, seen: Sequence[tuple[Any, bool]]) -> tuple[Value | Span, ...]:
    on = {place for value, there in seen if there and (place := parent.choice(value)) is not None}
    off = {place for value, there in seen if not there and (place := parent.choice(value)) is not None}
    unknown = any(there and parent.choice(value) is None for value, there in seen)
    return () if on & off or unknown else tuple(c for i, c in enumerate(parent.choices) if i in on)


def _span_that_tells(parent: Parameter, seen: Sequence[tuple[Any, bool]]) -> tuple[Value | Span, ...]:
    on = sorted(value for value, there in seen if there and is_number(value))
    off = sorted(value for value, there in seen if not there and is_number(value))
    left_out = {there for value, there in seen if value is None}
    if any(value is not None and not is_number(value) for value, _ in seen) or len(left_out) > 1:
        return ()
    if not on:  # only where the number was left out
        return (None,) if left_out == {True} and off else ()
    if any(on[0] <= v <= on[-1] for v in off):
        return ()
    if off and _chance(len(on), len(off)) > _BY_CHANCE and not _again_and_again(on, off):
        return ()
    below, above = [v for v in off if v < on[0]], [v for v in off if v > on[-1]]
    low = _between(parent, below[-1], on[0]) if below else -math.inf
    high = _between(parent, above[0], on[-1]) if above else math.inf
    if not off and left_out != {False}:
        return ()  # whatever the number is
    return (Span(low, high), *((None,) if left_out == {True} else ()))


def _chance(on: int, off: int) -> float:
    """Chance that some value divides runs that are shuffled: twice one in all ways to choose them."""
    return 2.0 / math.comb(on + off, on)


def _again_and_again(on: Sequence[float], off: Sequence[float]) -> bool:
    """Whether runs that share a value agree so often that it is no chance."""
    values = [*on, *off]
    return len(values) - len({identity(v) for v in values}) >= 3


def _between(parent: Parameter, off: float, on: float) -> float:
    """Where a child is switched on: whole numbers next to the last one without it, others half-way."""
    if parent.kind == "int":
        return off + 1 if off < on else off - 1
    if parent.log and min(off, on) > 0:
        return math.sqrt(off * on)
    return (off + on) / 2.0
