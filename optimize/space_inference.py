"""Infer a search space from the hyperparameters of past runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from epsopt.optimize.bookkeeping import SEED, why_left_out
from epsopt.optimize.conditional_space import condition_of
from epsopt.optimize.copied_parameters import copied_parameters
from epsopt.optimize.objectives import Objective
from epsopt.optimize.outliers import outlying
from epsopt.optimize.planned_epochs import EPOCHS
from epsopt.optimize.space import Parameter, Space, identity, is_number
from epsopt.surrogate.ranges import words
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError
from epsopt.zoo.formatting import count

__all__ = ["beyond", "condition_of", "diverged_runs", "infer_space", "infer_space_of", "left_out", "seeds_of"]

_LOG = 5.0  # from this ratio of its ends on, a range may be searched logarithmically
_SURELY_LOG = 100.0  # from this one on it is
_RATES = frozenset("lr eta wd decay weightdecay learning_rate weight_decay l1 l2".split())
_SHARES = frozenset("dropout drop smoothing momentum prob probability ratio fraction frac share mixup cutmix p".split())
_MARGIN = 0.25  # of the range of all other runs: by no more does one that diverged widen it
_FEWEST_OTHERS = 3  # values of runs that did not diverge; fewer make no range
_FEW = 4  # whole numbers, or numbers beside None, that return again and again were chosen from a list
_MOST_CHOICES = 50


def infer_space(runs: Sequence[Mapping[str, Any]], ignore: Sequence[str] = (), diverged: Collection[int] = ()) -> Space:
    """Infer a search space from the hyperparameters of past runs.

    A number that varies is searched over the range seen: logarithmically where it spans a factor of five or more and is
    a learning rate, a weight decay, or spread that way (a factor of a hundred for what its name calls a share); texts,
    truth values, lists and numbers beside them are choices; what never varies is fixed. A parameter that only some runs
    have is conditional when another one (a choice, a truth value, a number, or None) tells exactly when it is there;
    that one may be conditional itself. Where none does, runs without it were launched without it, which is a choice
    as well. `optim.lr` and `optim/lr` are one parameter. Seeds, paths, hosts, times and what else says which run it was
    are bookkeeping, not hyperparameters; nor is what another hyperparameter sets (:func:`left_out`).

    Args:
        runs: one mapping per run; None is a value, and the same as no value.
        ignore: names to leave out besides.
        diverged: places of the runs that diverged (:func:`diverged_runs`). A number that one of them has far outside of
            what all others have, as a learning rate of 1000, does not widen its range; every other value lies inside.

    Returns:
        The space.

    Raises:
        UsageError: no hyperparameter varies.
    """
    renamed = _without_copies(_one_name_each(runs))
    runs = _of_one_kind(renamed)
    broken = {id(renamed[i]) for i in diverged}
    names = sorted({name for run in runs for name in run} - set(ignore))
    present = {n: [r[n] for r in runs if r.get(n) is not None] for n in names}
    kept = [n for n in names if present[n] and why_left_out(n, present[n]) is None]
    varying = [n for n in kept if _varies(n, runs, present[n])]
    stretching = {n: [r[n] for r in runs if id(r) in broken and r.get(n) is not None] for n in varying}
    fixed = {n: present[n][0] for n in kept if len(present[n]) == len(runs) and n not in varying}
    parameters: list[Parameter] = []
    # Those that most runs have come first: a parent is there whenever its child is.
    waiting = sorted(varying, key=lambda n: (-len(present[n]), n))
    for name in [n for n in waiting if len(present[n]) == len(runs)]:
        parameters += _parameters(name, _near(present[name], stretching[name]), optional=False)
    for name in [n for n in waiting if len(present[n]) < len(runs)]:
        condition = condition_of(name, runs, parameters)
        found = _parameters(name, _near(present[name], stretching[name]), optional=condition is None)
        parameters += [replace(p, active_when=condition) for p in found]
    if not parameters:
        why = f"no hyperparameter varies over {count(len(runs), 'run')}" if runs else "no run is known"
        raise UsageError(f"{why}, so there is nothing to search: declare [space.NAME] tables in epsopt.toml")
    return Space(tuple(parameters), fixed)


def infer_space_of(checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective] = ()) -> Space:
    """Infer a search space from the runs of checkpoints; those that diverged widen no range.

    Args:
        checkpoints: the catalogue's, ordered by run and epoch as it gives them.
        objectives: which way metrics are better; without them only values that are not finite tell of a divergence.

    Raises:
        UsageError: no hyperparameter varies.
    """
    last = {c.run_id: c for c in checkpoints}
    ends = [c.metrics for c in last.values()]
    return infer_space([c.hyperparameters for c in last.values()], diverged=diverged_runs(ends, objectives))


def diverged_runs(ends: Sequence[Mapping[str, float | None]], objectives: Sequence[Objective] = ()) -> list[int]:
    """Return the places of runs that diverged, judged by what was measured at their ends.

    Args:
        ends: metrics by name; None where one was not finite.
        objectives: metrics with their directions; a run diverged that is far worse than the bulk of all
            (:mod:`epsopt.optimize.outliers`), or has one that is not finite. Without any, every metric is looked at for
            what is not finite.
    """
    names = {o.name for o in objectives} or {name for end in ends for name in end}
    found = {i for i, end in enumerate(ends) if any(name in end and end[name] is None for name in names)}
    for objective in objectives:
        values = np.array([math.nan if (v := end.get(objective.name)) is None else v for end in ends], dtype=float)
        found.update(np.flatnonzero(outlying(values, maximize=objective.maximize)).tolist())
    return sorted(found)


def seeds_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return the seeds of past runs by name; None where they differ between runs."""
    found: dict[str, int | None] = {}
    for name in sorted({name for run in runs for name in run}):
        values = [run[name] for run in runs if run.get(name) is not None]
        whole = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
        if values and len(whole) == len(values) and why_left_out(name, values) == SEED:
            found[name] = whole[0] if len(set(whole)) == 1 else None
    return found


def beyond(space: Space, runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the numbers of runs that lie outside of a space, by hyperparameter: runs that diverged had them."""
    runs = _of_one_kind(_without_copies(_one_name_each(runs)))
    found = {}
    for p in space.parameters:
        values = {r[p.name] for r in runs if p.kind != "categorical" and is_number(r.get(p.name))}
        if outside := sorted(v for v in values if not p.low <= v <= p.high):
            found[p.name] = outside
    return found


def left_out(runs: Sequence[Mapping[str, Any]], ignore: Sequence[str] = ()) -> dict[str, str]:
    """Tell which hyperparameters vary among past runs and are not searched, each with the reason.

    Args:
        runs: as of :func:`infer_space`.
        ignore: as of :func:`infer_space`; these are not named.
    """
    runs = _of_one_kind(_one_name_each(runs))
    copies = copied_parameters(runs)
    found: dict[str, str] = {}
    for name in sorted({name for run in runs for name in run} - set(ignore)):
        values = [r[name] for r in runs if r.get(name) is not None]
        if not values or not _varies(name, runs, values):
            continue
        why = why_left_out(name, values)
        if why is None and name in copies:
            why = f"{copies[name]} sets it"
        if why is None and not _parameters(name, values, optional=False):
            why = (
                "it has no finite value" if all(_is_odd(v) for v in values) else "it has a value of its own in each run"
            )
        if why is not None:
            found[name] = why
    return found


def _without_copies(runs: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Leave out what is set by another hyperparameter."""
    copies = copied_parameters(_of_one_kind(runs))
    return [{n: v for n, v in run.items() if n not in copies} for run in runs] if copies else runs


def _near(values: Sequence[Any], broken: Sequence[Any]) -> Sequence[Any]:
    """Leave out the numbers that diverged runs alone have, far from those of all others."""
    if not broken or not all(is_number(v) for v in values):
        return values
    rest = Counter(values)
    rest.subtract(broken)
    others = [v for v in values if rest[v] > 0]
    if len(set(others)) < _FEWEST_OTHERS:
        return values
    scale = math.log if min(values) > 0 and max(values) / min(values) >= _LOG else float
    low, high = scale(min(others)), scale(max(others))
    margin = _MARGIN * (high - low)
    return [v for v in values if low - margin <= scale(v) <= high + margin]


def _one_name_each(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Give one hyperparameter one name: two loggers of a run separate its parts differently, by a dot or a slash.

    The name that most runs have is kept. Where the two have different values in a run they are two.
    """
    times = Counter(name for run in runs for name in run)
    alike: dict[str, list[str]] = {}
    for name in times:
        alike.setdefault(name.replace("/", "."), []).append(name)
    renamed: dict[str, str] = {}
    for names in alike.values():
        best = min(names, key=lambda n: (-times[n], "/" in n, n))
        for name in names:
            both = [(r[name], r[best]) for r in runs if r.get(name) is not None and r.get(best) is not None]
            if all(_same(a, b) for a, b in both):
                renamed[name] = best
    out: list[Mapping[str, Any]] = []
    for run in runs:
        one = {name: value for name, value in run.items() if renamed.get(name, name) == name}
        for name, value in run.items():
            if one.get(renamed.get(name, name)) is None:
                one[renamed.get(name, name)] = value
        out.append(one)
    return out


def _same(a: object, b: object) -> bool:
    if is_number(a) and is_number(b):
        return math.isclose(a, b, rel_tol=1e-6)  # a logger keeps 32 bits
    return identity(a) == identity(b) or str(a) == str(b)


def _of_one_kind(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out runs of another kind, such as the base that the others start from: they lack what the others share."""
    known = Counter(name for run in runs for name, value in run.items() if value is not None)
    common = {n for n, times in known.items() if times > 0.8 * len(runs)}
    return [run for run in runs if 2 * sum(run.get(n) is not None for n in common) >= len(common)]


def _varies(name: str, runs: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> bool:
    """Whether two runs have different values, or one says None where another has a value."""
    return len({identity(v) for v in values}) > 1 or any(name in r and r[name] is None for r in runs)


def _parameters(name: str, values: Sequence[Any], *, optional: bool) -> list[Parameter]:
    """The parameter of these values, if they make one."""
    nothing = (None,) if optional else ()
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        choices = _choices(values)
        return [Parameter(name, "categorical", choices=(*nothing, *choices))] if len(choices) <= _MOST_CHOICES else []
    numbers = [v for v in values if is_number(v)]
    if not numbers:
        return []
    whole = all(isinstance(v, int) for v in numbers)
    distinct = sorted(set(numbers))
    listed = len(distinct) <= min(_FEW, max(len(values) // 3, int(optional)))
    if (whole or optional) and listed and name.replace("/", ".").rpartition(".")[2] not in EPOCHS:
        # 300 may not be on the list of batch sizes.
        return [Parameter(name, "categorical", choices=(*nothing, *distinct))]
    low, high = float(min(numbers)), float(max(numbers))
    if not whole:
        low, high = _around(low, high)
    log = _is_logarithmic(name, [float(v) for v in numbers], low, high)
    return [Parameter(name, "int" if whole else "float", low, high, log, optional=optional)]


def _is_logarithmic(name: str, numbers: Sequence[float], low: float, high: float) -> bool:
    """Whether a range is searched on a logarithmic scale: by its name, or as its values are spread.

    They are where they are likelier drawn log-uniformly than uniformly from that range.
    """
    if low <= 0 or high / low < _LOG:
        return False
    parts = set(words(name))
    if parts & _RATES or "_".join(words(name)[-2:]) in _RATES or high / low >= _SURELY_LOG:
        return True
    if parts & _SHARES:
        return False
    uniform = -len(numbers) * math.log(high - low)
    log_uniform = -len(numbers) * math.log(math.log(high / low)) - sum(map(math.log, numbers))
    return log_uniform > uniform


def _choices(values: Sequence[Any]) -> tuple[Any, ...]:
    """Each value once, a list before its text; in a fixed order, numbers by size."""
    found: dict[tuple[str, Any], Any] = {}
    for value in values:
        if _is_odd(value):
            continue
        key = identity(value)
        if key not in found or isinstance(found[key], str):
            found[key] = list(value) if isinstance(value, tuple) else value
    return tuple(sorted(found.values(), key=_order))


def _order(value: object) -> tuple[bool, float, str, str]:
    number = is_number(value)
    return number, float(value) if number else 0.0, str(value), type(value).__name__  # type: ignore[arg-type]


def _is_odd(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _around(low: float, high: float) -> tuple[float, float]:
    """Round a range outwards, to a thousandth of itself or to three significant digits: every run lies inside.

    No end is moved to 0 or 1, which may be no valid value (a momentum, a share), or across.
    """
    wide = math.floor(math.log10(high - low)) if high > low else 0
    # An end near zero is rounded by its own size: on a logarithmic scale it matters as much as the other.
    places = [2 - min(math.floor(math.log10(abs(v))), wide) if v else 0 for v in (low, high)]
    if max(places) > 15:
        return low, high
    down, up = math.floor(low * 10.0 ** places[0]), math.ceil(high * 10.0 ** places[1])
    rounded = (float(f"{down * 10.0 ** -places[0]:.15g}"), float(f"{up * 10.0 ** -places[1]:.15g}"))
    start = rounded[0] if rounded[0] <= low and not _passes(low, rounded[0]) else low
    end = rounded[1] if rounded[1] >= high and not _passes(high, rounded[1]) else high
    return start, end


def _passes(value: float, rounded: float) -> bool:
    """Whether rounding brings a value to 0 or 1, to -1, or to its other side."""
    return value != rounded and any(min(value, rounded) <= mark <= max(value, rounded) for mark in (-1.0, 0.0, 1.0))
