"""Early stopping, replayed on random runs of the loop's workloads: epochs saved, what was lost, how far to trust it.

    python benchmarks/stopping.py [--workload ternary] [--zoos 100 101 102] [--orders 2]
                                  [--thresholds .02 .05 .1 .15 .2 .3 .5 .7]

The runs are those that `loop.py --zoo` gives to everybody, 24 for each seed, trained to their end. They come one after
another in a random order. At each epoch the stopper sees the run's checkpoints so far and what is left of the runs
before it (a stopped run ends there for good), and decides as `epsopt work --stop-below` does, with its own grace and
audits, by a probability that the run will join the front. Beside it a rule that needs no model: stop after the grace
time when another run had a better checkpoint, in both objectives, at the same epoch; and runs stopped at random after
their grace, as many epochs saved. `--worth .5` replays Pruner(gain_ratio=.5) as well, which no command offers.
Hypervolume of the workload's objectives over every checkpoint that was trained, from the workload's reference. 'of the
front': stopped runs that would have left a checkpoint on the final front.

Then, with nothing stopped, how far to trust the probabilities: every run from the sixth on is judged at each of its
checkpoints after the grace by all runs before it, which went to their ends. It joined if a later checkpoint of it was
not equalled or beaten, in both objectives, by any checkpoint of the runs before it nor by any that it had left already.
Probabilities as the model of curves has them, and as the stopper uses them, corrected by what such forecasts of the
runs before came to. The decisions of a run hang together: there are as many independent ones as runs, not more.

Each replay is a line of out/stopping.jsonl; what is there is not replayed again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loop_trainer import Trainer
from loop_workloads import CACHE, WORKLOADS, Workload
from numpy.typing import NDArray
from scipy.stats import norm

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.optimize.schedule.pruner import FEWEST_RUNS, Pruner
from epsopt.optimize.schedule.pruner import GRACE as GRACE_EPOCHS

RESULTS = CACHE.parent / "stopping.jsonl"
GRACE = round(GRACE_EPOCHS)
REFIT = 4  # runs after which the stopper learns again; `epsopt work` after a tenth more
EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
LEVELS = (0.8, 0.9)
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
class Judged:
    """A forecast of which it is known what came of it.

    Attributes:
        run: that was judged.
        forecast: probability that it joins the front, by the model of curves.
        probability: the same as the stopper uses it.
        joined: whether it did.
        inside: for each of LEVELS, objective by objective, whether its last checkpoint was within the interval.
    """

    run: int
    forecast: float
    probability: float
    joined: bool
    inside: list[list[bool]]


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
    """Stop by the pruner, by either of its rules; it learns again after every few runs, and knows of all."""
    workload, curves = runs.workload, runs.curves
    rule: dict[str, Any] = {"gain_ratio": worth} if threshold is None else {"threshold": threshold}
    pruner = Pruner(workload.space, workload.objectives, workload.length, **rule, reference=workload.reference)

    def keep(place: int, before: list[Curve]) -> int:
        if len(before) % REFIT == 0:
            pruner.learn(before)
        judge = pruner.given(before)
        for n in range(GRACE, len(curves[place].steps)):
            if judge.should_stop(f"run {place}", _first(curves[place], n)).stop:
                return n
        return len(curves[place].steps)

    return keep


def judgements(runs: Runs, order: Sequence[int]) -> list[Judged]:
    """Judge every checkpoint of runs that come one after another, and stop none."""
    workload, out, before, model = runs.workload, [], list[Curve](), None
    pruner = Pruner(workload.space, workload.objectives, workload.length, threshold=0.0)
    for place in order:
        curve = runs.curves[place]
        if len(before) >= FEWEST_RUNS:
            if model is None or len(before) % REFIT == 0:
                model = fit_curves(workload.space, workload.objectives, before, length=workload.length)
                pruner.learn(before, model=model)
            judge = pruner.given(before)
            for n in range(GRACE, len(curve.steps)):
                so_far = _first(curve, n)
                told = judge.should_stop(f"run {place}", so_far)
                joined = _joins(runs, curve.values[n:], [*before, so_far])
                inside = _inside(model.given([*before, so_far]), curve)
                out.append(Judged(place, told.forecast, told.probability, joined, inside))
        before.append(curve)
    return out


def _joins(runs: Runs, later: Floats, known: Sequence[Curve]) -> bool:
    signs = np.where(runs.directions, 1.0, -1.0)
    front = np.concatenate([c.values for c in known]) * signs
    return not all((front >= row).all(axis=1).any() for row in later * signs)


def _inside(model: CurveModel, curve: Curve) -> list[list[bool]]:
    """Whether the last checkpoint of the last curve of a model lies where it was forecast, noise included."""
    x = model.inputs([curve.config], curve.steps[-1:], [curve.start], len(model.curves) - 1)
    with torch.no_grad():
        posterior = model.model.posterior(x)
        mean, variance = posterior.mean[0, 0], posterior.variance[0, 0]
        deviation = (variance + torch.stack([p.noise for p in model.processes])).sqrt()
        ends = [[[float(t.backward(mean[j] + side * norm.isf((1 - level) / 2) * deviation[j])) for side in (-1, 1)]
                 for j, t in enumerate(model.transforms)] for level in LEVELS]  # fmt: skip
    return [[low <= float(v) <= high for v, (low, high) in zip(curve.values[-1], each, strict=True)] for each in ends]


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


class Results:
    """What was replayed, a line each.

    Args:
        runs: that are replayed.
        zoos: that they are from.
        out: file of lines.
    """

    def __init__(self, runs: Runs, zoos: Sequence[int], out: Path) -> None:
        self._runs, self._out = runs, out
        self._source = {"workload": runs.workload.name, "zoos": list(zoos)}
        self._lines: dict[tuple[int, str, float | None], Any] = {}
        if out.exists():
            for line in map(json.loads, out.read_text().splitlines()):
                if {name: line[name] for name in self._source} == self._source:
                    self._lines[line["order"], line["rule"], line["value"]] = line["outcome"]

    def outcomes(self, rule: str, value: float | None, orders: Sequence[int]) -> list[Outcome]:
        """Of a rule, one per order."""

        def once(places: Sequence[int]) -> dict[str, Any]:
            return asdict(replay(self._runs, places, kept_of(rule, value, self._runs)))

        return [Outcome(**self._found(order, rule, value, once)) for order in orders]

    def judged(self, orders: Sequence[int]) -> list[Judged]:
        """Of all orders, one after another."""

        def once(places: Sequence[int]) -> list[dict[str, Any]]:
            return [asdict(judged) for judged in judgements(self._runs, places)]

        return [Judged(**each) for order in orders for each in self._found(order, "judged", None, once)]

    def _found(self, order: int, rule: str, value: float | None, once: Callable[[Sequence[int]], Any]) -> Any:
        key = order, rule, value
        if key not in self._lines:
            places = np.random.default_rng(order).permutation(len(self._runs.curves)).tolist()
            self._lines[key] = once(places)
            line = {**self._source, "order": order, "rule": rule, "value": value, "outcome": self._lines[key]}
            self._out.parent.mkdir(parents=True, exist_ok=True)
            with self._out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"order {order}, {rule}{'' if value is None else f' {value:g}'}", file=sys.stderr, flush=True)
        return self._lines[key]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(WORKLOADS), default="ternary")
    parser.add_argument("--zoos", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7])
    parser.add_argument("--worth", type=float, nargs="*", default=[])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = runs_of(WORKLOADS[options.workload](), options.zoos)
    rules: list[tuple[str, float | None]] = [("dominated", None)]
    rules += [("threshold", t) for t in options.thresholds] + [("worth", w) for w in options.worth]
    results, orders = Results(runs, options.zoos, options.results), range(options.orders)
    told = {(rule, value): results.outcomes(rule, value, orders) for rule, value in rules}
    judged = results.judged(orders)
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
    _tell_calibration(runs, judged)
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


def _tell_calibration(runs: Runs, judged: Sequence[Judged]) -> None:
    joined = np.array([float(j.joined) for j in judged])
    count, rate = len({j.run for j in judged}), float(joined.mean())
    print(f"\n{len(judged)} decisions on {count} runs, none stopped; {rate:.1%} had a later checkpoint on the front")
    print(f"{'':22}{'model of curves':^26}   {'as the pruner uses it':^26}")
    print(f"{'probability':22}" + f"   {'decisions':>9}{'mean':>8}{'joined':>9}" * 2)
    forecasts = [np.array([getattr(j, name) for j in judged]) for name in ("forecast", "probability")]
    for low, high in pairwise(EDGES):
        parts = [(p >= low) & ((p < high) | (high == EDGES[-1])) for p in forecasts]
        cells = [f"{part.sum():>12}" + _means(p[part], joined[part]) for part, p in zip(parts, forecasts, strict=True)]
        print(f"{f'{low:g} to {high:g}':22}" + "".join(cells))
    for title, score in (("Brier score", brier), ("calibration error", calibration_error)):
        print(f"{title:22}" + "".join(f"{score(p, joined):>29.4f}" for p in forecasts).replace(" " * 3, "", 1))
    print(f"Brier score of saying {rate:.1%} each time, known afterwards: {rate * (1 - rate):.4f}")
    for i, level in enumerate(LEVELS):
        inside = np.mean([j.inside[i] for j in judged], axis=0)
        shares = ", ".join(f"{o.name} {s:.1%}" for o, s in zip(runs.workload.objectives, inside, strict=True))
        print(f"last checkpoint within its {level:.0%} interval: {shares}")


def _means(p: Floats, joined: Floats) -> str:
    return f"{p.mean():>8.3f}{joined.mean():>9.3f}" if len(p) else f"{'-':>8}{'-':>9}"


def brier(p: Floats, joined: Floats) -> float:
    """Mean squared error of ``(k,)`` probabilities (Brier 1950)."""
    return float(np.square(p - joined).mean())


def calibration_error(p: Floats, joined: Floats) -> float:
    """Distance of mean probability and share that joined, bin by bin of EDGES, weighed by decisions."""
    places = np.digitize(p, EDGES[1:-1])
    return float(sum(abs((p - joined)[places == i].sum()) for i in range(len(EDGES) - 1)) / len(p))


if __name__ == "__main__":
    sys.exit(main())
