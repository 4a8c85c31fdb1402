"""An Optuna sampler that learns from whole runs: one line in anyone's script.

    study = optuna.create_study(directions=["maximize", "maximize"], sampler=EpsilonSampler())

With a catalogue of earlier runs it starts knowing them: their hyperparameters, and the measured curve of every one. Its
first trial is where they say that the front is widened most.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from epsopt.optimize.inference import condition_of
from epsopt.optimize.loop.choice import Candidate, choose_runs
from epsopt.optimize.loop.curves import Curve, fit_curves
from epsopt.optimize.loop.first_trials import MOST_RUNS, FirstTrials, as_asked, snap
from epsopt.optimize.loop.history import past_curves
from epsopt.optimize.space import Parameter, Space
from epsopt.optimize.targets import Objective
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.errors import UsageError


class EpsilonSampler(BaseSampler):
    """Suggests whole configurations by expected hypervolume improvement over curves of earlier runs.

    Works for one objective or several, with constraints (``trial.set_constraint``), with conditional parameters (an
    inactive one is masked, not guessed), and beside other workers (what they run counts as under way). Of a pruned
    trial what it reported is learned, as of one on its way. Parameters that nothing is known of yet are drawn at
    random.

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
            their range beyond the worst.
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
        self._catalogue = Catalogue.existing(catalogue) if isinstance(catalogue, str) else catalogue
        self._metrics = None if metrics is None else tuple(metrics)
        self._n_startup = n_startup_trials
        self._reference = None if reference is None else np.asarray(reference, dtype=np.float64)
        self._bounds = dict(bounds or {})
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._suggested: dict[int, dict[str, Any]] = {}  # by trial: a study knows them only once they were asked for
        self._first: FirstTrials | None = None
        if self._catalogue is not None:
            self._first = FirstTrials(
                self._catalogue,
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
        """Return every parameter that some finished trial had, as long as its distribution did not change since."""
        found: dict[str, BaseDistribution] = {}
        changed: set[str] = set()
        for past in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            for name, distribution in past.distributions.items():
                if found.setdefault(name, distribution) != distribution:
                    changed.add(name)
        return {n: d for n, d in sorted(found.items()) if n not in changed and not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose a configuration; see Optuna's ``BaseSampler``. Threads choose one after another."""
        if not search_space:
            if self._first is not None and not _tells(study):
                with self._lock:
                    self._first.plan(trial.number, study.get_trials(deepcopy=False), self._objectives(study))
            return {}
        with self._lock:
            if self._first is not None:
                self._first.finish()
            chosen = self._choose(study, trial, search_space)
            self._suggested[trial.number] = chosen
        return chosen

    def _choose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        objectives = self._objectives(study)
        trials = study.get_trials(deepcopy=False)
        done = [t for t in trials if t.state is TrialState.COMPLETE]
        pruned = [t for t in trials if t.state is TrialState.PRUNED]
        running = [t for t in trials if t.state is TrialState.RUNNING and t.number != trial.number]
        space = space_of(search_space, [t.params for t in done])
        curves = self._curves(space, objectives, done, pruned)
        if len(curves) < max(self._n_startup, 2):
            return {n: snap(v, search_space[n]) for n, v in space.sample(1, self._rng)[0].items()}
        length = float(max(c.steps[-1] for c in curves))
        model = fit_curves(
            space, objectives, curves, length=length, bounds=self._bounds, seed=int(self._rng.integers(2**31))
        )
        self._suggested = {t.number: self._suggested[t.number] for t in running if t.number in self._suggested}
        planned = [{**self._suggested.get(t.number, {}), **t.params} for t in running]
        under_way = [Candidate(params, None, length) for params in planned if space.describes(params)]
        (choice,) = choose_runs(model, under_way, reference=self._reference, rng=self._rng)
        return {name: snap(value, search_space[name]) for name, value in choice.candidate.config.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Answer from the catalogue while the study tells nothing; draw at random what nothing is known of."""
        with self._lock:
            planned = {} if self._first is None else self._first.planned(trial.number)
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
            self._suggested.pop(trial.number, None)
            if self._first is not None:
                self._first.end(trial.number)
        self._random.after_trial(study, trial, state, values)

    def _objectives(self, study: Study) -> list[Objective]:
        names = self._metrics or (None if study.metric_names is None else tuple(study.metric_names))
        if names is None:
            if self._catalogue is not None:
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

    def _curves(
        self,
        space: Space,
        objectives: Sequence[Objective],
        trials: Sequence[FrozenTrial],
        pruned: Sequence[FrozenTrial],
    ) -> list[Curve]:
        """What is known: the catalogue's runs with all their checkpoints, and the study's trials.

        Of a trial its end is known. Of one that was pruned it is not, only what it had reported by then, and that tells
        something of its end beside what whole trials reported on their way.
        """
        past = {} if self._catalogue is None else past_curves(self._catalogue.checkpoints(), space, objectives)
        curves = list(past.values())[-MOST_RUNS:]
        length = float(max((c.steps[-1] for c in curves), default=1.0))
        seen = {_identity(space, c.config) for c in curves}
        names = sorted({name for t in trials for name in t.constraints})
        if names:  # the catalogue knows nothing of the study's constraints
            curves = [_with_constraints(c, len(names)) for c in curves]
        reports = [t.intermediate_values for t in (trials or pruned) if t.intermediate_values]
        last = max((max(r) - min(r) + 1 for r in reports), default=1)
        for t in sorted((*trials, *pruned), key=lambda t: t.number)[-MOST_RUNS:]:
            if not space.describes(t.params) or _identity(space, t.params) in seen:
                continue
            limits = [t.constraints.get(name, math.nan) for name in names]
            reported = _reported(t, length / last) if pruned else {}
            rows = {s: [v, *(math.nan for _ in names)] for s, v in reported.items()}
            if t.state is TrialState.COMPLETE:  # it reports nothing after its end
                rows = {s: row for s, row in rows.items() if s < length}
                rows[length] = [*(v if math.isfinite(v) else math.nan for v in t.values), *limits]
            if rows:
                curves.append(Curve(t.params, np.array(list(rows)), np.array(list(rows.values()))))
        return [c for c in curves if np.isfinite(c.values).any()]


def _reported(trial: FrozenTrial, unit: float) -> dict[float, float]:
    """What a trial of one objective reported, by time since its start; others cannot report."""
    first = min(trial.intermediate_values, default=0)
    reports = sorted(trial.intermediate_values.items())
    return {(s - first + 1) * unit: v for s, v in reports if math.isfinite(v)}


def space_of(distributions: Mapping[str, BaseDistribution], seen: Sequence[Mapping[str, Any]]) -> Space:
    """Make a search space of Optuna's distributions; what trials did not have tells what is conditional.

    Args:
        distributions: by name; of a parameter that is sometimes absent without a categorical parameter that says when,
            nothing can be made, and it is left out.
        seen: parameters of finished trials.
    """
    always = [n for n in distributions if all(n in params for params in seen)]
    parameters = [_parameter(n, distributions[n]) for n in always]
    waiting = [n for n in distributions if n not in always]
    while True:
        parents = [p for p in parameters if p.kind == "categorical"]
        resolved = {n: c for n in waiting if (c := condition_of(n, seen, parents)) is not None}
        if not resolved:
            return Space(tuple(parameters))
        parameters += [_parameter(n, distributions[n], condition) for n, condition in resolved.items()]
        waiting = [n for n in waiting if n not in resolved]


def _parameter(
    name: str, distribution: BaseDistribution, condition: tuple[str, tuple[Any, ...]] | None = None
) -> Parameter:
    if isinstance(distribution, CategoricalDistribution):
        return Parameter(name, "categorical", choices=tuple(distribution.choices), active_when=condition)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "int" if isinstance(distribution, IntDistribution) else "float"
    low, high = float(distribution.low), float(distribution.high)
    return Parameter(name, kind, low, high, distribution.log, active_when=condition)  # type: ignore[arg-type]


def _tells(study: Study) -> bool:
    """Whether a trial that ended tells what the script searches."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return any(t.distributions for t in ended)


def _with_constraints(curve: Curve, n: int) -> Curve:
    values = np.column_stack([curve.values, np.full((len(curve.values), n), math.nan)])
    return Curve(curve.config, curve.steps, values, curve.start)


def _identity(space: Space, config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(config.get(p.name) for p in space.active(config))
