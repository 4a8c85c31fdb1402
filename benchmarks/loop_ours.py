"""Ours, in the loop's benchmark."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from loop_trainer import Method, Run, Trainer
from loop_workloads import Floats, State

from epsopt.optimize.loop.choice import Candidate, Start, choose_runs
from epsopt.optimize.loop.credit import Credit, worth_staying
from epsopt.optimize.loop.curves import Curve, CurveModel, fit_curves
from epsopt.optimize.loop.mixing import Mixture, WeightSpace, choose_mixture
from epsopt.optimize.loop.stopping import Stopper
from epsopt.optimize.pareto import hypervolume, non_dominated

BRANCH = 3  # epochs of a run from a checkpoint
LOOK = 6  # epochs of a run that only looks around
GRACE = 2
FIRST = 4  # runs before a model of runs is asked
PROBES = (
    8  # the same where nothing can be mixed: these are stopped after their grace, of many short runs more is learned
)
WORTH = 0.5  # of what an epoch of a new run is expected to bring


@dataclass(frozen=True)
class Epsopt:
    """Ours.

    Attributes:
        branch: start runs from checkpoints of the front as well.
        stop: stop a run when an epoch of it is expected to bring less than this share of what a new run's would.
        mix: measure mixtures of checkpoints, where runs share a base.
    """

    branch: bool = True
    stop: bool = True
    mix: bool = True

    def __call__(self, trainer: Trainer, seed: int) -> None:
        """Take steps until no epoch is left."""
        _Search(self, trainer, seed).run()


class _Search:
    def __init__(self, how: Epsopt, trainer: Trainer, seed: int) -> None:
        self._how, self._trainer, self._seed = how, trainer, seed
        self._workload, self._rng = trainer.workload, np.random.default_rng(seed)
        self._credit, self._looks = Credit(), 0
        self._weights = _Weights(trainer) if how.mix and trainer.base is not None else None
        self._stopper = Stopper(
            self._workload.space, self._workload.objectives, self._workload.length, worth=WORTH, grace=GRACE,
            probes=0 if self._weights is not None else PROBES, reference=trainer.reference,
        )  # fmt: skip

    def run(self) -> None:
        """Measure a mixture while one promises enough, and more than a run; otherwise launch what the model has found.

        Until there are a few runs to model, runs are spread over the space.
        """
        trainer = self._trainer
        while trainer.left:
            began = time.process_time()
            before = self._volume()
            enough = worth_staying(before, len(trainer.ledger.values))
            model, launch, run_worth = self._best_run(before)
            mixture, mixture_worth = self._best_mixture(before)
            trainer.ledger.seconds += time.process_time() - began
            if mixture is not None and mixture_worth > enough and mixture_worth >= run_worth and self._weights:
                trainer.mix(self._weights.mixed(mixture.coefficients))
                self._credit.learn("mixture", mixture.improvement, self._volume() - before)
            elif launch is not None:
                candidate, improvement = launch
                self._stopper.learn(self._curves(), model=model, new_run=improvement / candidate.cost)
                self._train(candidate, stop=self._how.stop)
                self._credit.learn("run", improvement, self._volume() - before)
            else:
                if self._weights is None:
                    self._stopper.learn(self._curves())
                self._train(self._look(), stop=self._how.stop and self._weights is None)

    def _best_run(self, volume: float) -> tuple[CurveModel | None, tuple[Candidate, float] | None, float]:
        """The model, what to launch with its promise, and what that is worth for each epoch."""
        curves = self._curves()
        if len(curves) < (FIRST if self._weights is not None else PROBES):
            return None, None, 0.0
        model = fit_curves(
            self._workload.space, self._workload.objectives, curves, length=self._workload.length,
            others=self._mixed_values(), seed=self._seed,
        )  # fmt: skip
        (choice,) = choose_runs(
            model, starts=self._front() if self._how.branch else [], origin=self._trainer.base, branch_epochs=BRANCH,
            reference=self._trainer.reference, rng=self._rng,
        )  # fmt: skip
        trusted = choice.improvement * self._credit.trust("run", volume)
        return model, (choice.candidate, choice.improvement), trusted / choice.candidate.cost

    def _best_mixture(self, volume: float) -> tuple[Mixture | None, float]:
        """What to measure, and what that is worth."""
        if self._weights is None:
            return None, 0.0
        space, values = self._weights.known()
        base = self._trainer.base
        mixture = choose_mixture(
            space, values, self._workload.objectives, base=None if base is None else base.values,
            reference=self._trainer.reference, rng=self._rng,
        )  # fmt: skip
        if mixture is None:
            return None, 0.0
        return mixture, mixture.improvement * self._credit.trust("mixture", volume)

    def _look(self) -> Candidate:
        """Somewhere new, from where runs start."""
        self._looks += 1
        (config,) = self._workload.space.spread(1, self._seed, self._looks - 1)
        return Candidate(config, self._trainer.base, LOOK if self._weights is not None else self._workload.length)

    def _train(self, candidate: Candidate, *, stop: bool = False) -> None:
        trainer = self._trainer

        def hopeless(run: Run) -> bool:
            began = time.process_time()
            decision = self._stopper.should_stop(
                f"{self._seed}/{len(trainer.runs)}", run.curve, length=candidate.epochs
            )
            trainer.ledger.seconds += time.process_time() - began
            return decision.stop

        trainer.train(dict(candidate.config), int(candidate.epochs), candidate.start, hopeless if stop else None)

    def _curves(self) -> list[Curve]:
        return [run.curve for run in self._trainer.runs if len(run.values)]

    def _mixed_values(self) -> Floats | None:
        return np.stack([s.values for s in self._trainer.mixed]) if self._trainer.mixed else None

    def _front(self) -> list[Start]:
        starts, directions = self._trainer.starts(), [o.maximize for o in self._workload.objectives]
        return [starts[i] for i in non_dominated(np.stack([s.values for s in starts]), directions).indices]

    def _volume(self) -> float:
        starts = self._trainer.starts()
        return self._hypervolume(np.stack([s.values for s in starts])) if starts else 0.0

    def _hypervolume(self, values: Floats) -> float:
        return hypervolume(values, self._trainer.reference, [o.maximize for o in self._workload.objectives])


class _Weights:
    """Differences from the base of all checkpoints, and their inner products, each computed once."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._base = trainer.state("")
        self._names = [n for n, t in self._base.items() if t.is_floating_point()]
        self._keys: list[str] = []
        self._differences: list[list[torch.Tensor]] = []
        self._products = np.zeros((len(self._names), 0, 0))

    def known(self) -> tuple[WeightSpace, Floats]:
        """Where all checkpoints lie, and what was measured on them."""
        starts = self._trainer.starts()
        values = {s.key: s.values for s in starts}
        for key in values:
            if key not in self._keys:
                self._add(key)
        norms = np.array([float(self._base[n].norm()) for n in self._names])
        table = np.stack([values[k] for k in self._keys]) if self._keys else np.zeros((0, 2))
        return WeightSpace(self._products, norms), table

    def _add(self, key: str) -> None:
        state = self._trainer.state(key)
        mine = [(state[n] - self._base[n]).reshape(-1).double() for n in self._names]
        self._keys.append(key)
        self._differences.append(mine)
        k = len(self._keys)
        grown = np.zeros((len(self._names), k, k))
        grown[:, : k - 1, : k - 1] = self._products
        for block, difference in enumerate(mine):
            row = [float(torch.dot(d[block], difference)) for d in self._differences]
            grown[block, k - 1, :] = grown[block, :, k - 1] = row
        self._products = grown

    def mixed(self, coefficients: Floats) -> State:
        """Weights of a mixture of what is known."""
        space, _ = self.known()
        state = {n: t.clone() for n, t in self._base.items()}
        used = np.flatnonzero(np.abs(coefficients).sum(axis=0)).tolist()
        for block, name in enumerate(self._names):
            row = coefficients[space.parts[block]]
            for i in used:
                change = float(row[i]) * self._differences[i][block]
                state[name] = (state[name].double() + change.reshape(state[name].shape)).to(state[name].dtype)
        return state


OURS: Mapping[str, Method] = {
    "epsopt": Epsopt(),
    "epsopt-mix": Epsopt(mix=False),
    "epsopt-branch": Epsopt(branch=False),
    "epsopt-stop": Epsopt(stop=False),
}
