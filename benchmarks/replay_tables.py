"""What `replay.py` chooses runs of: programs, recorded zoos, and a formula that stands for a training program.

The formula is a made-up fine-tuning: a skill and a drift that hyperparameters drive from epoch to epoch, with what a
real program does to a model of curves: an optimal learning rate that depends on the optimiser, divergence beyond it,
parameters that only exist beside others, a part that is frozen until some epoch, noise between runs of the same
configuration and between epochs, runs that start from another run's checkpoint. Every seed draws its own. Nothing is
trained, so that a variant of the chooser is weighed in minutes; what is decided on it is reported on zoos.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
from loop_programs import PROGRAMS, Program, State
from loop_workloads import demo_space, digits_space
from numpy.typing import NDArray
from zoos import Zoo, load

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.objectives import Objective
from epsopt.optimize.schedule.run_acquisition import Candidate, Start
from epsopt.optimize.space import Config, Parameter, Space

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """A run that was measured.

    Attributes:
        name: its name; the key of its checkpoint of epoch 3 is ``NAME:3``.
        curve: of the objectives.
    """

    name: str
    curve: Curve

    @property
    def checkpoints(self) -> list[Start]:
        """What a run may start from."""
        steps = zip(self.curve.steps, self.curve.values, strict=True)
        return [Start(f"{self.name}:{epoch:g}", values) for epoch, values in steps]


class Table(Protocol):
    """Runs to choose among.

    Attributes:
        space: of the hyperparameters; what it draws can be measured.
        objectives: what counts.
        length: epochs of a whole run.
        base: where runs start, if that was measured.
        branches: whether a run may start from another one's checkpoint.
        bounds: declared bounds of objectives.
    """

    space: Space
    objectives: tuple[Objective, ...]
    length: float
    base: Start | None
    branches: bool
    bounds: Mapping[str, tuple[float, float]]

    def past(self, k: int) -> list[Run]:
        """Return the first ``k`` runs."""

    def measure(self, candidate: Candidate) -> Run:
        """Return what a run measures that is chosen."""


FORMULA_SPACE = Space((
    Parameter("optimizer", "categorical", choices=("adam", "sgd")),
    Parameter("lr", "float", 1e-5, 1.0, log=True),
    Parameter("momentum", "float", 0.0, 0.95, active_when=("optimizer", ("sgd",))),
    Parameter("weight_decay", "float", 1e-6, 1e-1, log=True),
    Parameter("frozen", "categorical", choices=(False, True)),
    Parameter("unfreeze_at", "int", 0, 6, active_when=("frozen", (False,))),
    Parameter("rehearsal", "float", 0.0, 1.0),
    Parameter("dropout", "float", 0.0, 0.5),
    Parameter("batch_size", "categorical", choices=(16, 32, 64)),
    Parameter("temperature", "float", 0.5, 4.0, log=True),
))  # fmt: skip


class Formula:
    """See the module.

    Args:
        seed: of the formula and of its runs.
        base: whether all runs start from one measured base; else each draws its own start, and none from another.
    """

    space = FORMULA_SPACE
    objectives = (Objective("new_accuracy", maximize=True), Objective("old_accuracy", maximize=True))
    length = 10.0
    bounds: Mapping[str, tuple[float, float]] = {}

    def __init__(self, seed: int, *, base: bool = True) -> None:
        self.branches, self._seed = base, seed
        rng = np.random.default_rng([seed, 1 + base])
        self._best = {"adam": rng.normal(-3.0, 0.3), "sgd": rng.normal(-1.3, 0.3)}
        self._cap, self._freedom, self._cost = rng.normal(0.8, 0.2), rng.uniform(0.5, 1.6), rng.uniform(0.3, 1.0)
        self._rate, self._kick = rng.uniform(0.2, 0.5), math.exp(rng.normal(-1.2, 0.4))
        self._drop, self._decay = rng.uniform(0.0, 0.5), rng.normal(-4.0, 0.7)
        self._states: dict[str, tuple[float, float]] = {"": (0.0, 0.0)}
        self.base = Start("", self._measured(0.0, 0.0)) if base else None

    def _measured(self, skill: float, drift: float) -> Floats:
        logits = np.array([-2.0 + 3.0 * skill - 0.3 * max(drift - 2.0, 0.0), 3.0 - 2.2 * drift + 0.3 * skill])
        return np.asarray(1.0 / (1.0 + np.exp(-logits)))

    def past(self, k: int) -> list[Run]:
        """Random whole runs."""
        configs = self.space.sample(k, np.random.default_rng([self._seed, 7]))
        return [self.measure(Candidate(c, self.base, self.length), f"run_{i:03d}") for i, c in enumerate(configs)]

    def measure(self, candidate: Candidate, name: str | None = None) -> Run:
        """Train, so to speak; the same candidate measures the same."""
        config = candidate.config
        key = "" if candidate.start is None else candidate.start.key
        digest = hashlib.sha256(repr((sorted(config.items()), key)).encode()).digest()
        name = name or digest.hex()[:8]
        rng = np.random.default_rng([self._seed, *digest[:8]])
        skill, drift = self._states[key] if self.branches else (rng.normal(-0.2, 0.2), abs(rng.normal(0.3, 0.1)))
        luck, temper = rng.normal(0.0, 0.12), math.exp(rng.normal(0.0, 0.25))
        sgd = config["optimizer"] == "sgd"
        x = math.log10(config["lr"]) + (0.7 * config["momentum"] if sgd else 0.0) - self._best[config["optimizer"]]
        x += {16: 0.15, 32: 0.0, 64: -0.15}[config["batch_size"]]
        decay = 0.1 * max(math.log10(config["weight_decay"]) - self._decay, 0.0)
        values = []
        steps = np.arange(1.0, candidate.epochs + 0.5)
        for epoch in steps:
            lively = float(not config["frozen"] and epoch > config["unfreeze_at"])
            cap = self._cap + luck + self._freedom * lively - self._cost * config["rehearsal"] - decay
            cap -= self._drop * (config["dropout"] - 0.2) ** 2
            if x > 1.2:  # diverges
                skill, drift = 0.4 * skill - 0.2, drift + 1.0
            else:
                skill += self._rate * math.exp(-((x / 0.9) ** 2)) * (cap - skill)
                stir = self._kick * temper * 10.0 ** (0.6 * x) * (0.05 + lively)
                drift = 0.97 * drift + stir * (1.0 - 0.85 * config["rehearsal"])
            noisy = self._measured(skill + rng.normal(0.0, 0.02), drift + rng.normal(0.0, 0.02))
            values.append(noisy)
            self._states[f"{name}:{epoch:g}"] = (skill, drift)
        start = None if candidate.start is None else candidate.start.values
        return Run(name, Curve(dict(config), steps, np.stack(values), start))


@dataclass(frozen=True)
class TableSpace(Space):
    """A space that draws only what was recorded, so that whatever a chooser would launch can be measured."""

    rows: tuple[Config, ...] = field(default=(), compare=False)

    @cached_property
    def _encoded(self) -> Floats:
        return self.encode(self.rows)

    def sample(self, n: int, rng: np.random.Generator) -> list[Config]:
        """All recorded ones, again and again."""
        order = rng.permutation(len(self.rows))
        return [self.rows[order[i % len(order)]] for i in range(n)]

    def perturb(self, config: Mapping[str, Any], rng: np.random.Generator, scale: float = 0.15) -> Config:  # noqa: ARG002
        """One of the recorded ones that lie nearest."""
        away = np.linalg.norm(self._encoded - self.encode([config]), axis=1)
        return self.rows[np.argsort(away, kind="stable")[int(rng.integers(min(6, len(away))))]]

    def low_discrepancy_sample(self, n: int, seed: int, first: int = 0) -> list[Config]:
        """Any recorded ones."""
        return self.sample(first + n, np.random.default_rng(seed))[first:]


class Recorded:
    """The runs of a zoo, in a random order: those that come after the past ones are chosen among.

    Args:
        name: of the zoo.
        seed: of the zoo.
        k: how many of its runs are past.
    """

    branches = False
    base = None

    def __init__(self, name: str, seed: int, k: int) -> None:
        self.zoo: Zoo = load(name, seed)
        self.name, self.seed = name, seed
        plain = demo_space() if name == "ternary" else digits_space()
        metrics = ("coverage", "dist_corr") if name == "ternary" else ("accuracy", "calibration_error")
        self.objectives = tuple(Objective(m, maximize=m != "calibration_error") for m in metrics)
        self.bounds = {metrics[0]: (0.0, 1.0)}
        columns = [self.zoo.train.metric_names.index(m) for m in metrics]
        values, base = self.zoo.train.metrics[:, columns], np.flatnonzero(self.zoo.epochs == 0)
        start = values[base[0]] if name == "ternary" and len(base) else None
        self.base = None if start is None else Start("", start)
        self._runs = []
        for run in sorted(set(self.zoo.run_names)):
            rows = np.flatnonzero(np.array([n == run for n in self.zoo.run_names]) & (self.zoo.epochs > 0))
            if len(rows):
                rows = rows[np.argsort(self.zoo.epochs[rows])]
                config = plain.given(_named(self.zoo.hyperparameters[rows[0]], name))
                steps = self.zoo.epochs[rows].astype(np.float64)
                self._runs.append(Run(run, Curve(config, steps, values[rows], start)))
        order = np.random.default_rng(seed).permutation(len(self._runs))
        self._runs = [self._runs[i] for i in order]
        self.length = max(float(r.curve.steps[-1]) for r in self._runs)
        self.space = TableSpace(plain.parameters, rows=tuple(r.curve.config for r in self._runs[k:]))

    def past(self, k: int) -> list[Run]:
        """The first ones."""
        return self._runs[:k]

    def measure(self, candidate: Candidate) -> Run:
        """Look it up."""
        key = self.space.key(candidate.config)
        return next(r for r in reversed(self._runs) if self.space.key(r.curve.config) == key)


def _named(config: Mapping[str, Any], zoo: str) -> dict[str, Any]:
    """Hyperparameters as the space of the loop's benchmark names them."""
    if zoo == "ternary":
        return dict(config)
    return {**config, f"width_{config['arch']}": config["width"], f"lr_{config['optimizer']}": config["lr"]}


class Live:
    """A program of the loop's benchmark, trained as it is asked (loop_programs.py).

    Args:
        workload: the program.
    """

    def __init__(self, workload: Program) -> None:
        self._workload, self.space, self.objectives = workload, workload.space, workload.objectives
        self.length, self.bounds = float(workload.length), workload.bounds
        self.branches, self.base = workload.origin is not None, None
        self._states: dict[str, State] = {}
        self._runs: dict[str, Run] = {}
        if workload.origin is not None:
            self._states[""] = workload.origin
            self.base = Start("", workload.evaluate(workload.origin))

    def past(self, k: int) -> list[Run]:
        """Random whole runs."""
        configs = self.space.sample(k, np.random.default_rng([self._workload.seed, 7]))
        return [self.measure(Candidate(c, self.base, self.length), f"run_{i:03d}") for i, c in enumerate(configs)]

    def measure(self, candidate: Candidate, name: str | None = None) -> Run:
        """Train; the same candidate measures the same."""
        start = "" if candidate.start is None else candidate.start.key
        identity = repr((sorted(candidate.config.items()), start, candidate.epochs))
        digest = hashlib.sha256(identity.encode()).hexdigest()
        name = name or digest[:8]
        if name not in self._runs:
            done = list(self._workload.epochs(
                candidate.config, self._states.get(start), int(candidate.epochs), int(digest[:8], 16)
            ))  # fmt: skip
            if self.branches:
                self._states |= {f"{name}:{i}": state for i, (_, state) in enumerate(done, start=1)}
            values = np.stack([row for row, _ in done])
            at = None if candidate.start is None else candidate.start.values
            self._runs[name] = Run(name, Curve(dict(candidate.config), np.arange(1.0, len(done) + 1), values, at))
        return self._runs[name]


@cache
def _live(name: str, seed: int) -> Live:
    return Live(PROGRAMS[name](seed))


def table(name: str, seed: int, k: int) -> Table:
    """Give a table by its name on the command line."""
    if name in ("formula", "formula-apart"):
        return Formula(seed, base=name == "formula")
    return Recorded(name, seed, k) if name in ("ternary", "digits") else _live(name, seed)


def checkpoints(runs: Sequence[Run], base: Start | None) -> list[Start]:
    """Everything measured."""
    return ([] if base is None else [base]) + [c for r in runs for c in r.checkpoints]
