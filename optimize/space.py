"""Search spaces: what a training run may be launched with.

Conditional parameters are first class: an inactive parameter is absent from a configuration, and every model sees it
masked, not filled with a made-up value (the largest single effect in a closed loop).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.errors import UsageError

Value = str | int | float | bool | None | list[Any] | dict[str, Any]
Config = dict[str, Value]
Key = tuple[tuple[str, Any], ...]
"""What makes two configurations the same (Space.key)."""

_DIGITS = 4
"""Significant digits that a number has at least: what a person would type, and what a command line shows."""
_RESOLUTION = 1e-4  # of a range
_ABSENT = 0.25  # of drawn configurations lack an optional parameter


@dataclass(frozen=True)
class Span:
    """Values of a number from `low` to `high`, both included: what switches on a child of a numeric parameter.

    Attributes:
        low: smallest value.
        high: largest value.
    """

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: object) -> bool:
        return is_number(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{self.low:.6g} or more"
        return f"{self.high:.6g} or less" if math.isinf(self.low) else f"{self.low:.6g} to {self.high:.6g}"


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter.

    Attributes:
        name: as the training program knows it.
        kind: ``float``, ``int`` or ``categorical``.
        low: smallest value (numeric kinds).
        high: largest value, included (numeric kinds).
        log: whether it is searched on a logarithmic scale.
        choices: the values of a categorical parameter. None, truth values, numbers, texts, lists and mappings may stand
            side by side; ``True``, ``1`` and ``1.0`` are three choices.
        active_when: ``(parent, values)``: only active when the parent has one of these values, each a value or a
            :class:`Span` of them; ``None`` = always.
        optional: whether it may be left out where it is active; a configuration without it is one of its own. A
            categorical parameter has None among its choices instead, where None is a value.
    """

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Value, ...] = ()
    active_when: tuple[str, tuple[Value | Span, ...]] | None = None
    optional: bool = False

    @property
    def width(self) -> int:
        """Columns that the value takes in an encoded configuration."""
        return len(self.choices) if self.kind == "categorical" else 1

    @property
    def columns(self) -> int:
        """Columns in an encoded configuration: of the value, and one that says whether there is any if not always."""
        return self.width + (self.active_when is not None or self.optional)

    @property
    def may_be_absent(self) -> bool:
        """Whether a run may have been launched without a value: the number is optional, or None is a choice."""
        return self.optional or None in self.choices

    def to_unit(self, value: Any) -> float:
        """Map a numeric value to [0, 1]; one outside the range to less or more, by at most one width of the range.

        A run at ten times the highest learning rate says little of the highest one: it is not clipped to it.

        Args:
            value: a finite number.

        Returns:
            Its place in the range, on the parameter's scale, from -1 to 2; 0.5 for the only value of a range without
            width.
        """
        low, high, x = self.low, self.high, float(value)
        if self.log:
            low, high, x = math.log(low), math.log(high), math.log(max(x, 5e-324))
        if high > low:
            return min(max((x - low) / (high - low), -1.0), 2.0)
        return 0.5 if x == low else 0.5 + math.copysign(1.0, x - low)

    def from_unit(self, unit: float) -> Value:
        """Map [0, 1] to a valid value, rounded to at most a ten-thousandth of the range, or to four digits.

        Args:
            unit: place in the range, from 0 to 1, on the parameter's scale.

        Returns:
            A valid value: an int of an int parameter, else a float.
        """
        low, high = self.low, self.high
        if self.log:
            value = math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
        else:
            value = low + unit * (high - low)
        value = min(max(value, low), high)
        if self.kind == "int":
            return round(value)
        return min(max(float(f"{value:.{self._digits(value)}g}"), low), high)

    def _digits(self, value: float) -> int:
        """Significant digits of a value: of .9991 in a range up to .9999 four would leave ten values."""
        step = _RESOLUTION * (abs(value) * math.log(self.high / self.low) if self.log else self.high - self.low)
        if not value or not step:
            return _DIGITS if not value else 17
        places = math.floor(math.log10(abs(value))) + 1 - math.floor(math.log10(step))
        return min(max(places, _DIGITS), 17)

    def choice(self, value: object) -> int | None:
        """Return the place of the choice that a value is: of the same type, or else the same number; None if none.

        Args:
            value: any value of a configuration.
        """
        found = self._places.get(identity(value))
        if found is None and is_number(value):
            found = next((i for i, c in enumerate(self.choices) if is_number(c) and c == value), None)
        return found

    @cached_property
    def _places(self) -> dict[tuple[str, Any], int]:
        return {identity(c): i for i, c in reversed(list(enumerate(self.choices)))}

    def is_of_kind(self, value: object) -> bool:
        """Whether a value is of this parameter's kind; a number may lie outside the range, None says: left out.

        Args:
            value: any value of a configuration.
        """
        if value is None and self.optional:
            return True
        return self.choice(value) is not None if self.kind == "categorical" else is_number(value)

    def contains(self, value: object) -> bool:
        """Whether a value is valid for this parameter.

        Args:
            value: any value of a configuration.
        """
        if value is None and self.optional:
            return True
        if self.kind == "categorical":
            return identity(value) in self._places
        if not is_number(value):
            return False
        return self.low <= value <= self.high and (self.kind == "float" or float(value).is_integer())

    def as_json(self) -> dict[str, Any]:
        """Return the parameter as JSON values; what its kind does not have is None."""
        numeric = self.kind != "categorical"
        condition = None
        if self.active_when is not None:
            values = [_span_as_json(v) if isinstance(v, Span) else v for v in self.active_when[1]]
            condition = {"param": self.active_when[0], "values": values}
        return {
            "name": self.name,
            "type": self.kind,
            "low": self.low if numeric else None,
            "high": self.high if numeric else None,
            "log": self.log,
            "choices": None if numeric else list(self.choices),
            "active_when": condition,
            "optional": self.may_be_absent,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Parameter:
        """Return the parameter that as_json described.

        Args:
            data: what :meth:`as_json` returned.
        """
        condition = data["active_when"]
        return cls(
            data["name"],
            data["type"],
            0.0 if data["low"] is None else data["low"],
            1.0 if data["high"] is None else data["high"],
            data["log"],
            tuple(data["choices"] or ()),
            None if condition is None else (condition["param"], tuple(map(condition_value, condition["values"]))),
            bool(data.get("optional", False)) and None not in (data["choices"] or ()),
        )


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number, and no truth value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def identity(value: object) -> tuple[str, Any]:
    """Return what makes two values the same choice: type and value.

    A list is the same as its text in a catalogue, which keeps short lists of a checkpoint's hyperparameters as text
    (:func:`epsopt.zoo.reading.plain_values.plain`); other lists and mappings are the same as their JSON.
    """
    if isinstance(value, list | tuple):
        if not any(isinstance(v, list | tuple | dict) for v in value):
            return "str", "[" + ", ".join(map(str, value)) + "]"
        return "str", json.dumps(value, sort_keys=True, default=repr)
    if isinstance(value, Mapping):
        return "str", json.dumps(dict(value), sort_keys=True, default=repr)
    if isinstance(value, float) and math.isnan(value):
        return "float", "nan"
    if isinstance(value, str | bool | int | float):
        return type(value).__name__, value
    return type(value).__name__, None if value is None else repr(value)


def among(value: object, values: Sequence[Value | Span]) -> bool:
    """Whether a parent's value is one of those that switch a child on."""
    mine = identity(value)
    return any(
        value in v if isinstance(v, Span) else identity(v) == mine or (is_number(v) and is_number(value) and v == value)
        for v in values
    )


def condition_value(value: Any) -> Any:
    """Return a value of a condition that was read from JSON or TOML: ``{low, high}`` is a span."""
    if isinstance(value, Mapping) and value and value.keys() <= {"low", "high"}:
        ends = {k: float(v) for k, v in value.items() if v is not None}
        return Span(**ends)
    return value


def _span_as_json(span: Span) -> dict[str, float]:
    return {k: v for k, v in (("low", span.low), ("high", span.high)) if math.isfinite(v)}


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
        return sum(p.columns for p in self.parameters)

    def active(self, config: Mapping[str, Any]) -> list[Parameter]:
        """Return the parameters that are active in a configuration.

        Args:
            config: parameter name to value; other names may be there, too.
        """
        out: list[Parameter] = []
        on: set[str] = set()
        for p in self.parameters:
            if p.active_when is None or (
                p.active_when[0] in on and among(config.get(p.active_when[0]), p.active_when[1])
            ):
                out.append(p)
                on.add(p.name)
        return out

    def given(self, config: Mapping[str, Any]) -> Config:
        """Return the active parameters of a configuration that have a value; a choice as the space has it.

        Args:
            config: parameter name to value; other names may be there, too.
        """
        out: Config = {}
        for p in self.active(config):
            value = config.get(p.name)
            place = p.choice(value) if p.kind == "categorical" else None
            if place is not None:
                out[p.name] = p.choices[place]
            elif p.kind != "categorical" and value is not None:
                out[p.name] = value
        return out

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether a past run's configuration can be encoded: every active parameter has a value of its kind.

        Args:
            config: parameter name to value; other names may be there, too.
        """
        return all(p.is_of_kind(config.get(p.name)) for p in self.active(config))

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Return :meth:`accepts`, whose name this was in version 0.1; it goes with version 0.3.

        Args:
            config: parameter name to value; other names may be there, too.
        """
        return self.accepts(config)

    def encode(self, configs: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Encode configurations as ``(n, width)`` numbers, in [0, 1] where they lie inside the space.

        Numbers are scaled to their range; what lies outside comes to less than 0 or more than 1, by 1 at most.
        Categories are one-hot, and a parameter that is conditional or optional has one more column that says whether it
        has a value; without one it is 0.5 (numeric) or 0 (one-hot). A value
        missing from an active parameter is treated as inactive.

        Args:
            configs: ``n`` configurations that :meth:`accepts` takes.

        Returns:
            ``(n, width)`` float64 from -1 to 2, in [0, 1] inside the space, without NaN.
        """
        out = np.zeros((len(configs), self.width))
        for row, config in enumerate(configs):
            on = {p.name for p in self.active(config)}
            column = 0
            for p in self.parameters:
                value = config.get(p.name)
                if p.kind == "categorical":
                    place = p.choice(value) if p.name in on else None
                    known = place is not None
                    if place is not None:
                        out[row, column + place] = 1.0
                else:
                    known = p.name in on and value is not None
                    out[row, column] = p.to_unit(value) if known else 0.5
                if p.columns > p.width:
                    out[row, column + p.width] = float(known)
                column += p.columns
        return out

    def sample(self, n: int, rng: np.random.Generator) -> list[Config]:
        """Draw ``n`` valid configurations, uniform on each parameter's scale.

        Args:
            n: number of configurations.
            rng: source of randomness; the same state gives the same configurations.

        Returns:
            ``n`` configurations; two of them may be equal.
        """
        return [self._draw({}, rng, 1.0) for _ in range(n)]

    def low_discrepancy_sample(self, n: int, seed: int, first: int = 0) -> list[Config]:
        """Return ``n`` valid configurations that cover the space evenly: a scrambled Sobol sequence.

        Args:
            n: how many.
            seed: of the scrambling.
            first: place in the sequence; what came before it is not repeated.
        """
        from scipy.stats import qmc  # on use: it takes longer to import than most commands that know a space take

        sequence = qmc.Sobol(max(len(self.parameters), 1), seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sequence is balanced at powers of two; it is even enough between them
            units = sequence.random(first + n)[first:]
        return [self._at(row) for row in units]

    def _at(self, units: NDArray[np.float64]) -> Config:
        config: Config = {}
        for p, unit in zip(self.parameters, units.tolist(), strict=False):
            if not self._on(p, config):
                continue
            if p.optional:
                if unit < _ABSENT:
                    continue
                unit = (unit - _ABSENT) / (1.0 - _ABSENT)  # noqa: PLW2901 - what is left of it
            last = len(p.choices) - 1
            config[p.name] = p.choices[min(int(unit * len(p.choices)), last)] if p.choices else p.from_unit(unit)
        return config

    def perturb(self, config: Mapping[str, Any], rng: np.random.Generator, scale: float = 0.15) -> Config:
        """Return a valid neighbour of a configuration: numbers move by about ``scale`` of their range.

        Args:
            config: a configuration of this space.
            rng: source of randomness.
            scale: standard deviation of a step as a share of the range, and the probability that a choice changes
                (default 0.15).
        """
        return self._draw(config, rng, scale)

    def contains(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration has exactly the active parameters, each with a valid value.

        Args:
            config: parameter name to value; other names may be there, too.
        """
        return self.validation_error(config) is None

    def validation_error(self, config: Mapping[str, Any]) -> str | None:
        """Say what keeps a configuration from being one of this space; None when nothing does.

        It must have exactly the active parameters, each with a valid value. What the space fixes may be repeated.

        Args:
            config: parameter name to value; other names may be there, too.

        Returns:
            One sentence without a subject, such as "lacks lr, which is active in it"; or None.
        """
        active = {p.name: p for p in self.active(config)}
        declared = {p.name for p in self.parameters}
        for name, parameter in active.items():
            if name not in config and not parameter.optional:
                return f"lacks {name}, which is active in it: {dict(config)}"
            if not parameter.contains(config.get(name)):
                span = list(parameter.choices) if parameter.kind == "categorical" else [parameter.low, parameter.high]
                return f"has {name} = {config[name]!r}, expected a value of {span}"
        for name, value in config.items():
            if name in declared and name not in active and value is not None:
                return f"sets {name}, which is inactive in it: leave it out"
            if name not in declared and (name not in self.fixed or self.fixed[name] != value):
                return f"sets {name}, which the search space does not have"
        return None

    def key(self, config: Mapping[str, Any]) -> Key:
        """Tell what makes two configurations that it describes the same: floats within a thousandth of their range.

        Args:
            config: parameter name to value; other names may be there, too.

        Returns:
            Pairs of name and value that can be compared and hashed.
        """
        found: list[tuple[str, Any]] = []
        for p in self.active(config):
            value = config.get(p.name)
            if p.kind == "categorical":
                place = p.choice(value)
                if place is not None or not p.optional:
                    found.append((p.name, identity(value if place is None else p.choices[place])))
            elif value is not None:
                found.append((p.name, round(p.to_unit(value), 3) if p.kind == "float" else value))
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        return {"parameters": [p.as_json() for p in self.parameters], "fixed": dict(self.fixed)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Return the space that as_json described.

        Args:
            data: what :meth:`as_json` returned.
        """
        return cls(tuple(Parameter.from_json(p) for p in data["parameters"]), dict(data["fixed"]))

    def _on(self, p: Parameter, config: Mapping[str, Any]) -> bool:
        """Whether a parameter is active in a configuration that has all parameters before it."""
        if p.active_when is None:
            return True
        name, values = p.active_when
        if name not in config:  # an optional parent that was left out has the value None, an inactive one has none
            parent = next(q for q in self.parameters if q.name == name)
            if not (parent.optional and self._on(parent, config)):
                return False
        return among(config.get(name), values)

    def _draw(self, origin: Mapping[str, Any], rng: np.random.Generator, scale: float) -> Config:
        config: Config = {}
        for p in self.parameters:
            if not self._on(p, config):
                continue
            value = origin.get(p.name)
            if p.optional and self._left_out(value is None, bool(origin), rng, scale):
                continue
            if p.kind == "categorical":
                start = p.choice(value) if p.name in origin else None
                move = start is None or rng.random() < scale
                config[p.name] = p.choices[int(rng.integers(len(p.choices))) if move or start is None else start]
                continue
            if value is None:
                config[p.name] = p.from_unit(float(rng.random()))
            else:
                # Half of the numbers stay put: good neighbours differ in a few parameters.
                step = float(rng.normal(0.0, scale)) if rng.random() < 0.5 else 0.0
                # Reflected, not clipped: one generation of neighbours after another would gather at the edges.
                moved = abs(min(max(p.to_unit(value), 0.0), 1.0) + step)
                config[p.name] = p.from_unit(min(max(1.0 - abs(1.0 - moved), 0.0), 1.0))
        return config

    @staticmethod
    def _left_out(absent: bool, neighbour: bool, rng: np.random.Generator, scale: float) -> bool:
        """Whether an optional parameter is left out: as in the configuration that is varied, or, seldom, not."""
        if not neighbour or rng.random() < scale:
            return bool(rng.random() < _ABSENT)
        return absent
