"""Merging toward the front: few real evaluations in the space of merge coefficients of a few parents.

Metrics as functions of the coefficients are smooth, and nearly quadratic near one basin (MAP, Li et al. 2025, fits
exactly that; rewarded soups, Rame et al. 2023, walk its first order). Here a Gaussian process with a quadratic kernel
and a Matern kernel for the rest is fitted to what was measured so far, and the next merge maximises the expected
improvement of the hypervolume (qLogEHVI, Ament et al. 2023) over what is already there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.merge.patience import Patience
from epsopt.optimize.merge.simplex_gp import next_merge
from epsopt.optimize.objectives import Objective, Objectives, worst_where_missing
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.zoo.errors import EpsoptError, UsageError

Floats = NDArray[np.float64]
Metrics = Mapping[str, float | None]
_Measured = TypeVar("_Measured", bound=Mapping[str, float | None])
Evaluate = Callable[[Floats], Metrics]
EvaluateAll = Callable[[Sequence[Floats]], Sequence[Metrics | EpsoptError]]
MOST_PARENTS = 5


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One merge that was measured.

    Attributes:
        coefficients: ``(groups, parents)``, rows summing to one.
        predicted: ``{"value", "low", "high"}`` of each objective before it was measured; None in the initial design.
        measured: metrics by name, all that were measured.
        reason: what it was chosen for.
    """

    coefficients: Floats
    predicted: Mapping[str, Mapping[str, float]] | None
    measured: Mapping[str, float | None]
    reason: str


@dataclass(frozen=True, eq=False)
class MergeResult:
    """What a merge came to.

    Attributes:
        evaluations: every merge that was measured, in order; the parents themselves come first.
        joined: places of the merges that nothing measured dominates, the parents left out.
        reference: reference point of the hypervolumes, one value per objective.
        before: hypervolume of the front without merges.
        after: hypervolume with them.
        stopped: why fewer were measured than the budget has; None: all were, or there was nothing left to try.
        failures: how each evaluation failed that did; it counts as measured, with no value.
    """

    evaluations: tuple[Evaluation, ...]
    joined: tuple[int, ...]
    reference: tuple[float, ...]
    before: float
    after: float
    stopped: str | None = None
    failures: tuple[str, ...] = ()


def merge(
    evaluate: Evaluate | None,
    parents: int,
    objectives: Sequence[Objective],
    *,
    known: Floats | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    budget: int = 30,
    groups: int = 1,
    reach: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    evaluate_all: EvaluateAll | None = None,
    at_a_time: int = 1,
) -> MergeResult:
    """Look for merges of a few checkpoints that widen the measured front.

    Args:
        evaluate: measures a merge, given as ``(groups, parents)`` coefficients; None where `evaluate_all` does.
        parents: how many there are, 2 to 5.
        objectives: what counts.
        known: ``(n, objectives)`` what was measured on other checkpoints, which a merge should not merely repeat;
            NaN rows count for nothing.
        bounds: lowest and highest possible values of metrics, by name.
        budget: evaluations, the parents' own among them.
        groups: how many groups of tensors have coefficients of their own.
        reach: how far coefficients may leave the simplex: 0.1 stretches it by a tenth about its centre.
        seed: the same seed and the same measurements give the same merges.
        progress: called as ``progress(evaluations done, budget)``.
        evaluate_all: measures several merges; gives metrics of each, or how its evaluation failed. `evaluate` measures
            one after the other when None.
        at_a_time: how many merges are chosen before these are measured. Of those that are not measured yet the model
            takes what it predicts for what they measure.

    Returns:
        Everything that was measured, and which merges are on the joint front. A merge whose evaluation fails has no
        values; after three failures in a row no more is measured, and what was measured is returned.

    Raises:
        UsageError: too few or too many parents, a budget that does not even measure these, no objective, a negative
            reach, or an objective that `evaluate` does not measure on the first parent, or not on any.
        EpsoptError: the evaluation of a parent failed.
    """
    _check(parents, objectives, budget, groups, reach)
    rng = np.random.default_rng(seed)
    others = np.zeros((0, len(objectives))) if known is None else known[np.isfinite(known).all(axis=1)]
    done: list[Evaluation] = []
    patience = Patience()
    several = evaluate_all
    if several is None:
        assert evaluate is not None, "one of both measures"
        several = _one_by_one(evaluate)

    def measure(chosen: Sequence[_Chosen]) -> None:
        found = several([c.coefficients for c in chosen])
        for c, metrics in zip(chosen, found, strict=True):
            if isinstance(metrics, EpsoptError) and len(done) < parents:
                raise metrics
            outcome = lacking_is_failure(metrics, objectives) if len(done) >= parents else metrics
            if not isinstance(outcome, EpsoptError):
                require_objectives(outcome, objectives)
            done.append(Evaluation(c.coefficients, c.predicted, patience.take(outcome), c.reason))
            _report_progress(progress, done, budget)

    design = [_Chosen(coefficients, None, why) for coefficients, why in _design(parents, groups, budget, rng)]
    while len(done) < len(design) and patience.stopped is None:
        # Parents by themselves: a hook that finds nothing on them is named before anything else is measured.
        rest = design[len(done) :] if len(done) >= parents else design[len(done) : parents]
        measure(rest[:at_a_time])
        if len(done) == parents:
            _require_values(done, objectives)
    reference = _reference(done[:parents], others, objectives)
    while len(done) < budget and patience.stopped is None:
        tried = np.stack([e.coefficients for e in done])
        table = worst_where_missing(_table(done, objectives), objectives)
        chosen: list[_Chosen] = []
        while len(chosen) < min(at_a_time, budget - len(done)):
            found = next_merge(tried, table, others, objectives, bounds or {}, reference, reach, seed, rng)
            if found is None:
                break
            coefficients, predicted = found
            chosen.append(_Chosen(coefficients, predicted, "expected to widen the front"))
            imagined = [predicted[o.name]["value"] if predicted else np.nan for o in objectives]
            tried, table = np.concatenate([tried, coefficients[None]]), np.vstack([table, imagined])
        if not chosen:
            break
        measure(chosen)
    maximize = Objectives(objectives).maximize
    table = np.vstack([others, _table(done, objectives)])
    front = set(non_dominated(table, maximize).indices.tolist())
    joined = tuple(i for i in range(parents, len(done)) if len(others) + i in front)
    return MergeResult(
        evaluations=tuple(done),
        joined=joined,
        reference=tuple(reference.tolist()),
        before=hypervolume(table[: len(others) + parents], reference, maximize),
        after=hypervolume(table, reference, maximize),
        stopped=patience.stopped,
        failures=tuple(patience.failures),
    )


def choose_parents(
    table: Floats, objectives: Sequence[Objective], count: int, reference: Floats | None = None
) -> list[int]:
    """Choose rows of the front that together dominate the most: greedy in the hypervolume.

    Args:
        table: ``(n, objectives)`` measured values of checkpoints of one lineage.
        objectives: the columns.
        count: at most so many.
        reference: the point that is just not good enough; the worst of the front when None.

    Returns:
        Rows of the table, at most ``count``, the most valuable first.
    """
    maximize = Objectives(objectives).maximize
    front = non_dominated(table, maximize).indices
    if len(front) <= count:
        return [int(i) for i in front]
    worst = table[front].min(axis=0), table[front].max(axis=0)
    corner = np.where(maximize, *worst) - 0.05 * Objectives(objectives).signs * (worst[1] - worst[0])
    corner = corner if reference is None else reference
    chosen: list[int] = []
    for _ in range(count):
        left = [i for i in front.tolist() if i not in chosen]
        chosen.append(max(left, key=lambda i: hypervolume(table[[*chosen, i]], corner, maximize)))
    return chosen


def simplex_grid(parents: int, least: int) -> Floats:
    """Return the coarsest uniform grid over the simplex with at least so many points: ``(n, parents)``."""
    steps = next(s for s in range(1, 10_000) if comb(s + parents - 1, parents - 1) >= least)
    bars = np.array(list(combinations(range(steps + parents - 1), parents - 1)))
    edges = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), steps + parents - 1)])
    return np.asarray((np.diff(edges, axis=1) - 1) / steps)


def _design(parents: int, groups: int, budget: int, rng: np.random.Generator) -> list[tuple[Floats, str]]:
    """Parents, their soup, the middles of pairs, then random merges until a third of the budget is spent."""
    rows = [(np.eye(parents)[i], f"parent {i + 1}") for i in range(parents)]
    rows.append((np.full(parents, 1.0 / parents), "uniform soup"))
    if parents > 2:
        pairs = [(i, j) for i in range(parents) for j in range(i)]
        rows += [((np.eye(parents)[i] + np.eye(parents)[j]) / 2, f"parents {j + 1} and {i + 1}") for i, j in pairs[:6]]
    out = [(np.tile(row, (groups, 1)), why) for row, why in rows][: max(parents + 1, budget // 3)]
    while groups > 1 and len(out) < budget // 3:
        out.append((rng.dirichlet(np.ones(parents), size=groups), "random merge"))
    return out


@dataclass(frozen=True, eq=False)
class _Chosen:
    """A merge that is to be measured; as in :class:`Evaluation`."""

    coefficients: Floats
    predicted: Mapping[str, Mapping[str, float]] | None
    reason: str


def _one_by_one(evaluate: Evaluate) -> EvaluateAll:
    """Measure one merge after the other."""

    def one(coefficients: Floats) -> Metrics | EpsoptError:
        try:
            return evaluate(coefficients)
        except UsageError:
            raise
        except EpsoptError as error:
            return error

    return lambda several: [one(coefficients) for coefficients in several]


def require_objectives(metrics: Metrics, objectives: Sequence[Objective]) -> None:
    """Refuse a hook that does not measure every objective.

    Args:
        metrics: what it measured, by name.
        objectives: what counts.

    Raises:
        UsageError: says what it measures and what is lacking.
    """
    for objective in objectives:
        if objective.name not in metrics:
            raise UsageError(
                f"the evaluate hook measures {', '.join(metrics) or 'nothing'}, but not {objective.name}, "
                "which is an objective"
            )


def lacking_is_failure(metrics: _Measured | EpsoptError, objectives: Sequence[Objective]) -> _Measured | EpsoptError:
    """Take an evaluation without an objective for one that failed: the hook measured it before.

    Args:
        metrics: what the hook measured, by name, or how it failed.
        objectives: what counts.
    """
    if isinstance(metrics, EpsoptError):
        return metrics
    try:
        require_objectives(metrics, objectives)
    except UsageError as error:
        return error
    return metrics


def _require_values(parents: Sequence[Evaluation], objectives: Sequence[Objective]) -> None:
    """Refuse a hook that finds no value for an objective on any parent: it would find none on merges either."""
    nothing = [not column.any() for column in np.isfinite(_table(parents, objectives)).T]
    if any(nothing):
        names = ", ".join(o.name for o, lacking in zip(objectives, nothing, strict=True) if lacking)
        raise UsageError(
            f"the evaluate hook returns NaN, infinity or nothing for {names} on each of the {len(parents)} parents, so "
            "there is nothing to learn from: check it on one of these checkpoints"
        )


def _table(done: Sequence[Evaluation], objectives: Sequence[Objective]) -> Floats:
    return np.array([[np.nan if (v := e.measured.get(o.name)) is None else v for o in objectives] for e in done])


def _reference(parents: Sequence[Evaluation], others: Floats, objectives: Sequence[Objective]) -> Floats:
    """The worst of all that is known without merges."""
    table = np.vstack([others, _table(parents, objectives)])
    table = table[np.isfinite(table).all(axis=1)]
    if not len(table):
        raise UsageError("no parent has a finite value for every objective: choose other parents")
    return np.asarray(np.where(Objectives(objectives).maximize, table.min(axis=0), table.max(axis=0)))


def _report_progress(progress: Callable[[int, int], None] | None, done: Sequence[Evaluation], budget: int) -> None:
    if progress is not None:
        progress(len(done), budget)


def _check(parents: int, objectives: Sequence[Objective], budget: int, groups: int, reach: float) -> None:
    if not 2 <= parents <= MOST_PARENTS:
        raise UsageError(f"a merge takes 2 to {MOST_PARENTS} parents, {parents} were named")
    if not objectives:
        raise UsageError("there is no objective to merge for: name one in epsopt.toml, as [objectives.NAME]")
    if budget < parents + 1:
        raise UsageError(f"a budget of {budget} evaluations does not even measure {parents} parents and their mean")
    if groups < 1 or reach < 0.0:
        raise UsageError(f"groups is {groups} and reach {reach:g}, expected at least 1 and at least 0")
