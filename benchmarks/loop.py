"""Epochs to a front: real training runs, hypervolume against training epochs spent, ours beside the peers.

    python benchmarks/loop.py run --methods epsopt gp --seeds 200 201 [--epochs 300]
    python benchmarks/loop.py table [--seeds 100 ... 109] [--picture FILE]

Runs are of the demo's program (10 epochs each, from one base), maximising coverage and dist_corr; reference (0, 0).
Every checkpoint of every run counts for the front of every method, and every epoch trained is paid for, those of runs
that were stopped or that started from a checkpoint included. What a method did with a seed is one line of
results/loop.jsonl; what is there is not run again. Seeds 100 to 109 report, 200 and up are for development.

random       configurations drawn as the demo's sweep draws them
tpe, nsga2   Optuna's samplers, conditional parameters as a define-by-run script asks for them
gp           Optuna's GPSampler, inactive conditional parameters masked (set to one value); without, see gp-unmasked
nehvi        BoTorch's qLogNEHVI over masked hyperparameters and final values
epsopt       whole curves, branching from checkpoints of the front; -branch without that, +stop with early stopping
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from epsopt.optimize.loop.choice import Candidate, Start, choose_runs, continuing
from epsopt.optimize.loop.curves import Curve, CurveModel, fit_curves
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.optimize.space import Config, Parameter, Space
from epsopt.optimize.targets import Objective

RESULTS = Path(__file__).resolve().parent / "results" / "loop.jsonl"
OBJECTIVES = (Objective("coverage", maximize=True), Objective("dist_corr", maximize=True))
LENGTH = 10
BRANCH = 5
GRACE = 2
FIRST = 5  # random runs before a model is asked
REFERENCE = np.zeros(2)
Floats = NDArray[np.float64]


def demo_space() -> Space:
    """The demo's search space as epsopt's."""
    return Space(tuple(
        Parameter(p.name, p.kind, p.low, p.high, p.log, p.choices, next(iter(p.active_when.items()), None))
        for p in SPACE
    ))  # fmt: skip


@dataclass
class Ledger:
    """What was paid and what came of it.

    Attributes:
        values: objectives after each epoch that was trained, in order.
        seconds: spent on deciding, not on training.
        notes: one per run: epochs, whether it branched, whether it was stopped.
    """

    values: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[list[int]] = field(default_factory=list)


class Trainer:
    """Trains runs and keeps the books; the weights of every checkpoint stay at hand to start from.

    Args:
        budget: epochs in all.
        seed: of the method; with the number of a run it decides how that run trains.
    """

    def __init__(self, budget: int, seed: int) -> None:
        self.ledger = Ledger()
        self.states: dict[str, dict[str, torch.Tensor]] = {}
        self._budget, self._seed = budget, seed
        path = base_path(OUT.parent / "loop")
        path.parent.mkdir(parents=True, exist_ok=True)
        ensure_base(path)
        self._base = load_checkpoint(path)["model_state_dict"]
        measured = measure(TernaryVAE.from_state_dict(self._base))
        self.base = Start("", np.array([measured[o.name] for o in OBJECTIVES]))

    @property
    def left(self) -> int:
        """Epochs that may still be trained."""
        return self._budget - len(self.ledger.values)

    def train(
        self,
        config: Mapping[str, Any],
        epochs: int = LENGTH,
        start: str = "",
        stop: Callable[[Floats], bool] | None = None,
    ) -> Floats:
        """Train one run, as far as the budget goes; ``(epochs, 2)`` measured objectives, nothing after a divergence."""
        # A model uses the tensors it is given, and training changes them in place.
        origin = self.states[start] if start else self._base
        model = TernaryVAE.from_state_dict({name: tensor.clone() for name, tensor in origin.items()})
        number = len(self.ledger.notes)
        values: list[list[float]] = []
        stopped = False
        allowed = min(epochs, self.left)
        try:
            # The whole length is announced, as a program would be told: what is cut off by the budget is only not run.
            for epoch, metrics in enumerate(finetune(model, config, epochs, self._seed * 100_000 + number), start=1):
                values.append(
                    np.nan_to_num([metrics[o.name] for o in OBJECTIVES]).tolist()
                )  # not measurable: worthless
                self.ledger.values.append(values[-1])
                self.states[f"{number}/{epoch}"] = {k: v.clone() for k, v in model.state_dict().items()}
                stopped = stop is not None and epoch < allowed and stop(np.array(values))
                if stopped or epoch == allowed:
                    break
        except DivergedError:
            self.ledger.values.append([0.0, 0.0])  # paid for
        self.ledger.notes.append([len(values), int(bool(start)), int(stopped)])
        return np.array(values).reshape(-1, len(OBJECTIVES))


class Method(Protocol):
    """Spends the budget of a trainer."""

    def __call__(self, trainer: Trainer, seed: int) -> None:
        """Launch runs until no epoch is left."""


def random_search(trainer: Trainer, seed: int) -> None:
    """Draw every configuration."""
    rng = np.random.default_rng(seed)
    while trainer.left:
        trainer.train(demo_space().sample(1, rng)[0])


def optuna_method(make: Callable[[int], optuna.samplers.BaseSampler], *, masked: bool) -> Method:
    """Ask an Optuna sampler; `masked` shows it one value for a conditional parameter that had no effect."""

    def method(trainer: Trainer, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(directions=["maximize"] * 2, sampler=make(seed))
        space = demo_space()
        while trainer.left:
            began = time.perf_counter()
            trial = study.ask()
            config = _suggest(trial, space, everything=masked)
            trainer.ledger.seconds += time.perf_counter() - began
            values = trainer.train({p.name: config[p.name] for p in space.active(config)})
            final = values[-1].tolist() if len(values) else [0.0, 0.0]
            if not masked:
                study.tell(trial, final)
                continue
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            on = {p.name for p in space.active(config)}
            shown = {n: v if n in on else _middle(trial.distributions[n]) for n, v in trial.params.items()}
            study.add_trial(optuna.create_trial(params=shown, distributions=trial.distributions, values=final))

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


def _middle(distribution: Any) -> Any:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return distribution.choices[0]
    low, high = distribution.low, distribution.high
    middle = float(np.sqrt(low * high)) if distribution.log else (low + high) / 2
    return round(middle) if isinstance(distribution, optuna.distributions.IntDistribution) else middle


def nehvi(trainer: Trainer, seed: int) -> None:
    """QLogNEHVI on final values of masked hyperparameters, ten random runs first."""
    rng, space = np.random.default_rng(seed), demo_space()
    configs: list[Config] = []
    finals: list[Floats] = []
    while trainer.left:
        began = time.perf_counter()
        config = space.sample(1, rng)[0] if len(configs) < 10 else _by_nehvi(space, configs, np.array(finals), rng)
        trainer.ledger.seconds += time.perf_counter() - began
        values = trainer.train(config)
        configs.append(config)
        finals.append(values[-1] if len(values) else np.zeros(2))


def _by_nehvi(space: Space, configs: Sequence[Config], finals: Floats, rng: np.random.Generator) -> Config:
    x, y = torch.from_numpy(space.encode(configs)), torch.from_numpy(finals)
    front = non_dominated(finals, [True, True]).indices
    pool = space.sample(512, rng) + [space.perturb(configs[int(rng.choice(front))], rng) for _ in range(512)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ModelListGP(*(SingleTaskGP(x, y[:, j : j + 1]) for j in range(2)))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        value = noisy_improvement(
            model, x, lambda samples: samples, REFERENCE.tolist(), [], samples=64, seed=int(rng.integers(2**31))
        )
        with torch.no_grad():
            chosen, _ = optimize_acqf_discrete(value, q=1, choices=torch.from_numpy(space.encode(pool)))
    return pool[int(np.abs(space.encode(pool) - chosen.numpy()).sum(axis=1).argmin())]


@dataclass(frozen=True)
class Epsopt:
    """Ours.

    Attributes:
        branch: start runs from checkpoints of the front as well.
        stop: stop a run when an epoch of it is expected to bring less than this share of what a new run's epoch
            would; 0 never stops.
        first: random runs before a model is asked.
    """

    branch: bool = True
    stop: float = 0.0
    first: int = FIRST

    def __call__(self, trainer: Trainer, seed: int) -> None:
        """Launch runs until no epoch is left."""
        rng, space = np.random.default_rng(seed), demo_space()
        curves: list[Curve] = []
        keys: list[list[str]] = []
        while trainer.left:
            began = time.perf_counter()
            model: CurveModel | None = None
            rate = 0.0
            candidate = Candidate(space.sample(1, rng)[0], trainer.base, LENGTH)
            if len(curves) >= self.first:
                model = fit_curves(space, OBJECTIVES, curves, length=LENGTH, seed=seed)
                starts = _front_checkpoints(curves, keys) if self.branch else []
                (choice,) = choose_runs(model, starts=starts, branch_epochs=BRANCH, reference=REFERENCE, rng=rng)
                candidate, rate = choice.candidate, choice.improvement / choice.candidate.cost
            trainer.ledger.seconds += time.perf_counter() - began
            start = candidate.start

            def hopeless(
                values: Floats,
                candidate: Candidate = candidate,
                model: CurveModel | None = model,
                rate: float = rate,
            ) -> bool:
                if model is None or not self.stop or len(values) < GRACE:
                    return False
                began = time.perf_counter()
                so_far = _curve(candidate, values)
                expected = continuing(
                    model.given([*curves, so_far]), len(curves), candidate.epochs, reference=REFERENCE
                )
                trainer.ledger.seconds += time.perf_counter() - began
                return expected < self.stop * rate

            number = len(trainer.ledger.notes)
            values = trainer.train(candidate.config, int(candidate.epochs), start.key if start else "", hopeless)
            if len(values):
                curves.append(_curve(candidate, values))
                keys.append([f"{number}/{i + 1}" for i in range(len(values))])


def _curve(candidate: Candidate, values: Floats) -> Curve:
    start = None if candidate.start is None else candidate.start.values
    return Curve(candidate.config, np.arange(1.0, len(values) + 1), values, start)


def _front_checkpoints(curves: Sequence[Curve], keys: Sequence[Sequence[str]]) -> list[Start]:
    values = np.concatenate([c.values for c in curves])
    names = [k for some in keys for k in some]
    return [Start(names[i], values[i]) for i in non_dominated(values, [True, True]).indices]


METHODS: Mapping[str, Method] = {
    "random": random_search,
    "tpe": optuna_method(lambda s: optuna.samplers.TPESampler(seed=s), masked=False),
    "nsga2": optuna_method(lambda s: optuna.samplers.NSGAIISampler(seed=s, population_size=10), masked=False),
    "gp-unmasked": optuna_method(lambda s: optuna.samplers.GPSampler(seed=s), masked=False),
    "gp": optuna_method(lambda s: optuna.samplers.GPSampler(seed=s), masked=True),
    "nehvi": nehvi,
    "epsopt": Epsopt(),
    "epsopt-branch": Epsopt(branch=False),
    "epsopt+stop": Epsopt(stop=0.3),
}


def run(methods: Sequence[str], seeds: Sequence[int], epochs: int, out: Path) -> None:
    """Run what is not in the results yet, one line each."""
    done = {(r["method"], r["seed"], r["epochs"]) for r in read(out)}
    for seed in seeds:
        for name in methods:
            if (name, seed, epochs) in done:
                continue
            began = time.perf_counter()
            trainer = Trainer(epochs, seed)
            METHODS[name](trainer, seed)
            took = time.perf_counter() - began
            ledger = trainer.ledger
            line = {
                "method": name,
                "seed": seed,
                "epochs": epochs,
                "seconds": round(took, 1),
                "deciding": round(ledger.seconds, 1),
                "runs": ledger.notes,
                "values": [[round(v, 5) for v in row] for row in ledger.values],
            }
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            volume = hypervolume(np.array(ledger.values), REFERENCE, [True, True])
            print(f"{name} seed {seed}: {volume:.4f} after {epochs} epochs, {took:.0f} s", flush=True)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a results file, if there is one."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def volumes(values: Sequence[Sequence[float]]) -> Floats:
    """Hypervolume after each epoch."""
    table = np.array(values)
    return np.array([hypervolume(table[: i + 1], REFERENCE, [True, True]) for i in range(len(table))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--methods", nargs="+", default=["random", "tpe", "nsga2", "gp", "nehvi", "epsopt"],
                        choices=list(METHODS))  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(100, 110)))
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "run":
        run(options.methods, options.seeds, options.epochs, options.results)
    else:
        table(options.methods, options.seeds, options.epochs, options.results)
    return 0


def table(methods: Sequence[str], seeds: Sequence[int], epochs: int, results: Path) -> None:
    """Print hypervolume by epochs, and how many epochs the best peer takes for each one of ours."""
    found = {(r["method"], r["seed"]): r for r in read(results) if r["epochs"] == epochs}
    complete = [s for s in seeds if all((m, s) in found for m in methods)]
    print(f"$ python benchmarks/loop.py {' '.join(sys.argv[1:])}")
    print(f"\nhypervolume of coverage and dist_corr, mean of {len(complete)} seeds: {' '.join(map(str, complete))}")
    if not complete:
        return
    looks = list(range(epochs // 6, epochs + 1, epochs // 6))
    print(f"{'epochs trained':16}" + "".join(f"{e:>8}" for e in looks) + "   deciding")
    curves = {m: np.stack([volumes(found[m, s]["values"]) for s in complete]) for m in methods}
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


def _ratio(peer: Floats, ours: Floats, share: float) -> float:
    """0 if ours never gets there."""
    goal = share * peer[-1] - 1e-12
    reached = np.flatnonzero(ours >= goal)
    return float((np.flatnonzero(peer >= goal)[0] + 1) / (reached[0] + 1)) if len(reached) else 0.0


if __name__ == "__main__":
    sys.exit(main())
