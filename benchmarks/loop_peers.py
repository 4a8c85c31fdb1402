"""The peers of the loop's benchmark: random search, Optuna's samplers and ours among them, BoTorch's qLogNEHVI."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import optuna
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.optim import optimize_acqf_discrete
from gpytorch.mlls import SumMarginalLogLikelihood
from loop_trainer import Method, Run, Trainer
from loop_workloads import Floats

from epsopt.optimize.acquisition.noisy_ehvi import noisy_improvement
from epsopt.optimize.pareto import non_dominated
from epsopt.optimize.space import Config, Space
from epsopt.studies.optuna_io.sampler import EpsilonSampler

SHORT, EIGHT = 3, 8
"""Epochs of a short run, and random ones before a model of them is asked."""
FEW = 5
"""Random runs before a model is used, of the peers that begin with fewer than ten, as is usual."""


def random_search(trainer: Trainer, seed: int) -> None:
    """Draw every configuration."""
    rng = np.random.default_rng(seed)
    while trainer.left:
        trainer.train(trainer.workload.space.sample(1, rng)[0])


def optuna_method(
    make: Callable[[int], optuna.samplers.BaseSampler], *, masked: bool, epochs: int | None = None
) -> Method:
    """Ask an Optuna sampler; `masked` shows it one value for a conditional parameter that had no effect.

    Args:
        make: the sampler of a seed.
        masked: see above.
        epochs: of each run; by default as many as any.
    """

    def method(trainer: Trainer, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions = ["maximize" if o.maximize else "minimize" for o in trainer.workload.objectives]
        study = optuna.create_study(directions=directions, sampler=make(seed))
        space = trainer.workload.space
        everything = _distributions(space)

        def as_trial(run: Run) -> optuna.trial.FrozenTrial:
            return _recorded(run.config, trainer.final(run), space, everything, masked=masked)

        for run in trainer.runs:
            study.add_trial(as_trial(run))
        while trainer.left:
            began = time.process_time()
            trial = study.ask()
            config = _suggest(trial, space, everything=masked)
            trainer.ledger.seconds += time.process_time() - began
            run = trainer.train({p.name: config[p.name] for p in space.active(config)}, epochs)
            if not masked:
                study.tell(trial, trainer.final(run))
                continue
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            study.add_trial(as_trial(run))

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


def _recorded(
    config: Config, values: Sequence[float], space: Space, everything: Mapping[str, Any], *, masked: bool
) -> optuna.trial.FrozenTrial:
    """A finished trial; `masked` gives every inactive parameter one and the same value."""
    on = {p.name for p in space.active(config)}
    shown = {n: config[n] if n in on else _middle(d) for n, d in everything.items() if n in on or masked}
    return optuna.create_trial(params=shown, distributions={n: everything[n] for n in shown}, values=values)


def _middle(distribution: Any) -> Any:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return distribution.choices[0]
    low, high = distribution.low, distribution.high
    middle = float(np.sqrt(low * high)) if distribution.log else (low + high) / 2
    return round(middle) if isinstance(distribution, optuna.distributions.IntDistribution) else middle


def nehvi(trainer: Trainer, seed: int, *, first: int = 10) -> None:
    """QLogNEHVI on final values of masked hyperparameters, ten random runs first."""
    rng, space = np.random.default_rng(seed), trainer.workload.space
    signs = np.array([1.0 if o.maximize else -1.0 for o in trainer.workload.objectives])
    while trainer.left:
        began = time.process_time()
        config = space.sample(1, rng)[0]
        if len(trainer.runs) >= first:
            finals = signs * np.array([trainer.final(r) for r in trainer.runs])
            config = _by_nehvi(space, [r.config for r in trainer.runs], finals, signs * trainer.reference, rng)
        trainer.ledger.seconds += time.process_time() - began
        trainer.train(config)


def _by_nehvi(
    space: Space, configs: Sequence[Config], finals: Floats, reference: Floats, rng: np.random.Generator
) -> Config:
    """Maximise both columns of `finals`."""
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


def moasha(trainer: Trainer, seed: int, *, grace: int = 1, factor: float = 3.0) -> None:
    """Syne Tune's MOASHA (Schmucker et al. 2021): random runs, stopped where they lie behind. Needs syne-tune."""
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

    names = [o.name for o in trainer.workload.objectives]
    signs = np.array([-1.0 if o.maximize else 1.0 for o in trainer.workload.objectives])
    rng, space = np.random.default_rng(seed), trainer.workload.space
    scheduler = MOASHA({}, names, time_attr="epoch", max_t=trainer.workload.length, grace_period=grace,
                       reduction_factor=factor, random_seed=seed)  # fmt: skip
    number = 0
    while trainer.left:
        config = space.sample(1, rng)[0]
        trial = Trial(number, {**config}, datetime.now(UTC))
        scheduler.on_trial_add(trial)

        def stop(run: Run, trial: Trial = trial) -> bool:
            began = time.process_time()
            row = dict(zip(names, (signs * run.values[-1]).tolist(), strict=True))
            decision = scheduler.on_trial_result(trial, {**row, "epoch": len(run.values)})
            trainer.ledger.seconds += time.process_time() - began
            return bool(decision == "STOP")

        trainer.train(config, stop=stop)
        number += 1


PEERS: Mapping[str, Method] = {
    "random": random_search,
    "tpe": optuna_method(lambda s: optuna.samplers.TPESampler(seed=s), masked=False),
    "nsga2": optuna_method(lambda s: optuna.samplers.NSGAIISampler(seed=s, population_size=10), masked=False),
    "gp-unmasked": optuna_method(lambda s: optuna.samplers.GPSampler(seed=s), masked=False),
    "gp": optuna_method(lambda s: optuna.samplers.GPSampler(seed=s), masked=True),
    "nehvi": nehvi,
    "gp-short": optuna_method(
        lambda s: optuna.samplers.GPSampler(seed=s, n_startup_trials=EIGHT), masked=True, epochs=SHORT
    ),
    "tpe-short": optuna_method(lambda s: optuna.samplers.TPESampler(seed=s), masked=False, epochs=SHORT),
    "moasha": moasha,
    "gp-few": optuna_method(lambda s: optuna.samplers.GPSampler(seed=s, n_startup_trials=FEW), masked=True),
    "nehvi-few": partial(nehvi, first=FEW),
    "epsopt-sampler": optuna_method(lambda s: EpsilonSampler(seed=s), masked=False),
}
