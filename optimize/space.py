"""Search spaces: what a training run may be launched with.

Conditional parameters are first class: an inactive parameter is absent from a configuration, and every model sees it
masked, not filled with a made-up value (FACTS.md: the largest single effect in a closed loop).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.errors import UsageError

Value = str | int | float | bool
Config = dict[str, Value]


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

    def perturb(self, config: Mapping[str, Any], rng: np.random.Generator, scale: float = 0.15) -> Config:
        """Return a valid neighbour of a configuration: numbers move by about ``scale`` of their range."""
        return self._draw(config, rng, scale)

    def contains(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration has exactly the active parameters, each with a valid value."""
        on = {p.name: p for p in self.active(config)}
        known = {p.name for p in self.parameters}
        return all(name in config and p.contains(config[name]) for name, p in on.items()) and not any(
            name in known and name not in on for name in config
        )

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
                config[p.name] = p.from_unit(min(max(p.to_unit(start) + step, 0.0), 1.0))
        return config


def infer_space(runs: Sequence[Mapping[str, Any]], ignore: Sequence[str] = ()) -> Space:
    """Infer a search space from the hyperparameters of past runs (D10).

    A number that varies is searched over the range seen, logarithmically when it spans a factor of five or more; text
    and truth values that vary are categories; what never varies is fixed. A parameter that is absent from some runs
    is conditional when another category tells exactly when it is there. Seeds and paths are bookkeeping, not
    hyperparameters.

    Args:
        runs: one mapping per run.
        ignore: names to leave out besides.

    Returns:
        The space.

    Raises:
        UsageError: no hyperparameter varies.
    """
    runs = _of_one_kind(runs)
    names = sorted({name for run in runs for name in run} - set(ignore))
    present = {n: [r[n] for r in runs if r.get(n) is not None] for n in names}
    kept = [n for n in names if not _bookkeeping(n, present[n])]
    varying = [n for n in kept if len({repr(v) for v in present[n]}) > 1]
    fixed = {n: present[n][0] for n in kept if len(present[n]) == len(runs) and n not in varying}
    if not varying:
        raise UsageError(
            f"no hyperparameter varies over the {len(runs)} runs, so there is nothing to search: "
            "declare [space.NAME] tables in epsopt.toml"
        )
    always = [n for n in varying if len(present[n]) == len(runs)]
    parameters = [_infer(n, present[n]) for n in always]
    parents = [p for p in parameters if p.kind == "categorical"]
    for name in [n for n in varying if n not in always]:
        condition = condition_of(name, runs, parents)
        inferred = _infer(name, present[name])
        parameters.append(Parameter(**{**inferred.__dict__, "active_when": condition}))
    return Space(tuple(parameters), fixed)


def _of_one_kind(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out runs of another kind, such as the base that the others start from: they lack what the others share."""
    counts = Counter(name for run in runs for name, value in run.items() if value is not None)
    common = {n for n, count in counts.items() if count > 0.8 * len(runs)}
    return [run for run in runs if 2 * sum(run.get(n) is not None for n in common) >= len(common)]


# Names that say where a run is kept or which one it is; a seed is noise, not a choice.
_BOOKKEEPING = frozenset({
    "seed", "device", "name", "run", "run_name", "run_id", "init_from", "base",
    "out", "output", "output_dir", "out_dir", "save_dir",
})  # fmt: skip


def _bookkeeping(name: str, values: list[Any]) -> bool:
    if name.rsplit(".", 1)[-1].lower() in _BOOKKEEPING:
        return True
    texts = [v for v in values if isinstance(v, str)]
    # Free text (a different one for nearly every run) and paths name things; they are not choices.
    return bool(texts) and (any("/" in t or "\\" in t for t in texts) or len(set(texts)) > max(12, len(values) // 2))


def _infer(name: str, values: list[Any]) -> Parameter:
    if any(isinstance(v, str | bool) for v in values):
        choices = tuple(sorted({v for v in values if isinstance(v, str | bool)}, key=str))
        return Parameter(name, "categorical", choices=choices)
    numbers = [float(v) for v in values if math.isfinite(float(v))]
    low, high = min(numbers), max(numbers)
    whole = all(isinstance(v, int) for v in values)
    distinct = sorted(set(values))
    if whole and len(distinct) <= min(4, len(values) // 3):
        # A few whole numbers that return again and again (batch sizes) were chosen from a list: 300 may not be on it.
        return Parameter(name, "categorical", choices=tuple(distinct))
    if not whole:
        low, high = _inside(low, high)
    return Parameter(name, "int" if whole else "float", low, high, log=low > 0 and high / low >= 5)


def _inside(low: float, high: float) -> tuple[float, float]:
    """Round a range to three significant digits, never beyond what was seen."""
    digits = [2 - math.floor(math.log10(abs(v))) if v else 0 for v in (low, high)]
    up, down = math.ceil(low * 10.0 ** digits[0]), math.floor(high * 10.0 ** digits[1])
    rounded = (float(f"{up * 10.0 ** -digits[0]:.3g}"), float(f"{down * 10.0 ** -digits[1]:.3g}"))
    return rounded if low <= rounded[0] < rounded[1] <= high else (low, high)


def condition_of(
    name: str, runs: Sequence[Mapping[str, Any]], parents: Sequence[Parameter]
) -> tuple[str, tuple[Value, ...]] | None:
    """Find the categorical parameter whose values tell exactly which runs have a parameter; ``None`` if none does."""
    for parent in parents:
        on = {r.get(parent.name) for r in runs if r.get(name) is not None}
        off = {r.get(parent.name) for r in runs if r.get(name) is None}
        if not on & off:
            return parent.name, tuple(c for c in parent.choices if c in on)
    return None
