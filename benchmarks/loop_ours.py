"""Ours, in the loop's benchmark."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from loop_trainer import Method, Run, Trainer
from loop_workloads import Floats, State

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.merge.weight_space_gp import WeightSpace, on_way
from epsopt.optimize.outliers import front_reference
from epsopt.optimize.pareto import joins_front
from epsopt.optimize.schedule.pruner import Pruner
from epsopt.optimize.schedule.run_acquisition import Candidate
from epsopt.optimize.schedule.scheduler import BRANCH_EPOCHS, FIRST_RUNS, Scheduler, SearchState, Step

LOOK = 6  # epochs of a run that only looks around
GRACE = 2
# Runs that only look around where nothing can be mixed: stopped after their grace, of many short ones more is learned.
PROBES = 8
GAIN_RATIO = 0.5  # share of the gain per epoch that its step was chosen for, below which a run is stopped


@dataclass(frozen=True)
class Epsopt:
    """Ours.

    Attributes:
        branch: start runs from checkpoints of the front as well.
        stop: stop a run when its gain per epoch is below `GAIN_RATIO` of what its step was chosen for.
        merge: measure merges of checkpoints, where runs share a base.
        ahead: choose the next step before the last epoch of a run, or when it is stopped, as if it ended as is
            expected of it: what a worker does whose choices take longer than a launch may wait, every time.
    """

    branch: bool = True
    stop: bool = True
    merge: bool = True
    ahead: bool = False

    def __call__(self, trainer: Trainer, seed: int) -> None:
        """Take steps until no epoch is left."""
        _Search(self, trainer, seed).run()


class _Search:
    def __init__(self, how: Epsopt, trainer: Trainer, seed: int) -> None:
        self._how, self._trainer, self._seed, workload = how, trainer, seed, trainer.workload
        self._weights = _Weights(trainer) if how.merge and trainer.base is not None else None
        can_merge = self._weights is not None
        self._scheduler = Scheduler(
            workload.space, workload.objectives, length=workload.length, reference=self._reference(),
            base=trainer.base, evaluation=workload.evaluation, branch_epochs=BRANCH_EPOCHS if how.branch else None,
            first_runs=FIRST_RUNS if can_merge else PROBES,
            exploration_epochs=min(LOOK, workload.length) if can_merge else None,
            bounds=getattr(workload, "bounds", None), seed=seed,
        )  # fmt: skip
        self._pruner = self._new_pruner()
        self._least_gain: float | None = None
        self._planned: tuple[Scheduler, Step] | None = None
        self._aside = 0.0  # gain of merges while a run trained

    def run(self) -> None:
        """Take steps until no epoch is left."""
        trainer, ledger = self._trainer, self._trainer.ledger
        while trainer.left:
            began = time.process_time()
            known = self._known()
            self._scheduler.reference = self._reference()
            before = self._scheduler.volume(known)
            step = self._next(known)
            if step.candidate is not None:
                rate = None if step.kind == "exploration" else step.gain_per_epoch
                model = None if step.model is None else step.model.curves
                self._pruner = self._new_pruner()
                self._least_gain = None if rate is None else GAIN_RATIO * rate
                self._pruner.learn(known.curves, model=model)
            ledger.seconds += time.process_time() - began
            measured = [c.values for c in known.checkpoints]
            taken = self._take(step)
            realized_gain = self._scheduler.volume(self._known()) - before - self._aside
            self._note(step, np.stack(measured) if measured else np.zeros((0, 2)), before, realized_gain, taken)
            for scheduler in (self._scheduler, *self._planned[:1]) if self._planned else (self._scheduler,):
                scheduler.learn(step, realized_gain, taken=taken)
            self._aside = 0.0

    def _new_pruner(self) -> Pruner:
        """As `epsopt work --budget` asks one of each run: with the reference point of when it was chosen."""
        workload = self._trainer.workload
        return Pruner(
            workload.space, workload.objectives, workload.length, grace=GRACE,
            exploration_runs=PROBES if self._weights is None else 0, reference=self._scheduler.reference,
            bounds=getattr(workload, "bounds", None),
        )  # fmt: skip

    def _reference(self) -> Floats:
        """As `epsopt work --budget` sets it: a tenth of their range beyond the worst that is no outlier."""
        trainer = self._trainer
        values = [s.values for s in ([trainer.base] if trainer.base else []) + trainer.starts()]
        if not values:
            return np.array(trainer.workload.failed)
        signs = np.array([1.0 if o.maximize else -1.0 for o in trainer.workload.objectives])
        corner = front_reference(np.stack(values) * signs) * signs
        bounds = getattr(trainer.workload, "bounds", {})
        limits = np.array([bounds.get(o.name, (-np.inf, np.inf)) for o in trainer.workload.objectives])
        return np.asarray(corner.clip(limits[:, 0], limits[:, 1]))

    def _note(self, step: Step, measured: Floats, volume: float, realized_gain: float, taken: float) -> None:
        """What was predicted of a step, beside what came of it."""
        if step.kind == "exploration":
            return
        names = [o.name for o in self._trainer.workload.objectives]
        signs = np.array([1.0 if o.maximize else -1.0 for o in self._trainer.workload.objectives])
        line: dict[str, Any] = {
            "kind": step.kind if step.merge is None else step.merge.kind, "predicted": step.predicted_gain,
            "realized": realized_gain, "volume": volume, "cost": step.cost, "taken": taken,
        }  # fmt: skip
        if step.merge is not None:
            rows = self._trainer.merged[-1].values[None]
            line |= {"low": step.merge.low.tolist(), "high": step.merge.high.tolist(), "end": rows[-1].tolist()}
        elif step.expected is not None:
            rows, said = self._trainer.runs[-1].values, step.expected
            line |= {"joins": said.joins_front, "joined": bool(joins_front(rows[None] * signs, measured * signs)[0])}
            if taken >= step.cost:
                line |= {"low": [said.low[n] for n in names], "high": [said.high[n] for n in names],
                         "end": rows[-1].tolist()}  # fmt: skip
        self._trainer.ledger.steps.append(line)

    def _next(self, known: SearchState) -> Step:
        if self._planned is None:
            return self._scheduler.next(known)
        (self._scheduler, step), self._planned = self._planned, None
        return step

    def _plan(self, run: Run, candidate: Candidate, stays: int) -> None:
        """Choose the next run while one trains, given its remaining epochs; measure merges before."""
        trainer, ledger = self._trainer, self._trainer.ledger
        trainer.runs.append(run)
        while True:
            began = time.process_time()
            known, scheduler = self._known(), copy.deepcopy(self._scheduler)
            going = replace(candidate, run=len(known.curves) - 1, done=float(len(run.values)))
            step = scheduler.next(known, [going] if stays else [])
            ledger.seconds += time.process_time() - began
            if step.merge is None or trainer.left - stays < 1:
                break
            self._scheduler, before = scheduler, scheduler.volume(known)
            self._take(step)
            realized_gain = scheduler.volume(self._known()) - before
            scheduler.learn(step, realized_gain)
            self._aside += realized_gain
        trainer.runs.pop()
        self._planned = scheduler, step if step.merge is None or step.otherwise is None else step.otherwise

    def _take(self, step: Step) -> float:
        """Do it; returns how many epochs that took."""
        trainer = self._trainer
        if step.merge is not None and self._weights is not None:
            way = self._weights.on_way(step.merge.coefficients)
            merged = trainer.merge(self._weights.merged(step.merge.coefficients))
            if way is not None:
                trainer.passed(*way, merged)
            return step.cost
        assert step.candidate is not None
        candidate = step.candidate

        # What only looks around is stopped as a probe or not at all.
        stops = self._how.stop and (step.kind != "exploration" or self._weights is None)
        allowed = min(int(candidate.epochs), trainer.left)

        def pruned(run: Run) -> bool:
            stop = stops and self._is_pruned(run, candidate)
            if self._how.ahead and (stop or len(run.values) == allowed - 1):
                self._plan(run, candidate, 0 if stop else 1)
            return stop

        run = trainer.train(dict(candidate.config), int(candidate.epochs), candidate.start, pruned)
        return max(len(run.values), 1)

    def _is_pruned(self, run: Run, candidate: Candidate) -> bool:
        began = time.process_time()
        name = f"{self._seed}/{len(self._trainer.runs)}"
        decision = self._pruner.should_stop(name, run.curve, length=candidate.epochs, least_gain=self._least_gain)
        self._trainer.ledger.seconds += time.process_time() - began
        return decision.stop

    def _known(self) -> SearchState:
        trainer = self._trainer
        checkpoints, weights = trainer.starts(), None
        if self._weights is not None:
            weights, keys = self._weights.known()
            by_key = {s.key: s for s in checkpoints}
            checkpoints = [by_key[key] for key in keys]
        return SearchState(
            [self._curve(run) for run in trainer.runs if len(run.values)], checkpoints,
            np.stack([s.values for s in trainer.merged]) if trainer.merged else None,
            weights, sum(trainer.ledger.costs),
            [Candidate(run.config, run.start, 1.0) for run in trainer.runs if not len(run.values)],
        )  # fmt: skip

    def _curve(self, run: Run) -> Curve:
        return run.curve if self._weights is None else replace(run.curve, moved=self._weights.moved(run))


class _Weights:
    """Differences from the base of all checkpoints, and their inner products, each computed once."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._base = trainer.state("")
        self._names = [n for n, t in self._base.items() if t.is_floating_point()]
        self._keys: list[str] = []
        self._place: dict[str, int] = {}
        self._differences: list[list[torch.Tensor]] = []
        self._products = np.zeros((len(self._names), 0, 0))

    def known(self) -> tuple[WeightSpace, list[str]]:
        """Where all checkpoints lie, and their keys."""
        there = set(self._keys)
        for start in self._trainer.starts():
            if start.key not in there:
                self._add(start.key)
        norms = np.array([float(self._base[n].norm()) for n in self._names])
        return WeightSpace(self._products, norms), self._keys

    def _add(self, key: str) -> None:
        state = self._trainer.state(key)
        mine = [(state[n] - self._base[n]).reshape(-1).double() for n in self._names]
        self._place[key] = len(self._keys)
        self._keys.append(key)
        self._differences.append(mine)
        k = len(self._keys)
        grown = np.zeros((len(self._names), k, k))
        grown[:, : k - 1, : k - 1] = self._products
        for block, difference in enumerate(mine):
            row = [float(torch.dot(d[block], difference)) for d in self._differences]
            grown[block, k - 1, :] = grown[block, :, k - 1] = row
        self._products = grown

    def moved(self, run: Run) -> Floats:
        """``(epochs, blocks)`` how far a run moved from where it started, relative to the base's norms."""
        space, _ = self.known()
        places = [self._place[key] for key in run.keys]
        squares = np.diagonal(space.products, axis1=1, axis2=2)[:, places]
        if run.start is not None and run.start.key:
            j = self._place[run.start.key]
            squares = squares + space.products[:, j, j][:, None] - 2.0 * space.products[:, places, j]
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)).T / np.maximum(space.norms, 1e-12))

    def on_way(self, coefficients: Floats) -> tuple[str, str, float] | None:
        """Keys of the end and the start of the way that a merge lies on, and its share."""
        found = on_way(coefficients)
        if found is None:
            return None
        end, start, share = found
        return self._keys[end], "" if start is None else self._keys[start], share

    def merged(self, coefficients: Floats) -> State:
        """Weights of a merge of what is known."""
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
    "epsopt-mix": Epsopt(merge=False),
    "epsopt-branch": Epsopt(branch=False),
    "epsopt-stop": Epsopt(stop=False),
    "epsopt-ahead": Epsopt(ahead=True),
}
