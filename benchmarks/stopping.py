"""Early stopping, replayed on the runs of the ternary zoo: epochs saved, and what was lost by it.

    python benchmarks/stopping.py [--seed 100] [--orders 2] [--thresholds .02 .05 .1 .2] [--worth .25 .5 .75]

Runs come one after another in a random order. At each epoch the stopper sees the run's checkpoints so far and what is
left of the runs before it (a stopped run ends there for good), and decides by what `epsopt work` decides by:
--stop-below a probability that the run will join the front, or --stop-worth a share of what an epoch of a new run would
bring. Beside them a rule that needs no model: stop after the grace time when another run had a better checkpoint, in
both objectives, at the same epoch; and runs stopped at random after their grace, as many epochs saved. Hypervolume of
coverage and dist_corr over every checkpoint that was trained; reference: coverage 0, and the dist_corr of the base.
'of the front': stopped runs that would have left a checkpoint on the final front.

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
from loop_workloads import Ternary, demo_space
from numpy.typing import NDArray
from zoos import OUT, Zoo, load

from epsopt.optimize.loop.curves import Curve
from epsopt.optimize.loop.stopping import Stopper
from epsopt.optimize.pareto import hypervolume, non_dominated

RESULTS = OUT.parent / "stopping.jsonl"
OBJECTIVES = Ternary.objectives
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


def curves_of(zoo: Zoo) -> list[Curve]:
    """Every run of the zoo but the base, which they all start from."""
    columns = [zoo.train.metric_names.index(o.name) for o in OBJECTIVES]
    values, space = zoo.train.metrics[:, columns], demo_space()
    base = values[zoo.epochs == 0][0]
    curves = []
    for name in sorted(set(zoo.run_names)):
        rows = [i for i, run in enumerate(zoo.run_names) if run == name and zoo.epochs[i] > 0]
        if rows:
            config = zoo.hyperparameters[rows[0]]
            active = {p.name: config[p.name] for p in space.active(config)}
            curves.append(Curve(active, zoo.epochs[rows].astype(np.float64), values[rows], base))
    return curves


def reference_of(curves: Sequence[Curve]) -> Floats:
    """Coverage 0, and the dist_corr that all runs begin with."""
    base = curves[0].start
    if base is None:
        raise ValueError("nothing is known of the base: expected curves with a start")
    return np.array([0.0, base[1]])


def replay(curves: Sequence[Curve], order: Sequence[int], keep: Callable[[int, list[Curve]], int]) -> Outcome:
    """Let `keep` say how many epochs each run is trained for, given what the runs before it left."""
    before: list[Curve] = []
    kept = {}
    for place in order:
        kept[place] = keep(place, before)
        before.append(_first(curves[place], kept[place]))
    everything = np.concatenate([c.values for c in curves])
    owner = np.concatenate([np.full(len(c.values), i) for i, c in enumerate(curves)])
    epoch = np.concatenate([np.arange(len(c.values)) for c in curves])
    front = non_dominated(everything, [True, True]).indices
    missed = {int(owner[i]) for i in front if epoch[i] >= kept[int(owner[i])]}
    reference = reference_of(curves)
    full = hypervolume(everything, reference, [True, True])
    left = hypervolume(np.concatenate([c.values for c in before]), reference, [True, True])
    total = sum(len(c.steps) for c in curves)
    stopped = [i for i in kept if kept[i] < len(curves[i].steps)]
    return Outcome(1 - sum(kept.values()) / total, 1 - left / full, len(stopped), len(missed & set(stopped)))


def _first(curve: Curve, n: int) -> Curve:
    return Curve(curve.config, curve.steps[:n], curve.values[:n], curve.start)


def by_forecast(
    curves: Sequence[Curve], *, threshold: float | None = None, worth: float | None = None
) -> Callable[[int, list[Curve]], int]:
    """Stop by the stopper, by either of its rules; it learns again after every few runs."""
    length = max(c.steps[-1] for c in curves)
    rule: dict[str, Any] = {"worth": worth} if threshold is None else {"threshold": threshold}
    stopper = Stopper(demo_space(), OBJECTIVES, length, **rule, grace=GRACE, audit=0.1, reference=reference_of(curves))

    def keep(place: int, before: list[Curve]) -> int:
        if len(before) % REFIT == 0:
            stopper.learn(before)
        for n in range(GRACE, len(curves[place].steps)):
            if stopper.should_stop(f"run {place}", _first(curves[place], n)).stop:
                return n
        return len(curves[place].steps)

    return keep


def by_dominance(curves: Sequence[Curve]) -> Callable[[int, list[Curve]], int]:
    """Stop at the end of the grace time when some earlier run was better in everything at the same epoch."""

    def keep(place: int, before: list[Curve]) -> int:
        now = curves[place].values[GRACE - 1]
        beaten = any(len(c.values) >= GRACE and (c.values[GRACE - 1] > now).all() for c in before)
        return GRACE if beaten and len(before) >= 5 else len(curves[place].steps)

    return keep


def at_random(curves: Sequence[Curve], share: float, rng: np.random.Generator) -> Callable[[int, list[Curve]], int]:
    """Stop runs at the end of the grace time by chance, so that about this share of epochs is saved."""
    length = max(len(c.steps) for c in curves)
    chance = min(share * length / (length - GRACE), 1.0)
    return lambda place, _before: GRACE if rng.random() < chance else len(curves[place].steps)


def kept_of(rule: str, value: float | None, curves: Sequence[Curve]) -> Callable[[int, list[Curve]], int]:
    """A rule by its name in the results."""
    if rule == "dominated":
        return by_dominance(curves)
    return by_forecast(curves, **{rule: value})


def measured(
    curves: Sequence[Curve], rules: Sequence[tuple[str, float | None]], seed: int, orders: Sequence[int], out: Path
) -> dict[tuple[str, float | None], list[Outcome]]:
    """Replay what is not in the results yet, a line each, and give the outcomes of each rule, one per order."""
    found = {}
    if out.exists():
        for line in map(json.loads, out.read_text().splitlines()):
            found[line["seed"], line["order"], line["rule"], line["value"]] = Outcome(**line["outcome"])
    for rule, value in rules:
        for order in orders:
            if (seed, order, rule, value) in found:
                continue
            places = np.random.default_rng(order).permutation(len(curves)).tolist()
            outcome = found[seed, order, rule, value] = replay(curves, places, kept_of(rule, value, curves))
            line = {"seed": seed, "order": order, "rule": rule, "value": value, "outcome": asdict(outcome)}
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            shown = "" if value is None else f" {value:g}"
            print(f"order {order}, {rule}{shown}: {outcome.saved:.1%} saved", file=sys.stderr, flush=True)
    return {(rule, value): [found[seed, order, rule, value] for order in orders] for rule, value in rules}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--worth", type=float, nargs="*", default=[0.25, 0.5, 0.75])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    curves = curves_of(load("ternary", options.seed))
    rules: list[tuple[str, float | None]] = [("dominated", None)]
    rules += [("threshold", t) for t in options.thresholds] + [("worth", w) for w in options.worth]
    told = measured(curves, rules, options.seed, range(options.orders), options.results)
    print(f"$ python benchmarks/stopping.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"\n{len(curves)} runs of up to {max(len(c.steps) for c in curves)} epochs, {options.orders} random orders")
    print(f"{'rule':38}{'epochs saved':>14}{'volume lost':>13}{'stopped':>9}{'of the front':>14}")
    everything = list(range(len(curves)))
    for (rule, value), outcomes in told.items():
        saved = _tell(_TITLES[rule].format(value), outcomes)
        if value is not None:
            chances = [at_random(curves, saved, np.random.default_rng(i)) for i in range(16)]
            _tell("    as many epochs, at random", [replay(curves, everything, keep) for keep in chances])
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
