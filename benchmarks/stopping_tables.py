"""Whole random runs of the loop's programs (loop_programs.py), trained once and kept: what pruners are replayed on.

The first line of out/stopping/PROGRAM-SEED.jsonl is what the base measures, if runs have one, each other line what the
epochs of a run measured.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from loop_programs import PROGRAMS, Program
from zoos import OUT

from epsopt.optimize.forecast.learning_curve_gp import Curve

TABLES = OUT.parent / "stopping"
RUNS = 60
LENGTH = 10
"""Epochs of a run."""


@dataclass(frozen=True)
class Table:
    """The runs of a program.

    Args:
        name: of the program.
        seed: of its base, its data and its runs.
        folder: where runs are kept.
    """

    name: str
    seed: int
    folder: Path = TABLES

    @cached_property
    def program(self) -> Program:
        """What was trained."""
        return PROGRAMS[self.name](self.seed)

    @property
    def maximize(self) -> list[bool]:
        """Whether more is better, objective by objective."""
        return [o.maximize for o in self.program.objectives]

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """All runs, trained first where they are not there."""
        file = self.folder / f"{self.name}-{self.seed}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(self._base()) + "\n")
        base, *rows = map(json.loads, file.read_text().splitlines())
        configs = self.program.space.sample(RUNS, np.random.default_rng([self.seed, 7]))
        with file.open("a") as out:
            for number, config in enumerate(configs[len(rows) :], start=len(rows)):
                rows.append(self._train(config, number))
                out.write(json.dumps(rows[-1]) + "\n")
                out.flush()
        print(f"{self.name}, seed {self.seed}: {len(rows)} runs", file=sys.stderr, flush=True)
        start = None if base is None else np.array(base)
        steps = np.arange(1.0, LENGTH + 0.5)
        return tuple(Curve(config, steps, np.array(row), start) for config, row in zip(configs, rows, strict=True))

    def _base(self) -> list[float] | None:
        origin = self.program.origin
        return None if origin is None else self.program.evaluate(origin).tolist()

    def _train(self, config: dict[str, object], number: int) -> list[list[float]]:
        seed = self.seed * 100_000 + number
        return [values.tolist() for values, _ in self.program.epochs(config, None, LENGTH, seed)]
