"""Hyperparameters as Optuna parameters: from a declared search space, or from the values of past runs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)

from epsopt.optimize.bookkeeping import why_left_out
from epsopt.optimize.space import Parameter
from epsopt.zoo.layouts.parsed import RECOMBINED

MOST_CHOICES = 50  # more different texts than this are names or paths, not categories


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Return the Optuna distribution of a parameter of the search space."""
    if parameter.kind == "categorical":
        with warnings.catch_warnings():  # of lists: it keeps them as JSON, and they come back from it
            warnings.simplefilter("ignore", UserWarning)
            return CategoricalDistribution(parameter.choices)  # type: ignore[arg-type]
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def infer_distributions(
    configs: Sequence[Mapping[str, Any]], known: Mapping[str, BaseDistribution]
) -> dict[str, BaseDistribution]:
    """Find a distribution for every hyperparameter that can have one.

    Args:
        configs: hyperparameters by name, one mapping a run; None counts as absent.
        known: distributions that the study has already. A parameter keeps its kind, and a category its
            choices (Optuna demands both); only the range of numbers may grow.

    Returns:
        Distributions by name. Values that do not fit theirs are for the caller to keep elsewhere.
    """
    values: dict[str, list[Any]] = {}
    for config in configs:
        for name, value in config.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    found: dict[str, BaseDistribution] = {}
    for name, some in values.items():
        inferred = _infer(some)
        if name not in known:
            if inferred is not None:
                found[name] = inferred
        elif inferred is not None and _compatible(known[name], inferred):
            found[name] = inferred
        else:
            found[name] = known[name]
    return found


def searched_names(configs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the hyperparameters that differ between trained runs and are no bookkeeping.

    What one configuration alone has, such as a base model's own settings, or what has one value and is absent in one
    configuration alone, was not searched.

    Args:
        configs: hyperparameters by name, one mapping a run or checkpoint; None counts as absent. Merged checkpoints
            and what has no hyperparameters at all tell nothing.
    """
    each = {id(c): c for c in configs}.values()  # checkpoints of a run share one
    trained = list({repr(sorted(c.items())): c for c in each if c and RECOMBINED not in c}.values())
    values: dict[str, list[Any]] = {}
    for config in trained:
        for name, value in config.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    differ = {n: some for n, some in values.items() if _differs(some, len(trained))}
    return {n for n, some in differ.items() if why_left_out(n, some) is None}


def _differs(values: Sequence[Any], total: int) -> bool:
    """Whether several values were tried, or being there and being absent, each more than once."""
    return len({repr(v) for v in values}) > 1 or 2 <= len(values) <= total - 2


def fits(distribution: BaseDistribution, value: Any) -> bool:
    """Say whether a value can be recorded under a distribution, as the type that it has."""
    if isinstance(distribution, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(distribution, IntDistribution) and not isinstance(value, int):
        return False
    return math.isfinite(value) and distribution._contains(float(value))  # noqa: SLF001 - Optuna has no public one


def _infer(values: Sequence[Any]) -> BaseDistribution | None:
    if all(isinstance(v, str | bool) for v in values):
        choices = sorted(set(values), key=lambda v: (str(type(v)), str(v)))
        return CategoricalDistribution(choices) if len(choices) <= MOST_CHOICES else None
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        return None
    if all(isinstance(v, int) for v in values):
        return IntDistribution(min(values), max(values))
    return FloatDistribution(float(min(values)), float(max(values)))


def _compatible(old: BaseDistribution, new: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(old, new)
    except ValueError:
        return False
    return True
