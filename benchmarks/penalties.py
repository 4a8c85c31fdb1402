"""EpsilonSampler where a part of the space is penalised: how large the penalty is must not matter.

Run with: OMP_NUM_THREADS=1 python benchmarks/penalties.py > benchmarks/results/penalties.txt
Two trade-offs of two objectives that are minimised, on which a third and a half of the space is penalised: by a value
far beyond all others, infinity, or a trial that fails. Hypervolume (reference 1, 1) after 30 trials, mean and standard
error over seeds, beside random search on the same functions. ``--seeds N`` and ``--trials N`` make it shorter.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler

from epsopt.optimize.pareto import hypervolume
from epsopt.studies import EpsilonSampler

PENALTIES = {"10": 10.0, "1e3": 1e3, "1e10": 1e10, "inf": math.inf, "fails": math.nan}
Values = tuple[float, float]


def corner(trial: optuna.Trial) -> Values | None:
    """Two bowls; where x + y is large nothing works."""
    x, y, z = (
        trial.suggest_float("x", 0, 1),
        trial.suggest_float("y", 0, 1),
        trial.suggest_float("z", 1e-4, 1, log=True),
    )
    if x + y > 1.2:
        return None
    off = 0.1 * math.log10(z / 1e-2) ** 2
    return (x - 0.3) ** 2 + y * y + off, (x - 0.6) ** 2 + (y - 0.2) ** 2 + off


def branch(trial: optuna.Trial) -> Values | None:
    """A large step of one kind diverges; the other kind has a parameter of its own."""
    kind, step = trial.suggest_categorical("kind", ["sgd", "adam"]), trial.suggest_float("step", 1e-4, 1, log=True)
    share = trial.suggest_float("share", 0, 1)
    if step > (0.1 if kind == "sgd" else 0.003):
        return None
    off = 0.05 * math.log10(step / 1e-3) ** 2
    if kind == "sgd":
        off += 0.3 * (trial.suggest_float("momentum", 0, 1) - 0.9) ** 2
    return share**2 + off, (1 - share) ** 2 + off


FUNCTIONS = {"corner": corner, "branch": branch}


def reached(
    function: Callable[[optuna.Trial], Values | None], sampler: BaseSampler, penalty: float, trials: int
) -> float:
    """Hypervolume of what a study measured; what was penalised counts for nothing."""

    def values(trial: optuna.Trial) -> Values:
        return function(trial) or (penalty, penalty)

    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(values, n_trials=trials)
    table = np.array([t.values for t in study.trials if t.values], dtype=np.float64).reshape(-1, 2)
    return hypervolume(table[(table < 1.0).all(axis=1)], np.ones(2), [False, False])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--trials", type=int, default=30)
    asked = options.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    print(f"{asked.trials} trials, {asked.seeds} seeds")
    print(f"{'function':<10}{'penalty':<10}{'epsilon':>16}{'random':>16}")
    for name, function in FUNCTIONS.items():
        random = [reached(function, RandomSampler(seed=s), math.nan, asked.trials) for s in range(4 * asked.seeds)]
        for text, penalty in PENALTIES.items():
            ours = [reached(function, EpsilonSampler(seed=s), penalty, asked.trials) for s in range(asked.seeds)]
            shown = [f"{np.mean(v):.3f} ± {np.std(v) / math.sqrt(len(v)):.3f}" for v in (ours, random)]
            print(f"{name:<10}{text:<10}{shown[0]:>16}{shown[1]:>16}", flush=True)


if __name__ == "__main__":
    main()
