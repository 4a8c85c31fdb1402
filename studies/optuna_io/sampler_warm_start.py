"""What the first trials of an Optuna study run: whole configurations that the runs of a catalogue speak for.

A script says what it searches only by asking. Until one of its trials has ended, the catalogue's own search space
stands for it: the model of curves chooses a configuration there, and what the script asks for is answered from it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from epsopt.optimize.forecast.catalogue_curves import past_curves
from epsopt.optimize.forecast.learning_curve_gp import CurveModel, Floats, fit_curves
from epsopt.optimize.forecast.subsample import thinned
from epsopt.optimize.objectives import Objective
from epsopt.optimize.schedule.run_acquisition import Candidate, optimize_acquisition
from epsopt.optimize.space import Config, Space
from epsopt.optimize.space_inference import infer_space_of
from epsopt.studies.optuna_io.study_space import snap
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import UsageError

_MOST_IMAGINED = 8  # trials of other workers that show nothing yet; each takes as long as a choice
_NEAR = 0.1  # of the asked range, on its scale


class FirstTrials:
    """Plans a configuration for each trial of a study that has none to learn from.

    Args:
        catalogue: earlier runs; what they say is read once.
        space: of their hyperparameters; ``None``: inferred from them.
        bounds: lowest and highest possible value of metrics by name.
        fewest: runs without which nothing is planned.
        reference: ``(m,)`` the objectives' values that are just not good enough; ``None``: see `optimize_acquisition`.
        seed: with a trial's number it decides what is planned, in whichever process.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        space: Space | None,
        *,
        bounds: Mapping[str, tuple[float, float]],
        fewest: int,
        reference: Floats | None,
        seed: int,
    ) -> None:
        self.catalogue, self._space = catalogue, space
        self._bounds, self._fewest, self._reference, self._seed = bounds, fewest, reference, seed
        self.plans: dict[int, Config] = {}
        self._tried: list[Mapping[str, Any]] = []
        self.learned: tuple[tuple[Objective, ...], CurveModel | None] | None = None

    def plan(self, number: int, trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> None:
        """Choose a trial's configuration, in the catalogue's space.

        Trials under way count as such as far as they show, or this process knows, what they run; of those before this
        one that show nothing yet, it is imagined what the model would have them run. What failed is not chosen again
        either: it counts as under way.

        Args:
            number: of the trial.
            trials: all of the study.
            objectives: of the study, under the names that the catalogue has.
        """
        running = {t.number for t in trials if t.state is TrialState.RUNNING}
        self.plans = {n: plan for n, plan in self.plans.items() if n in running}
        self.plans[number] = self._chosen(number, [t for t in trials if t.number != number], objectives)

    def planned(self, number: int) -> Config:
        """Return the active hyperparameters that a trial is to have; none where nothing was planned."""
        return self.plans.get(number, {})

    def end(self, number: int) -> None:
        """Forget what was planned for a trial."""
        self.plans.pop(number, None)

    def finish(self) -> None:
        """Forget what was learned of the catalogue: the study tells enough from now on."""
        self.learned = None

    def _chosen(self, number: int, others: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> Config:
        model = self._model(tuple(objectives))
        if model is None:
            return {}
        busy, hidden = [], []
        for t in sorted(others, key=lambda t: t.number):
            if t.state not in (TrialState.RUNNING, TrialState.FAIL):
                continue
            shown = {p.name: t.params[p.name] for p in model.space.parameters if p.is_of_kind(t.params.get(p.name))}
            known = model.space.given({**self.planned(t.number), **shown})
            if model.space.accepts(known):
                busy.append(Candidate(known, None, model.length))
            elif t.state is TrialState.RUNNING and t.number < number:
                hidden.append((t.number, shown))
        for n, shown in hidden[-_MOST_IMAGINED:]:
            imagined = self._choice(model, busy, n)
            together = model.space.given({**imagined, **shown})
            described = model.space.accepts(together)
            busy.append(Candidate(together if described else imagined, None, model.length))
        return self._choice(model, busy, number)

    def _choice(self, model: CurveModel, busy: Sequence[Candidate], number: int) -> Config:
        rng = np.random.default_rng([self._seed, number])
        (choice,) = optimize_acquisition(model, busy, reference=self._reference, tried=self._tried, rng=rng)
        return dict(choice.candidate.config)

    def _model(self, objectives: tuple[Objective, ...]) -> CurveModel | None:
        """The model of the catalogue's runs; None, and a warning, where they are too few."""
        if self.learned is None or self.learned[0] != objectives:
            self.learned = objectives, self._fitted(objectives)
        return self.learned[1]

    def _fitted(self, objectives: tuple[Objective, ...]) -> CurveModel | None:
        checkpoints = self.catalogue.checkpoints()
        space = self._space
        if space is None:
            try:
                space = infer_space_of([c for c in checkpoints if not is_recombined(c)], objectives)
            except UsageError:  # nothing varies
                space = Space(())
        curves = list(past_curves(checkpoints, space, objectives).values()) if space.parameters else []
        measured = [sum(bool(np.isfinite(c.values[:, j]).any()) for c in curves) for j in range(len(objectives))]
        fewest = max(self._fewest, 2)
        if min(measured) < fewest:
            names = ", ".join(o.name for o in objectives)
            warnings.warn(
                f"the first trials are drawn at random: the catalogue has {min(measured)} runs that tell {names} and "
                f"their hyperparameters, and {fewest} are needed (metrics=[...], space=..., n_startup_trials=...)",
                stacklevel=2,
            )
            return None
        length = float(max(c.steps[-1] for c in curves))
        kept, others = thinned(space, objectives, curves)
        self._tried = [c.config for c in curves]
        return fit_curves(
            space, objectives, kept, length=length, bounds=self._bounds, others=others if len(others) else None,
            seed=self._seed,
        )  # fmt: skip


def as_asked(value: Any, distribution: BaseDistribution) -> Any:
    """Return the value of a distribution that a value of the catalogue stands for; ``None`` if it stands for none.

    A choice is found by its value; among choices that are all numbers, a number between the least and the largest
    stands for the nearest. A number up to a tenth of the range beyond an edge stands for that edge, on the range's
    own scale; farther out it says nothing of the range.
    """
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        numbers = [c for c in distribution.choices if _is_number(c)]
        if len(numbers) < len(distribution.choices) or not _is_number(value):
            return None
        low, high, log = min(numbers), max(numbers), min(numbers) > 0
        return min(numbers, key=lambda c: abs(_on(c, log) - _on(value, log))) if low <= value <= high else None
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, log = distribution.low, distribution.high, distribution.log
    if not _is_number(value) or (log and value <= 0):
        return None
    margin = _NEAR * (_on(high, log) - _on(low, log))
    near = _on(low, log) - margin <= _on(value, log) <= _on(high, log) + margin
    return snap(value, distribution) if near else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _on(value: float, log: bool) -> float:
    return math.log(value) if log else float(value)
