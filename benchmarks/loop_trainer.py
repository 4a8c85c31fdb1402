"""Trains the runs of the loop's benchmark and keeps the books."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from loop_workloads import Floats, State, Workload

from epsopt.demo.finetune import DivergedError
from epsopt.optimize.forecast.learning_curve_gp import Curve, PathMeasurements
from epsopt.optimize.schedule.run_acquisition import Start
from epsopt.optimize.space import Config

EARLIER = 24  # random runs that everybody is given with --zoo


@dataclass(frozen=True, eq=False)
class Run:
    """What is known of a run.

    Attributes:
        config: its hyperparameters.
        values: ``(epochs, 2)`` measured objectives.
        keys: of its checkpoints.
        start: what it started from; ``None``: weights of its own.
        on_way: merges of its start and one of its checkpoints: epoch of the checkpoint, share of the way, values.
    """

    config: Config
    values: Floats
    keys: tuple[str, ...]
    start: Start | None
    on_way: list[tuple[float, float, Floats]] = field(default_factory=list)

    @property
    def curve(self) -> Curve:
        """What the curves' model sees of it."""
        steps = np.arange(1.0, len(self.values) + 1)
        merged = None
        if self.on_way:
            epochs, shares, values = zip(*self.on_way, strict=True)
            merged = PathMeasurements(np.array(epochs), np.array(shares), np.stack(values))
        return Curve(self.config, steps, self.values, None if self.start is None else self.start.values, merged)


@dataclass
class Ledger:
    """What was paid and what came of it.

    Attributes:
        values: what was measured, in order: after each epoch of training, and on merges.
        costs: epochs that each of them cost: 1, or what a workload's `evaluation` says.
        seconds: of the processor, spent on deciding, not on training.
        notes: one per run: epochs, whether it branched, whether it was stopped, whether it diverged (one more epoch).
            A merge has a line too: one row, 2 in the place of whether it branched.
        steps: of those who predict what a step brings: its kind, predicted and realized gain, hypervolume before, and
            what else was predicted of it beside what was measured.
    """

    values: list[list[float]] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[list[int]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def pay(self, values: Sequence[float], cost: float = 1.0) -> None:
        """Write down what was measured and what it cost."""
        self.values.append([float(v) for v in values])
        self.costs.append(cost)


class Trainer:
    """Trains runs and keeps the books; the weights of every checkpoint stay at hand to start from.

    Args:
        workload: what is trained.
        budget: epochs in all.
        seed: of the method; with the number of a run it decides how that run trains.
        zoo: begin with runs from before, which cost nothing.

    Attributes:
        workload: what is trained.
        ledger: what was paid.
        base: where runs start; ``None``: each draws its own weights.
        runs: all that is known.
        merged: merges that were measured.
        reference: ``(2,)`` the objectives' values that are just not good enough.
    """

    def __init__(self, workload: Workload, budget: int, seed: int, *, zoo: bool = False) -> None:
        self.workload, self.ledger, self.reference = workload, Ledger(), workload.reference
        self._budget, self._seed = budget, seed
        self._states: dict[str, State] = {}
        self.base: Start | None = None
        if workload.origin is not None:
            self._states[""] = workload.origin
            self.base = Start("", workload.evaluate(workload.origin))
        self.runs: list[Run] = self._earlier() if zoo else []
        self.merged: list[Start] = []

    @property
    def left(self) -> int:
        """Epochs that may still be trained."""
        return math.floor(self._budget - sum(self.ledger.costs))

    def state(self, key: str) -> State:
        """Weights of a checkpoint, not to be changed; that of the base is ''."""
        return self._states[key]

    def final(self, run: Run) -> list[float]:
        """What those see of a run who see one row per run."""
        return [float(v) for v in (run.values[-1] if len(run.values) else self.workload.failed)]

    def starts(self) -> list[Start]:
        """Every checkpoint as a start of another run: those of runs, run after run, then merges."""
        trained = [
            Start(key, values, {n: run.config[n] for n in self.workload.fixed if n in run.config})
            for run in self.runs
            for key, values in zip(run.keys, run.values, strict=True)
        ]
        return [*trained, *self.merged]

    def train(
        self,
        config: Config,
        epochs: int | None = None,
        start: Start | None = None,
        stop: Callable[[Run], bool] | None = None,
    ) -> Run:
        """Train one run, as far as the budget goes; it has no values after a divergence in its first epoch.

        Args:
            config: its hyperparameters.
            epochs: how many it is asked to train; by default as many as any.
            start: the checkpoint that it starts from; by default where runs start.
            stop: asked after each epoch but the last.
        """
        start, epochs = start or self.base, epochs or self.workload.length
        name = f"{self._seed}/{len(self.ledger.notes)}"
        run = self._begun(config, start)
        stopped = diverged = False
        allowed = min(epochs, self.left)
        try:
            # The whole length is announced, as to a program that takes it: what is cut off is only not run.
            seed = self._seed * 100_000 + len(self.ledger.notes)
            for known, state in self._epochs(run, name, seed, epochs):
                run = known
                self.ledger.pay(run.values[-1])
                self._states[run.keys[-1]] = state
                done = len(run.values)
                stopped = stop is not None and done < allowed and stop(run)
                if stopped or done == allowed:
                    break
        except DivergedError:
            diverged = True
            self.ledger.pay(self.workload.failed)
        branched = start is not None and bool(start.key)
        self.ledger.notes.append([len(run.values), int(branched), int(stopped), int(diverged)])
        self.runs.append(run)
        return run

    def merge(self, state: State) -> Start:
        """Measure weights that nobody trained; that costs the share of an epoch which goes into measuring."""
        values = self.workload.evaluate(state)
        key = f"{self._seed}/{len(self.ledger.notes)}/mixed"
        self._states[key] = state
        self.ledger.pay(values, self.workload.evaluation)
        self.ledger.notes.append([1, 2, 0, 0])
        self.merged.append(Start(key, values))
        return self.merged[-1]

    def passed(self, end: str, start: str, share: float, merged: Start) -> None:
        """Note that a merge lies on the way of a run, if it does."""
        for run in self.runs:
            if end in run.keys and run.start is not None and run.start.key == start:
                run.on_way.append((run.keys.index(end) + 1.0, share, merged.values))

    def _begun(self, config: Config, start: Start | None) -> Run:
        return Run(config, np.empty((0, len(self.workload.objectives))), (), start)

    def _epochs(self, run: Run, name: str, seed: int, epochs: int) -> Iterator[tuple[Run, State]]:
        before = None if run.start is None else self._states[run.start.key]
        for epoch, (row, state) in enumerate(self.workload.epochs(run.config, before, epochs, seed), start=1):
            run = Run(run.config, np.vstack([run.values, row]), (*run.keys, f"{name}/{epoch}"), run.start)
            yield run, state

    def _earlier(self) -> list[Run]:
        """Random runs that everybody is given; kept, because all methods of a seed ask for them."""
        path = self.workload.cache / f"zoo-{self.workload.name}-{self._seed}.pt"
        if not path.exists():
            rng, states, kept = np.random.default_rng([self._seed, 1]), {}, []
            seed = self._seed * 100_000 + 50_000
            for number, config in enumerate(self.workload.space.sample(EARLIER, rng)):
                run = self._begun(config, self.base)
                with contextlib.suppress(DivergedError):
                    for known, state in self._epochs(run, f"zoo/{number}", seed + number, self.workload.length):
                        run = known
                        states[run.keys[-1]] = state
                kept.append((run.config, run.values.tolist(), run.keys))
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(f".{os.getpid()}")  # other methods of the seed may be looking for it
            torch.save({"runs": kept, "states": states}, half)
            half.replace(path)
        found = torch.load(path, weights_only=True)
        self._states |= found["states"]
        return [Run(c, np.array(v).reshape(-1, 2), tuple(k), self.base) for c, v, k in found["runs"]]


class Method(Protocol):
    """Spends the budget of a trainer."""

    def __call__(self, trainer: Trainer, seed: int) -> None:
        """Launch runs until no epoch is left."""
