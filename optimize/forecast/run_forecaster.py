"""Forecast where a run ends: joint samples of its final metrics, from its first checkpoints or its hyperparameters.

A stack weighs several simple forecasts (``base_forecasters.py``) by their errors on runs left out; the weight moves to
the run's own curve and place on the map as the run goes on (``stacking.py``). Where a plain baseline has the clearly
smaller error, it replaces the stack for that metric at that stage. A sample is the forecast plus a residual from a
similar stage of a similar run (``conformal_residuals.py``). Cross-validation leaves whole runs out everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.forecast.base_forecasters import (
    BEFORE,
    EXPERTS,
    HyperparameterForecaster,
    Trees,
    expert_table,
    fit_hyperparameter_forecaster,
    fit_trees,
)
from epsopt.optimize.forecast.conformal_residuals import Misses, fit_misses
from epsopt.optimize.forecast.run_features import Reader, moments_of, reader
from epsopt.optimize.forecast.stacking import STACK, StackingRow, StageError, choose, stack, stage_of
from epsopt.optimize.latent.trajectory import RunPath, planned_epochs
from epsopt.optimize.space import Space
from epsopt.surrogate.dataset import run_folds
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.errors import EmptyCatalogue, UsageError

Floats = NDArray[np.float64]

FEWEST_RUNS = 8
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class RunForecast:
    """Where one run will end.

    Attributes:
        samples: ``(s, m)`` joint samples of the final metrics, in their own units; finite.
        low: ``(m,)`` lower ends of the intervals.
        point: ``(m,)`` what is forecast.
        high: ``(m,)`` upper ends.
        answered_by: which forecast answered, by metric.
        weights: of the single forecasts in it, by metric; zero weights are left out.
        stage: errors of the forecasts on runs left out, at a moment like this one.
        progress: share of the run that was done.
        total: epochs that the run is taken to have.
        longest: epochs of the longest past run, where this one is taken to have more: what happens beyond is
            extrapolated, and the intervals know nothing of it; None otherwise.
    """

    samples: Floats
    low: Floats
    point: Floats
    high: Floats
    answered_by: Mapping[str, str]
    weights: Mapping[str, Mapping[str, float]]
    stage: StageError
    progress: float
    total: float
    longest: float | None

    def _repr_html_(self) -> str:
        """Show it in a notebook: forecast metrics with their intervals."""
        from epsopt.zoo.html_text import html_table

        rows = [
            [name, f"{self.point[j]:.4g}", f"{self.low[j]:.4g} to {self.high[j]:.4g}", self.answered_by[name]]
            for j, name in enumerate(self.answered_by)
        ]
        caption = f"Forecast at epoch {self.total:g}, {self.progress:.0%} of which are done; not measured"
        return html_table(caption, ["metric", "forecast", "interval", "answered by"], rows)


@dataclass(frozen=True, eq=False)
class RunForecaster:
    """Fitted to past runs by :func:`fit_run_forecaster`; asked about runs that are under way or not begun.

    Attributes:
        reader: turns checkpoints into moments.
        hyperparameter_forecaster: predicts from hyperparameters alone.
        trees: the forecasts that are learned from moments.
        limits: ``(m,)`` lowest and highest value seen, on the model's scale.
        weights: ``(stages, m, experts)`` of the forecast that answers; finite, those of a metric and stage add up
            to one.
        errors: per stage, on runs left out.
        misses: what the forecast that answers missed by on runs left out.
        total: epochs of a typical run.
        total_name: the hyperparameter that says how many epochs a run has, if one does.
        longest: epochs of the longest past run.
    """

    reader: Reader
    hyperparameter_forecaster: HyperparameterForecaster
    trees: Trees
    limits: tuple[Floats, Floats]
    weights: Floats
    errors: tuple[StageError, ...]
    misses: Misses
    total: float
    total_name: str | None
    longest: float

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the ``m`` metrics."""
        return self.reader.surrogate.metric_names

    def epochs_of(self, config: Mapping[str, Any]) -> float:
        """Tell how many epochs a run of this configuration is planned to have.

        Args:
            config: the run's hyperparameters.

        Returns:
            Epochs: what the configuration says, or else as many as past runs had.
        """
        value = config.get(self.total_name) if self.total_name else None
        return float(value) if isinstance(value, int | float) and value > 0 else self.total

    def sample(self, path: RunPath, *, total: float | None = None, samples: int = 256, seed: int = 0) -> Floats:
        """Draw final metrics of a run.

        Args:
            path: its checkpoints so far; with none, the forecast is from hyperparameters alone; with one of epoch 0, of
                a run from that checkpoint with these hyperparameters.
            total: epochs that it will have; default: as past runs had, or as many as it has already.
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

        Returns:
            Samples, median and interval of each metric at the run's end, and which forecasts they rest on.

        Raises:
            UsageError: the total is not positive, or the level not between 0 and 1.
        """
        done = float(path.epochs[-1]) if len(path) else 0.0
        length = max(self.epochs_of(path.config), done) if total is None else float(total)
        if length <= 0:
            raise UsageError(f"the run is to have {length:g} epochs, expected more than 0")
        if not 0.0 < level < 1.0:
            raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
        table, progress = self.expert_forecasts(path, length)
        stage = stage_of(progress)
        point = np.einsum("me,em->m", self.weights[stage], table)
        surrogate = self.reader.surrogate
        drawn = surrogate.draws_to_metrics(torch.from_numpy(self.misses.draw(progress, point, samples, seed))).numpy()
        low, high = (np.quantile(drawn, q, axis=0) for q in ((1 - level) / 2, (1 + level) / 2))
        middle = np.clip(surrogate.to_metrics(torch.from_numpy(point)).numpy(), low, high)
        return RunForecast(
            samples=drawn,
            low=low,
            point=middle,
            high=high,
            answered_by=dict(self.errors[stage].chosen),
            weights={
                name: {e: float(w) for e, w in zip(EXPERTS, self.weights[stage, j], strict=True) if w > 0.0}
                for j, name in enumerate(self.metric_names)
            },
            stage=self.errors[stage],
            progress=max(progress, 0.0),
            total=length,
            longest=self.longest if max(length, done) > self.longest else None,
        )

    def expert_forecasts(self, path: RunPath, total: float) -> tuple[Floats, float]:
        """Return each of the weighed forecasts of a run of the given length.

        Args:
            path: its checkpoints so far.
            total: epochs that it will have.

        Returns:
            ``(experts, m)`` on the model's scale; before the first checkpoint only the first ``BEFORE`` count. And the
            moment's progress.
        """
        moment = self.reader.moment(path.epochs, self.reader.curves(path), total)
        before = self.hyperparameter_forecaster([path.config])
        return expert_table([moment], before, self.trees, self.limits)[0], moment.progress


def fit_run_forecaster(surrogate: Surrogate, space: Space, paths: Sequence[RunPath], seed: int = 0) -> RunForecaster:
    """Learn from past runs where runs end.

    Args:
        surrogate: the map that encoded them; gives the metrics' scales and fills in what was not measured.
        space: encodes their hyperparameters.
        paths: finished runs; those with a single checkpoint or hyperparameters outside the space are left out, and so
            are runs that stopped before nine tenths of their planned epochs.
        seed: of everything random.

    Returns:
        The forecaster; some seconds for 64 runs of 20 checkpoints.

    Raises:
        EmptyCatalogue: fewer than eight usable runs.
    """
    total, name = planned_epochs([p for p in paths if space.accepts(p.config)])
    past = [p for p in paths if len(p) > 1 and space.accepts(p.config) and _finished(p, total, name)]
    if len(past) < FEWEST_RUNS:
        raise EmptyCatalogue(
            f"a forecast learns from finished runs with several checkpoints and every hyperparameter of the search "
            f"space: there are {len(past)}, at least {FEWEST_RUNS} are needed; ingest more runs"
        )
    reading = reader(surrogate, past)
    curves = [reading.curves(p) for p in past]

    def fit_rows(rows: NDArray[np.int64]) -> HyperparameterForecaster:
        some = rows.tolist()
        ends = [curves[i][0] for i in some]
        return fit_hyperparameter_forecaster(surrogate, space, [past[i] for i in some], ends, seed)

    # By folds, not left out one by one in closed form: that keeps length scales that have seen the run, and 90 %
    # intervals then covered 81 to 86 % of runs that the map had not seen either.
    run_parts = run_folds(np.arange(len(past)), _FOLDS, seed)
    by_hyperparameters = np.empty((len(past), BEFORE, len(surrogate.metric_names)))
    for rows in run_parts:
        learned = fit_rows(np.setdiff1d(np.arange(len(past)), rows))
        by_hyperparameters[rows] = learned([past[i].config for i in rows.tolist()])
    moments, owner = moments_of(reading, past, curves)
    final = np.stack([c[0][-1] for c in curves])[owner]
    measured = np.isfinite(np.stack([p.metrics[-1] for p in past]))[owner]
    limits = (np.min([c[0].min(axis=0) for c in curves], axis=0), np.max([c[0].max(axis=0) for c in curves], axis=0))
    begun = np.array([q.state is not None for q in moments])

    def trees(rows: NDArray[np.int64]) -> Trees:
        rows = rows[begun[rows]]
        return fit_trees([moments[i] for i in rows.tolist()], by_hyperparameters[owner[rows]], final[rows], seed)

    parts = [np.flatnonzero(np.isin(owner, rows)) for rows in run_parts]
    everything = np.arange(len(owner))
    scaled = np.empty((len(owner), len(EXPERTS), final.shape[1]))
    for rows in parts:
        grown = trees(np.setdiff1d(everything, rows))
        scaled[rows] = expert_table([moments[i] for i in rows.tolist()], by_hyperparameters[owner[rows]], grown, limits)

    def own(values: Floats) -> Floats:
        return np.asarray(surrogate.to_metrics(torch.from_numpy(values)).numpy())

    table = StackingRow(scaled, final, own(scaled), own(final), np.array([q.progress for q in moments]), owner)
    weights, stacked = stack(table, parts)
    errors, forecasts = choose(table, stacked, own(stacked), surrogate.metric_names)
    for s, stage in enumerate(errors):
        for j, metric in enumerate(surrogate.metric_names):
            if (chosen := stage.chosen[metric]) != STACK:
                weights[s, j] = np.eye(len(EXPERTS))[EXPERTS.index(chosen)]
    return RunForecaster(
        reader=reading,
        hyperparameter_forecaster=fit_rows(np.arange(len(past))),
        trees=trees(everything),
        limits=limits,
        weights=weights,
        errors=errors,
        misses=fit_misses(table.progress, forecasts, final, owner, measured),
        total=total,
        total_name=name,
        longest=float(max(p.epochs[-1] for p in past)),
    )


def _finished(path: RunPath, total: float, name: str | None) -> bool:
    planned = path.config.get(name) if name else None
    wanted = float(planned) if isinstance(planned, int | float) else total
    return bool(path.epochs[-1] >= 0.9 * wanted)
