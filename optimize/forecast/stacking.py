"""Weighing forecasts against each other on runs left out: which ones answer, with what weights.

Non-negative weights summing to one that minimise the error on runs left out (stacking: Wolpert 1992; Breiman 1996),
held near to weights that share the answer among all forecasts whose error is near the smallest. A few dozen runs
cannot rank forecasts that are nearly as good as each other: picking one by its error is picking by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from epsopt.optimize.forecast.base_forecasters import BASELINES, BEFORE, EXPERTS
from epsopt.optimize.forecast.run_features import NOT_BEGUN

Floats = NDArray[np.float64]

STACK = "stack"
STAGES = np.array([NOT_BEGUN, 0.0, 0.05, 0.1, 0.175, 0.25, 0.35, 0.5, 0.65, 0.8, 0.95])
_NEAR = 0.06  # moments within about this share of a run are alike
_PULL = 0.3  # towards sharing: of 0 to 1 the best compromise on two other zoos (docs/decisions)


@dataclass(frozen=True)
class StageError:
    """How far off the forecasts were on runs left out, at one stage of a run.

    Attributes:
        progress: share of the run that was done; ``NOT_BEGUN`` for hyperparameters alone.
        errors: mean absolute error by metric and forecast (``BASELINES`` and ``STACK``), in the metric's own units.
        chosen: by metric, what answers at this stage: the stack, unless a baseline had an error that is smaller by more
            than one standard error of their difference over runs.
    """

    progress: float
    errors: Mapping[str, Mapping[str, float]]
    chosen: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class StackingRow:
    """What every forecast said of past runs that it had not seen, at moments of theirs.

    Attributes:
        scaled: ``(n, experts, m)`` on the model's scale.
        final: ``(n, m)`` what came of them.
        own: ``(n, experts, m)`` in the metrics' own units.
        truth: ``(n, m)`` likewise.
        progress: ``(n,)``.
        runs: ``(n,)`` run of each moment.
    """

    scaled: Floats
    final: Floats
    own: Floats
    truth: Floats
    progress: Floats
    runs: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> StackingRow:
        """Return some of the moments."""
        values = (self.scaled, self.final, self.own, self.truth, self.progress, self.runs)
        return StackingRow(*(v[rows] for v in values))  # type: ignore[arg-type]


def stage_of(progress: float) -> int:
    """Return the stage that a moment belongs to."""
    return int(np.abs(STAGES - progress).argmin()) if progress >= 0.0 else 0


def alike(gap: Floats) -> Floats:
    """How much moments this far apart in progress have to say about each other."""
    return np.asarray(np.exp(-0.5 * np.square(gap / _NEAR)) + 1e-9)


def stack(table: StackingRow, parts: Sequence[NDArray[np.int64]]) -> tuple[Floats, Floats]:
    """Weigh the forecasts.

    Args:
        table: what each forecast predicted.
        parts: rows of the moments by folds of whole runs.

    Returns:
        ``(stages, m, experts)`` weights learned from all runs, and ``(n, m)`` forecasts of runs with weights that
        were learned without them.
    """
    stages = np.array([stage_of(p) for p in table.progress])
    stacked = np.empty_like(table.final)
    for rows in parts:
        rest = table.take(np.setdiff1d(np.arange(len(stages)), rows))
        for s in np.unique(stages[rows]).tolist():
            these = rows[stages[rows] == s]
            stacked[these] = np.einsum("me,nem->nm", _weights(rest, s), table.scaled[these])
    return np.stack([_weights(table, s) for s in range(len(STAGES))]), stacked


def _weights(table: StackingRow, stage: int) -> Floats:
    """``(m, experts)`` at one stage."""
    near = alike(table.progress - STAGES[stage])
    rows = np.flatnonzero(near > 1e-4)
    rows = rows if len(rows) else np.arange(len(near))
    some, near = table.take(rows), near[rows]
    usable = BEFORE if stage == 0 else len(EXPERTS)
    out = np.zeros((table.final.shape[1], len(EXPERTS)))
    for j in range(len(out)):
        errors = np.abs(some.own[:, :usable, j] - some.truth[:, None, j])
        out[j, :usable] = convex_weights(some.scaled[:, :usable, j], some.final[:, j], errors, near, some.runs)
    return out


def convex_weights(
    forecasts: Floats, truth: Floats, errors: Floats, near: Floats, runs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Weigh several forecasts of one quantity: non-negative weights that sum to one.

    Args:
        forecasts: ``(n, k)`` of runs left out, on the model's scale; finite.
        truth: ``(n,)`` what came of them, on the same scale; finite.
        errors: ``(n, k)`` absolute errors by which forecasts are ranked, in any unit.
        near: ``(n,)`` how much each moment counts; not all zero.
        runs: ``(n,)`` run of each moment.

    Returns:
        ``(k,)`` weights that minimise the squared error, held near to shares among the forecasts that are about as good
        as the best.
    """
    usable = forecasts.shape[1]
    prior = _shared(by_run(errors, near, runs))
    root = np.sqrt(near)
    size = float(np.linalg.norm(root))
    heavy = 1e3 * size  # this row makes the weights sum to one
    left = [root[:, None] * forecasts, np.full((1, usable), heavy), _PULL * size * np.eye(usable)]
    right = [root * truth, np.array([heavy]), _PULL * size * prior]
    solved = nnls(np.vstack(left), np.concatenate(right))[0]
    solved[solved < 0.005 * solved.sum()] = 0.0
    return np.asarray(solved / solved.sum())


def _shared(errors: Floats) -> Floats:
    """``(experts,)`` weights: full for the best, less the more standard errors another one is behind it."""
    mean = errors.mean(axis=0)
    best = int(mean.argmin())
    gap, noise = mean - mean[best], standard_error(errors - errors[:, [best]])
    weights = np.where(gap > 0.0, np.exp(-0.5 * np.square(gap / np.maximum(noise, 1e-12))), 1.0)
    return np.asarray(weights / weights.sum())


def by_run(errors: Floats, near: Floats, runs: NDArray[np.int64]) -> Floats:
    """``(runs, k)`` weighted means of ``(n, k)`` errors over the moments of each run that has any of weight."""
    _, index = np.unique(runs, return_inverse=True)
    total = np.bincount(index, weights=near)
    summed = np.stack([np.bincount(index, weights=near * column) for column in errors.T], axis=1)
    kept = total > 1e-6 * total.max()
    return np.asarray(summed[kept] / total[kept, None])


def standard_error(differences: Floats) -> Floats:
    """``(k,)`` standard error of the mean of ``(runs, k)`` differences."""
    return np.asarray(differences.std(axis=0) / max(len(differences), 1) ** 0.5)


def choose(
    table: StackingRow, stacked: Floats, own: Floats, names: Sequence[str]
) -> tuple[tuple[StageError, ...], Floats]:
    """Let a baseline answer where it was better than the stack by more than noise.

    Args:
        table: what each forecast predicted.
        stacked: ``(n, m)`` what the stack predicted, weighed without the runs in question.
        own: ``(n, m)`` the same in the metrics' own units.
        names: of the metrics.

    Returns:
        Errors and choice by stage, and ``(n, m)`` what the chosen ones said.
    """
    places = [EXPERTS.index(b) for b in BASELINES]
    absolute = np.abs(np.concatenate([table.own[:, places], own[:, None]], axis=1) - table.truth[:, None])
    values = np.concatenate([table.scaled[:, places], stacked[:, None]], axis=1)
    options = (*BASELINES, STACK)
    picks = np.full((len(STAGES), len(names)), len(places))
    out = []
    for s, stage in enumerate(STAGES):
        candidates = [i for i, name in enumerate(options) if s > 0 or name in {"hyperparameters", STACK}]
        near = alike(table.progress - stage)
        errors, chosen = {}, {}
        for j, name in enumerate(names):
            each = by_run(absolute[:, candidates, j], near, table.runs)
            mean, noise = each.mean(axis=0), standard_error(each - each[:, -1:])
            best = int(mean.argmin())
            if mean[-1] - mean[best] > noise[best]:
                picks[s, j] = candidates[best]
            errors[name] = dict(zip([options[i] for i in candidates], mean.tolist(), strict=True))
            chosen[name] = options[picks[s, j]]
        out.append(StageError(float(stage), errors, chosen))
    rows = picks[[stage_of(p) for p in table.progress]]
    return tuple(out), np.take_along_axis(values, rows[:, None], axis=1)[:, 0]
