"""What a script searches, as an Optuna study shows it: distributions of trials as a search space, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from epsopt.optimize.conditional_space import Condition, condition_of
from epsopt.optimize.space import Config, Parameter, Space

_RECENT = 8
"""Trials whose ranges say what is asked for now: a script may ask for another range in each branch."""


def asked_for(trials: Iterable[FrozenTrial], *, recent: int | None = _RECENT) -> dict[str, BaseDistribution]:
    """Return one distribution of every parameter that trials had.

    A range that changed is the union of those of the newest trials that had it: where it was narrowed or moved, that is
    what is asked for now, and where it is another one in each branch of a script, all of them are in it.

    Args:
        trials: oldest first.
        recent: how many of them; None: all.

    Returns:
        By name, in alphabetical order; of a parameter that became another kind altogether, the newest.
    """
    found: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            found.setdefault(name, []).append(distribution)
    return {name: _union(found[name] if recent is None else found[name][-recent:]) for name in sorted(found)}


def _union(distributions: Sequence[BaseDistribution]) -> BaseDistribution:
    newest = distributions[-1]
    alike = [d for d in distributions if type(d) is type(newest)]
    if all(d == newest for d in alike) or isinstance(newest, CategoricalDistribution):
        return newest
    if isinstance(newest, IntDistribution):
        whole = [d for d in alike if isinstance(d, IntDistribution) and d.log == newest.log]
        step = math.gcd(*(s for d in whole for s in (d.step, d.low - newest.low)))
        low, high = min(d.low for d in whole), max(d.high for d in whole)
        return IntDistribution(low, high, log=newest.log, step=1 if newest.log else max(step, 1))
    assert isinstance(newest, FloatDistribution)
    floats = [d for d in alike if isinstance(d, FloatDistribution) and d.log == newest.log]
    same = all((d.step, d.low) == (newest.step, newest.low) for d in floats)
    least, most = min(d.low for d in floats), max(d.high for d in floats)
    return FloatDistribution(least, most, log=newest.log, step=newest.step if same else None)


def space_of(
    distributions: Mapping[str, BaseDistribution],
    seen: Sequence[Mapping[str, Any]],
    *,
    always: bool = True,
) -> Space:
    """Make a search space of Optuna's distributions; what trials did not have tells what is conditional.

    Args:
        distributions: by name.
        seen: parameters of finished trials.
        always: whether a parameter that is sometimes absent, and no other parameter says when, is left out; otherwise
            it counts as always there (:func:`filled`).
    """
    parameters = [_parameter(n, d) for n, d in distributions.items() if all(n in params for params in seen)]
    waiting = {n: distributions[n] for n in distributions if all(p.name != n for p in parameters)}
    while True:
        resolved = {
            n: c for n in waiting if (c := condition_of(n, seen, parameters, [n in p for p in seen])) is not None
        }
        if not resolved:
            break
        parameters += [_parameter(n, waiting.pop(n), condition) for n, condition in resolved.items()]
    if not always:
        parameters += [_parameter(n, d) for n, d in waiting.items()]
    return Space(tuple(parameters))


def filled(space: Space, trial: FrozenTrial) -> Config | None:
    """Return a trial's configuration, with random values of what it was not asked for; the same for the same trial.

    A script that fails, or returns a penalty, often does so before it has asked for everything. To a model, that a
    parameter is absent would then say that a trial fails, and one that has it could not.

    Args:
        space: of what trials were asked for.
        trial: any.

    Returns:
        A configuration that the space describes; None if a value is of another kind.
    """
    params = trial.params
    if space.accepts(params):
        return space.given(params)
    if not all(p.is_of_kind(params[p.name]) for p in space.parameters if p.name in params):
        return None
    drawn = space.perturb(params, np.random.default_rng(trial.number), 0.0)
    return space.given({**drawn, **params})


def asking(space: Space, distributions: Mapping[str, BaseDistribution]) -> Space:
    """Return a space with the ranges of other distributions.

    Args:
        space: as :func:`space_of` made it.
        distributions: of each of its parameters.
    """
    asked = (replace(_parameter(p.name, distributions[p.name]), active_when=p.active_when) for p in space.parameters)
    return Space(tuple(asked))


def _parameter(name: str, distribution: BaseDistribution, condition: Condition | None = None) -> Parameter:
    if isinstance(distribution, CategoricalDistribution):
        return Parameter(name, "categorical", choices=tuple(distribution.choices), active_when=condition)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "int" if isinstance(distribution, IntDistribution) else "float"
    low, high = float(distribution.low), float(distribution.high)
    return Parameter(name, kind, low, high, distribution.log, active_when=condition)  # type: ignore[arg-type]


def snap(value: Any, distribution: BaseDistribution) -> Any:
    """Put a value on the distribution's grid, if it has one, and within its range."""
    if isinstance(distribution, CategoricalDistribution):
        return value
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is not None and not distribution.log:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def nearest(value: Any, distribution: BaseDistribution) -> Any:
    """Return the value of a distribution that is nearest to one that was planned for another; None if there is none."""
    if isinstance(distribution, CategoricalDistribution):
        parameter = Parameter("", "categorical", choices=tuple(distribution.choices))
        place = parameter.choice(value)
        return None if place is None else distribution.choices[place]
    return snap(value, distribution) if isinstance(value, int | float) and not isinstance(value, bool) else None
