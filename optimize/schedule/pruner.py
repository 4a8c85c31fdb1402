"""Early stopping for any number of objectives: is this run still going to join the front?

At each new checkpoint the run's own curve so far, and what hyperparameters did to the curves of all other runs, give
the joint distribution of the checkpoints that are still to come (:mod:`epsopt.optimize.forecast.learning_curve_gp`).
The run is stopped when the probability that any of them joins the front is below a threshold; or, with `gain_ratio`,
when its predicted gain per epoch is below that share of a new run's: an epoch can be spent only once. Control runs, a
share of all, are never pruned: they show where the forecasts are wrong.

The model's probability is calibrated: every run so far is judged as if it were new, by all other runs, and what came of
that says how reliable such forecasts are (:mod:`epsopt.optimize.forecast.calibration`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.forecast.calibration import Calibration, fit_calibration
from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.objectives import Objective, Target
from epsopt.optimize.pareto import joins_front
from epsopt.optimize.schedule.decision import Decision
from epsopt.optimize.schedule.run_acquisition import continuing, optimize_acquisition
from epsopt.optimize.space import Space
from epsopt.surrogate.thinning import evenly_spaced
from epsopt.zoo.errors import UsageError

FEWEST_RUNS = 5
GRACE = 2.0
"""Epochs that every run is given, unless more or fewer are asked for."""

_SAMPLES = 256
_PER_RUN = 6  # future checkpoints of a run that are predicted
_REPLAYED = 48  # runs that forecasts are calibrated on; of more, some spread over all of them
_MOMENTS = 3  # of a run's life at which it is judged for that
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Pruner:
    """Decides at each checkpoint whether a run should go on; give it every finished run.

    Args:
        space: of the hyperparameters.
        objectives: what counts.
        length: epochs of a whole run.
        targets: if given, a run goes on, too, while it may meet all of them.
        threshold: a run whose probability is below is stopped.
        gain_ratio: if given, the rule instead of `threshold`: a run is stopped when its predicted gain per epoch, in
            hypervolume, is below this share of that of the best new run; not while it meets the targets with at least
            the probability `threshold`.
        exploration_runs: number of first runs that are stopped after their grace whatever they look like: of a space
            that nobody knows, many short runs teach more than a few long ones.
        grace: epochs that every run is given: what unfreezes, warms up or decays later has not shown itself before.
        control_share: share of control runs, which are never stopped, chosen by their names.
        reference: ``(m,)`` for `gain_ratio`: the reference point, finite, in the objectives' own units.
        bounds: declared bounds of objectives.
        seed: of the samples.

    Raises:
        UsageError: `threshold` is not at least 0 and below 1, `gain_ratio` not between 0 and 1, `control_share` not
            from 0 to 1, or a target is no objective.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        length: float,
        *,
        targets: Sequence[Target] = (),
        threshold: float = 0.05,
        gain_ratio: float | None = None,
        exploration_runs: int = 0,
        grace: float = GRACE,
        control_share: float = 0.05,
        reference: Floats | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        seed: int = 0,
    ) -> None:
        rows: list[tuple[str, object]] = [
            ("threshold", threshold), ("gain_ratio", 0.5 if gain_ratio is None else gain_ratio),
            ("exploration_runs", exploration_runs), ("grace", grace), ("control_share", control_share), ("seed", seed),
            *((f"target {t.name}", t.value) for t in targets),
        ]  # fmt: skip
        for name, value in rows:
            if isinstance(value, bool) or not isinstance(value, Real):
                raise UsageError(f"{name} of early stopping is {value!r}, expected a number")
        if not 0.0 <= threshold < 1.0:
            raise UsageError(f"the threshold of early stopping is {threshold}, expected at least 0 and below 1")
        if gain_ratio is not None and not 0.0 < gain_ratio < 1.0:
            raise UsageError(f"gain_ratio is {gain_ratio} of a new run's gain per epoch, expected above 0 and below 1")
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
        self._threshold, self._gain_ratio, self._exploration_runs = threshold, gain_ratio, exploration_runs
        self._grace, self._control_share, self._reference = grace, control_share, reference
        self._bounds, self._seed = bounds, seed
        self.past: tuple[Curve, ...] = ()
        self._model: CurveModel | None = None
        self._calibration = Calibration()
        self._rate = 0.0

    @property
    def space(self) -> Space:
        """Of the hyperparameters."""
        return self._space

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What counts."""
        return self._objectives

    def learn(self, curves: Sequence[Curve], *, model: CurveModel | None = None, new_run: float | None = None) -> None:
        """Take note of all runs so far, finished, stopped or failed after some checkpoints; seconds with many.

        Args:
            curves: of these runs.
            model: of these curves, where the caller has it already.
            new_run: predicted gain per epoch of the best new run, in hypervolume, where the caller knows it.
        """
        self.past = tuple(c for c in curves if len(c.steps))
        self._model, self._rate = model, new_run or 0.0
        if self._model is None and len(self.past) >= FEWEST_RUNS:
            self._model = fit_curves(
                self._space, self._objectives, self.past, length=self._length, bounds=self._bounds, seed=self._seed
            )
        if self._model is not None and self._gain_ratio is not None and new_run is None:
            rng = np.random.default_rng(self._seed)
            (choice,) = optimize_acquisition(self._model, reference=self._reference, rng=rng)
            self._rate = choice.improvement / choice.candidate.cost
        self._calibration = Calibration()
        if self._model is not None and self._gain_ratio is None:
            self._calibration = self.calibrate(self._model.given(self.past))

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

    def should_stop(self, run: str, so_far: Curve, *, length: float | None = None) -> Decision:
        """Decide on a run.

        Args:
            run: its name; decides, with nothing else, whether it is a control run.
            so_far: its checkpoints; NaN where an objective was not measured.
            length: epochs of this run, if it is not as long as any.

        Returns:
            The decision, with its reason; the same for the same checkpoints.
        """
        end = length or self._length
        if not len(so_far.steps) or so_far.steps[-1] < self._grace:
            return Decision(stop=False, probability=float("nan"), reason=f"within its first {self._grace:g} epochs")
        if so_far.steps[-1] >= end:
            return Decision(stop=False, probability=float("nan"), reason="at its end")
        if len(self.past) < self._exploration_runs:
            reason = f"one of the first {self._exploration_runs} runs, which only explore"
            return Decision(stop=True, probability=float("nan"), reason=reason)
        if self._model is None:
            return Decision(
                stop=False,
                probability=float("nan"),
                reason=f"only {len(self.past)} earlier runs: at least {FEWEST_RUNS} are needed to judge one",
            )
        if not self._space.accepts(so_far.config):
            config = so_far.config
            lacking = ", ".join(p.name for p in self._space.active(config) if not p.is_of_kind(config.get(p.name)))
            return Decision(stop=False, probability=float("nan"), reason=f"nothing usable is known of its {lacking}")
        model = self._model.given([*self.past, so_far])
        forecast, meets = self._probabilities(model, so_far, end)
        probability = self._calibration(forecast)
        aim = "join the front or meet the targets" if self._targets else "join the front"
        left = end - so_far.steps[-1]
        rest = "its last epoch" if left == 1 else f"its remaining {left:g} epochs"
        what = f"{probability:.0%} likely to {aim} in {rest}"
        if self._gain_ratio is None:
            prune = probability < self._threshold
        else:
            expected = continuing(model, len(self.past), end, reference=self._reference, seed=self._seed)
            prune = expected < self._gain_ratio * self._rate and not meets >= max(self._threshold, 1e-9)
            what += f"; its predicted gain per epoch is {expected:.2g}, that of a new run {self._rate:.2g}"
        control = prune and is_control_run(run, self._control_share)
        if control:
            what += ", but it is a control run"
        return Decision(prune and not control, probability, what, control, forecast)

    def _probabilities(self, model: CurveModel, so_far: Curve, end: float) -> tuple[float, float]:
        """That a checkpoint to come joins the front or meets the targets; and that one meets them, 0 without any."""
        x = model.inputs([so_far.config], _steps_ahead(so_far.steps[-1], end), [so_far.start], len(self.past))
        with torch.no_grad():
            gains = model.sample_futures(model.model.posterior(x), _SAMPLES, self._seed)[0]
        good, met = self._counts(gains, model.measured())
        return float(good.mean()), float(met.mean())

    def _counts(self, gains: Floats, measured: Floats) -> tuple[Bools, Bools]:
        """Tell of ``(n, checkpoints, m)`` which have one that joins the front or meets the targets; which meet them."""
        good = joins_front(gains, measured)
        met = np.zeros_like(good)
        if self._targets:
            wanted = np.array([
                (1.0 if o.maximize else -1.0) * self._targets.get(o.name, -np.inf if o.maximize else np.inf)
                for o in self._objectives
            ])  # fmt: skip
            met = np.any(np.all(gains >= wanted, axis=2), axis=1)
        return good | met, met

    def calibrate(self, model: CurveModel) -> Calibration:
        """Measure how reliable such forecasts are: of runs so far, at some checkpoints, as if the rest were to come.

        Of a censored run before anything came of it, what was forecast at its last checkpoint counts.

        Args:
            model: of the curves of all runs so far.

        Returns:
            The calibration; one that changes nothing where no run can be judged.
        """
        places = evenly_spaced(len(self.past), _REPLAYED).tolist()
        asked = [(place, n) for place in places for n in self._moments(self.past[place])]
        if not asked:
            return Calibration()
        forecasts = dict(zip(asked, self._as_if_new(model, asked), strict=True))
        rows = []
        for (place, n), forecast in forecasts.items():
            if n < len(self.past[place].steps):
                rest = replace(model, curves=(_part(self.past[place], n, None),), others=None).measured()
                came = self._counts(rest[None], self._known(model, place, n))[0].any()
                left = forecasts.get((place, len(self.past[place].steps)), 0.0)
                rows.append((place, forecast, 1.0 if came else left))
        of_run, predicted, outcome = np.array(rows).T
        return fit_calibration(predicted, outcome, 1.0 / (of_run[:, None] == of_run).sum(axis=1))

    def _moments(self, run: Curve) -> list[int]:
        """How many checkpoints of a run are known when it is judged; all of them as well, if it was cut off."""
        judged = np.flatnonzero((run.steps >= self._grace) & (run.steps < run.steps[-1])) + 1
        if not len(judged):
            return []
        some = np.unique(np.linspace(0, len(judged), _MOMENTS, endpoint=False).astype(np.int64))
        return [*judged[some].tolist(), *([len(run.steps)] if run.steps[-1] < self._length else [])]

    def _as_if_new(self, model: CurveModel, asked: Sequence[tuple[int, int]]) -> list[float]:
        """What is forecast of runs from so many of their checkpoints and all other runs."""
        runs = [self.past[place] for place, _ in asked]
        after = np.array([run.steps[n - 1] for run, (_, n) in zip(runs, asked, strict=True)])
        ahead = np.stack([_steps_ahead(a, max(self._length, r.steps[-1])) for a, r in zip(after, runs, strict=True)])
        x = model.inputs([r.config for r in runs], ahead, [r.start for r in runs], [place for place, _ in asked])
        with torch.no_grad():
            gains = model.sample_futures(model.model.leave_future_out(x, after / model.length), _SAMPLES, self._seed)
        counts = [self._counts(g, self._known(model, *of))[0] for g, of in zip(gains, asked, strict=True)]
        return [float(good.mean()) for good in counts]

    def _known(self, model: CurveModel, place: int, n: int) -> Floats:
        """What was measured on all checkpoints but those of a run after its first `n`."""
        past = self.past
        return model.given([*past[:place], _part(past[place], 0, n), *past[place + 1 :]]).measured()


def _steps_ahead(done: float, end: float) -> Floats:
    """Future epochs that are predicted."""
    return np.asarray(np.linspace(done, end, _PER_RUN + 1)[1:])


def _part(run: Curve, first: int, last: int | None) -> Curve:
    return Curve(run.config, run.steps[first:last], run.values[first:last], run.start)


def is_control_run(run: str, share: float) -> bool:
    """Return whether a run is a control run: by a hash of its name, so that every process decides alike."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:8]) < share * 2**64
