"""Which step to take next: launch a run, branch off a checkpoint, or measure a merge.

Each kind has a model of its own that says how much of its best step is expected to widen the front: curves of whole
runs (:mod:`~epsopt.optimize.forecast.learning_curve_gp`) for runs from where runs start and for branches from the
front, a process over weight space (:mod:`~epsopt.optimize.merge.weight_space_gp`) for merges. Their predicted gain is
multiplied by the reliability of that kind of step (:mod:`~epsopt.optimize.schedule.gain_calibration`) and divided by
its cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.merge.weight_space_gp import MergeCandidate, WeightSpace, choose_merge
from epsopt.optimize.objectives import Objective, Objectives
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.optimize.schedule.gain_calibration import PATIENCE, Reliability, marginal_value_threshold
from epsopt.optimize.schedule.remaining_gain import RemainingGain, remaining_gain
from epsopt.optimize.schedule.run_acquisition import Candidate, Start, optimize_acquisition
from epsopt.optimize.schedule.run_model import RunModel, fit_run_model
from epsopt.optimize.schedule.run_prediction import LEVEL, Expected
from epsopt.optimize.schedule.unfreezing import learn_onsets
from epsopt.optimize.space import Space
from epsopt.zoo.errors import UsageError

FIRST_RUNS = 6
"""Runs spread over the space before the model of runs is asked."""

BRANCH_EPOCHS = 3.0
"""Of a run from a checkpoint of the front."""

_FIRST = {"beyond": 0.3}  # gains of merges farther out than anything trained are predicted too high (docs/decisions)
_CONSIDERED = 16
_LIVELY = 0.7  # share of blocks and epochs that move, above which a run of a few epochs shows enough
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SearchState:
    """All that was measured so far.

    Attributes:
        curves: of every run that has a measured checkpoint.
        checkpoints: every one that was measured, trained or merged.
        merged: ``(k, m)`` what was measured on those that were merged, NaN where not measured; ``None``: nothing was
            merged.
        weights: where the same checkpoints lie, in the same order; ``None``: they cannot be merged.
        spent: epochs paid for.
        failed: runs that ended before anything was measured, with the epochs that it took: they count as just not good
            enough by then, so that their like is not launched again.
    """

    curves: Sequence[Curve]
    checkpoints: Sequence[Start]
    merged: Floats | None
    weights: WeightSpace | None
    spent: float
    failed: Sequence[Candidate] = ()


@dataclass(frozen=True, eq=False)
class Step:
    """What to do next.

    Attributes:
        kind: a ``"run"`` from where runs start, a ``"branch"`` from a checkpoint, a ``"merge"`` to be measured, or a
            ``"exploration"``: a run of which nothing is expected yet.
        predicted_gain: hypervolume that it is expected to add to the front: the model's prediction, multiplied by the
            reliability of such steps so far.
        gain_per_epoch: by which it was chosen, for each epoch of cost; with what lies on the way to its end, where
            that can be merged.
        cost: epochs that it costs.
        candidate: what to launch, unless it is a merge.
        merge: what to measure; its coefficients are of the checkpoints in their order.
        model: of the curves, if one was asked.
        otherwise: what to launch if the merge is not to be measured, or not yet.
        reliability: that the predicted gain was multiplied by.
    """

    kind: Literal["run", "branch", "merge", "exploration"]
    predicted_gain: float
    gain_per_epoch: float
    cost: float
    candidate: Candidate | None = None
    merge: MergeCandidate | None = None
    model: RunModel | None = None
    otherwise: Step | None = None
    reliability: float = 1.0

    @cached_property
    def expected(self) -> Expected | None:
        """What is expected of the candidate's checkpoints; ``None``: no model of curves was asked, as to explore."""
        return None if self.model is None or self.candidate is None else self.model.expect(self.candidate)


class Scheduler:
    """Chooses step after step.

    Args:
        space: of the hyperparameters.
        objectives: what counts.
        length: epochs of a whole run.
        reference: ``(m,)`` the reference point, finite, in the objectives' own units.
        base: the checkpoint that runs start from, if they share one and it was measured; its key is ``""``.
        evaluation: epochs that it costs to measure a merge.
        branch_epochs: epochs of a run from a checkpoint; ``None``: runs start only where runs start.
        first_runs: runs spread over the space before a model of runs is asked; at least two.
        exploration_epochs: epochs of each of those; by default ``length``.
        bounds: declared bounds of objectives.
        seed: RNG seed of exploration runs, candidates and samples.

    Attributes:
        reference: ``(m,)`` the reference point; may be set between steps.
        reliability: predicted and realized gain of each kind of step.
        run_model: of the runs; None before it was asked.
        branch_epochs: epochs of a run from a checkpoint; None: there are none.
        explorations: exploration runs so far.
        last_kind: of the last step that was no merge; empty before the first.

    Raises:
        UsageError: a model is to be asked of fewer than two runs, something costs nothing, or the base has a key.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        length: float,
        reference: Floats,
        base: Start | None = None,
        evaluation: float = 1.0,
        branch_epochs: float | None = BRANCH_EPOCHS,
        first_runs: int = FIRST_RUNS,
        exploration_epochs: float | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        seed: int = 0,
    ) -> None:
        if first_runs < 2:
            raise UsageError(f"first_runs is {first_runs}: a model of runs needs two at least")
        if base is not None and base.key:
            raise UsageError(f"the base's key is {base.key!r}, expected '': other keys are those of branches")
        costs = {
            "length": length,
            "evaluation": evaluation,
            "branch_epochs": branch_epochs,
            "exploration_epochs": exploration_epochs,
        }
        for name, epochs in costs.items():
            if epochs is not None and not epochs > 0.0:
                raise UsageError(f"{name} is {epochs} epochs, expected more than none")
        self._space, self._objectives, self._length = space, tuple(objectives), length
        self.reference, self._base, self._evaluation = reference, base, evaluation
        self.branch_epochs, self._first, self._exploration_epochs = (
            branch_epochs,
            first_runs,
            exploration_epochs or length,
        )
        self._bounds, self._seed = bounds, seed
        self._rng, self.reliability = np.random.default_rng(seed), Reliability(_FIRST)
        self.explorations = 0
        self._explored: list[dict[str, Any]] = []  # what a program says of itself may differ in the last digit
        self.last_kind = ""
        self.run_model: RunModel | None = None
        self._learns_on = False

    def next(self, known: SearchState, running: Sequence[Candidate] = ()) -> Step:
        """Choose the step of the largest gain per epoch.

        What continues from the front, a merge or a branch, must also gain more than a share of the average realized
        gain per epoch; else every other launch is a run from where runs start. While there are too few runs for a model
        of runs, that is an exploration run.

        Args:
            known: what was measured.
            running: launched and not finished, or about to be: what they are expected to reach is not predicted again.

        Returns:
            The step: with a `merge` to measure if that is its kind, else with a `candidate` to launch.

        Raises:
            UsageError: `weights` are not of as many checkpoints as were measured, or one on the front fixes
                what the search space does not have (:attr:`epsopt.optimize.Start.fixed`).
        """
        if known.weights is not None and known.weights.products.shape[-1] != len(known.checkpoints):
            raise UsageError(
                f"weights say where {known.weights.products.shape[-1]} checkpoints lie, but {len(known.checkpoints)} "
                "were measured: expected the same ones, in the same order"
            )
        known = self._with_failures(known)
        volume = self.volume(known)
        merge = self._merge(known, volume)
        enough = marginal_value_threshold(volume, known.spent)
        begun = len(known.curves) + sum(c.run is None for c in running)
        if len(known.curves) < 2 or begun < self._first:
            candidate = self._exploration_run(known, running)
            exploration = Step("exploration", 0.0, 0.0, candidate.cost, candidate)
            if merge is not None and merge.gain_per_epoch > enough / PATIENCE:
                return replace(merge, otherwise=exploration)
            self.explorations += 1
            self._explored.append(dict(candidate.config))
            return exploration
        step = self._run(known, volume, self._front(known.checkpoints) if self.branch_epochs else [], running)
        if merge is not None and merge.gain_per_epoch >= step.gain_per_epoch and merge.gain_per_epoch > enough:
            return replace(merge, otherwise=step)
        if step.kind == "branch" and step.gain_per_epoch < enough and self.last_kind == "branch":
            step = self._run(known, volume, [], running)
        self.last_kind = step.kind
        return step

    def learn(self, step: Step, realized_gain: float, *, taken: float | None = None) -> None:
        """Take note of what a step added to the front's hypervolume.

        Args:
            step: that was taken.
            realized_gain: hypervolume that it added.
            taken: epochs that it took, if it was stopped early: less was to be expected of it then.
        """
        if step.kind != "exploration":
            share = 1.0 if taken is None else min(taken / step.cost, 1.0)
            kind = step.kind if step.merge is None else step.merge.kind
            self.reliability.learn(kind, step.predicted_gain / step.reliability * share, realized_gain)

    def restore(self, kinds: Sequence[str], explored: Sequence[Mapping[str, Any]] = ()) -> None:
        """Take note of steps that another process took, so that this scheduler goes on where that one ended.

        Their realized gains are passed to :meth:`learn`, step by step.

        Args:
            kinds: of all steps before the next one, in order.
            explored: configurations of the exploration runs among them, as they were chosen: none is chosen again.
        """
        self._explored = [dict(config) for config in explored]
        launched = [kind for kind in kinds if kind != "merge"]
        self.explorations, self.last_kind = launched.count("exploration"), launched[-1] if launched else ""
        self._rng = np.random.default_rng([self._seed, len(kinds)])  # what was drawn before is not drawn again

    def warm_start_from(self, before: Scheduler, *, learn: bool = False) -> None:
        """Take over an earlier scheduler's model of curves: with more runs it is learned on, in a fraction of the time.

        Unless that was of another space, of other objectives, or of runs of another length.

        Args:
            before: the earlier scheduler.
            learn: refit for the next step even if no run is new, since runs have new checkpoints.
        """
        if self._subject == before._subject:
            self.run_model = before.run_model
            self._learns_on = learn

    @property
    def _subject(self) -> tuple[object, ...]:
        """What the model of curves is of."""
        return self._space, self._objectives, self._length, self._bounds

    def volume(self, known: SearchState) -> float:
        """Measure the hypervolume of everything that was measured.

        Args:
            known: all that was measured so far; checkpoints with a NaN count for nothing.

        Returns:
            Hypervolume in the product of the objectives' units; 0 before anything was measured.
        """
        if not known.checkpoints:
            return 0.0
        values = np.stack([c.values for c in known.checkpoints])
        return hypervolume(values[np.isfinite(values).all(axis=1)], self.reference, self._directions)

    @property
    def _directions(self) -> list[bool]:
        return Objectives(self._objectives).maximize

    def _merge(self, known: SearchState, volume: float) -> Step | None:
        if known.weights is None:
            return None
        found = choose_merge(
            known.weights, np.stack([c.values for c in known.checkpoints]) if known.checkpoints else np.zeros((0, 2)),
            self._objectives, base=None if self._base is None else self._base.values, reference=self.reference,
            bounds=self._bounds, reliability=lambda kind: self.reliability.of(kind, volume), rng=self._rng,
        )  # fmt: skip
        if found is None:
            return None
        reliability = self.reliability.of(found.kind, volume)
        gain = found.improvement * reliability
        return Step("merge", gain, gain / self._evaluation, self._evaluation, merge=found, reliability=reliability)

    def remaining_gain(
        self, known: SearchState, epochs: float, running: Sequence[Candidate] = (), *, level: float = LEVEL
    ) -> RemainingGain | None:
        """Predict what so many further epochs of runs and branches add to the front.

        Merges are not counted: what they add comes on top.

        Args:
            known: what was measured.
            epochs: of the further budget, positive.
            running: launched and not finished: what they are expected to add is not counted.
            level: of the interval.

        Returns:
            The gain with its interval; ``None`` while there are too few runs for a model of runs.
        """
        known = self._with_failures(known)
        if len(known.curves) < max(self._first, 2):
            return None
        model, volume = self._fitted(known), self.volume(known)
        return remaining_gain(
            model, epochs, reference=self.reference, base=self._base, branch_epochs=self.branch_epochs,
            starts=self._front(known.checkpoints) if self.branch_epochs else [], running=running,
            reliability=lambda c: self.reliability.of(_kind(c), volume), level=level, seed=self._seed,
        )  # fmt: skip

    def _fitted(self, known: SearchState) -> RunModel:
        """The model of runs, learned on if there are new ones, of what is known."""
        if self.run_model is None or len(known.curves) != len(self.run_model.curves.curves) or self._learns_on:
            self._learns_on = False
            self.run_model = fit_run_model(
                self._space, self._objectives, known.curves, length=self._length, reference=self.reference,
                bounds=self._bounds, seed=self._seed, before=self.run_model,
            )  # fmt: skip
        curves = replace(self.run_model.curves, curves=tuple(known.curves), others=known.merged)
        return replace(self.run_model, curves=curves)

    def _run(self, known: SearchState, volume: float, starts: Sequence[Start], running: Sequence[Candidate]) -> Step:
        model = self._fitted(known)

        def reliability(c: Candidate) -> float:
            return self.reliability.of(_kind(c), volume) * model.support.weight(c.config)

        (choice,) = optimize_acquisition(
            model.curves, running, starts=starts, base=self._base,
            branch_epochs=self.branch_epochs, reference=self.reference, reliability=reliability,
            can_merge=known.weights is not None, onsets=learn_onsets(self._space, known.curves), rng=self._rng,
        )  # fmt: skip
        kind, cost = _kind(choice.candidate), choice.candidate.cost
        gain = model.calibration.gain(kind) * model.support.weight(choice.candidate.config)
        known_reliability = self.reliability.of(kind, volume)
        gain *= known_reliability
        return Step(
            kind, gain * choice.alone, gain * choice.improvement / cost, cost, choice.candidate, model=model,
            reliability=known_reliability,
        )  # fmt: skip

    def _with_failures(self, known: SearchState) -> SearchState:
        worst = np.asarray(self.reference)[None]
        failed = [
            Curve(c.config, np.array([c.epochs]), worst, None if c.start is None else c.start.values)
            for c in known.failed
        ]
        return replace(known, curves=[*known.curves, *failed], failed=())

    def _exploration_run(self, known: SearchState, running: Sequence[Candidate]) -> Candidate:
        """The liveliest of the next few points of an even cover of the space, the earlier the better."""
        onsets = learn_onsets(self._space, known.curves)
        there = [dict(c.config) for c in known.curves] + [dict(c.config) for c in running]
        cover = self._space.low_discrepancy_sample(self.explorations + _CONSIDERED, self._seed)
        ahead = [c for c in cover if c not in there and c not in self._explored] or cover[self.explorations :]
        config = max(ahead[:_CONSIDERED], key=lambda c: onsets.expected_trainable_share(c, self._exploration_epochs))
        short = self.branch_epochs if known.weights is not None and self.branch_epochs else self._exploration_epochs
        brief = bool(onsets.groups) and onsets.expected_trainable_share(config, short) > _LIVELY
        return Candidate(config, self._base, short if brief else self._exploration_epochs)

    def _front(self, checkpoints: Sequence[Start]) -> list[Start]:
        places = non_dominated(np.stack([c.values for c in checkpoints]), self._directions).indices
        return [checkpoints[i] for i in places]


def _kind(candidate: Candidate) -> Literal["run", "branch"]:
    return "branch" if candidate.start is not None and candidate.start.key else "run"
