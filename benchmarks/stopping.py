"""Early stopping, replayed on random runs of the loop's workloads: epochs saved, and what was lost by it.

    python benchmarks/stopping.py [--workload ternary] [--zoos 100 101 102] [--orders 2]
                                  [--thresholds .02 .05 .1 .2] [--worth .25 .5 .75]

The runs are those that `loop.py --zoo` gives to everybody, 24 for each seed, trained to their end. They come one after
another in a random order. At each epoch the stopper sees the run's checkpoints so far and what is left of the runs
before it (a stopped run ends there for good), and decides by `epsopt work --stop-below`, a probability that the run
will join the front, or by Stopper(worth=), a share of what an epoch of a new run would bring. Beside them a rule that
needs no model: stop after the grace time when another run had a better checkpoint, in both objectives, at the same
epoch; and runs stopped at random after their grace, as many epochs saved. Hypervolume of the workload's objectives over
every checkpoint that was trained, from the workload's reference. 'of the front': stopped runs that would have left a
checkpoint on the final front.

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
from loop_trainer import Trainer
from loop_workloads import CACHE, WORKLOADS, Workload
from numpy.typing import NDArray

from epsopt.optimize.loop.curves import Curve
from epsopt.optimize.loop.stopping import Stopper
from epsopt.optimize.pareto import hypervolume, non_dominated

RESULTS = CACHE.parent / "stopping.jsonl"
GRACE = 3
REFIT = 4  # runs after which the stopper learns again
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a rule did to one order of runs.

    Attributes:
        saved: share of epochs that were not trained.
        lost: share of the hypervolume of all checkpoints that was lost.
        stopped: runs that were stopped.
        regretted: of those, how many would have left a checkpoint on the final front.
    """

    saved: float
    lost: float
    stopped: int
    regretted: int


@dataclass(frozen=True)
class Runs:
    """What is replayed.

    Attributes:
        workload: that was trained.
        curves: of all runs that left a checkpoint.
    """

    workload: Workload
    curves: tuple[Curve, ...]

    @property
    def directions(self) -> list[bool]:
        """Whether more is better, objective by objective."""
        return [o.maximize for o in self.workload.objectives]

    def volume(self, curves: Sequence[Curve]) -> float:
        """Hypervolume of all their checkpoints."""
        return hypervolume(np.concatenate([c.values for c in curves]), self.workload.reference, self.directions)


def runs_of(workload: Workload, zoos: Sequence[int]) -> Runs:
    """The random runs that the loop's benchmark gives to everybody; trained first if they are not there."""
    runs = [run for seed in zoos for run in Trainer(workload, 0, seed, zoo=True).runs]
    return Runs(workload, tuple(run.curve for run in runs if len(run.values)))


def replay(runs: Runs, order: Sequence[int], keep: Callable[[int, list[Curve]], int]) -> Outcome:
    """Let `keep` say how many epochs each run is trained for, given what the runs before it left."""
    curves = runs.curves
    before: list[Curve] = []
    kept = {}
    for place in order:
        kept[place] = keep(place, before)
        before.append(_first(curves[place], kept[place]))
    everything = np.concatenate([c.values for c in curves])
    owner = np.concatenate([np.full(len(c.values), i) for i, c in enumerate(curves)])
    epoch = np.concatenate([np.arange(len(c.values)) for c in curves])
    front = non_dominated(everything, runs.directions).indices
    missed = {int(owner[i]) for i in front if epoch[i] >= kept[int(owner[i])]}
    full, left = runs.volume(curves), runs.volume(before)
    total = sum(len(c.steps) for c in curves)
    stopped = [i for i in kept if kept[i] < len(curves[i].steps)]
    return Outcome(1 - sum(kept.values()) / total, 1 - left / full, len(stopped), len(missed & set(stopped)))


def _first(curve: Curve, n: int) -> Curve:
    return Curve(curve.config, curve.steps[:n], curve.values[:n], curve.start)


def by_forecast(
    runs: Runs, *, threshold: float | None = None, worth: float | None = None
) -> Callable[[int, list[Curve]], int]:
    """Stop by the stopper, by either of its rules; it learns again after every few runs."""
    workload, curves = runs.workload, runs.curves
    rule: dict[str, Any] = {"worth": worth} if threshold is None else {"threshold": threshold}
    stopper = Stopper(
        workload.space, workload.objectives, workload.length, **rule, grace=GRACE, reference=workload.reference
    )

    def keep(place: int, before: list[Curve]) -> int:
        if len(before) % REFIT == 0:
            stopper.learn(before)
        for n in range(GRACE, len(curves[place].steps)):
            if stopper.should_stop(f"run {place}", _first(curves[place], n)).stop:
                return n
        return len(curves[place].steps)

    return keep


def by_dominance(runs: Runs) -> Callable[[int, list[Curve]], int]:
    """Stop at the end of the grace time when some earlier run was better in everything at the same epoch."""
    curves, signs = runs.curves, np.where(runs.directions, 1.0, -1.0)

    def keep(place: int, before: list[Curve]) -> int:
        if len(curves[place].steps) < GRACE:
            return len(curves[place].steps)
        now = signs * curves[place].values[GRACE - 1]
        beaten = any(len(c.values) >= GRACE and (signs * c.values[GRACE - 1] > now).all() for c in before)
        return GRACE if beaten and len(before) >= 5 else len(curves[place].steps)

    return keep


def at_random(runs: Runs, share: float, rng: np.random.Generator) -> Callable[[int, list[Curve]], int]:
    """Stop runs at the end of the grace time by chance, so that about this share of epochs is saved."""
    length = runs.workload.length
    chance = min(share * length / (length - GRACE), 1.0)
    whole = [len(c.steps) for c in runs.curves]
    return lambda place, _before: min(GRACE, whole[place]) if rng.random() < chance else whole[place]


def kept_of(rule: str, value: float | None, runs: Runs) -> Callable[[int, list[Curve]], int]:
    """A rule by its name in the results."""
    if rule == "dominated":
        return by_dominance(runs)
    return by_forecast(runs, **{rule: value})


def measured(
    runs: Runs, zoos: Sequence[int], rules: Sequence[tuple[str, float | None]], orders: Sequence[int], out: Path
) -> dict[tuple[str, float | None], list[Outcome]]:
    """Replay what is not in the results yet, a line each, and give the outcomes of each rule, one per order."""
    found, source = {}, {"workload": runs.workload.name, "zoos": list(zoos)}
    if out.exists():
        for line in map(json.loads, out.read_text().splitlines()):
            if {name: line[name] for name in source} == source:
                found[line["order"], line["rule"], line["value"]] = Outcome(**line["outcome"])
    for rule, value in rules:
        for order in orders:
            if (order, rule, value) in found:
                continue
            places = np.random.default_rng(order).permutation(len(runs.curves)).tolist()
            outcome = found[order, rule, value] = replay(runs, places, kept_of(rule, value, runs))
            line = {**source, "order": order, "rule": rule, "value": value, "outcome": asdict(outcome)}
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            shown = "" if value is None else f" {value:g}"
            print(f"order {order}, {rule}{shown}: {outcome.saved:.1%} saved", file=sys.stderr, flush=True)
    return {(rule, value): [found[order, rule, value] for order in orders] for rule, value in rules}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(WORKLOADS), default="ternary")
    parser.add_argument("--zoos", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--worth", type=float, nargs="*", default=[0.25, 0.5, 0.75])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = runs_of(WORKLOADS[options.workload](), options.zoos)
    rules: list[tuple[str, float | None]] = [("dominated", None)]
    rules += [("threshold", t) for t in options.thresholds] + [("worth", w) for w in options.worth]
    told = measured(runs, options.zoos, rules, range(options.orders), options.results)
    print(f"$ python benchmarks/stopping.py {' '.join(sys.argv[1:])}".rstrip())
    count, length = len(runs.curves), runs.workload.length
    print(f"\n{count} runs of up to {length} epochs, {options.orders} random orders, {runs.workload.name}")
    print(f"{'rule':38}{'epochs saved':>14}{'volume lost':>13}{'stopped':>9}{'of the front':>14}")
    everything = list(range(count))
    for (rule, value), outcomes in told.items():
        saved = _tell(_TITLES[rule].format(value), outcomes)
        if value is not None:
            chances = [at_random(runs, saved, np.random.default_rng(i)) for i in range(16)]
            _tell("    as many epochs, at random", [replay(runs, everything, keep) for keep in chances])
    return 0


_TITLES = {
    "dominated": "another run was better",
    "threshold": "likely to join the front: below {}",
    "worth": "worth of a new run's epoch: below {}",
}


def _tell(title: str, outcomes: Sequence[Outcome]) -> float:
    saved, lost, stopped, regretted = (
        float(np.mean([getattr(o, name) for o in outcomes])) for name in ("saved", "lost", "stopped", "regretted")
    )
    print(f"{title:38}{saved:14.1%}{lost:13.2%}{stopped:9.1f}{regretted:14.1f}", flush=True)
    return saved


if __name__ == "__main__":
    sys.exit(main())
