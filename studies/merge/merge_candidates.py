"""What may be merged next: the ideas of two models about checkpoints and merges that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.acquisition.confidence_bounds import Z90
from epsopt.optimize.merge.simplex_gp import FIT_FAILURES, next_merge
from epsopt.optimize.merge.simplex_merge import choose_parents
from epsopt.optimize.merge.weight_space_gp import MergeCandidate, MergeKind, WeightSpace, choose_merge
from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.studies.merge.merge_sources import Sources
from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.measuring import Metrics
from epsopt.zoo.decoding.patterns import separating_patterns
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EpsoptError, UsageError

BETWEEN, ALONG, BEYOND = "between", "along", "beyond"
"""Kinds of steps: of the model of three parents, and two of the process over weight space."""

_WHY = {
    BETWEEN: "between checkpoints of the front",
    ALONG: "on the way between two checkpoints, or from the base to one",
    BEYOND: "parts stretched, shrunk or exchanged",
}
_OF_PROCESS: Mapping[MergeKind, str] = {"between": ALONG, "beyond": BEYOND}

_PARENTS = 3  # of the front, to look between
_DRAWS = 64  # of what a merge may measure
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Tensors that are merged with the same coefficients.

    Attributes:
        patterns: of their names; none: all that no other part's fit.
        tensors: how many there are.
        coefficients: of the recombination's parents.
    """

    patterns: tuple[str, ...]
    tensors: int
    coefficients: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class MergeStep:
    """A merge that might be measured.

    Attributes:
        kind: whose idea it is: ``between``, ``along`` or ``beyond``.
        coefficients: ``(parts, known)``.
        reason: it is tried, in words.
        predicted: ``{"value", "low", "high"}`` of each objective, with 90 % intervals; None: no model said anything.
        predicted_gain: hypervolume that it is expected to add to the measured front.
        shares: ``(1, parents)`` of the checkpoints that a step between lies between.
    """

    kind: str
    coefficients: Floats
    reason: str
    predicted: Mapping[str, Mapping[str, float]] | None
    predicted_gain: float
    shares: Floats | None = None


class MergeSearch:
    """Sources and measured merges: what they are made of, block by block, and what was measured on them."""

    def __init__(
        self, sources: Sources, products: WeightProducts, project: Project, checkpoints: Sequence[Checkpoint]
    ) -> None:
        self._sources, self._products = sources, products
        self._objectives, self._bounds = project.objectives, project.bounds
        n = len(sources.checkpoints)
        # (known, blocks, sources): of each source, how much of its difference from the base is in a block.
        self.source_shares = np.broadcast_to(np.eye(n)[:, None, :], (n, len(products.names), n)).copy()
        self._values = measured_table([c.metrics for c in sources.checkpoints], self._objectives)
        others = measured_table([c.metrics for c in checkpoints], self._objectives)
        self._others = others[np.isfinite(others).all(axis=1)]
        self.reference: Floats = np.where(self._maximize, self._others.min(axis=0), self._others.max(axis=0))
        front = self._values[: sources.n_front]
        self._parents = choose_parents(front, self._objectives, min(_PARENTS, len(front)))
        self._between = np.eye(len(self._parents))[:, None, :]  # (n, 1, parents), measured
        self._between_values = front[self._parents]
        self.unfitted = False  # whether the process over weight space could not be fitted

    @property
    def _maximize(self) -> list[bool]:
        return Objectives(self._objectives).maximize

    @cached_property
    def _base_values(self) -> Floats | None:
        base = self._sources.base_checkpoint
        values = None if base is None else measured_table([base.metrics], self._objectives)[0]
        return values if values is not None and np.isfinite(values).all() else None

    def ideas(self, rng: np.random.Generator, seed: int, reliability: Callable[[str], float]) -> list[MergeStep]:
        """Return what either model would measure next, by what is known of all others.

        Args:
            rng: draws candidates and what they may measure.
            seed: of the model of three parents.
            reliability: factor of the predicted gain of each kind of step.
        """
        return [
            step for step in (self._next_between(rng, seed), self._next_of_all(rng, reliability)) if step is not None
        ]

    def _next_between(self, rng: np.random.Generator, seed: int) -> MergeStep | None:
        if len(self._parents) < 2:
            return None
        begins = len(self._between) == len(self._parents)
        found = self._mean() if begins else self._modelled(rng, seed)
        if found is None:
            return None
        shares, predicted = found
        coefficients = np.zeros((int(self.space.parts.max()) + 1, len(self.source_shares)))
        coefficients[:, self._parents] = shares
        predicted_gain = self._predicted_gain(predicted, rng)
        if begins:
            return MergeStep(
                BETWEEN, coefficients, "the mean of checkpoints of the front", None, predicted_gain, shares
            )
        return MergeStep(BETWEEN, coefficients, _WHY[BETWEEN], predicted, predicted_gain, shares)

    def _mean(self) -> tuple[Floats, dict[str, dict[str, float]]]:
        """The mean of the parents, with which looking between them begins: a model needs more than their corners."""
        values = self._between_values
        predicted = {
            o.name: {"value": float(v.mean()), "low": float(v.min()), "high": float(v.max())}
            for o, v in zip(self._objectives, values.T, strict=True)
        }
        return np.full((1, len(values)), 1.0 / len(values)), predicted

    def _modelled(self, rng: np.random.Generator, seed: int) -> tuple[Floats, dict[str, dict[str, float]]] | None:
        found = next_merge(
            self._between, self._between_values, self._table, self._objectives, self._bounds, self.reference,
            0.0, seed, rng,
        )  # fmt: skip
        if found is None or found[1] is None:  # nothing is predicted; after a step beyond it is tried again
            return None
        return found[0], found[1]

    def _next_of_all(self, rng: np.random.Generator, reliability: Callable[[str], float]) -> MergeStep | None:
        try:
            merge = choose_merge(
                self.space, self._values, self._objectives, base=self._base_values, reference=self.reference,
                bounds=self._bounds, reliability=lambda kind: reliability(_OF_PROCESS[kind]), rng=rng,
            )  # fmt: skip
        except FIT_FAILURES:  # the other model may still know something
            self.unfitted = True
            return None
        if merge is None:
            return None
        predicted, kind = _predicted(merge, self._objectives), _OF_PROCESS[merge.kind]
        return MergeStep(kind, merge.coefficients, _WHY[kind], predicted, self._predicted_gain(predicted, rng))

    @property
    def space(self) -> WeightSpace:
        """Where sources and merges lie in weight space, block by block."""
        made = self.source_shares.swapaxes(0, 1)
        return WeightSpace(made @ self._products.products @ made.swapaxes(1, 2), self._products.norms)

    def _predicted_gain(self, predicted: Mapping[str, Mapping[str, float]], rng: np.random.Generator) -> float:
        """Return the hypervolume that a merge is expected to add to all that was measured.

        Both models are asked alike, and the whole front counts, of which they may know a part.
        """
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

    def expanded(self, coefficients: Floats) -> Floats:
        """Turn ``(parts, known)`` coefficients into ``(blocks, sources)``."""
        of_block = coefficients[self.space.parts]
        # Rounded, so that blocks that are merged alike have the same numbers to the last bit.
        return np.asarray(np.einsum("bk,kbs->bs", of_block, self.source_shares).round(12))

    def alone(self, place: int) -> Recombination:
        """Return a source by itself."""
        source = self._sources.checkpoints[place]
        return Recombination((Parent(source.path, source.sha256),), ((1.0,),))

    def recombination(self, rows: Floats) -> tuple[Recombination, tuple[Part, ...]]:
        """Write ``(blocks, sources)`` as a recombination of the base and the sources, with its parts."""
        names = np.array(self._products.names, dtype=object)
        distinct, which = np.unique(rows, axis=0, return_inverse=True)
        whole = np.column_stack([1.0 - distinct.sum(axis=1), distinct])
        used = np.flatnonzero(np.abs(whole).max(axis=0) > 0.0)
        parents = [self._sources.base, *(Parent(c.path, c.sha256) for c in self._sources.checkpoints)]
        members = [names[which.reshape(-1) == i].tolist() for i in range(len(distinct))]
        order = sorted(range(len(distinct)), key=lambda i: len(members[i]))  # the largest is the rest
        parts = []
        for i in order:
            others = [n for j in order if j != i for n in members[j]]
            patterns = separating_patterns(members[i], others) if i != order[-1] else []
            parts.append(Part(tuple(patterns), len(members[i]), tuple(whole[i, used].tolist())))
        rows_of_patterns = [part.coefficients for part in parts for _ in part.patterns]
        recombination = Recombination(
            parents=tuple(parents[i] for i in used),
            coefficients=(*rows_of_patterns, parts[-1].coefficients),
            groups=tuple(pattern for part in parts for pattern in part.patterns),
        )
        return recombination, tuple(parts)

    def measure(self, decoder: WeightDecoder, recombinations: Sequence[Recombination]) -> list[Metrics | EpsoptError]:
        """Decode and measure; every objective must be among what the hook measures."""
        found = decoder.evaluate_all(recombinations)
        for metrics in found:
            if not isinstance(metrics, EpsoptError):
                require_objectives(metrics, self._objectives)
        return found

    def imagining(self, step: MergeStep, rows: Floats) -> MergeSearch:
        """Return what would be known if a merge measured what is predicted of it; the same where nothing is."""
        if step.predicted is None:
            return self
        other = copy(self)
        other.add(step, rows, {name: found["value"] for name, found in step.predicted.items()})
        return other

    def add(self, step: MergeStep, rows: Floats, measured: Mapping[str, float | None]) -> None:
        """Take a measured merge for one more that is known."""
        values = measured_table([dict(measured)], self._objectives)
        self.source_shares = np.concatenate([self.source_shares, rows[None]])
        self._values = np.vstack([self._values, values])
        if step.shares is not None:
            self._between = np.concatenate([self._between, step.shares[None]])
            self._between_values = np.vstack([self._between_values, values])

    @property
    def _merges(self) -> Floats:
        return self._values[len(self._sources.checkpoints) :]

    @property
    def _table(self) -> Floats:
        """``(n, objectives)`` all that was measured, without NaN."""
        merges = self._merges
        return np.vstack([self._others, merges[np.isfinite(merges).all(axis=1)]])

    def volume(self) -> float:
        """Hypervolume of all that was measured."""
        return hypervolume(self._table, self.reference, self._maximize)

    def joined(self) -> list[int]:
        """Places of the merges that nothing measured dominates."""
        front = non_dominated(np.vstack([self._others, self._merges]), self._maximize).indices
        return [int(i) - len(self._others) for i in front if i >= len(self._others)]


def require_objectives(metrics: Mapping[str, float | None], objectives: Sequence[Objective]) -> None:
    """Refuse a hook that does not measure every objective.

    Raises:
        UsageError: says what it measures and what is lacking.
    """
    for objective in objectives:
        if objective.name not in metrics:
            raise UsageError(
                f"the evaluate hook measures {', '.join(metrics) or 'nothing'}, but not {objective.name}, "
                "which is an objective"
            )


def _predicted(merge: MergeCandidate, objectives: Sequence[Objective]) -> dict[str, dict[str, float]]:
    return {
        o.name: {"value": float(merge.predicted[j]), "low": float(merge.low[j]), "high": float(merge.high[j])}
        for j, o in enumerate(objectives)
    }
