"""An Optuna sampler that learns from whole runs: one line in anyone's script.

    study = optuna.create_study(directions=["maximize", "maximize"], sampler=EpsilonSampler())

With a catalogue of earlier runs it starts knowing them: their hyperparameters, and the measured curve of every one. Its
first trial is where they say that the front is widened most.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from epsopt.optimize.forecast.catalogue_curves import past_curves
from epsopt.optimize.forecast.learning_curve_gp import Curve, Floats, fit_curves
from epsopt.optimize.forecast.subsample import thinned
from epsopt.optimize.objectives import Objective
from epsopt.optimize.outliers import outlying
from epsopt.optimize.schedule.run_acquisition import Candidate, optimize_acquisition
from epsopt.optimize.space import Config, Space, identity
from epsopt.studies.optuna_io.sampler_warm_start import FirstTrials, as_asked
from epsopt.studies.optuna_io.study_space import asked_for, asking, filled, nearest, snap, space_of
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import UsageError

_FAILED = TrialState.FAIL
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_WELL, _ILL = -1.0, 1.0  # of the constraint that says whether a trial failed
_DRAWS = 64


class EpsilonSampler(BaseSampler):
    """Suggests whole configurations by expected hypervolume improvement over curves of earlier runs.

    Works for one objective or several, with constraints (``trial.set_constraint``), and beside other workers (what they
    run counts as under way). A conditional parameter, whatever choice or number switches it on, is masked where it is
    inactive, not guessed; where no other parameter tells when a script asks for it, it is suggested always. A range
    that changes is searched as the newest trials ask for it. Of a pruned trial what it reported is learned, as of one
    on its way. Trials that failed, and values that are infinite or penalties far beyond all others (1e10), set no
    scale: how likely a configuration is to fail is learned from them, and none is tried again. Parameters that nothing
    is known of yet are drawn at random.

    A model learns from at most 200 runs and trials, those of the front, the newest, and others that cover what was
    tried. The front and what was tried are those of all.

    Until a trial has ended, nothing tells what the script searches, and the catalogue's own space stands for it. A
    parameter is then found there by its name: a number in the asked range, or beyond an edge by up to a tenth of it,
    and a choice by its value, or the nearest where all choices are numbers. What is not found is drawn at random.

    Args:
        catalogue: earlier runs to start from; a :class:`~epsopt.zoo.Catalogue` or its URL.
        space: of the catalogue's hyperparameters, as ``load_project().space`` declares it; by default what its runs
            varied. It does not bound what the script searches.
        metrics: names of the objectives in the catalogue, in the study's order; by default ``study.metric_names``.
        n_startup_trials: random trials before a model is asked; runs of the catalogue count as well.
        reference: the objectives' values that are just not good enough, in the study's order; by default a tenth of
            their range beyond the worst that is no penalty.
        bounds: lowest and highest possible value of metrics by name.
        seed: of everything random. Workers that share it, each in a process of its own, plan the same first trials
            by number, and run different ones.

    Raises:
        EmptyCatalogue: there is no catalogue at that URL.
        UsageError: at the first suggestion, if there is a catalogue and nothing says what the objectives are called.

    Warns:
        UserWarning: at the first suggestion, if the catalogue has too few runs with these objectives to begin with.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue | str | None = None,
        space: Space | None = None,
        metrics: Sequence[str] | None = None,
        n_startup_trials: int = 8,
        reference: Sequence[float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        seed: int | None = None,
    ) -> None:
        self.catalogue = Catalogue.existing(catalogue) if isinstance(catalogue, str) else catalogue
        self._metrics = None if metrics is None else tuple(metrics)
        self._n_startup = n_startup_trials
        self._reference = None if reference is None else np.asarray(reference, dtype=np.float64)
        self._bounds = dict(bounds or {})
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self.suggested: dict[int, dict[str, Any]] = {}  # by trial: a study knows them only once they were asked for
        self.warm_start: FirstTrials | None = None
        if self.catalogue is not None:
            self.warm_start = FirstTrials(
                self.catalogue,
                space,
                bounds=self._bounds,
                fewest=n_startup_trials,
                reference=self._reference,
                seed=int(self._rng.integers(2**31)),
            )
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, which is each process's own."""
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state, and a lock of its own."""
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def reseed_rng(self) -> None:
        """Draw new random numbers: Optuna calls this in each parallel worker. First trials differ by their number."""
        self._rng = np.random.default_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Return every parameter that trials had, with the range that the newest of them asked for."""
        ended = study.get_trials(deepcopy=False, states=_ENDED)
        if self.warm_start is not None and not any(t.state is not TrialState.FAIL and t.distributions for t in ended):
            return {}  # the catalogue knows more than what failed shows
        return {n: d for n, d in asked_for(ended).items() if not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose a configuration; see Optuna's ``BaseSampler``. Threads choose one after another."""
        if not search_space:
            if self.warm_start is not None and not _tells(study):
                with self._lock:
                    self.warm_start.plan(trial.number, study.get_trials(deepcopy=False), self.objectives_of(study))
            return {}
        with self._lock:
            if self.warm_start is not None:
                self.warm_start.finish()
            chosen = self._choose(study, trial, search_space)
            self.suggested[trial.number] = chosen
        return chosen

    def _choose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        objectives = self.objectives_of(study)
        trials = study.get_trials(deepcopy=False)
        ended = [t for t in trials if t.state in _ENDED]
        known = {n: d for n, d in asked_for(ended, recent=None).items() if n in search_space}
        space = space_of(known, [t.params for t in _whole(ended, objectives)], always=False)
        asked = asking(space, search_space)
        running = [t for t in trials if t.state is TrialState.RUNNING and t.number != trial.number]
        self.suggested = {t.number: self.suggested[t.number] for t in running if t.number in self.suggested}
        planned = [{**self.suggested.get(t.number, {}), **t.params} for t in running]
        curves, failed = self.curves_of(space, objectives, ended)
        measured = [c for c in curves if np.isfinite(c.values[:, : len(objectives)]).any()]
        tried = [config for t in ended if (config := filled(space, t)) is not None]
        if len(curves) - len(failed) < max(self._n_startup, 2) or len(measured) < 2:
            config = _drawn(asked, space, tried, failed, self._rng)
        else:
            length = float(max(c.steps[-1] for c in measured))
            kept, others = thinned(space, objectives, curves)
            model = fit_curves(
                space, objectives, kept, length=length, bounds=self._bounds, others=others if len(others) else None,
                seed=int(self._rng.integers(2**31)),
            )  # fmt: skip
            under_way = [Candidate(params, None, length) for params in planned if space.accepts(params)]
            (choice,) = optimize_acquisition(
                model, under_way, reference=self._reference, tried=tried, within=asked, rng=self._rng
            )
            config = dict(choice.candidate.config)
        return {name: snap(value, search_space[name]) for name, value in config.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Answer with what was planned for the trial, as near as the range has it; or from the catalogue; or at random.

        What was planned is asked for here where the trial's range is another one than those of the trials before it.
        """
        with self._lock:
            chosen = self.suggested.get(trial.number, {})
            planned = {} if self.warm_start is None else self.warm_start.planned(trial.number)
        if param_name in chosen:
            value = nearest(chosen[param_name], param_distribution)
            if value is not None:
                return value
        value = as_asked(planned.get(param_name), param_distribution)
        if value is not None:
            return value
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Forget what was planned for a trial that ended."""
        with self._lock:
            self.suggested.pop(trial.number, None)
            if self.warm_start is not None:
                self.warm_start.end(trial.number)
        self._random.after_trial(study, trial, state, values)

    def objectives_of(self, study: Study) -> list[Objective]:
        """Return a study's objectives, by the names that the catalogue has.

        Args:
            study: Optuna's; its metric names count where the sampler was given none.

        Returns:
            One for each direction of the study, in its order.

        Raises:
            UsageError: there is a catalogue and nothing names the objectives, or as many names as directions are not
                given.
        """
        names = self._metrics or (None if study.metric_names is None else tuple(study.metric_names))
        if names is None:
            if self.catalogue is not None:
                raise UsageError(
                    "the catalogue's runs have many metrics and the study does not say which are its objectives: "
                    "call study.set_metric_names([...]), or give EpsilonSampler(metrics=[...])"
                )
            names = tuple(f"objective {i}" for i in range(len(study.directions)))
        if len(names) != len(study.directions):
            raise UsageError(
                f"{len(names)} metrics are named ({', '.join(names)}), but the study has {len(study.directions)} "
                "objectives: name each of them, in the study's order"
            )
        return [
            Objective(name, maximize=direction is StudyDirection.MAXIMIZE)
            for name, direction in zip(names, study.directions, strict=True)
        ]

    def curves_of(
        self, space: Space, objectives: Sequence[Objective], trials: Sequence[FrozenTrial]
    ) -> tuple[list[Curve], list[Curve]]:
        """Return what is known: the catalogue's runs with all their checkpoints, and the study's trials that ended.

        Of a trial its end is known. Of one that was pruned it is not, only what it had reported by then, and that tells
        something of its end beside what whole trials reported on their way. Of one that failed, or whose value is
        infinite or a penalty far beyond all others, it is known that it failed: that is a constraint, the last one.

        Args:
            space: of the trials' hyperparameters.
            objectives: of the study.
            trials: of the study that ended.

        Returns:
            All curves, NaN where not measured, and those of trials that failed without a value.
        """
        past = {} if self.catalogue is None else past_curves(self.catalogue.checkpoints(), space, objectives)
        curves = list(past.values())
        length = float(max((c.steps[-1] for c in curves), default=1.0))
        seen = {_identity(space, c.config) for c in curves}
        names = sorted({name for t in trials for name in t.constraints})
        done = [t for t in trials if t.state is TrialState.COMPLETE]
        values = {t.number: row for t, row in zip(done, _values(done, objectives), strict=True)}
        broken = {t.number for t in trials if t.state is _FAILED}
        broken |= {number for number, row in values.items() if np.isnan(row).any()}
        more = len(names) + bool(broken)
        if more:  # the catalogue knows nothing of the study's constraints, and nothing that failed
            unknown = [*(math.nan for _ in names), *([_WELL] if broken else [])]
            curves = [replace(c, values=_with_columns(c.values, unknown), start=None) for c in curves]
        some = done or [t for t in trials if t.state is TrialState.PRUNED]
        last = max((max(r) - min(r) + 1 for t in some if (r := t.intermediate_values)), default=1)
        pruned = any(t.state is TrialState.PRUNED for t in trials)
        failed = []
        for t in sorted(trials, key=lambda t: t.number):
            config = filled(space, t)
            if config is None or _identity(space, config) in seen:
                continue
            bad = [_ILL if t.number in broken else _WELL] if broken else []
            unmeasured = [math.nan for _ in names]
            reported = _reported(t, length / last) if pruned and t.number not in broken else {}
            rows = {s: [v, *unmeasured, *bad] for s, v in reported.items()}
            if t.number in values:  # it reports nothing after its end
                rows = {s: row for s, row in rows.items() if s < length}
                rows[length] = [*values[t.number], *(t.constraints.get(n, math.nan) for n in names), *bad]
            elif t.state is _FAILED:
                rows[length] = [*(math.nan for _ in objectives), *unmeasured, *bad]
            if rows:
                curves.append(Curve(config, np.array(list(rows)), np.array(list(rows.values()))))
                failed += [curves[-1]] if t.state is _FAILED else []
        return [c for c in curves if np.isfinite(c.values).any()], failed


def _reported(trial: FrozenTrial, unit: float) -> dict[float, float]:
    """What a trial of one objective reported, by time since its start; others cannot report."""
    first = min(trial.intermediate_values, default=0)
    reports = sorted(trial.intermediate_values.items())
    return {(s - first + 1) * unit: v for s, v in reports if math.isfinite(v)}


def _whole(ended: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> Sequence[FrozenTrial]:
    """The trials that show what a script asks for: those that went well, as long as there are any."""
    done = [t for t in ended if t.state is TrialState.COMPLETE]
    well = [t for t, row in zip(done, _values(done, objectives), strict=True) if np.isfinite(row).all()]
    return well or done or [t for t in ended if t.state is TrialState.PRUNED] or ended


def _values(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> Floats:
    """``(n, m)`` values of whole trials; NaN for what only says that something went wrong."""
    table = np.array([t.values for t in trials], dtype=np.float64).reshape(len(trials), len(objectives))
    wrong = [outlying(column, maximize=o.maximize) for column, o in zip(table.T, objectives, strict=True)]
    return np.where(np.array(wrong).T.reshape(table.shape), math.nan, table)


def _with_columns(values: Floats, more: Sequence[float]) -> Floats:
    return np.column_stack([values, np.tile(np.array(more), (len(values), 1))])


def _drawn(
    asked: Space,
    space: Space,
    tried: Sequence[Mapping[str, Any]],
    failed: Sequence[Curve],
    rng: np.random.Generator,
) -> Config:
    """A random configuration that was not tried, and does not lie nearest to one that failed."""
    drawn = asked.sample(_DRAWS, rng)
    if not tried:
        return drawn[0]
    bad = {_identity(space, c.config) for c in failed}
    ill = np.array([_identity(space, c) in bad for c in tried])
    away = np.linalg.norm(space.encode(drawn)[:, None] - space.encode(tried)[None], axis=2)
    near = away.argmin(axis=1)
    good = np.flatnonzero((away.min(axis=1) > 0.0) & ~ill[near])
    if len(good):
        return drawn[int(good[0])]
    return drawn[int(away.min(axis=1).argmax())]  # all lie nearest to one that failed: as far from it as may be


def _tells(study: Study) -> bool:
    """Whether a trial that ended tells what the script searches."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return any(t.distributions for t in ended)


def _identity(space: Space, config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((name, identity(value)) for name, value in space.given(config).items())
