"""Where a run will end: joint samples of its final metrics, from its first checkpoints or its hyperparameters alone.

Several simple forecasts (``evidence.py``) are weighed against each other, more and more for the run's own curve and
place on the map as it goes on: non-negative weights summing to one that minimise the error on runs left out (stacking:
Wolpert 1992; Breiman 1996). Where a plain baseline has the smaller error on runs left out, that one answers for the
metric and the moment instead. Samples are the forecast plus what it missed by at similar moments of similar runs, all
metrics of a run together, so that they are skewed, bounded and correlated as the misses were (localised conformal
prediction: Guan 2023). Whole runs are left out throughout: of the trees, the weights, the choice and the misses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from epsopt.optimize.evidence import (
    BASELINES,
    EXPERTS,
    Moment,
    Promise,
    Reader,
    Trees,
    expert_table,
    fit_promise,
    fit_trees,
    reader,
)
from epsopt.optimize.space import Space
from epsopt.optimize.trajectory import RunPath, planned_epochs
from epsopt.surrogate.dataset import run_folds
from epsopt.surrogate.head import conformal_factor
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.errors import EmptyCatalogue, UsageError

Floats = NDArray[np.float64]

STACK = "stack"
FEWEST_RUNS = 8
_FOLDS = 5
_MOMENTS = 12  # of each run that are learned from, besides its start
_STAGES = np.array([0.0, 0.05, 0.1, 0.175, 0.25, 0.35, 0.5, 0.65, 0.8, 0.95])
_NEAR = 0.06  # moments within about this share of a run are alike
_SIMILAR = 0.4  # of the runs, at least, whose misses a sample is drawn from


@dataclass(frozen=True)
class StageError:
    """How far off the forecasts were on runs left out, at one stage of a run.

    Attributes:
        progress: share of the run that was done.
        errors: mean absolute error by metric and forecast (``BASELINES`` and ``STACK``), in the metric's own units.
        chosen: by metric, the forecast that answers at this stage: the one with the least error.
    """

    progress: float
    errors: Mapping[str, Mapping[str, float]]
    chosen: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class RunForecast:
    """Where one run will end.

    Attributes:
        samples: ``(s, m)`` joint samples of the final metrics, in their own units.
        low: ``(m,)`` lower ends of the intervals.
        point: ``(m,)`` medians.
        high: ``(m,)`` upper ends.
        answered_by: which forecast answered, by metric.
        weights: of the single forecasts in it, by metric; zero weights are left out.
        progress: share of the run that was done.
        total: epochs that the run is taken to have.
    """

    samples: Floats
    low: Floats
    point: Floats
    high: Floats
    answered_by: Mapping[str, str]
    weights: Mapping[str, Mapping[str, float]]
    progress: float
    total: float


@dataclass(frozen=True, eq=False)
class Outlook:
    """Fitted to past runs by :func:`fit_outlook`; asked about runs that are under way or not begun.

    Attributes:
        reader: turns checkpoints into moments.
        promise: what hyperparameters alone promise.
        trees: the learned forecasts.
        limits: ``(m,)`` lowest and highest value seen, on the model's scale.
        weights: ``(stages, m, experts)`` of the forecast that answers.
        errors: per stage, on runs left out.
        moments: ``(r,)`` progress of the past moments whose misses are known.
        forecasts: ``(r, m)`` what was forecast then, its run left out.
        misses: ``(r, m)`` final minus forecast.
        runs: ``(r,)`` run of each.
        stretch: ``(stages, m)`` what misses are multiplied by so that 90 % intervals cover 90 % of past runs.
        total: epochs of a typical run.
        total_name: the hyperparameter that says how many epochs a run has, if one does.
    """

    reader: Reader
    promise: Promise
    trees: Trees
    limits: tuple[Floats, Floats]
    weights: Floats
    errors: tuple[StageError, ...]
    moments: Floats
    forecasts: Floats
    misses: Floats
    runs: NDArray[np.int64]
    stretch: Floats
    total: float
    total_name: str | None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the ``m`` metrics."""
        return self.reader.surrogate.metric_names

    def epochs_of(self, config: Mapping[str, Any]) -> float:
        """How many epochs a run of this configuration is planned to have."""
        value = config.get(self.total_name) if self.total_name else None
        return float(value) if isinstance(value, int | float) and value > 0 else self.total

    def sample(self, path: RunPath, *, total: float | None = None, samples: int = 256, seed: int = 0) -> Floats:
        """Draw final metrics of a run.

        Args:
            path: its checkpoints so far; none at all asks what its hyperparameters alone promise, one of epoch 0 what
                comes of a checkpoint with these hyperparameters.
            total: epochs that it will have; default: as past runs had.
            samples: how many.
            seed: of the samples.

        Returns:
            ``(samples, m)`` in the metrics' own units, each row a possible end of the run.

        Raises:
            UsageError: the total is not positive.
        """
        return self.forecast(path, total=total, samples=samples, seed=seed).samples

    def forecast(
        self, path: RunPath, *, total: float | None = None, level: float = 0.9, samples: int = 256, seed: int = 0
    ) -> RunForecast:
        """Forecast where a run will end; arguments as of :meth:`sample`.

        Args:
            path: its checkpoints so far.
            total: epochs that it will have.
            level: coverage of the intervals.
            samples: how many samples.
            seed: of the samples.

        Raises:
            UsageError: the total is not positive, or the level not between 0 and 1.
        """
        length = self.epochs_of(path.config) if total is None else float(total)
        if length <= 0:
            raise UsageError(f"the run is to have {length:g} epochs, expected more than 0")
        if not 0.0 < level < 1.0:
            raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
        moment = self.reader.moment(path.epochs, self.reader.curves(path), length)
        promised, late = self.promise([path.config])
        table = expert_table([moment], promised, late, self.trees, self.limits)[0]
        stage = _stage(moment.progress)
        point = np.einsum("me,em->m", self.weights[stage], table)
        likely = _likeness(moment.progress, point, self.moments, self.forecasts, self.runs)
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(likely), samples, p=likely)
        jitter = _jitter(self.misses, likely, self.runs) * rng.standard_normal((samples, len(point)))
        scaled = point + self.stretch[stage] * (self.misses[rows] + jitter)
        drawn = self.reader.surrogate.to_metrics(torch.from_numpy(scaled)).numpy()
        low, middle, high = (np.quantile(drawn, q, axis=0) for q in ((1 - level) / 2, 0.5, (1 + level) / 2))
        chosen = self.errors[stage].chosen
        return RunForecast(
            drawn,
            low,
            middle,
            high,
            dict(chosen),
            {
                name: {e: float(w) for e, w in zip(EXPERTS, self.weights[stage, j], strict=True) if w > 0.005}
                for j, name in enumerate(self.metric_names)
            },
            moment.progress,
            length,
        )


def fit_outlook(surrogate: Surrogate, space: Space, paths: Sequence[RunPath], seed: int = 0) -> Outlook:
    """Learn from past runs where runs end.

    Args:
        surrogate: the map that encoded them; gives the metrics' scales and fills in what was not measured.
        space: encodes their hyperparameters.
        paths: finished runs; those with a single checkpoint or hyperparameters outside the space are left out, and so
            are runs that stopped before nine tenths of their planned epochs.
        seed: of everything random.

    Returns:
        The outlook; a few seconds for 64 runs of 20 checkpoints.

    Raises:
        EmptyCatalogue: fewer than eight usable runs.
    """
    total, name = planned_epochs([p for p in paths if space.describes(p.config)])
    past = [p for p in paths if len(p) > 1 and space.describes(p.config) and _finished(p, total, name)]
    if len(past) < FEWEST_RUNS:
        raise EmptyCatalogue(
            f"a forecast learns from finished runs with several checkpoints and every hyperparameter of the search "
            f"space: there are {len(past)}, at least {FEWEST_RUNS} are needed; ingest more runs"
        )
    reading = reader(surrogate, past)
    curves = [reading.curves(p) for p in past]

    def promise(rows: NDArray[np.int64]) -> Promise:
        some = [past[i] for i in rows.tolist()]
        values = [curves[i][0] for i in rows.tolist()]
        return fit_promise(space, [p.config for p in some], values, [p.epochs / p.epochs[-1] for p in some], seed)

    # By folds, not left out one by one in closed form: that keeps length scales that have seen the run, and 90 %
    # intervals then covered 81 to 86 % of runs that the map had not seen either.
    promised, late = np.empty((2, len(past), curves[0][0].shape[1]))
    run_parts = run_folds(np.arange(len(past)), _FOLDS, seed)
    for rows in run_parts:
        learned = promise(np.setdiff1d(np.arange(len(past)), rows))
        promised[rows], late[rows] = learned([past[i].config for i in rows.tolist()])
    moments, owner = _moments(reading, past, curves)
    final = np.stack([c[0][-1] for c in curves])[owner]
    limits = (np.min([c[0].min(axis=0) for c in curves], axis=0), np.max([c[0].max(axis=0) for c in curves], axis=0))
    begun = np.array([q.state is not None for q in moments])

    def trees(rows: NDArray[np.int64]) -> Trees:
        rows = rows[begun[rows]]
        places = owner[rows]
        return fit_trees([moments[i] for i in rows.tolist()], promised[places], late[places], final[rows], seed)

    parts = [np.flatnonzero(np.isin(owner, rows)) for rows in run_parts]
    everything = np.arange(len(owner))
    table = np.empty((len(owner), len(EXPERTS), final.shape[1]))
    for rows in parts:
        grown = trees(np.setdiff1d(everything, rows))
        part = [moments[i] for i in rows.tolist()]
        table[rows] = expert_table(part, promised[owner[rows]], late[owner[rows]], grown, limits)
    progress = np.array([q.progress for q in moments])
    weights, stacked = _stack(table, final, progress, parts)
    errors, weights, forecasts = _choose(surrogate, table, stacked, weights, final, progress)
    misses = final - forecasts
    return Outlook(
        reader=reading,
        promise=promise(np.arange(len(past))),
        trees=trees(everything),
        limits=limits,
        weights=weights,
        errors=errors,
        moments=progress,
        forecasts=forecasts,
        misses=misses,
        runs=owner,
        stretch=_calibrate(progress, forecasts, misses, owner),
        total=total,
        total_name=name,
    )


def _finished(path: RunPath, total: float, name: str | None) -> bool:
    planned = path.config.get(name) if name else None
    wanted = float(planned) if isinstance(planned, int | float) else total
    return bool(path.epochs[-1] >= 0.9 * wanted)


def _moments(
    reading: Reader, past: Sequence[RunPath], curves: Sequence[tuple[Floats, Floats]]
) -> tuple[list[Moment], NDArray[np.int64]]:
    """Moments of past runs, evenly over each run and its start, and the run of each."""
    moments, owner = [], []
    for i, (path, (values, places)) in enumerate(zip(past, curves, strict=True)):
        known = len(path) - 1
        counts = np.unique(np.linspace(0, known, min(_MOMENTS, known) + 1).round().astype(int))
        for n in counts.tolist():
            moments.append(reading.moment(path.epochs[:n], (values[:n], places[:n]), float(path.epochs[-1])))
            owner.append(i)
    return moments, np.array(owner, dtype=np.int64)


def _stage(progress: float) -> int:
    return int(np.abs(_STAGES - progress).argmin())


def _stack(table: Floats, final: Floats, progress: Floats, parts: Sequence[NDArray[np.int64]]) -> tuple[Floats, Floats]:
    """Weights ``(stages, m, experts)`` from all rows, and ``(n, m)`` forecasts with weights from other folds' rows."""
    stages = np.array([_stage(p) for p in progress])
    everything = np.arange(len(final))
    weights = _weights(table, final, progress)
    stacked = np.empty_like(final)
    for rows in parts:
        rest = np.setdiff1d(everything, rows)
        own = _weights(table[rest], final[rest], progress[rest])
        stacked[rows] = np.einsum("nme,nem->nm", own[stages[rows]], table[rows])
    return weights, stacked


def _weights(table: Floats, final: Floats, progress: Floats) -> Floats:
    out = np.empty((len(_STAGES), final.shape[1], table.shape[1]))
    for s, stage in enumerate(_STAGES):
        near = np.sqrt(_near(progress - stage))
        for j in range(final.shape[1]):
            # A heavy row makes the weights sum to one.
            heavy = 1e3 * max(float(np.linalg.norm(near)), 1e-6)
            rows = np.vstack([near[:, None] * table[:, :, j], np.full((1, table.shape[1]), heavy)])
            solved = nnls(rows, np.append(near * final[:, j], heavy))[0]
            out[s, j] = solved / solved.sum()
    return out


def _near(gap: Floats) -> Floats:
    """How much moments this far apart in progress have to say about each other."""
    return np.asarray(np.exp(-0.5 * np.square(gap / _NEAR)) + 1e-9)


def _choose(
    surrogate: Surrogate, table: Floats, stacked: Floats, weights: Floats, final: Floats, progress: Floats
) -> tuple[tuple[StageError, ...], Floats, Floats]:
    """Let a baseline answer where its error on runs left out is the least; its rows' forecasts follow."""
    options, names = [*BASELINES, STACK], surrogate.metric_names
    values = np.stack([*(table[:, EXPERTS.index(b)] for b in BASELINES), stacked])
    own = surrogate.to_metrics(torch.from_numpy(values)).numpy()
    truth = surrogate.to_metrics(torch.from_numpy(final)).numpy()
    absolute = np.abs(own - truth)
    weights, chosen, out = weights.copy(), np.empty((len(_STAGES), final.shape[1]), dtype=np.int64), []
    for s, stage in enumerate(_STAGES):
        near = _near(progress - stage)
        errors = np.einsum("n,onm->om", near / near.sum(), absolute)
        chosen[s] = errors.argmin(axis=0)
        for j in range(final.shape[1]):
            if (option := options[chosen[s, j]]) != STACK:
                weights[s, j] = np.eye(len(EXPERTS))[EXPERTS.index(option)]
        out.append(
            StageError(
                float(stage),
                {
                    n: dict(zip(options, errors[:, j].tolist(), strict=True))
                    for j, n in enumerate(surrogate.metric_names)
                },
                {n: options[chosen[s, j]] for j, n in enumerate(names)},
            )
        )
    picks = chosen[[_stage(p) for p in progress]]
    forecasts = np.take_along_axis(values, picks[None], axis=0)[0]
    return tuple(out), weights, forecasts


def _likeness(
    progress: float, point: Floats, moments: Floats, forecasts: Floats, runs: NDArray[np.int64], leave: int = -1
) -> Floats:
    """``(r,)`` probabilities of drawing each past moment's miss: similar moments whose forecasts were similar."""
    weight = _near(moments - progress) * (runs != leave)
    distance = np.square(forecasts - point).mean(axis=1)
    needed = _SIMILAR * (len(np.unique(runs)) - (leave >= 0))
    width = 0.1
    for _ in range(40):
        local = weight * np.exp(-0.5 * distance / width**2)
        per_run = np.bincount(runs, weights=local)
        total = per_run.sum()
        if total > 0 and total**2 / np.square(per_run).sum() >= needed:
            break
        width *= 1.25
    return np.asarray(local / local.sum())


def _jitter(misses: Floats, likely: Floats, runs: NDArray[np.int64]) -> Floats:
    """``(m,)`` bandwidth by Silverman's rule: a few dozen misses are too coarse to be drawn as they are."""
    mean = likely @ misses
    spread = np.sqrt(likely @ np.square(misses - mean))
    per_run = np.bincount(runs, weights=likely)
    effective = 1.0 / np.square(per_run).sum()
    return np.asarray(0.5 * spread * effective ** (-0.2))


def _calibrate(progress: Floats, forecasts: Floats, misses: Floats, runs: NDArray[np.int64]) -> Floats:
    """``(stages, m)`` factors on misses so that 90 % intervals, a run's own misses left out, cover 90 % of the runs."""
    scores = np.empty_like(misses)
    orders = np.argsort(misses, axis=0)
    for i in range(len(misses)):
        likely = _likeness(progress[i], forecasts[i], progress, forecasts, runs, leave=int(runs[i]))
        for j, order in enumerate(orders.T):
            places = np.searchsorted(np.cumsum(likely[order]), (0.05, 0.95))
            low, high = misses[order[np.minimum(places, len(order) - 1)], j]
            scores[i, j] = abs(misses[i, j] - 0.5 * (low + high)) / max(0.5 * (high - low), 1e-9)
    n_runs = len(np.unique(runs))
    out = np.empty((len(_STAGES), misses.shape[1]))
    for s, stage in enumerate(_STAGES):
        near = _near(progress - stage)
        weight = near * n_runs / near.sum()
        out[s] = [max(conformal_factor(column, weight, 0.9), 1.0) for column in scores.T]
    return out
