"""Early stopping for any number of objectives: do the epochs that a run still has add enough to the front?

At each new checkpoint the run's own curve so far, and what hyperparameters did to the curves of all other runs, give
the joint distribution of the checkpoints that are still to come (:mod:`epsopt.optimize.forecast.learning_curve_gp`).
What they are expected to add to the hypervolume of everything measured, each epoch, is compared with what an epoch
added on average so far: the marginal value theorem of foraging (Charnov 1976). A small chance to carry the front alone
is a large expected gain, so that such a run goes on.

A forecast errs where few runs have shown what late epochs bring, so that it does not decide alone: a run is pruned only
where it is not among the best third of those that came as far either (:mod:`epsopt.optimize.schedule.rungs`). Together
they lose less than either alone (docs/decisions/pruning-off.md). Control runs, a share of all, are never pruned: they
show where both are wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.objectives import Objective, Target
from epsopt.optimize.outliers import front_reference, reference_point
from epsopt.optimize.pareto import hypervolume, joins_front, non_dominated
from epsopt.optimize.schedule.decision import Decision
from epsopt.optimize.schedule.rungs import Rank, rank_at_rung
from epsopt.optimize.space import Space
from epsopt.zoo.errors import UsageError

FEWEST_RUNS = 5
GRACE = 2.0
"""Epochs that every run is given, unless more or fewer are asked for."""

GAIN_RATIO = 0.1
"""Share of the average gain per epoch below which a run is stopped, unless another is asked for."""

MOST_RATIO = 0.2
"""The largest share that may be asked for: beyond, pruning is not known to lose less than pruning at random."""

LEAST_CHANCE = 0.05
"""Probability of meeting all targets from which a run goes on whatever it adds to the front."""

_SAMPLES = 256
_PER_RUN = 6  # future checkpoints of a run that are predicted
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Pruner:
    """Decides at each checkpoint whether a run should go on; give it every finished run.

    Args:
        space: of the hyperparameters.
        objectives: what counts.
        length: epochs of a whole run.
        targets: if given, a run goes on, too, while it meets all of them with a probability of ``LEAST_CHANCE``.
        gain_ratio: a run is stopped when its epochs to come are each expected to add less hypervolume than this share
            of what an epoch of all runs so far added on average, and it is not among the best third of those that came
            as far; one that cannot be ranked, since nothing was measured there, is judged by the former alone.
        exploration_runs: number of first runs that are stopped after their grace whatever they look like: of a space
            that nobody knows, many short runs teach more than a few long ones.
        grace: epochs that every run is given: what unfreezes, warms up or decays later has not shown itself before.
        control_share: share of control runs, which are never stopped, chosen by their names.
        reference: ``(m,)`` the reference point, finite, in the objectives' own units; by default half of the front's
            range beyond it, and a tenth of their range beyond the worst values that are no outliers, whichever is
            farther.
        bounds: declared bounds of objectives.
        seed: of the samples.

    Raises:
        UsageError: `gain_ratio` is not above 0 and at most ``MOST_RATIO``, `control_share` not from 0 to 1, or a target
            is no objective.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        length: float,
        *,
        targets: Sequence[Target] = (),
        gain_ratio: float = GAIN_RATIO,
        exploration_runs: int = 0,
        grace: float = GRACE,
        control_share: float = 0.05,
        reference: Floats | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        seed: int = 0,
    ) -> None:
        rows: list[tuple[str, object]] = [
            ("gain_ratio", gain_ratio), ("exploration_runs", exploration_runs), ("grace", grace),
            ("control_share", control_share), ("seed", seed), *((f"target {t.name}", t.value) for t in targets),
        ]  # fmt: skip
        for name, value in rows:
            if isinstance(value, bool) or not isinstance(value, Real):
                raise UsageError(f"{name} of early stopping is {value!r}, expected a number")
        if not 0.0 < gain_ratio <= MOST_RATIO:
            raise UsageError(
                f"gain_ratio is {gain_ratio} of the average gain per epoch, expected above 0 and at most {MOST_RATIO}"
            )
        if not 0.0 <= control_share <= 1.0:
            raise UsageError(f"the share of control runs is {control_share}, expected between 0 and 1")
        if not grace >= 0.0:
            raise UsageError(f"the grace of early stopping is {grace} epochs, expected at least 0")
        known = [o.name for o in objectives]
        for target in targets:
            if target.name not in known:
                raise UsageError(f"target {target.name}: there is no such objective, known are {', '.join(known)}")
        self._space, self._objectives, self._length = space, tuple(objectives), float(length)
        self._targets = {t.name: t.value for t in targets}
        self._gain_ratio, self._exploration_runs = gain_ratio, exploration_runs
        self._grace, self._control_share, self._reference = grace, control_share, reference
        self._bounds, self._seed = bounds, seed
        self.past: tuple[Curve, ...] = ()
        self._model: CurveModel | None = None

    @property
    def space(self) -> Space:
        """Of the hyperparameters."""
        return self._space

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What counts."""
        return self._objectives

    def learn(self, curves: Sequence[Curve], *, model: CurveModel | None = None) -> None:
        """Take note of all runs so far, finished, stopped or failed after some checkpoints; seconds with many.

        Args:
            curves: of these runs.
            model: of these curves, where the caller has it already.
        """
        self.past = tuple(c for c in curves if len(c.steps))
        self._model = model
        if self._model is None and len(self.past) >= FEWEST_RUNS:
            self._model = fit_curves(
                self._space, self._objectives, self.past, length=self._length, bounds=self._bounds, seed=self._seed
            )

    def given(self, curves: Sequence[Curve]) -> Pruner:
        """Judge by other runs with what was learned from those before: no time at all, not seconds.

        Args:
            curves: of all runs so far but the one that is to be judged.

        Returns:
            A pruner of its own; this one is left unchanged.
        """
        other = copy(self)
        other.past = tuple(c for c in curves if len(c.steps))
        return other

    def should_stop(
        self, run: str, so_far: Curve, *, length: float | None = None, least_gain: float | None = None
    ) -> Decision:
        """Decide on a run.

        Args:
            run: its name; decides, with nothing else, whether it is a control run.
            so_far: its checkpoints; NaN where an objective was not measured.
            length: epochs of this run, if it is not as long as any.
            least_gain: hypervolume that each of its epochs to come has to be worth, whatever its rank; by default
                `gain_ratio` of the average so far, and its rank counts, too.

        Returns:
            The decision, with its reason; the same for the same checkpoints.
        """
        end = length or self._length
        decided = self._without_prediction(so_far, end)
        if decided is not None:
            return decided
        if self._model is None:
            return _go_on(f"only {len(self.past)} earlier runs: at least {FEWEST_RUNS} are needed to judge one")
        found = self._prospects(self._model, so_far, end)
        least = self._gain_ratio * found.average if least_gain is None else least_gain
        prune = bool(found.gain < least) and (not self._targets or found.meets < LEAST_CHANCE)
        reason = f"{found.text(end - so_far.steps[-1], targets=bool(self._targets))}; needed is {least:.2g}"
        if prune and least_gain is None:
            rank = rank_at_rung(so_far, self.past, self._model.signs.numpy(), self._grace)
            prune = rank is None or (rank.is_outranked and self._was_poor_there(self._model, so_far, rank, end))
            reason += "" if rank is None else f", and {rank}"
        control = prune and is_control_run(run, self._control_share)
        if control:
            reason += ", but it is a control run"
        return Decision(prune and not control, found.joins, reason, control)

    def _was_poor_there(self, model: CurveModel, so_far: Curve, rank: Rank, end: float) -> bool:
        """Tell whether it would have been pruned at its rung: asked at each epoch, chance prunes more."""
        if rank.count == len(so_far.steps):
            return True
        found = self._prospects(model, so_far.first(rank.count), end)
        return found.gain < self._gain_ratio * found.average

    def _without_prediction(self, so_far: Curve, end: float) -> Decision | None:
        """Decide where nothing can be predicted, or need not be; None elsewhere."""
        if not len(so_far.steps) or so_far.steps[-1] < self._grace:
            return _go_on(f"within its first {self._grace:g} epochs")
        if so_far.steps[-1] >= end:
            return _go_on("at its end")
        if len(self.past) < self._exploration_runs:
            reason = f"one of the first {self._exploration_runs} runs, which only explore"
            return Decision(stop=True, probability=float("nan"), reason=reason)
        if self._model is not None and not self._space.accepts(so_far.config):
            config = so_far.config
            lacking = ", ".join(p.name for p in self._space.active(config) if not p.is_of_kind(config.get(p.name)))
            return _go_on(f"nothing usable is known of its {lacking}")
        return None

    def _prospects(self, model: CurveModel, so_far: Curve, end: float) -> _Prospects:
        """Predict the checkpoints that a run still has before it."""
        known = model.given([*self.past, so_far])
        steps = np.linspace(so_far.steps[-1], end, _PER_RUN + 1)[1:]
        x = known.inputs([so_far.config], steps, [so_far.start], len(self.past))
        with torch.no_grad():
            paths = known.sample_futures(known.model.posterior(x), _SAMPLES, self._seed)[0]
        met = self._meets(paths)
        measured = known.measured()
        if not len(measured):  # then whatever comes is on the front
            return _Prospects(float("inf"), 1.0, float(met.mean()), 0.0)
        front = measured[non_dominated(measured, [True] * measured.shape[1]).indices]
        corner = _corner(measured) if self._reference is None else self._reference * known.signs.numpy()
        gains = _gains(paths, front, corner) / (end - so_far.steps[-1])
        epochs = so_far.steps[-1] + sum(c.steps[-1] for c in self.past)
        average = hypervolume(front, corner, [True] * len(corner)) / epochs
        joins = joins_front(paths, front) | met
        return _Prospects(float(gains.mean()), float(joins.mean()), float(met.mean()), float(average))

    def _meets(self, paths: Floats) -> Bools:
        """Tell of ``(n, checkpoints, m)`` which have one that meets all targets; none does without targets."""
        if not self._targets:
            return np.zeros(len(paths), dtype=np.bool_)
        wanted = np.array([
            (1.0 if o.maximize else -1.0) * self._targets.get(o.name, -np.inf if o.maximize else np.inf)
            for o in self._objectives
        ])  # fmt: skip
        return np.asarray(np.any(np.all(paths >= wanted, axis=2), axis=1))


@dataclass(frozen=True)
class _Prospects:
    """What is expected of the epochs that a run still has before it.

    Attributes:
        gain: hypervolume that each of them is expected to add.
        joins: probability that one of their checkpoints joins the front or meets the targets.
        meets: probability that one meets the targets.
        average: hypervolume that an epoch of all runs so far added.
    """

    gain: float
    joins: float
    meets: float
    average: float

    def text(self, left: float, *, targets: bool) -> str:
        """Say so of `left` epochs."""
        aim = "join the front or meet the targets" if targets else "join the front"
        rest = "its last epoch is" if left == 1 else f"its remaining {left:g} epochs are"
        each = "" if left == 1 else " each"
        return f"{self.joins:.0%} likely to {aim}: {rest} expected to add {self.gain:.2g} of hypervolume{each}"


def _go_on(reason: str) -> Decision:
    return Decision(stop=False, probability=float("nan"), reason=reason)


def _corner(measured: Floats) -> Floats:
    """``(m,)`` beyond which nothing counts, larger is better: at least as far as any run was that did not diverge."""
    return np.minimum(front_reference(measured), reference_point(measured))


def _gains(paths: Floats, front: Floats, corner: Floats) -> Floats:
    """``(n,)`` hypervolume that each of ``(n, q, m)`` paths adds to a front, larger is better."""
    flags, out = [True] * len(corner), np.zeros(len(paths))
    before = hypervolume(front, corner, flags)
    for i in np.flatnonzero(joins_front(paths, front)):
        out[i] = max(hypervolume(np.vstack([front, paths[i]]), corner, flags) - before, 0.0)
    return out


def is_control_run(run: str, share: float) -> bool:
    """Return whether a run is a control run: by a hash of its name, so that every process decides alike."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:8]) < share * 2**64
