"""What every choice of a run rests on: curves of all runs, how far predictions of chosen ones erred, what was tried.

The scheduler, proposals and whatever else decides which run is launched ask this one model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.forecast.support import REACH, Support
from epsopt.optimize.objectives import Objective
from epsopt.optimize.pareto import joins_front, non_dominated
from epsopt.optimize.schedule.run_acquisition import Candidate
from epsopt.optimize.schedule.run_prediction import LEVEL, Expected, expect
from epsopt.optimize.schedule.selection_calibration import (
    FEWEST_RUNS,
    SelectionCalibration,
    fit_selection_calibration,
    start_of,
    usual_start,
)
from epsopt.optimize.space import Space

Floats = NDArray[np.float64]

_DOUBT = 2.0  # runs of a kind: with as many, a quarter of a probability is how often they joined
_ANEW = 1.5  # times as many runs as were learned from: then they are learned from anew


@dataclass(frozen=True, eq=False)
class RunModel:
    """A model of curves with what its predictions are worth.

    Attributes:
        curves: learned from all runs, standard deviations stretched.
        half: learned from the first half of them; ``None``: there were too few.
        calibration: of chosen runs.
        learned_from: runs that the first fit was of.
    """

    curves: CurveModel
    half: CurveModel | None
    calibration: SelectionCalibration
    learned_from: int

    @cached_property
    def support(self) -> Support:
        """What the runs tried."""
        return Support.of(self.curves.space, [c.config for c in self.curves.curves])

    @cached_property
    def joined(self) -> Mapping[str, tuple[int, int]]:
        """Of the later half of runs, and of branches: how many joined the front of the runs before, and of how many."""
        runs, usual = self.curves.curves, usual_start(self.curves.curves)
        kinds = ["run" if start_of(r) == usual else "branch" for r in runs]
        known, came = np.empty((0, len(self.curves.objectives))), list[bool]()
        for run in runs:
            rows = replace(self.curves, curves=(run,), others=None).measured()
            came.append(bool(len(rows)) and bool(joins_front(rows[None], known)[0]))
            known = np.vstack([known, rows])
            known = known[non_dominated(known, [True] * known.shape[1]).indices]
        late = {kind: [c for k, c in zip(kinds, came, strict=True) if k == kind] for kind in ("run", "branch")}
        return {kind: (sum(c[len(c) // 2 :]), len(c) - len(c) // 2) for kind, c in late.items()}

    def joins(self, chance: float, kind: str) -> float:
        """Shrink a probability of joining the front to how often late runs did; with many, by half.

        Args:
            chance: that a run joins, by the model alone.
            kind: ``"run"`` or ``"branch"``.

        Returns:
            The probability, 0 to 1.
        """
        some, n = self.joined[kind]
        weight = 0.5 * n / (n + _DOUBT)
        return (1.0 - weight) * chance + weight * (some + 1) / (n + 2)

    def expect(self, candidate: Candidate, level: float = LEVEL) -> Expected:
        """Predict a run: see :func:`epsopt.optimize.schedule.run_prediction.expect`.

        Intervals are wider, and the front is less likely to be joined, where no past run supports the configuration.
        Of the probability of joining up to half is how often late runs of its kind did: the model alone hardly tells
        which of them will.

        Args:
            candidate: the run.
            level: share of measurements that the intervals are meant to hold.

        Returns:
            What is expected of its last checkpoint, and of all of them for the front.
        """
        support = self.support
        beyond = support.beyond(candidate.config)
        wide = 1.0 + beyond / REACH
        stretch = tuple(wide * s for s in self.curves.stretch or (1.0,) * len(self.curves.processes))
        found = expect(replace(self.curves, stretch=stretch), candidate, level)
        kind = "branch" if candidate.start is not None and candidate.start.key else "run"
        joins = self.joins(self.calibration.joins(found.joins_front), kind)
        return replace(found, joins_front=joins * support.weight(candidate.config))


def fit_run_model(
    space: Space,
    objectives: Sequence[Objective],
    curves: Sequence[Curve],
    *,
    length: float,
    reference: Floats,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    before: RunModel | None = None,
    seed: int = 0,
) -> RunModel:
    """Learn from all runs, and from the first half of them what predictions of the second half were worth.

    Args:
        space: encodes configurations.
        objectives: ``m`` of them.
        curves: at least two runs with measurements, in the order in which they were launched.
        length: epochs of a whole run.
        reference: ``(m,)`` the reference point, in the objectives' own units.
        bounds: declared bounds of objectives.
        before: what was learned from most of these runs: learning goes on from there, in a fraction of the time, until
            there are half as many runs again.
        seed: of the checkpoints that are looked at, and of samples.
    """
    n = len(curves)
    if before is not None and n >= _ANEW * before.learned_from:
        before = None
    model = fit_curves(
        space, objectives, curves, length=length, bounds=bounds, seed=seed,
        before=None if before is None else before.curves,
    )  # fmt: skip
    half = None if before is None else before.half
    if half is None and n >= FEWEST_RUNS:
        half = fit_curves(space, objectives, curves[: n // 2], length=length, bounds=bounds, seed=seed)
    calibration = SelectionCalibration()
    if half is not None:
        calibration = fit_selection_calibration(half, curves, reference=reference, seed=seed)
    return RunModel(
        replace(model, stretch=calibration.stretch), half, calibration, n if before is None else before.learned_from
    )
