"""Ours, in the loop's benchmark."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from loop_trainer import Method, Run, Trainer

from epsopt.optimize.loop.choice import Candidate, Start, choose_runs
from epsopt.optimize.loop.curves import fit_curves
from epsopt.optimize.loop.stopping import Stopper
from epsopt.optimize.pareto import non_dominated

BRANCH = 3
GRACE = 2
FIRST = 8  # random runs before a model is asked
WORTH = 0.5  # of what an epoch of a new run is expected to bring


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
        workload = trainer.workload
        rng, space, objectives, length = (
            np.random.default_rng(seed), workload.space, workload.objectives, workload.length
        )  # fmt: skip
        stopper = Stopper(
            space, objectives, length, worth=WORTH, probes=FIRST, grace=GRACE, reference=trainer.reference
        )
        while trainer.left:
            began = time.perf_counter()
            curves = [run.curve for run in trainer.runs if len(run.values)]
            candidate, model, rate = Candidate(space.sample(1, rng)[0], trainer.base, length), None, None
            if len(curves) >= FIRST:
                model = fit_curves(space, objectives, curves, length=length, seed=seed)
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
    starts, directions = trainer.starts(), [o.maximize for o in trainer.workload.objectives]
    return [starts[i] for i in non_dominated(np.stack([s.values for s in starts]), directions).indices]


OURS: Mapping[str, Method] = {
    "epsopt": Epsopt(),
    "epsopt-branch": Epsopt(branch=False),
    "epsopt-stop": Epsopt(stop=False),
}
