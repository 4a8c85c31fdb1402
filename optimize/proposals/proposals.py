"""Proposals: the next training runs, as hyperparameters and, where asked for, the checkpoints that they start from.

They are chosen by what chooses the steps of ``epsopt work --budget``: the model of all runs' curves
(:mod:`~epsopt.optimize.schedule.run_model`), and how much a run's checkpoints are expected to widen the front of all
that was measured (:mod:`~epsopt.optimize.schedule.run_acquisition`). The batch is chosen one by one, each run beside
the ones before it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.forecast.subsample import thinned
from epsopt.optimize.objectives import Objective, Objectives, Target
from epsopt.optimize.outliers import front_reference
from epsopt.optimize.schedule.run_acquisition import Candidate, Start, optimize_acquisition
from epsopt.optimize.schedule.run_model import RunModel, fit_run_model
from epsopt.optimize.schedule.run_prediction import expect
from epsopt.optimize.space import Config, Key, Space
from epsopt.zoo.errors import EmptyCatalogue, UsageError

RANDOM, LOCAL = 384, 256
"""Configurations that are weighed: drawn anywhere, and near those with a checkpoint on the front."""
FEWEST_RUNS = 8
"""With fewer, a Gaussian process over a dozen hyperparameters says nothing."""
_MOST_PENDING = 32
_ROUNDS = 32
"""Of random configurations, where the first ones hold too few that are new."""
CONFIGS = 48
"""Configurations weighed with every start."""
_SHARE = 3
"""At most one proposal in so many, rounded up, is a variation of the same past run."""
_TYPICAL = 0.35
"""Distance for each parameter, below which a configuration is a variation of another."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Proposal:
    """A run to launch next.

    Attributes:
        params: the searched hyperparameters, active ones only.
        fixed: constants of the past runs that it should get besides.
        point: predicted final metrics by name.
        low: lower ends of their intervals.
        high: upper ends.
        probability: that all targets are met at its end, the product over single targets; ``None`` without targets.
        joins_front: probability that one of its checkpoints joins the front of all that was measured.
        nearest_runs: past runs with the most similar hyperparameters, ``(name, distance)``, nearest first.
        reason: why it was chosen, in one line.
        init_from: path of the checkpoint that it starts from; ``None`` starts from scratch.
        gain: hypervolume that it is expected to add to the measured front, in the product of the objectives' units.
    """

    params: Config
    fixed: Mapping[str, Any]
    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    probability: float | None
    joins_front: float
    nearest_runs: tuple[tuple[str, float], ...]
    reason: str
    init_from: str | None = None
    gain: float = 0.0


@dataclass(frozen=True, eq=False)
class History:
    """Everything that was measured, as proposals learn from it.

    Attributes:
        space: what may be launched.
        objectives: what to push.
        metrics: names of further metrics that are predicted.
        curves: of every run by its name, in the order in which they were launched; columns of values are the
            objectives, then the metrics; NaN where not measured.
        cut_off: names of runs that did not end by themselves (stopped early, failed, still training).
        measured: ``(k, objectives)`` of every checkpoint, merged ones included; NaN where not measured.
        bounds: declared bounds of metrics.
        shorter: names of runs that ended by themselves after fewer epochs than a whole run has, as it was planned.
    """

    space: Space
    objectives: tuple[Objective, ...]
    metrics: tuple[str, ...]
    curves: Mapping[str, Curve]
    cut_off: Collection[str]
    measured: Floats
    bounds: Mapping[str, tuple[float, float]]
    shorter: Collection[str] = ()

    @property
    def usable(self) -> dict[str, Curve]:
        """Runs whose configuration lies in the space."""
        return {name: c for name, c in self.curves.items() if self.space.accepts(c.config)}

    @property
    def whole(self) -> int:
        """How many of them ended by themselves."""
        return sum(name not in self.cut_off for name in self.usable)

    @property
    def length(self) -> float:
        """Epochs of a whole run: the median of those that ended by themselves."""
        ended = {name: c for name, c in self.usable.items() if name not in self.cut_off}
        whole = {name: c for name, c in ended.items() if name not in self.shorter} or ended
        ends = [float(c.steps[-1]) for c in whole.values()]
        return float(np.median(ends)) if ends else max((float(c.steps[-1]) for c in self.curves.values()), default=1.0)

    @property
    def base(self) -> Start | None:
        """Where most runs start, if that was measured; its values are those of all columns."""
        starts = Counter(b"" if c.start is None else c.start.tobytes() for c in self.curves.values())
        if not starts or not (usual := starts.most_common(1)[0][0]):
            return None
        values = next(c.start for c in self.curves.values() if c.start is not None and c.start.tobytes() == usual)
        return Start("", values)

    def pushed(self, candidate: Candidate) -> Candidate:
        """Return a candidate whose start says the objectives alone, as the model of runs has it.

        Args:
            candidate: whose start has the values of all columns.
        """
        return self._with(candidate, slice(0, len(self.objectives)))

    def rest(self, candidate: Candidate) -> Candidate:
        """Return a candidate whose start says the further metrics alone.

        Args:
            candidate: whose start has the values of all columns.
        """
        return self._with(candidate, slice(len(self.objectives), None))

    @staticmethod
    def _with(candidate: Candidate, columns: slice) -> Candidate:
        start = candidate.start
        return candidate if start is None else replace(candidate, start=replace(start, values=start.values[columns]))

    def of(self, columns: slice) -> dict[str, Curve]:
        """Return usable runs with some of their columns.

        Args:
            columns: of the curves' values.
        """
        return {
            name: replace(
                c, values=c.values[:, columns], start=None if c.start is None else c.start[columns], on_way=None
            )
            for name, c in self.usable.items()
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class LearnedHistory:
    """What past runs say of those to come.

    Attributes:
        history: what was learned from.
        model: of the objectives.
        rest: of the further metrics, if there are any.
        reference: ``(m,)`` the reference point; what misses a target improves nothing.
        targets: what the outcome is to meet.
        level: coverage of the intervals.
    """

    history: History
    model: RunModel
    rest: CurveModel | None
    reference: Floats
    targets: tuple[Target, ...]
    level: float

    @cached_property
    def _past_configs(self) -> list[tuple[str, Config]]:
        return [(name, dict(c.config)) for name, c in self.history.usable.items()]

    def meets(self, candidate: Candidate) -> float:
        """Return the probability that a run's end meets all targets, the product over single ones; 1 without any.

        Args:
            candidate: the run; its start has the values of all columns.
        """
        return _met(self.model, self.history.pushed(candidate), self.targets)

    def explain(self, candidate: Candidate, gain: float) -> Proposal:
        """Say of a run what is predicted of it, and why it was chosen.

        Args:
            candidate: the run; its start has the values of all columns.
            gain: hypervolume that it is expected to add.
        """
        space = self.history.space
        pushed = self.history.pushed(candidate)
        expected = [self.model.expect(pushed, self.level)]
        if self.rest is not None:
            expected.append(expect(self.rest, self.history.rest(candidate), self.level))
        point, low, high = (
            {k: v for e in expected for k, v in getattr(e, n).items()} for n in ("point", "low", "high")
        )
        joins = expected[0].joins_front
        near = nearest_runs(space, candidate.config, self._past_configs)
        start = candidate.start if _is_branch(candidate) else None
        return Proposal(
            params=dict(candidate.config),
            fixed=dict(space.fixed),
            point=point,
            low=low,
            high=high,
            probability=self.meets(candidate) if self.targets else None,
            joins_front=joins,
            nearest_runs=near,
            reason=_reason(joins, *near[0], space) if start is None else _branch_reason(joins, start),
            init_from=None if start is None else start.key,
            gain=gain,
        )


def propose(
    history: History,
    targets: Sequence[Target] = (),
    *,
    n: int = 8,
    level: float = 0.9,
    seed: int = 0,
    avoid: Sequence[Mapping[str, Any]] = (),
    pending: Sequence[Candidate] = (),
    starts: Sequence[Start] = (),
    tried: Sequence[tuple[str, Mapping[str, Any]]] = (),
    fewer: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> list[Proposal]:
    """Propose the next training runs.

    Args:
        history: past runs; at least eight that ended by themselves and whose configuration lies in the space.
        targets: what the outcome is to meet; each names one of the objectives.
        n: how many proposals.
        level: coverage of the intervals.
        seed: the same seed proposes the same.
        avoid: configurations besides those of past runs that shall not be proposed again from scratch.
        pending: runs that wait or train: what they are expected to reach is not proposed again.
        starts: measured checkpoints that half of the runs may start from, more where the space holds too few new
            configurations; their keys are what proposals name.
        tried: runs from checkpoints that shall not be proposed again: the start's key, hyperparameters.
        fewer: whether to return what there is where that is less than ``n``.
        progress: called as ``progress(what, share done)``.

    Returns:
        ``n`` different runs that were not tried, the most valuable first, those that start from checkpoints last.

    Raises:
        EmptyCatalogue: too few usable past runs.
        UsageError: ``n`` below one, a level outside (0, 1), a target that is no objective, or fewer than ``n`` new runs
            are found; with ``fewer``, none is.
    """
    say = progress or (lambda _what, _share: None)
    if n < 1:
        raise UsageError(f"the number of proposals is {n}, expected at least 1")
    say("learning from past runs", 0.1)
    learned = learn_history(history, targets, level=level, seed=seed)
    space = history.space
    say("weighing candidates", 0.6)
    rng = np.random.default_rng(seed)
    new, ran = draw_configs(history, n, rng, avoid)
    base, length = history.base, history.length
    scratch = [Candidate(c, base, length) for c in new]
    left = {space.key(c) for c in new}
    branches = _branches(space, starts, [*new, *ran], tried, length, rng)
    wanted = min(max((n + 1) // 2, n - len(left)), len(branches)) if starts else 0
    found = min(n - wanted, len(left)) + wanted
    if not found or (found < n and not fewer):
        kinds = "configurations of the search space" + (" and branches of checkpoints" if starts else "")
        raise UsageError(
            f"found only {found} {kinds} that were not run yet, {n} were asked for: widen the search space"
        )
    busy = [history.pushed(c) for c in pending[-_MOST_PENDING:]]
    chooser = _Chooser(learned, busy, rng)
    picked = chooser.pick(scratch, min(n - wanted, len(left)))
    picked += chooser.pick(branches, wanted)
    say("weighing candidates", 1.0)
    return [learned.explain(candidate, gain) for candidate, gain in picked]


def learn_history(
    history: History, targets: Sequence[Target] = (), *, level: float = 0.9, seed: int = 0
) -> LearnedHistory:
    """Learn from past runs what every choice of a run rests on.

    Args:
        history: past runs; at least eight that ended by themselves and whose configuration lies in the space.
        targets: what the outcome is to meet; each names one of the objectives.
        level: coverage of the intervals.
        seed: the same seed learns the same.

    Raises:
        EmptyCatalogue: too few usable past runs.
        UsageError: a level outside (0, 1), or a target that is no objective.
    """
    _check(history, targets, level)
    space, objectives = history.space, history.objectives
    runs = list(history.of(slice(0, len(objectives))).values())
    reference = _reference(history, targets, Objectives(objectives).signs)
    kept, others = thinned(space, objectives, runs)
    model = fit_run_model(
        space, objectives, kept, length=history.length, reference=reference, bounds=history.bounds, seed=seed
    )
    known = np.vstack([history.measured, others])
    model = replace(model, curves=replace(model.curves, others=known[np.isfinite(known).all(axis=1)]))
    return LearnedHistory(history, model, _rest(history, seed), reference, tuple(targets), level)


def _check(history: History, targets: Sequence[Target], level: float) -> None:
    if not 0.0 < level < 1.0:
        raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
    names = [o.name for o in history.objectives]
    for target in targets:
        if target.name not in names:
            raise UsageError(f"target {target.name!r} is none of the objectives {', '.join(names)}")
    if history.whole < FEWEST_RUNS:
        raise EmptyCatalogue(
            f"proposals learn from past runs: {history.whole} of the catalogue's runs have every hyperparameter of the "
            f"search space and were not cut off, at least {FEWEST_RUNS} are needed; ingest more runs, or start with a "
            "random sweep"
        )
    values = np.concatenate([c.values for c in history.usable.values()])
    for j, name in enumerate(names):
        if not np.isfinite(values[:, j]).any():
            raise EmptyCatalogue(
                f"no run's checkpoints have a measured {name}, so nothing is known of where runs lead: measure it "
                "there, or leave it out of the objectives in epsopt.toml"
            )


def _reference(history: History, targets: Sequence[Target], signs: Floats) -> Floats:
    """The reference point: what misses a target improves nothing."""
    corner = front_reference(history.measured * signs) * signs
    bounds = np.array([history.bounds.get(o.name, (-np.inf, np.inf)) for o in history.objectives])
    corner = corner.clip(bounds[:, 0], bounds[:, 1])
    wanted = {t.name: t.value for t in targets}
    for j, objective in enumerate(history.objectives):
        if objective.name in wanted:
            corner[j] = max(corner[j] * signs[j], wanted[objective.name] * signs[j]) * signs[j]
    return np.asarray(corner)


def _rest(history: History, seed: int) -> CurveModel | None:
    """A model of the metrics that are predicted and pushed nowhere."""
    if not history.metrics:
        return None
    curves = [c for c in history.of(slice(len(history.objectives), None)).values() if np.isfinite(c.values).any()]
    if len(curves) < 2:
        return None
    names = [Objective(name, maximize=True) for name in history.metrics]
    return fit_curves(history.space, names, curves, length=history.length, bounds=history.bounds, seed=seed)


def draw_configs(
    history: History, n: int, rng: np.random.Generator, avoid: Sequence[Mapping[str, Any]]
) -> tuple[list[Config], list[Config]]:
    """Random configurations and neighbours of those with a checkpoint on the front, in turn, all valid and each once.

    Returns:
        Those that were not run or queued before from scratch, and those that were; fewer than ``n`` new ones only where
        many rounds of random ones hold no more.
    """
    space, curves = history.space, list(history.usable.values())
    m = len(history.objectives)
    values = np.concatenate([c.values[:, :m] for c in curves])
    owner = np.repeat(np.arange(len(curves)), [len(c.steps) for c in curves])
    front = Objectives(history.objectives).front(values)
    parents = [curves[i].config for i in dict.fromkeys(owner[front].tolist())] or [c.config for c in curves]
    drawn = space.sample(max(RANDOM, 8 * n), rng)
    near = [space.perturb(parents[int(rng.integers(len(parents)))], rng) for _ in range(LOCAL)]
    pool = [c for pair in zip_longest(near, drawn) for c in pair if c is not None]
    ran = {space.key(config) for config in (*(c.config for c in curves), *avoid) if space.accepts(config)}
    new: dict[Key, Config] = {}
    others: dict[Key, Config] = {}
    for _ in range(_ROUNDS):
        for config in pool:
            key = space.key(config)
            (others if key in ran else new).setdefault(key, config)
        if len(new) >= n:
            break
        pool = space.sample(max(RANDOM, 8 * n), rng)
    return list(new.values()), list(others.values())


def _branches(
    space: Space,
    starts: Sequence[Start],
    configs: Sequence[Config],
    tried: Sequence[tuple[str, Mapping[str, Any]]],
    length: float,
    rng: np.random.Generator,
) -> list[Candidate]:
    """Runs from every start: what ran from scratch is something else from a checkpoint."""
    seen = {(start, space.key(config)) for start, config in tried if space.accepts(config)}
    out = []
    for start in starts:
        fits = [c for c in configs if all(c.get(name) == value for name, value in start.fixed.items())]
        if start.fixed and len(fits) < CONFIGS:
            kept = ({**space.perturb({**c, **start.fixed}, rng, 0.0), **start.fixed} for c in configs)
            fits += [space.given(c) for c in kept]
        new = {space.key(c): c for c in fits if (start.key, space.key(c)) not in seen}
        out += [Candidate(c, start, length) for c in list(new.values())[:CONFIGS]]
    return out


class _Chooser:
    """Chooses one run after another, each beside those before it."""

    def __init__(self, learned: LearnedHistory, pending: list[Candidate], rng: np.random.Generator) -> None:
        self._learned, self._history, self._model = learned, learned.history, learned.model
        self._targets, self._rng, self._busy = learned.targets, rng, pending
        self._variations: Counter[int] = Counter()
        space, curves = self._model.curves.space, self._model.curves.curves
        self._past = space.encode([c.config for c in curves])
        self._typical = _TYPICAL * math.sqrt(len(space.parameters))

    def pick(self, pool: Sequence[Candidate], n: int) -> list[tuple[Candidate, float]]:
        """Choose at most ``n``, with the hypervolume that each is expected to add alone."""
        space = self._model.curves.space
        out: list[tuple[Candidate, float]] = []
        left, most = list(pool), max(math.ceil(n / _SHARE), 1)
        while left and len(out) < n:
            some = [c for c in left if (run := self._varied(c)) is None or self._variations[run] < most] or left
            pushed = [self._history.pushed(c) for c in some]
            (choice,) = optimize_acquisition(
                self._model.curves, self._busy, pool=pushed, reference=self._learned.reference,
                reliability=self._reliability, rng=self._rng,
            )  # fmt: skip
            place = next(i for i, c in enumerate(pushed) if c is choice.candidate)
            if choice.improvement <= 0.0 and self._targets:
                place = max(range(len(some)), key=lambda i: self._learned.meets(some[i]))
            chosen = some[place]
            kind = "branch" if _is_branch(chosen) else "run"
            gain = self._model.calibration.gain(kind) * self._reliability(chosen)
            out.append((chosen, choice.alone * gain))
            self._busy.append(pushed[place])
            if (run := self._varied(chosen)) is not None:
                self._variations[run] += 1
            if _is_branch(chosen):  # each from another checkpoint, as long as there are any
                left = [c for c in left if c.start is not chosen.start] or [c for c in left if c is not chosen]
            else:
                key = space.key(chosen.config)
                left = [c for c in left if space.key(c.config) != key]
        return out

    def _reliability(self, candidate: Candidate) -> float:
        return self._model.support.weight(candidate.config)

    def _varied(self, candidate: Candidate) -> int | None:
        """Place of the past run that a configuration is a variation of, if it is one."""
        away = np.linalg.norm(self._past - self._model.curves.space.encode([candidate.config]), axis=1)
        nearest = int(away.argmin())
        return nearest if away[nearest] < self._typical else None


def _met(model: RunModel, candidate: Candidate, targets: Sequence[Target]) -> float:
    """Probability that all targets are met at a run's end; errors of different metrics are taken as independent."""
    curves = model.curves
    start = None if candidate.start is None else candidate.start.values
    beyond = 1.0 / max(model.support.weight(candidate.config), 1e-12)
    x = curves.inputs([candidate.config], np.array([candidate.epochs]), [start], len(curves.curves))
    with torch.no_grad():
        posterior = curves.model.posterior(x)
        mean, variance = posterior.mean[0, 0], posterior.variance[0, 0]
    out = 1.0
    for target in targets:
        j = [o.name for o in curves.objectives].index(target.name)
        stretch = curves.stretch[j] if curves.stretch else 1.0
        spread = math.sqrt(float(variance[j]) + stretch**2 * float(curves.processes[j].noise))
        spread *= 1.0 + math.log(beyond)
        wanted = float(curves.transforms[j].forward(np.array([target.value]))[0])
        side = float(curves.signs[j]) * (float(mean[j]) - wanted) / spread
        out *= 0.5 * math.erfc(-side / math.sqrt(2.0))
    return out


def nearest_runs(
    space: Space, config: Mapping[str, Any], runs: Sequence[tuple[str, Mapping[str, Any]]], n: int = 3
) -> tuple[tuple[str, float], ...]:
    """Return the runs with the most similar hyperparameters.

    Args:
        space: that describes all of them.
        config: active hyperparameters.
        runs: names and hyperparameters.
        n: how many at most.

    Returns:
        ``(name, distance)``, nearest first; distances are between configurations as the space encodes them.
    """
    if not runs:
        return ()
    distance = np.linalg.norm(space.encode([config]) - space.encode([c for _, c in runs]), axis=1)
    return tuple((runs[i][0], float(distance[i])) for i in np.argsort(distance, kind="stable")[:n])


def _is_branch(candidate: Candidate) -> bool:
    return candidate.start is not None and bool(candidate.start.key)


def _branch_reason(joins: float, start: Start) -> str:
    return f"starts from {start.label or start.key} of the front ({joins:.0%} to join the front)"


def _reason(joins: float, run: str, distance: float, space: Space) -> str:
    typical = _TYPICAL * np.sqrt(len(space.parameters))
    where = f"a variation of {run}" if distance < typical else f"far from every past run (nearest: {run})"
    if joins >= 0.5:
        return f"likely to join the front ({joins:.0%}), {where}"
    return f"may widen the front ({joins:.0%}) where little is known, {where}"
