"""Search spaces: what a training run may be launched with.

Conditional parameters are first class: an inactive parameter is absent from a configuration, and every model sees it
masked, not filled with a made-up value (FACTS.md: the largest single effect in a closed loop).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from epsopt.zoo.errors import UsageError

Value = str | int | float | bool
Config = dict[str, Value]
Key = tuple[tuple[str, Any], ...]
"""What makes two configurations the same (Space.key)."""


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter.

    Attributes:
        name: as the training program knows it.
        kind: ``float``, ``int`` or ``categorical``.
        low: smallest value (numeric kinds).
        high: largest value, included (numeric kinds).
        log: whether it is searched on a logarithmic scale.
        choices: the values of a categorical parameter.
        active_when: ``(parent, values)``: only active when the parent has one of these values; ``None`` = always.
    """

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Value, ...] = ()
    active_when: tuple[str, tuple[Value, ...]] | None = None

    @property
    def width(self) -> int:
        """Columns that the parameter takes in an encoded configuration (without the one that says it is active)."""
        return len(self.choices) if self.kind == "categorical" else 1

    def to_unit(self, value: Value) -> float:
        """Map a numeric value to [0, 1]; values outside the range are clipped."""
        low, high, x = self.low, self.high, float(value)
        if self.log:
            low, high, x = math.log(low), math.log(high), math.log(max(x, self.low))
        return min(max((x - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    def from_unit(self, unit: float) -> Value:
        """Map [0, 1] to a valid value."""
        low, high = self.low, self.high
        if self.log:
            value = math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
        else:
            value = low + unit * (high - low)
        value = min(max(value, low), high)
        if self.kind == "int":
            return round(value)
        # Four significant digits: what a person would type, and what the next run's command line shows.
        return min(max(float(f"{value:.4g}"), low), high)

    def takes(self, value: object) -> bool:
        """Whether a value is of this parameter's kind; a number may lie outside the range."""
        if self.kind == "categorical":
            return value in self.choices
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    def contains(self, value: Value) -> bool:
        """Whether a value is valid for this parameter."""
        if self.kind == "categorical":
            return any(value == c and type(value) is type(c) for c in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return self.low <= value <= self.high and (self.kind == "float" or float(value).is_integer())

    def as_json(self) -> dict[str, Any]:
        """Return the parameter as JSON values; what its kind does not have is None."""
        numeric = self.kind != "categorical"
        condition = None if self.active_when is None else dict(zip(("param", "values"), self.active_when, strict=True))
        return {
            "name": self.name,
            "type": self.kind,
            "low": self.low if numeric else None,
            "high": self.high if numeric else None,
            "log": self.log,
            "choices": None if numeric else list(self.choices),
            "active_when": condition and {**condition, "values": list(condition["values"])},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Parameter:
        """Return the parameter that as_json described."""
        condition = data["active_when"]
        return cls(
            data["name"],
            data["type"],
            0.0 if data["low"] is None else data["low"],
            1.0 if data["high"] is None else data["high"],
            data["log"],
            tuple(data["choices"] or ()),
            None if condition is None else (condition["param"], tuple(condition["values"])),
        )


@dataclass(frozen=True)
class Space:
    """All parameters, parents before children.

    Attributes:
        parameters: the parameters.
        fixed: values that every launched run gets besides (constants of the past runs).
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for p in self.parameters:
            if p.name in seen:
                raise UsageError(f"the search space names {p.name!r} twice: keep one of them")
            if p.kind == "categorical" and not p.choices:
                raise UsageError(f"parameter {p.name!r} is categorical but has no choices")
            if p.kind != "categorical" and not (p.low <= p.high and math.isfinite(p.low) and math.isfinite(p.high)):
                raise UsageError(f"parameter {p.name!r} has low {p.low} and high {p.high}, expected low <= high")
            if p.log and p.low <= 0:
                raise UsageError(f"parameter {p.name!r} is logarithmic but low is {p.low}, expected above 0")
            if p.active_when is not None and p.active_when[0] not in seen:
                raise UsageError(
                    f"parameter {p.name!r} depends on {p.active_when[0]!r}, which must be a parameter named before it"
                )
            seen.add(p.name)

    @property
    def width(self) -> int:
        """Columns of an encoded configuration."""
        return sum(p.width + (p.active_when is not None) for p in self.parameters)

    def active(self, config: Mapping[str, Any]) -> list[Parameter]:
        """Return the parameters that are active in a configuration."""
        out: list[Parameter] = []
        on: set[str] = set()
        for p in self.parameters:
            if p.active_when is None or (p.active_when[0] in on and config.get(p.active_when[0]) in p.active_when[1]):
                out.append(p)
                on.add(p.name)
        return out

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Whether a past run's configuration can be encoded: every active parameter has a value of its kind."""
        return all(p.takes(config.get(p.name)) for p in self.active(config))

    def encode(self, configs: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Encode configurations as ``(n, width)`` numbers in [0, 1].

        Numbers are scaled to their range, categories are one-hot, and a conditional parameter has one more column
        that says whether it is active; inactive it is 0.5 (numeric) or 0 (one-hot). A value missing from an active
        parameter is treated as inactive.
        """
        out = np.zeros((len(configs), self.width))
        for row, config in enumerate(configs):
            on = {p.name for p in self.active(config)}
            column = 0
            for p in self.parameters:
                known = p.name in on and config.get(p.name) is not None
                if p.kind == "categorical":
                    if known:
                        for i, choice in enumerate(p.choices):
                            out[row, column + i] = float(config[p.name] == choice)
                else:
                    out[row, column] = p.to_unit(config[p.name]) if known else 0.5
                column += p.width
                if p.active_when is not None:
                    out[row, column] = float(known)
                    column += 1
        return out

    def sample(self, n: int, rng: np.random.Generator) -> list[Config]:
        """Draw ``n`` valid configurations, uniform on each parameter's scale."""
        return [self._draw({}, rng, 1.0) for _ in range(n)]

    def spread(self, n: int, seed: int, first: int = 0) -> list[Config]:
        """Return ``n`` valid configurations that cover the space evenly: a scrambled Sobol sequence.

        Args:
            n: how many.
            seed: of the scrambling.
            first: place in the sequence; what came before it is not repeated.
        """
        sequence = qmc.Sobol(max(len(self.parameters), 1), seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sequence is balanced at powers of two; it is even enough between them
            units = sequence.random(first + n)[first:]
        return [self._at(row) for row in units]

    def _at(self, units: NDArray[np.float64]) -> Config:
        config: Config = {}
        for p, unit in zip(self.parameters, units.tolist(), strict=False):
            if p.active_when is not None and config.get(p.active_when[0]) not in p.active_when[1]:
                continue
            last = len(p.choices) - 1
            config[p.name] = p.choices[min(int(unit * len(p.choices)), last)] if p.choices else p.from_unit(unit)
        return config

    def perturb(self, config: Mapping[str, Any], rng: np.random.Generator, scale: float = 0.15) -> Config:
        """Return a valid neighbour of a configuration: numbers move by about ``scale`` of their range."""
        return self._draw(config, rng, scale)

    def contains(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration has exactly the active parameters, each with a valid value."""
        return self.trouble(config) is None

    def trouble(self, config: Mapping[str, Any]) -> str | None:
        """Say what keeps a configuration from being one of this space; None when nothing does.

        It must have exactly the active parameters, each with a valid value. What the space fixes may be repeated.
        """
        active = {p.name: p for p in self.active(config)}
        declared = {p.name for p in self.parameters}
        for name, parameter in active.items():
            if name not in config:
                return f"lacks {name}, which is active in it: {dict(config)}"
            if not parameter.contains(config[name]):
                span = list(parameter.choices) if parameter.kind == "categorical" else [parameter.low, parameter.high]
                return f"has {name} = {config[name]!r}, expected a value of {span}"
        for name, value in config.items():
            if name in declared and name not in active:
                return f"sets {name}, which is inactive in it: leave it out"
            if name not in declared and (name not in self.fixed or self.fixed[name] != value):
                return f"sets {name}, which the search space does not have"
        return None

    def key(self, config: Mapping[str, Any]) -> Key:
        """Tell what makes two configurations that it describes the same: floats within a thousandth of their range."""
        return tuple(
            (p.name, round(p.to_unit(config[p.name]), 3) if p.kind == "float" else config[p.name])
            for p in self.active(config)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        return {"parameters": [p.as_json() for p in self.parameters], "fixed": dict(self.fixed)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Return the space that as_json described."""
        return cls(tuple(Parameter.from_json(p) for p in data["parameters"]), dict(data["fixed"]))

    def _draw(self, origin: Mapping[str, Any], rng: np.random.Generator, scale: float) -> Config:
        config: Config = {}
        for p in self.parameters:
            if p.active_when is not None and config.get(p.active_when[0]) not in p.active_when[1]:
                continue
            start = origin.get(p.name)
            fresh = start is None or (p.kind == "categorical" and start not in p.choices)
            if p.kind == "categorical":
                move = fresh or rng.random() < scale
                config[p.name] = p.choices[int(rng.integers(len(p.choices)))] if move or start is None else start
            elif start is None:
                config[p.name] = p.from_unit(float(rng.random()))
            else:
                # Half of the numbers stay put: good neighbours differ in a few parameters.
                step = float(rng.normal(0.0, scale)) if rng.random() < 0.5 else 0.0
                # Reflected, not clipped: one generation of neighbours after another would gather at the edges.
                moved = abs(p.to_unit(start) + step)
                config[p.name] = p.from_unit(min(max(1.0 - abs(1.0 - moved), 0.0), 1.0))
        return config
