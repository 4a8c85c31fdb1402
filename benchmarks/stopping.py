"""Pruning, replayed on whole random runs: epochs saved, hypervolume lost, beside pruning at random and MOASHA's rule.

    python benchmarks/stopping.py [--tables reported] [--orders 10] [--ratios .02 .05 .1 .2] [--halving 2 3]

An order is 30 of the 60 runs of a table (stopping_tables.py), one after another. After each epoch a rule sees the
run's own epochs and what is left of the runs before it, and decides; a pruned run ends there for good. `--ratios` drive
the Pruner behind `epsopt work --prune-below`, with the reference point that it finds by itself and no control runs. It
learns again after every half more runs; `epsopt work` after a tenth more.

Hypervolume counts every epoch that was trained, from the program's own reference point; what is lost is a share of that
of all epochs of the order's runs. Pruning at random ends runs at the end of their grace time by chance: the mean of 200
draws of the same order, at the same share of epochs saved. 'same length' ends all runs at the same epoch, or at one of
two that follow each other, likewise. MOASHA (Schmucker et al. 2021) asks at epochs 2, 2 h, 4 h, ... whether a run is
among the best 1/h of those that came so far, by non-dominated sorting, and within a front by an epsilon net. The
interval is that of the mean difference to random pruning, 90 %, bootstrapped over orders. 'worse' are orders in which
random pruning lost less.

Rules and thresholds are chosen on the tables `development`: the programs `finetune` and `classifier`, seeds 0 and 1.
`reported` are the programs `encoder`, seed 100, and `tabular`, seeds 100 and 101: nothing is chosen on them, stated
before the first run on them.

Each replay is a line of out/stopping.jsonl; what is there is not replayed again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stopping_tables import LENGTH, TABLES, Table

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.pareto import hypervolume
from epsopt.optimize.schedule.pruner import FEWEST_RUNS, Pruner
from epsopt.optimize.schedule.pruner import GRACE as GRACE_EPOCHS
from epsopt.optimize.schedule.rungs import place_of_last

RESULTS = TABLES.parent / "stopping.jsonl"
GRACE = round(GRACE_EPOCHS)
RUNS = 30
DRAWS = 200
MORE = 1.5  # times as many runs, after which the pruner learns again
SETS = {
    "development": {"finetune": (0, 1), "classifier": (0, 1)},
    "reported": {"encoder": (100,), "tabular": (100, 101)},
}
Floats = NDArray[np.float64]
Keep = Callable[[Curve, list[Curve]], int]
"""How many epochs a run is trained, given what is left of the runs before it."""


@dataclass(frozen=True)
class Outcome:
    """What a rule did to one order of runs.

    Attributes:
        saved: share of epochs that were not trained.
        lost: share of the hypervolume of all epochs that was lost.
        stopped: runs that were pruned.
    """

    saved: float
    lost: float
    stopped: int


@dataclass(frozen=True)
class Order:
    """Runs of a table, one after another.

    Attributes:
        table: that they are from.
        number: seed of the order.
    """

    table: Table
    number: int

    @property
    def curves(self) -> list[Curve]:
        """The runs, whole."""
        curves = self.table.curves
        rng = np.random.default_rng([self.table.seed, self.number])
        return [curves[i] for i in rng.permutation(len(curves))[:RUNS]]

    def volume(self, curves: Sequence[Curve]) -> float:
        """Hypervolume of all their epochs."""
        return hypervolume(
            np.concatenate([c.values for c in curves]), self.table.program.reference, self.table.maximize
        )

    def outcome(self, kept: Sequence[int]) -> Outcome:
        """What it means to train each run for so many epochs."""
        whole = self.curves
        lost = 1.0 - self.volume([c.first(n) for c, n in zip(whole, kept, strict=True)]) / self.volume(whole)
        return Outcome(1.0 - sum(kept) / (LENGTH * len(kept)), lost, sum(n < LENGTH for n in kept))

    def replay(self, keep: Keep) -> Outcome:
        """Let a rule decide, run after run."""
        before: list[Curve] = []
        for curve in self.curves:
            before.append(curve.first(keep(curve, before)))
        return self.outcome([len(c.steps) for c in before])


def by_gain(table: Table, ratio: float) -> Keep:
    """Prune as `epsopt work --prune-below` does."""
    program = table.program
    pruner = Pruner(
        program.space, program.objectives, LENGTH, gain_ratio=ratio, control_share=0.0, bounds=program.bounds
    )
    learned = 0

    def keep(curve: Curve, before: list[Curve]) -> int:
        nonlocal learned
        if len(before) >= FEWEST_RUNS and len(before) >= MORE * learned:
            pruner.learn(before)
            learned = len(before)
        judge = pruner.given(before)
        return next((n for n in range(GRACE, LENGTH) if judge.should_stop("", curve.first(n)).stop), LENGTH)

    return keep


def by_halving(table: Table, factor: float) -> Keep:
    """MOASHA's rule."""
    signs = np.where(table.maximize, 1.0, -1.0)
    rungs = [int(n) for n in GRACE * factor ** np.arange(10) if n < LENGTH]

    def keep(curve: Curve, before: list[Curve]) -> int:
        for n in rungs:
            there = [c.values[n - 1] for c in before if len(c.values) >= n]
            place = place_of_last(np.array([*there, curve.values[n - 1]]) * signs)
            if there and (place - 1) / (len(there) + 1) > 1.0 / factor:
                return n
        return LENGTH

    return keep


def at_random(order: Order, saved: float) -> float:
    """Share of hypervolume that is lost where runs end after their grace by chance, at that share of epochs saved."""
    rng, most = np.random.default_rng(0), 1.0 - GRACE / LENGTH
    counts = np.arange(RUNS + 1)
    at = saved / most * RUNS  # runs to be pruned; between two whole numbers, both
    near = [int(k) for k in np.unique([np.floor(at), np.ceil(at)])]
    lost = {k: float(np.mean([order.outcome(_pruned(rng, k)).lost for _ in range(DRAWS // len(near))])) for k in near}
    return float(np.interp(at, counts[near], [lost[k] for k in near]))


def _pruned(rng: np.random.Generator, count: int) -> list[int]:
    kept = np.full(RUNS, LENGTH)
    kept[rng.permutation(RUNS)[:count]] = GRACE
    return kept.tolist()


def at_same_length(order: Order, saved: float) -> float:
    """The same where all runs end at about the same epoch."""
    rng, epochs = np.random.default_rng(0), LENGTH * (1.0 - saved)
    lower = int(epochs)
    longer = round((epochs - lower) * RUNS)
    draws = []
    for _ in range(DRAWS // 4):
        kept = np.full(RUNS, lower)
        kept[rng.permutation(RUNS)[:longer]] = lower + 1
        draws.append(order.outcome(kept.tolist()).lost)
    return float(np.mean(draws))


RULES: dict[str, Callable[[Table, float], Keep]] = {"gain ratio": by_gain, "MOASHA, factor": by_halving}


class Results:
    """What was replayed, a line each.

    Args:
        out: file of lines.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        lines = out.read_text().splitlines() if out.exists() else []
        self._known = {tuple(key): found for key, found in map(json.loads, lines)}

    def of(self, order: Order, rule: str, value: float) -> dict[str, Any]:
        """Give the outcome of a rule, and what as many epochs cost by chance."""
        key = order.table.name, order.table.seed, order.number, rule, value
        if key not in self._known:
            found = order.replay(RULES[rule](order.table, value))
            chance = {"random": at_random(order, found.saved), "same length": at_same_length(order, found.saved)}
            self._known[key] = asdict(found) | chance
            self._out.parent.mkdir(parents=True, exist_ok=True)
            with self._out.open("a") as file:
                file.write(json.dumps([key, self._known[key]]) + "\n")
            print(*key, file=sys.stderr, flush=True)
        found_before: dict[str, Any] = self._known[key]
        return found_before


def row(title: str, outcomes: Sequence[dict[str, Any]]) -> str:
    """Give the figures of a rule."""
    saved, lost, stopped, chance, same = (
        np.array([o[name] for o in outcomes]) for name in ("saved", "lost", "stopped", "random", "same length")
    )
    rng = np.random.default_rng(0)
    means = rng.choice(chance - lost, (4000, len(lost))).mean(axis=1)
    low, high = np.quantile(means, [0.05, 0.95])
    return (
        f"{title:24}{saved.mean():12.1%}{lost.mean():9.2%}{lost.max():9.2%}{chance.mean():9.2%}"
        f"  [{low:+7.2%}, {high:+7.2%}]{(lost > chance).sum():7d}{same.mean():13.2%}{stopped.mean():9.1f}"
    )


HEAD = (
    f"{'rule':24}{'epochs saved':>12}{'lost':>9}{'at most':>9}{'random':>9}  {'random - rule':18}{'worse':>8}"
    f"{'same length':>13}{'pruned':>9}"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", choices=list(SETS), default="reported")
    parser.add_argument("--orders", type=int, default=10)
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--halving", type=float, nargs="*", default=[2.0, 3.0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.results)
    print(f"$ python benchmarks/stopping.py {' '.join(sys.argv[1:])}".rstrip())
    values = {"gain ratio": options.ratios, "MOASHA, factor": options.halving}
    for name, seeds in SETS[options.tables].items():
        tables = [Table(name, seed) for seed in seeds]
        orders = [Order(tables[i % len(tables)], i // len(tables)) for i in range(options.orders)]
        print(f"\n{name}, {options.orders} orders of {RUNS} runs of {LENGTH} epochs\n{HEAD}")
        for rule, some in values.items():
            for value in some:
                print(row(f"{rule} {value:g}", [results.of(o, rule, value) for o in orders]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
