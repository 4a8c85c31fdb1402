"""How many epochs a run is planned to have, where a hyperparameter of past runs says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epsopt.optimize.space import Config, Parameter, Space

EPOCHS = ("epochs", "max_epochs", "num_epochs", "n_epochs", "num_train_epochs")
"""What programs call the number of epochs."""

_AGREEING = 0.9
_FEWEST = 5  # runs: a few may agree by chance


def epochs_parameter(
    configs: Sequence[Mapping[str, Any]], last_epochs: Sequence[float], *, fewest: int = 1
) -> str | None:
    """Name the hyperparameter that gives the number of epochs: it equals the last epoch of nine runs in ten.

    Args:
        configs: hyperparameters of ``n`` runs that ended by themselves.
        last_epochs: of the same runs.
        fewest: runs without which none is named: a few may agree by chance.

    Returns:
        The name of the hyperparameter, or None.
    """
    if len(configs) < max(fewest, 1):
        return None
    for name in sorted(set[str].intersection(*map(set, configs))):
        values = [positive_number(config[name]) for config in configs]
        if sum(v == last for v, last in zip(values, last_epochs, strict=True)) >= _AGREEING * len(configs):
            return name
    return None


def length_parameter(space: Space, configs: Sequence[Mapping[str, Any]], last_epochs: Sequence[float]) -> str | None:
    """Name the hyperparameter that sets how many epochs a run has: ``epochs``, or one that nine runs in ten agree with.

    Args:
        space: of the hyperparameters; only one of its parameters is named that may say a number.
        configs: of ``n`` runs.
        last_epochs: of the same runs.
    """
    numbers = [p.name for p in space.parameters if length_choices(p) and p.active_when is None]
    if "epochs" in numbers:
        return "epochs"
    name = epochs_parameter(configs, last_epochs, fewest=_FEWEST)
    return name if name in numbers else None


def length_choices(parameter: Parameter) -> tuple[float, ...]:
    """Return what a hyperparameter may say of how long a run is: both ends of a range, or the numbers of a list.

    Args:
        parameter: any.

    Returns:
        None of them where it is a choice of anything but positive numbers.
    """
    if parameter.kind != "categorical":
        return parameter.low, parameter.high
    lengths = tuple(v for v in map(positive_number, parameter.choices) if v is not None)
    return lengths if len(lengths) == len(parameter.choices) else ()


def config_with_epochs(space: Space, config: Mapping[str, Any], by: str | None, epochs: float) -> Config:
    """Return a configuration whose hyperparameter says how many epochs the run has, as nearly as its range allows.

    Args:
        space: of the hyperparameters.
        config: active ones.
        by: the hyperparameter that says it; None, or one that the space does not have: the configuration stays.
        epochs: how many.
    """
    parameter = next((p for p in space.parameters if p.name == by), None)
    if parameter is None:
        return dict(config)
    if parameter.kind == "categorical":
        nearest = min(parameter.choices, key=lambda v: abs((positive_number(v) or 0.0) - epochs))
        return {**config, parameter.name: nearest}
    value = min(max(float(epochs), parameter.low), parameter.high)
    return {**config, parameter.name: round(value) if parameter.kind == "int" else value}


def positive_number(value: Any) -> float | None:
    """Return a positive number as a float, and None for anything else, booleans included."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
