"""The state of a search for merges: lineages, what was measured of them, and what to measure next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.acquisition.confidence_bounds import Z90
from epsopt.optimize.merge.lineage_gp import LineageSpace
from epsopt.optimize.merge.lineage_search import LineageMerge, choose_lineage_merge
from epsopt.optimize.merge.simplex_merge import lacking_is_failure
from epsopt.optimize.objectives import Objectives, measured_table, worst_where_missing
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.studies.merge.merge_sources import Sources
from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.measuring import Metrics
from epsopt.zoo.decoding.operator_names import LINEAR
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EpsoptError

BETWEEN, BEYOND = "between", "beyond"
"""Kinds of merges: means of checkpoints and their base, or farther out than these."""

_WHY = {BETWEEN: "between checkpoints", BEYOND: "beyond checkpoints, along their differences"}
_NO_MODEL = "any candidate, since no model could be fitted"
_BEFORE = "measured by a command that did not end"
_DRAWS = 64  # of what a merge may measure
_ROUNDING = 1e-9
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MergeStep:
    """A merge that might be measured.

    Attributes:
        merge: its coefficients, with what the model expects.
        kind: ``between`` or ``beyond``.
        reason: it is tried, in words.
        predicted: ``{"value", "low", "high"}`` of each objective, with 90 % intervals; None: no model said anything.
        model_gain: hypervolume that the model expects it to add to the measured front.
    """

    merge: LineageMerge
    kind: str
    reason: str
    predicted: Mapping[str, Mapping[str, float]] | None
    model_gain: float


class MergeSearch:
    """Lineages and measured merges: what they are made of, and what was measured on them.

    Args:
        lineages: checkpoints of each with the inner products of their differences from its base.
        project: objectives and bounds.
        checkpoints: the catalogue's; what was measured on them is the front to be widened.
    """

    def __init__(
        self,
        lineages: Sequence[tuple[Sources, WeightProducts]],
        project: Project,
        checkpoints: Sequence[Checkpoint],
    ) -> None:
        self._sources = tuple(sources for sources, _ in lineages)
        self._objectives, self._bounds = project.objectives, project.bounds
        values = [
            measured_table([c.metrics for c in sources.checkpoints], self._objectives) for sources in self._sources
        ]
        fronts = [non_dominated(table, self._maximize).indices for table in values]
        self.space = LineageSpace.of([products.products.sum(axis=0) for _, products in lineages], fronts)
        bases = [s.base_checkpoint for s in self._sources]
        at = [i for i, base in enumerate(bases) if base is not None]
        of_bases = measured_table([base.metrics for base in bases if base is not None], self._objectives)
        zeros = np.zeros((len(at), len(self.space.lineages)))
        self._points = np.vstack([self.space.trained(), np.column_stack([zeros, at])])
        self._values = np.vstack([*values, of_bases])
        others = measured_table([c.metrics for c in checkpoints], self._objectives)
        self._others = others[np.isfinite(others).all(axis=1)]
        self.reference: Floats = np.where(self._maximize, self._others.min(axis=0), self._others.max(axis=0))
        self._merges = np.zeros((0, len(self._objectives)))
        self._misses: list[Floats] = []

    @property
    def _maximize(self) -> list[bool]:
        return Objectives(self._objectives).maximize

    def next_step(self, rng: np.random.Generator) -> MergeStep:
        """Return what is expected to widen the front most.

        Args:
            rng: draws candidates and what they may measure.
        """
        merge = choose_lineage_merge(
            self.space, self._points, self._values, self._table, self._objectives,
            bounds=self._bounds, reference=self.reference, misses=self._misses, rng=rng,
        )  # fmt: skip
        kind = _kind(merge.point)
        if merge.predicted is None or merge.low is None or merge.high is None:
            return MergeStep(merge, kind, _NO_MODEL, None, 0.0)
        predicted = {
            o.name: {"value": float(value), "low": float(low), "high": float(high)}
            for o, value, low, high in zip(self._objectives, merge.predicted, merge.low, merge.high, strict=True)
        }
        return MergeStep(merge, kind, _WHY[kind], predicted, self._expected_gain(predicted, rng))

    def _expected_gain(self, predicted: Mapping[str, Mapping[str, float]], rng: np.random.Generator) -> float:
        draws = rng.standard_normal((_DRAWS, len(self._objectives)))
        values = np.empty_like(draws)
        for j, objective in enumerate(self._objectives):
            value, low, high = (predicted[objective.name][k] for k in ("value", "low", "high"))
            away = draws[:, j] * np.where(draws[:, j] > 0.0, high - value, value - low) / Z90
            values[:, j] = (value + away).clip(*self._bounds.get(objective.name, (-np.inf, np.inf)))
        table = self._table
        front = table[non_dominated(table, self._maximize).indices]
        before = hypervolume(front, self.reference, self._maximize)
        gains = [hypervolume(np.vstack([front, v]), self.reference, self._maximize) - before for v in values]
        return float(np.mean(gains))

    def alone(self) -> tuple[Checkpoint, Recombination]:
        """Return the first checkpoint, and itself as a recombination."""
        source = self._sources[0].checkpoints[0]
        return source, Recombination((Parent(source.path, source.sha256),), ((1.0,),))

    def sources(self, step: MergeStep) -> Sources:
        """Return the lineage of a step."""
        return self._sources[int(step.merge.point[-1])]

    def recombination(self, step: MergeStep) -> Recombination:
        """Write a step as a recombination of the base and the checkpoints of its lineage."""
        return self._made_of(step.merge.point)

    def _made_of(self, point: Floats) -> Recombination:
        sources = self._sources[int(point[-1])]
        shares = point[:-1][self.space.lineages == int(point[-1])].round(9)
        parents = [sources.base, *(Parent(c.path, c.sha256) for c in sources.checkpoints)]
        whole = [round(1.0 - float(shares.sum()), 9), *shares.tolist()]
        used = [i for i, share in enumerate(whole) if abs(share) > 10.0 * _ROUNDING]
        return Recombination(tuple(parents[i] for i in used), (tuple(whole[i] for i in used),))

    def step_of(self, recombination: Recombination) -> MergeStep | None:
        """Return a merge that was measured before as a step; None: of no lineage, or with several coefficients each."""
        if recombination.groups or recombination.operator != LINEAR:
            return None
        shares = {p.sha256: c for p, c in zip(recombination.parents, recombination.coefficients[0], strict=True)}
        for place, sources in enumerate(self._sources):
            own = [c.sha256 for c in sources.checkpoints]
            if len(shares) > 1 and set(shares) <= {*own, sources.base.sha256}:
                point = np.append(np.zeros(len(self.space.lineages)), place)
                point[np.flatnonzero(self.space.lineages == place)] = [shares.get(sha256, 0.0) for sha256 in own]
                return MergeStep(LineageMerge(point, None, None, None, None), _kind(point), _BEFORE, None, 0.0)
        return None

    def measure(self, decoder: WeightDecoder, recombinations: Sequence[Recombination]) -> list[Metrics | EpsoptError]:
        """Decode and measure; an evaluation that lacks an objective has failed."""
        return [lacking_is_failure(found, self._objectives) for found in decoder.evaluate_all(recombinations)]

    def imagining(self, step: MergeStep) -> MergeSearch:
        """Return what would be known if a merge measured what is predicted of it; the same where nothing is."""
        if step.predicted is None:
            return self
        other = copy(self)
        other.add(step, {name: found["value"] for name, found in step.predicted.items()}, learn=False)
        return other

    def add(self, step: MergeStep, measured: Mapping[str, float | None], *, learn: bool = True) -> None:
        """Take a measured merge for one more that is known.

        Args:
            step: what was measured.
            measured: metrics by name.
            learn: whether it says how right predictions are.
        """
        values = measured_table([dict(measured)], self._objectives)
        self._points = np.vstack([self._points, step.merge.point])
        # The worst of what was measured, where the hook finds nothing: else the search would come back there.
        self._values = np.vstack(
            [self._values, worst_where_missing(np.vstack([self._table, values]), self._objectives)[-1:]]
        )
        self._merges = np.vstack([self._merges, values])
        miss = step.merge.miss(values[0]) if learn else None
        if miss is not None:
            self._misses = [*self._misses, miss]

    @property
    def _table(self) -> Floats:
        """``(n, objectives)`` all that was measured, without NaN."""
        return np.vstack([self._others, self._merges[np.isfinite(self._merges).all(axis=1)]])

    def volume(self) -> float:
        """Hypervolume of all that was measured."""
        return hypervolume(self._table, self.reference, self._maximize)

    def joined(self) -> list[int]:
        """Places of the merges that nothing measured dominates."""
        front = non_dominated(np.vstack([self._others, self._merges]), self._maximize).indices
        return [int(i) - len(self._others) for i in front if i >= len(self._others)]


def _kind(point: Floats) -> str:
    shares = point[:-1]
    return BETWEEN if shares.min() >= -_ROUNDING and shares.sum() <= 1.0 + _ROUNDING else BEYOND
