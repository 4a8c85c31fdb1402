"""The shape of epsopt.toml: what each key may hold, as far as one table alone can tell."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from epsopt.optimize.space import identity
from epsopt.zoo.reading.text import visible

_OPTION = r"[A-Za-z_]\w*=[^;\n]*"
HOOK = re.compile(rf"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:([A-Za-z_]\w*|{_OPTION}(;{_OPTION})*)")


def _name(text: str) -> str:
    if not text or len(text) > 100 or "/" in text or not text.isprintable():
        raise ValueError("expected 1 to 100 printable characters without a slash")
    return text


def _metric(text: str) -> str:
    if not text or len(text) > 100 or not text.isprintable():
        raise ValueError("expected 1 to 100 printable characters")
    return text


def is_metric_name(text: str) -> bool:
    """Tell whether a metric of this name can be an objective."""
    try:
        _metric(text)
    except ValueError:
        return False
    return True


def project_name(folder: str) -> str:
    """Return a project's name after its folder, whatever that is called."""
    return visible(folder).replace("/", "-")[:100] or "project"


def _hook(text: str) -> str:
    if not HOOK.fullmatch(text):
        raise ValueError('expected "package.module:function" or "package.module:key=value;key=value"')
    return text


def _choice(value: object) -> object:
    if not isinstance(value, str | bool | int | float | list | dict):
        raise ValueError(  # noqa: TRY004 - pydantic collects ValueErrors
            "expected a text, a number, true/false, a list or a table"
        )
    return value


def _switch(value: object) -> object:
    if isinstance(value, dict) and set(value) & {"low", "high"}:
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value.values())
        if set(value) <= {"low", "high"} and numbers and value.get("low", -math.inf) <= value.get("high", math.inf):
            return value
        raise ValueError("expected { low = NUMBER, high = NUMBER } with low <= high; one of them may be left out")
    return _choice(value)


def _interval(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] < pair[1]:  # NaN is below nothing
        raise ValueError("expected [low, high] with low below high; -inf or inf where it has no such end")
    return pair


Name = Annotated[str, AfterValidator(_name)]
Metric = Annotated[str, AfterValidator(_metric)]  # "val/acc" is a common one
Hook = Annotated[str, AfterValidator(_hook)]
# Strict types, so that neither 1 becomes true nor "1" a number.
Number = Annotated[float, Field(strict=True)]
Plain = StrictStr | StrictBool | StrictInt | StrictFloat
Choice = Annotated[Plain | list[Any] | dict[str, Any], BeforeValidator(_choice)]
Switch = Annotated[Plain | list[Any] | dict[str, Any], BeforeValidator(_switch)]
Interval = Annotated[tuple[Number, Number], AfterValidator(_interval)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProjectTable(_Table):
    """[project]: what it is called, where its runs lie, where its records are kept."""

    name: Name | None = None
    runs: str = "runs"
    storage: str = "sqlite:///epsopt.db"


class RunsTable(_Table):
    """[runs]: what else tells of the runs (a CSV table, an Optuna study of before), and where the weights are."""

    table: str | None = None
    params: list[str] = []
    metrics: list[str] = []
    study: str | None = None
    follow_links: StrictBool = False
    weights_key: Annotated[str, Field(min_length=1)] | None = None


class LineageTable(_Table):
    """[lineage]: the checkpoint that runs start from where they name none themselves."""

    base: Annotated[str, Field(min_length=1)] | None = None


def _one_step(rename: dict[str, str]) -> dict[str, str]:
    chained = next((new for new in rename.values() if new in rename), None)
    if chained is not None:
        raise ValueError(f"rename leads to {chained!r}, which is renamed in turn: name the last one at once")
    return rename


class HyperparametersTable(_Table):
    """[hyperparameters]: what runs call a hyperparameter."""

    rename: Annotated[dict[str, Annotated[str, Field(min_length=1)]], AfterValidator(_one_step)] = {}


class MetricsTable(_Table):
    """[metrics]: what runs call a metric, which are learned besides the objectives, what they can be at all."""

    rename: Annotated[dict[str, Metric], AfterValidator(_one_step)] = {}
    learn: list[Annotated[str, Field(min_length=1)]] = []
    bounds: dict[str, Interval] = {}


class ObjectiveTable(_Table):
    """[objectives.NAME]: a metric that counts, its direction, and what it can be at all."""

    direction: Literal["maximize", "minimize"]
    bounds: Interval | None = None
    at_least: Number | None = None
    at_most: Number | None = None

    @model_validator(mode="after")
    def _limit(self) -> Self:
        wrong, right = ("at_most", "at_least") if self.direction == "maximize" else ("at_least", "at_most")
        if getattr(self, wrong) is not None:
            raise ValueError(f"{wrong} is no limit of a metric to {self.direction}: expected {right}")
        if (limit := self.limit) is not None and not math.isfinite(limit):
            raise ValueError(f"{right}: expected a finite number, got {limit}")
        return self

    @property
    def limit(self) -> float | None:
        """The least good value that is any use, if one is named."""
        return self.at_least if self.direction == "maximize" else self.at_most


class ConditionTable(_Table):
    """active_when: the parent parameter and its values, or { low, high } ranges of them, that switch this one on.

    With absent = true, it is on as well where the parent is left out.
    """

    param: str
    values: list[Switch] = []
    absent: StrictBool = False

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if not self.values and not self.absent:
            raise ValueError("expected values = [...] with at least one value, or absent = true")
        return self


class ParameterTable(_Table):
    """[space.NAME]: what a hyperparameter may be."""

    type: Literal["float", "int", "categorical"]
    low: Number | None = None
    high: Number | None = None
    log: StrictBool = False
    choices: list[Choice] | None = Field(default=None, min_length=1)
    active_when: ConditionTable | None = None
    optional: StrictBool = False

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "categorical":
            if self.choices is None:
                raise ValueError("a categorical parameter needs choices")
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("a categorical parameter takes choices, not low, high or log")
            if len({identity(c) for c in self.choices}) < len(self.choices):
                raise ValueError("two of the choices are equal")
            return self
        if self.choices is not None:
            raise ValueError('choices belong to type = "categorical"')
        if self.low is None or self.high is None:
            raise ValueError(f"a parameter of type {self.type} needs low and high")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"expected finite low <= high, got {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic parameter needs low above 0, got {self.low:g}")
        if self.type == "int" and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"an int parameter needs whole low and high, got {self.low:g} and {self.high:g}")
        return self


class TrainTable(_Table):
    """[train]: how one training run is launched."""

    command: list[str | list[str]] = Field(min_length=1)
    cwd: str = "."


class HooksTable(_Table):
    """[hooks]: the user's own evaluate(state_dict) -> metrics, calibrate(state_dict) -> tensors, embed(state_dict)."""

    evaluate: Hook | None = None
    calibrate: Hook | None = None
    embed: Hook | None = None


class ProjectFile(_Table):
    """The whole file."""

    project: ProjectTable = ProjectTable()
    runs: RunsTable = RunsTable()
    lineage: LineageTable = LineageTable()
    hyperparameters: HyperparametersTable = HyperparametersTable()
    metrics: MetricsTable = MetricsTable()
    objectives: dict[Metric, ObjectiveTable] = {}
    space: dict[str, ParameterTable] = {}
    train: TrainTable | None = None
    hooks: HooksTable = HooksTable()
