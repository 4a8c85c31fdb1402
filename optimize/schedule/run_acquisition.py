"""What to run next: the candidate whose whole run is expected to widen the front most, per epoch that it costs.

Expected hypervolume improvement of all checkpoints that a run will leave, jointly (a run counts for the front at every
one of them), over the front that is measured: qEHVI (Daulton et al. 2020) with a run's checkpoints in the place of a
batch. Candidates are whole configurations, always valid ones: random ones, and neighbours of what the
front was reached with, refined in rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.acquisition.ehvi import improvement_over_front
from epsopt.optimize.forecast.learning_curve_gp import CurveModel
from epsopt.optimize.objectives import Objectives
from epsopt.optimize.outliers import reference_point
from epsopt.optimize.pareto import hypervolume
from epsopt.optimize.schedule.unfreezing import Onsets
from epsopt.optimize.space import Config, Space
from epsopt.zoo.errors import UsageError

Floats = NDArray[np.float64]
RANDOM, NEIGHBOURS, REFINED = 384, 256, 96
"""Candidates: drawn anywhere, near the runs that went farthest, and near the best in each round after."""

_PARENTS = 6
_ROUNDS = (0.15, 0.08)
_UNLIKELY = 0.02
_PER_RUN = 3  # checkpoints of a run that are considered
_ON_WAY = (0.2, 0.5)  # shares of the way back to its start at which merges of both are considered, too
_JOINT = 3  # runs under way whose ends are weighed jointly with a candidate's checkpoints; one less with the way back


@dataclass(frozen=True, eq=False)
class Start:
    """A checkpoint that a run may start from.

    Attributes:
        key: what the caller knows it by; ``""`` is the base, where runs start, and a run from any other is a branch.
        values: ``(m,)`` its measured objectives; NaN where not measured.
        fixed: hyperparameters that every run from it must have, such as those of its architecture: its weights fit
            into no other.
        label: what a person knows it by.
    """

    key: str
    values: Floats
    fixed: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A run that may be launched.

    Attributes:
        config: active hyperparameters.
        start: the checkpoint to start from; ``None``: nothing is known of where runs start.
        epochs: how long it is.
        run: its place among the curves, if it has begun.
        done: epochs that it has behind it.
    """

    config: Mapping[str, Any]
    start: Start | None
    epochs: float
    run: int | None = None
    done: float = 0.0

    @property
    def cost(self) -> float:
        """Epochs that are still to be paid for."""
        return self.epochs - self.done


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, and what is expected of it.

    Attributes:
        candidate: the run.
        improvement: expected hypervolume improvement of its checkpoints, in the product of the objectives' units; where
            checkpoints can be merged, of the merges on the way to its end, too.
        alone: of its checkpoints alone.
    """

    candidate: Candidate
    improvement: float
    alone: float


def optimize_acquisition(
    model: CurveModel,
    running: Sequence[Candidate] = (),
    *,
    n: int = 1,
    starts: Sequence[Start] = (),
    base: Start | None = None,
    branch_epochs: float | None = None,
    reference: Floats | None = None,
    reliability: Callable[[Candidate], float] | None = None,
    can_merge: bool = False,
    onsets: Onsets | None = None,
    tried: Sequence[Mapping[str, Any]] = (),
    within: Space | None = None,
    pool: Sequence[Candidate] | None = None,
    rng: np.random.Generator,
) -> list[Choice]:
    """Choose the next runs, one after another; each knows what the ones before it are expected to reach.

    Args:
        model: of all runs so far; their measured feasible checkpoints are the front.
        running: launched and not finished.
        n: how many to choose.
        starts: checkpoints that a run may start from instead of where runs start.
        base: where runs start, if that was measured.
        branch_epochs: how long a run from one of them is; ``None``: as long as any. Runs from where runs start may be
            as short, too.
        reference: ``(m,)`` the objectives' values that are just not good enough, in their own units; by default a
            tenth of their range beyond the worst measured that is no outlier.
        reliability: factor of a candidate's predicted gain
            (:class:`epsopt.optimize.schedule.gain_calibration.Reliability`); by default 1 for all.
        can_merge: whether checkpoints can be merged with what a run started from: then merges on the way to its end
            count, too.
        onsets: what is known of when blocks begin to move: runs in which few will count less.
        tried: configurations that ran besides those of the model's curves: it is not built on all runs, or they failed.
        within: what may be launched, where that is less than the model's space; with the same parameters.
        pool: what to choose from, each at most once; by default candidates are drawn, and refined near the best.
        rng: draws candidates; seeds the Monte-Carlo samples.

    Raises:
        UsageError: a start fixes what the space does not have.
    """
    for start in starts:
        for name, value in start.fixed.items():
            if not any(p.name == name and p.is_of_kind(value) for p in model.space.parameters):
                raise UsageError(
                    f"the start {start.key!r} fixes {name} = {value!r}, expected a parameter of the search space and a "
                    "value of its kind"
                )
    busy = list(running)

    def weight(c: Candidate) -> float:
        lively = 1.0 if onsets is None else onsets.expected_trainable_share(c.config, c.epochs)
        return lively if reliability is None else lively * reliability(c)

    out: list[Choice] = []
    seed = int(rng.integers(2**31))
    space = model.space if within is None else within
    ran = [c for c in tried if model.space.accepts(c)]
    for _ in range(n):
        value = _improvement(model, reference, busy, seed, can_merge)
        known = _Known(model, busy, ran)
        if pool is None:
            drawn = _candidates(model, space, starts, base, branch_epochs, reference, rng)
            weighed = [c for c in drawn if c not in known] or drawn  # a small space may be known to its end
        else:
            weighed = [c for c in pool if c not in (o.candidate for o in out)]
        if not weighed:
            break
        scores, weights = value(weighed), np.array([weight(c) for c in weighed])
        for scale in _ROUNDS if pool is None else ():
            best = [weighed[i] for i in np.argsort(-scores * weights, kind="stable")[:8]]
            more = [
                Candidate(_keep(space, space.perturb(c.config, rng, scale), c.start, rng), c.start, c.epochs)
                for c in best
                for _ in range(REFINED // 8)
            ]
            more = [c for c in more if c not in known]
            if more:
                weighed, scores = [*weighed, *more], np.concatenate([scores, value(more)])
                weights = np.concatenate([weights, [weight(c) for c in more]])
        best_place = int(np.argmax(scores * weights))
        chosen = weighed[best_place]
        alone = _improvement(model, reference, busy, seed) if can_merge else value
        out.append(Choice(chosen, float(scores[best_place]) * chosen.cost, float(alone([chosen])[0]) * chosen.cost))
        busy.append(chosen)
    return out


def _improvement(
    model: CurveModel, reference: Floats | None, busy: Sequence[Candidate], seed: int, can_merge: bool = False
) -> Callable[[Sequence[Candidate]], Floats]:
    """Expected improvement per epoch, beside what is under way.

    The ends of the newest few are foretold together with the candidate's checkpoints, which takes twice as long for
    each of them; the others are taken to end at their mean.
    """
    first_run = len(model.curves)
    joint = [_trajectory(model, [c], first_run + i)[0, -1:] for i, c in enumerate(busy)]
    most = _JOINT - int(can_merge)
    if len(joint) > most:
        with torch.no_grad():
            means = model.model.posterior(torch.stack(joint[:-most])).mean
        expected_ends = (model.untransform(means).squeeze(1) * model.signs).numpy()
        model = replace(
            model, others=expected_ends if model.others is None else np.vstack([model.others, expected_ends])
        )
    pending = torch.cat(joint[-most:]) if joint else None
    acquisition = improvement_over_front(model, reference, pending, seed)
    theirs = 0.0  # what is under way brings anyway, and is no merit of a candidate: least of all of a short one
    if pending is not None:
        with torch.no_grad():
            theirs = float(improvement_over_front(model, reference, None, seed)(pending[None]))

    end = -1 - (len(_ON_WAY) if can_merge else 0)

    def value(candidates: Sequence[Candidate]) -> Floats:
        x = _trajectory(model, candidates, first_run + len(busy), can_merge=can_merge)
        with torch.no_grad():
            parts = [acquisition(part) * _likely_allowed(model, part[:, [end]]) for part in torch.split(x, 128)]
        gains = (torch.cat(parts) - theirs).clamp(min=0.0).numpy()
        return np.asarray(gains / np.array([c.cost for c in candidates]))

    return value


def _likely_allowed(model: CurveModel, ends: Tensor) -> Tensor:
    """``(n,)`` weight of runs by their ends: 1, or hardly anything where one more likely breaks a constraint than not.

    What is best often lies just beyond a limit, or where trials fail. There a small chance of a large improvement would
    be taken again and again, and each time nothing comes of it.
    """
    weight = torch.ones(len(ends), dtype=ends.dtype)
    if model.constraints:
        mean = model.model.posterior(ends).mean.squeeze(1)
        for limit in model.constraints:
            weight = torch.where(limit(mean) > 0.0, _UNLIKELY * weight, weight)
    return weight


class _Known:
    """What ran, runs, or was just chosen: numbers within a hundredth of their range are the same."""

    def __init__(self, model: CurveModel, busy: Sequence[Candidate], tried: Sequence[Mapping[str, Any]]) -> None:
        self._space = model.space
        self._keys = {self._key(c.config, c.start) for c in model.curves}
        self._keys |= {self._key(c.config, None if c.start is None else c.start.values) for c in busy}
        self._keys |= {self._key(config, None) for config in tried}

    def __contains__(self, candidate: Candidate) -> bool:
        return self._key(candidate.config, None if candidate.start is None else candidate.start.values) in self._keys

    def _key(self, config: Mapping[str, Any], start: Floats | None) -> tuple[bytes, bytes]:
        rounded = np.round(100 * self._space.encode([config])).astype(np.int16)
        return rounded.tobytes(), b"" if start is None else start.tobytes()


def _trajectory(
    model: CurveModel, candidates: Sequence[Candidate], first_run: int, *, can_merge: bool = False
) -> Tensor:
    """``(n, per_run, width)``: checkpoints along each candidate's run. All candidates may count as the same new run."""
    # Where only the ends of runs were ever measured, nothing is known of the way there.
    per_run = min(_PER_RUN - int(can_merge), int(np.median([len(c.steps) for c in model.curves])))
    back = _ON_WAY if can_merge else ()
    return model.inputs(
        [c.config for c in candidates],
        np.stack(
            [
                c.done + np.append(np.linspace(c.cost / per_run, c.cost, per_run), np.full(len(back), c.cost))
                for c in candidates
            ]
        ),
        [None if c.start is None else c.start.values for c in candidates],
        [first_run if c.run is None else c.run for c in candidates],
        np.append(np.ones(per_run), back),
    )


def _candidates(
    model: CurveModel,
    space: Space,
    starts: Sequence[Start],
    base: Start | None,
    branch_epochs: float | None,
    reference: Floats | None,
    rng: np.random.Generator,
) -> list[Candidate]:
    """Random runs and neighbours of those that went farthest; with `starts`, half of them from a checkpoint.

    Of the others every second one is as short as those: where few epochs say what many would, or reach the front.
    """
    curves = model.curves
    good = _best(model, reference)
    configs = space.sample(RANDOM, rng)
    configs += [space.perturb(curves[good[int(rng.integers(len(good)))]].config, rng) for _ in range(NEIGHBOURS)]
    out = []
    for i, config in enumerate(configs):
        if starts and i % 2:
            start = starts[int(rng.integers(len(starts)))]
            out.append(Candidate(_keep(space, config, start, rng), start, branch_epochs or model.length))
        else:
            brief = (i // 2) % 2 == 1
            out.append(Candidate(config, base, branch_epochs if brief and branch_epochs else model.length))
    return out


def _best(model: CurveModel, reference: Floats | None) -> list[int]:
    """Places of the runs that widened most what they started from.

    What a run from the front has on the front may be its start's merit.
    """
    n = len(model.objectives)
    maximize = Objectives(model.objectives).maximize
    seen = [c.values if c.on_way is None else np.concatenate([c.values, c.on_way.values]) for c in model.curves]
    tables = [v[np.isfinite(v[:, :n]).all(axis=1), :n] for v in seen]
    known = np.concatenate(tables)
    if not len(known):
        return [0]
    if reference is None:
        signs = model.signs.numpy()
        reference = reference_point(known * signs) * signs
    gains = []
    for curve, table in zip(model.curves, tables, strict=True):
        start = np.empty((0, n)) if curve.start is None else curve.start[None, :n]
        before = hypervolume(start, reference, maximize) if len(start) else 0.0
        gains.append(hypervolume(np.concatenate([start, table]), reference, maximize) - before if len(table) else 0.0)
    best: list[int] = np.argsort(-np.array(gains), kind="stable")[:_PARENTS].tolist()
    return best


def _keep(space: Space, config: Config, start: Start | None, rng: np.random.Generator) -> Config:
    """The configuration with what its start has fixed; parameters are drawn that this switches on."""
    if start is None or not start.fixed:
        return config
    kept = {**space.perturb({**config, **start.fixed}, rng, 0.0), **start.fixed}
    return space.given(kept)
