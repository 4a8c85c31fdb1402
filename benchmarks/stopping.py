"""Early stopping, replayed on the runs of the ternary zoo: epochs saved, and what was lost by it.

    python benchmarks/stopping.py [--seed 100] [--orders 2] [--thresholds .02 .05 .1 .2]

Runs come one after another in a random order. At each epoch the stopper sees the run's checkpoints so far and what is
left of the runs before it (a stopped run ends there for good), and decides by what `epsopt work` decides by. Beside it
a rule that needs no model: stop after the grace time when another run had a better checkpoint, in both objectives, at
the same epoch; and runs stopped at random epochs, as many epochs saved. Hypervolume of coverage and dist_corr over
every checkpoint that was trained, reference (0, 0).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from loop import OBJECTIVES, REFERENCE, demo_space
from numpy.typing import NDArray
from zoos import Zoo, load

from epsopt.optimize.loop.curves import Curve
from epsopt.optimize.loop.stopping import Stopper
from epsopt.optimize.pareto import hypervolume, non_dominated

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
    full = hypervolume(everything, REFERENCE, [True, True])
    left = hypervolume(np.concatenate([c.values for c in before]), REFERENCE, [True, True])
    total = sum(len(c.steps) for c in curves)
    stopped = [i for i in kept if kept[i] < len(curves[i].steps)]
    return Outcome(1 - sum(kept.values()) / total, 1 - left / full, len(stopped), len(missed & set(stopped)))


def _first(curve: Curve, n: int) -> Curve:
    return Curve(curve.config, curve.steps[:n], curve.values[:n], curve.start)


def by_forecast(curves: Sequence[Curve], threshold: float) -> Callable[[int, list[Curve]], int]:
    """Stop by the stopper, which learns again after every few runs."""
    length = max(c.steps[-1] for c in curves)
    stopper = Stopper(demo_space(), OBJECTIVES, length, threshold=threshold, grace=GRACE, audit=0.1)

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    curves = curves_of(load("ternary", options.seed))
    print(f"$ python benchmarks/stopping.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"\n{len(curves)} runs of up to {max(len(c.steps) for c in curves)} epochs, {options.orders} random orders")
    print(f"{'rule':34}{'epochs saved':>14}{'volume lost':>13}{'stopped':>9}{'of the front':>14}")
    orders = [np.random.default_rng(i).permutation(len(curves)).tolist() for i in range(options.orders)]
    saved = _tell("another run was better, epoch by epoch", [replay(curves, o, by_dominance(curves)) for o in orders])
    for threshold in options.thresholds:
        outcomes = [replay(curves, o, by_forecast(curves, threshold)) for o in orders]
        saved = _tell(f"epsopt, below {threshold:g}", outcomes)
        chances = [
            replay(curves, o, at_random(curves, saved, np.random.default_rng(i))) for i in range(8) for o in orders
        ]
        _tell("    as many epochs, at random", chances)
    return 0


def _tell(title: str, outcomes: Sequence[Outcome]) -> float:
    saved, lost, stopped, regretted = (
        float(np.mean([getattr(o, name) for o in outcomes])) for name in ("saved", "lost", "stopped", "regretted")
    )
    print(f"{title:38}{saved:10.1%}{lost:13.2%}{stopped:9.1f}{regretted:14.1f}", flush=True)
    return saved


if __name__ == "__main__":
    sys.exit(main())
