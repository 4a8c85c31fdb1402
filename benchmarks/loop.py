"""Epochs to a front: real training runs, hypervolume against training epochs spent, ours beside the peers.

    python benchmarks/loop.py run --methods epsopt gp --seeds 200 201 [--epochs 200] [--zoo]
    python benchmarks/loop.py table [--seeds 100 ... 109] [--epochs 200] [--zoo]

Runs are of the demo's program (10 epochs each, from one base), maximising coverage and dist_corr. The space is wide:
the demo's twelve hyperparameters in ranges of somebody who does not know the program, so that few random runs are any
good. The base is the hypervolume's reference: coverage 0, and the dist_corr that it begins with. Every checkpoint of
every run counts for the front of every method, and every epoch trained is paid for, those of runs that were stopped or
that started from a checkpoint included. With --zoo all methods begin with the same 24 random runs, which cost nothing.
What a method did with a seed is one line of results/loop.jsonl; what is there is not run again. Seeds 100 to 109
report, 200 and up are for development.

random       configurations drawn at random
tpe, nsga2   Optuna's samplers, conditional parameters as a define-by-run script asks for them
gp           Optuna's GPSampler, inactive conditional parameters masked (set to one value); without, see gp-unmasked
nehvi        BoTorch's qLogNEHVI over masked hyperparameters and final values
epsopt       whole curves; short runs to look around first; what an epoch is worth decides which run goes on, and
             whether the next one starts from the base or from a checkpoint of the front; -branch: always from the
             base; -stop: every run to its end
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.optim import optimize_acqf_discrete
from gpytorch.mlls import SumMarginalLogLikelihood
from numpy.typing import NDArray
from zoos import OUT

from epsopt.demo.base import base_path, ensure_base
from epsopt.demo.files import load as load_checkpoint
from epsopt.demo.finetune import DivergedError, finetune
from epsopt.demo.metrics import measure
from epsopt.demo.model import TernaryVAE
from epsopt.demo.space import SPACE
from epsopt.optimize.acquisition import noisy_improvement
from epsopt.optimize.loop.choice import Candidate, Start, choose_runs
from epsopt.optimize.loop.curves import Curve, fit_curves
from epsopt.optimize.loop.stopping import Stopper
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.optimize.space import Config, Parameter, Space
from epsopt.optimize.targets import Objective

RESULTS = Path(__file__).resolve().parent / "results" / "loop.jsonl"
CACHE = OUT.parent / "loop"
OBJECTIVES = (Objective("coverage", maximize=True), Objective("dist_corr", maximize=True))
LENGTH = 10
BRANCH = 3
GRACE = 2
FIRST = 8  # random runs before a model is asked
WORTH = 0.5  # of what an epoch of a new run is expected to bring
COVERAGE = 0.95  # of the target
EARLIER = 24  # runs of the zoo that everybody is given with --zoo
WIDE = {
    "lr": (1e-5, 0.1),
    "encoder_lr_scale": (1e-3, 1.0),
    "recon_weight": (1e-5, 1.0),
    "kl_weight": (1e-5, 1.0),
    "dist_weight": (1e-2, 10.0),
    "radial_weight": (1e-2, 10.0),
    "weight_decay": (1e-6, 1.0),
    "max_radius": (0.3, 0.97),
    "grad_clip": (1e-2, 10.0),
}
Floats = NDArray[np.float64]
State = dict[str, torch.Tensor]


def wide_space() -> Space:
    """The demo's hyperparameters, ranges that reach decades beyond what works."""
    return Space(tuple(
        Parameter(p.name, p.kind, *WIDE.get(p.name, (p.low, p.high)), p.log, p.choices,
                  next(iter(p.active_when.items()), None))
        for p in SPACE
    ))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """What is known of a run.

    Attributes:
        config: its hyperparameters.
        values: ``(epochs, 2)`` measured objectives.
        keys: of its checkpoints.
        start: what it started from.
    """

    config: Config
    values: Floats
    keys: tuple[str, ...]
    start: Start

    @property
    def final(self) -> list[float]:
        """What those see of it who see one row per run."""
        return [float(v) for v in self.values[-1]] if len(self.values) else [0.0, 0.0]

    @property
    def curve(self) -> Curve:
        """What the curves' model sees of it."""
        return Curve(self.config, np.arange(1.0, len(self.values) + 1), self.values, self.start.values)


@dataclass
class Ledger:
    """What was paid and what came of it.

    Attributes:
        values: objectives after each epoch that was trained, in order.
        seconds: spent on deciding, not on training.
        notes: one per run: epochs, whether it branched, whether it was stopped, whether it diverged (one more epoch).
    """

    values: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[list[int]] = field(default_factory=list)


class Trainer:
    """Trains runs and keeps the books; the weights of every checkpoint stay at hand to start from.

    Args:
        budget: epochs in all.
        seed: of the method; with the number of a run it decides how that run trains.
        zoo: begin with runs from before, which cost nothing.

    Attributes:
        ledger: what was paid.
        base: where runs start.
        runs: all that is known.
        reference: the worst that counts: what the base has, without its coverage.
    """

    def __init__(self, budget: int, seed: int, *, zoo: bool = False) -> None:
        self.ledger = Ledger()
        self._states: dict[str, State] = {}
        self._budget, self._seed = budget, seed
        path = base_path(CACHE)
        path.parent.mkdir(parents=True, exist_ok=True)
        ensure_base(path)
        self._states[""] = load_checkpoint(path)["model_state_dict"]
        measured = measure(TernaryVAE.from_state_dict(self._states[""]))
        self.base = Start("", np.array([measured[o.name] for o in OBJECTIVES]))
        self.reference = np.array([0.0, self.base.values[1]])
        self.runs: list[Run] = self._earlier() if zoo else []

    @property
    def left(self) -> int:
        """Epochs that may still be trained."""
        return self._budget - len(self.ledger.values)

    def train(
        self,
        config: Config,
        epochs: int | None = None,
        start: Start | None = None,
        stop: Callable[[Run], bool] | None = None,
    ) -> Run:
        """Train one run, as far as the budget goes; it has no values after a divergence in its first epoch."""
        start, epochs = start or self.base, epochs or LENGTH
        name = f"{self._seed}/{len(self.ledger.notes)}"
        run = Run(config, np.empty((0, 2)), (), start)
        stopped = diverged = False
        allowed = min(epochs, self.left)
        try:
            # The whole length is announced, as a program would be told: what is cut off is only not run.
            seed = self._seed * 100_000 + len(self.ledger.notes)
            for known, state in self._epochs(run, name, seed, epochs):
                run = known
                self.ledger.values.append(run.values[-1].tolist())
                self._states[run.keys[-1]] = state
                done = len(run.values)
                stopped = stop is not None and done < allowed and stop(run)
                if stopped or done == allowed:
                    break
        except DivergedError:
            diverged = True
            self.ledger.values.append([0.0, 0.0])  # paid for
        self.ledger.notes.append([len(run.values), int(bool(start.key)), int(stopped), int(diverged)])
        self.runs.append(run)
        return run

    def _epochs(self, run: Run, name: str, seed: int, epochs: int) -> Iterator[tuple[Run, State]]:
        # A model uses the tensors it is given, and training changes them in place.
        model = TernaryVAE.from_state_dict({n: t.clone() for n, t in self._states[run.start.key].items()})
        for epoch, metrics in enumerate(finetune(model, run.config, epochs, seed), start=1):
            # What cannot be measured (weights beyond all bounds) is worth nothing.
            row = np.nan_to_num([metrics[o.name] for o in OBJECTIVES])
            run = Run(run.config, np.vstack([run.values, row]), (*run.keys, f"{name}/{epoch}"), run.start)
            yield run, {n: t.clone() for n, t in model.state_dict().items()}

    def _earlier(self) -> list[Run]:
        """Random runs that everybody is given; kept, because all methods of a seed ask for them."""
        path = CACHE / f"zoo-{self._seed}.pt"
        if not path.exists():
            rng, states, kept = np.random.default_rng([self._seed, 1]), {}, []
            seed = self._seed * 100_000 + 50_000
            for number, config in enumerate(wide_space().sample(EARLIER, rng)):
                run = Run(config, np.empty((0, 2)), (), self.base)
                with contextlib.suppress(DivergedError):
                    for known, state in self._epochs(run, f"zoo/{number}", seed + number, LENGTH):
                        run = known
                        states[run.keys[-1]] = state
                kept.append((run.config, run.values.tolist(), run.keys))
            torch.save({"runs": kept, "states": states}, path)
        found = torch.load(path, weights_only=True)
        self._states |= found["states"]
        return [Run(c, np.array(v).reshape(-1, 2), tuple(k), self.base) for c, v, k in found["runs"]]


class Method(Protocol):
    """Spends the budget of a trainer."""

    def __call__(self, trainer: Trainer, seed: int) -> None:
        """Launch runs until no epoch is left."""


def random_search(trainer: Trainer, seed: int) -> None:
    """Draw every configuration."""
    rng = np.random.default_rng(seed)
    while trainer.left:
        trainer.train(wide_space().sample(1, rng)[0])


def optuna_method(make: Callable[[int], optuna.samplers.BaseSampler], *, masked: bool) -> Method:
    """Ask an Optuna sampler; `masked` shows it one value for a conditional parameter that had no effect."""

    def method(trainer: Trainer, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(directions=["maximize"] * 2, sampler=make(seed))
        space = wide_space()
        everything = _distributions(space)
        for run in trainer.runs:
            study.add_trial(_told(run, space, everything, masked=masked))
        while trainer.left:
            began = time.perf_counter()
            trial = study.ask()
            config = _suggest(trial, space, everything=masked)
            trainer.ledger.seconds += time.perf_counter() - began
            run = trainer.train({p.name: config[p.name] for p in space.active(config)})
            if not masked:
                study.tell(trial, run.final)
                continue
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            study.add_trial(_told(run, space, everything, masked=True))

    return method


def _suggest(trial: optuna.Trial, space: Space, *, everything: bool) -> Config:
    config: Config = {}
    for p in space.parameters:
        if not everything and p.active_when is not None and config.get(p.active_when[0]) not in p.active_when[1]:
            continue
        if p.kind == "categorical":
            config[p.name] = trial.suggest_categorical(p.name, p.choices)
        elif p.kind == "int":
            config[p.name] = trial.suggest_int(p.name, int(p.low), int(p.high), log=p.log)
        else:
            config[p.name] = trial.suggest_float(p.name, p.low, p.high, log=p.log)
    return config


def _distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    study = optuna.create_study()
    trial = study.ask()
    _suggest(trial, space, everything=True)
    return dict(trial.distributions)


def _told(run: Run, space: Space, everything: Mapping[str, Any], *, masked: bool) -> optuna.trial.FrozenTrial:
    """A finished trial; `masked` gives every inactive parameter one and the same value."""
    on = {p.name for p in space.active(run.config)}
    shown = {n: run.config[n] if n in on else _middle(d) for n, d in everything.items() if n in on or masked}
    return optuna.create_trial(params=shown, distributions={n: everything[n] for n in shown}, values=run.final)


def _middle(distribution: Any) -> Any:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return distribution.choices[0]
    low, high = distribution.low, distribution.high
    middle = float(np.sqrt(low * high)) if distribution.log else (low + high) / 2
    return round(middle) if isinstance(distribution, optuna.distributions.IntDistribution) else middle


def nehvi(trainer: Trainer, seed: int) -> None:
    """QLogNEHVI on final values of masked hyperparameters, ten random runs first."""
    rng, space = np.random.default_rng(seed), wide_space()
    while trainer.left:
        began = time.perf_counter()
        config = space.sample(1, rng)[0]
        if len(trainer.runs) >= 10:
            finals = np.array([r.final for r in trainer.runs])
            config = _by_nehvi(space, [r.config for r in trainer.runs], finals, trainer.reference, rng)
        trainer.ledger.seconds += time.perf_counter() - began
        trainer.train(config)


def _by_nehvi(
    space: Space, configs: Sequence[Config], finals: Floats, reference: Floats, rng: np.random.Generator
) -> Config:
    x, y = torch.from_numpy(space.encode(configs)), torch.from_numpy(finals)
    front = non_dominated(finals, [True, True]).indices
    pool = space.sample(512, rng) + [space.perturb(configs[int(rng.choice(front))], rng) for _ in range(512)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ModelListGP(*(SingleTaskGP(x, y[:, j : j + 1]) for j in range(2)))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        value = noisy_improvement(
            model, x, lambda samples: samples, reference.tolist(), [], samples=64, seed=int(rng.integers(2**31))
        )
        with torch.no_grad():
            chosen, _ = optimize_acqf_discrete(value, q=1, choices=torch.from_numpy(space.encode(pool)))
    return pool[int(np.abs(space.encode(pool) - chosen.numpy()).sum(axis=1).argmin())]


@dataclass(frozen=True)
class Epsopt:
    """Ours.

    Attributes:
        branch: start runs from checkpoints of the front as well.
        stop: stop a run when an epoch of it is expected to bring less than this share of what a new run's would.
    """

    branch: bool = True
    stop: bool = True

    def __call__(self, trainer: Trainer, seed: int) -> None:
        """Launch runs until no epoch is left."""
        rng, space = np.random.default_rng(seed), wide_space()
        stopper = Stopper(
            space, OBJECTIVES, LENGTH, worth=WORTH, probes=FIRST, grace=GRACE, reference=trainer.reference
        )
        while trainer.left:
            began = time.perf_counter()
            curves = [run.curve for run in trainer.runs if len(run.values)]
            candidate, model, rate = Candidate(space.sample(1, rng)[0], trainer.base, LENGTH), None, None
            if len(curves) >= FIRST:
                model = fit_curves(space, OBJECTIVES, curves, length=LENGTH, seed=seed)
                (choice,) = choose_runs(
                    model, starts=_front(trainer) if self.branch else [], origin=trainer.base, branch_epochs=BRANCH,
                    reference=trainer.reference, rng=rng,
                )  # fmt: skip
                candidate, rate = choice.candidate, choice.improvement / choice.candidate.cost
            stopper.learn(curves, model=model, new_run=rate)
            trainer.ledger.seconds += time.perf_counter() - began

            def stop(run: Run, length: float = candidate.epochs) -> bool:
                began = time.perf_counter()
                decision = stopper.should_stop(f"{seed}/{len(trainer.runs)}", run.curve, length=length)
                trainer.ledger.seconds += time.perf_counter() - began
                return decision.stop

            trainer.train(dict(candidate.config), int(candidate.epochs), candidate.start, stop if self.stop else None)


def _front(trainer: Trainer) -> list[Start]:
    values = np.concatenate([run.values for run in trainer.runs])
    keys = [key for run in trainer.runs for key in run.keys]
    return [Start(keys[i], values[i]) for i in non_dominated(values, [True, True]).indices]


METHODS: Mapping[str, Method] = {
    "random": random_search,
    "tpe": optuna_method(lambda s: optuna.samplers.TPESampler(seed=s), masked=False),
    "nsga2": optuna_method(lambda s: optuna.samplers.NSGAIISampler(seed=s, population_size=10), masked=False),
    "gp-unmasked": optuna_method(lambda s: optuna.samplers.GPSampler(seed=s), masked=False),
    "gp": optuna_method(lambda s: optuna.samplers.GPSampler(seed=s), masked=True),
    "nehvi": nehvi,
    "epsopt": Epsopt(),
    "epsopt-branch": Epsopt(branch=False),
    "epsopt-stop": Epsopt(stop=False),
}


def run(methods: Sequence[str], seeds: Sequence[int], epochs: int, out: Path, *, zoo: bool) -> None:
    """Run what is not in the results yet, one line each."""
    done = {(r["method"], r["seed"], r["epochs"], r["zoo"]) for r in read(out)}
    for seed in seeds:
        for name in methods:
            if (name, seed, epochs, zoo) in done:
                continue
            began = time.perf_counter()
            trainer = Trainer(epochs, seed, zoo=zoo)
            earlier = [row for r in trainer.runs for row in r.values.tolist()]
            METHODS[name](trainer, seed)
            line = {
                "method": name,
                "seed": seed,
                "epochs": epochs,
                "zoo": zoo,
                "seconds": round(time.perf_counter() - began, 1),
                "deciding": round(trainer.ledger.seconds, 1),
                "reference": trainer.reference.round(5).tolist(),
                "runs": trainer.ledger.notes,
                "earlier": np.round(earlier, 5).tolist(),
                "values": np.round(trainer.ledger.values, 5).tolist(),
            }
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name} seed {seed}: {volumes(line)[-1]:.4f}, {line['seconds']:.0f} s", flush=True)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a results file, if there is one."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def volumes(line: Mapping[str, Any]) -> Floats:
    """Hypervolume after each epoch."""
    earlier, reference = line["earlier"], np.array(line["reference"])
    table = np.array([*earlier, *line["values"]])
    front = table[:0]
    out = []
    for row in range(len(table)):
        front = np.vstack([front, table[row]])
        front = front[non_dominated(front, [True, True]).indices]
        out.append(hypervolume(front, reference, [True, True]))
    return np.array(out[len(earlier) :])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--methods", nargs="+", default=["random", "tpe", "nsga2", "gp", "nehvi", "epsopt"],
                        choices=list(METHODS))  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(100, 110)))
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--zoo", action="store_true", help=f"everybody begins with the same {EARLIER} random runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "run":
        run(options.methods, options.seeds, options.epochs, options.results, zoo=options.zoo)
    else:
        found = {
            (r["method"], r["seed"]): r
            for r in read(options.results)
            if r["epochs"] == options.epochs and r["zoo"] == options.zoo
        }
        table(options.methods, options.seeds, options.epochs, found)
    return 0


def table(methods: Sequence[str], seeds: Sequence[int], epochs: int, found: Mapping[tuple[str, int], Any]) -> None:
    """Print hypervolume by epochs, how many epochs the best peer takes for each one of ours, and epochs to a target."""
    complete = [s for s in seeds if all((m, s) in found for m in methods)]
    print(f"$ python benchmarks/loop.py {' '.join(sys.argv[1:])}")
    print(f"\nhypervolume of coverage and dist_corr, mean of {len(complete)} seeds: {' '.join(map(str, complete))}")
    if not complete:
        return
    looks = list(range(epochs // 8, epochs + 1, epochs // 8))
    print(f"{'epochs trained':16}" + "".join(f"{e:>8}" for e in looks) + "   deciding")
    curves = {m: np.stack([volumes(found[m, s]) for s in complete]) for m in methods}
    for name in methods:
        mean = "".join(f"{curves[name][:, e - 1].mean():8.3f}" for e in looks)
        deciding = np.mean([found[name, s]["deciding"] for s in complete])
        print(f"{name:16}{mean}{deciding:9.0f} s")
    peers = [m for m in methods if not m.startswith("epsopt")]
    best = max(peers, key=lambda m: float(curves[m][:, -1].mean()))
    print(f"\nepochs that {best} takes to a share of its own final hypervolume / epochs to the same hypervolume")
    print(f"{'':16}{'share':>7}{'median':>8}   by seed (- not reached within {epochs})")
    for name in (m for m in methods if m.startswith("epsopt")):
        for share in (0.95, 0.99, 1.0):
            ratios = [_ratio(curves[best][i], curves[name][i], share) for i in range(len(complete))]
            shown = "".join("     -" if r == 0 else f"{r:6.2f}" for r in ratios)
            print(f"{name:16}{share:7.0%}{np.median(ratios):8.2f}   {shown}")
    if "random" in methods:
        _target_table(methods, [[found[m, s] for s in complete] for m in methods], epochs)


def _ratio(peer: Floats, ours: Floats, share: float) -> float:
    """0 if ours never gets there."""
    goal = share * peer[-1] - 1e-12
    reached = np.flatnonzero(ours >= goal)
    return float((np.flatnonzero(peer >= goal)[0] + 1) / (reached[0] + 1)) if len(reached) else 0.0


def _target_table(methods: Sequence[str], lines: Sequence[Sequence[Mapping[str, Any]]], epochs: int) -> None:
    """Epochs to coverage >= .95 and a dist_corr, at that coverage, that fewer than 5 % of random runs reach."""
    best = [
        max((d for c, d in run if c >= COVERAGE), default=0.0)
        for line in lines[methods.index("random")]
        for run in _runs(line)
    ]
    level = float(np.quantile(best, 0.95, method="higher"))
    print(f"\nepochs to coverage >= {COVERAGE} and dist_corr > {level:.3f}: 5 % of {len(best)} random runs get beyond")
    print(f"{'':16}{'median':>8}   by seed (- not reached within {epochs})")
    for name, of_method in zip(methods, lines, strict=True):
        taken = []
        for line in of_method:
            there = [i for i, (c, d) in enumerate(line["values"], 1) if c >= COVERAGE and d > level]
            taken.append(there[0] if there else math.inf)
        shown = "".join("     -" if math.isinf(t) else f"{t:6.0f}" for t in taken)
        middle = float(np.median(taken))
        print(f"{name:16}{'-' if math.isinf(middle) else f'{middle:.0f}':>8}   {shown}")


def _runs(line: Mapping[str, Any]) -> Iterator[list[list[float]]]:
    """The rows of each run."""
    rows = iter(line["values"])
    for epochs, _, _, diverged in line["runs"]:
        yield list(islice(rows, epochs + diverged))


if __name__ == "__main__":
    sys.exit(main())
