"""Merges whose blocks have coefficients of their own, written as recombinations of files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.merge.weight_space_gp import WeightSpace
from epsopt.studies.merge.merge_sources import Sources
from epsopt.zoo.decoding.patterns import separating_patterns
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.decoding.weight_gram import WeightProducts

Floats = NDArray[np.float64]


class BlockMerges:
    """Writes coefficients of parts of the network as a recombination of checkpoints and their base.

    Args:
        sources: the checkpoints.
        products: of their differences from the base, block by block.
    """

    def __init__(self, sources: Sources, products: WeightProducts) -> None:
        self._sources, self._names = sources, products.names
        self.space = WeightSpace(products.products, products.norms)

    def recombination(self, coefficients: Floats) -> Recombination:
        """Write ``(parts, sources)`` coefficients (:attr:`WeightSpace.parts`) as a recombination."""
        names = np.array(self._names, dtype=object)
        distinct, which = np.unique(coefficients[self.space.parts], axis=0, return_inverse=True)
        whole = np.column_stack([1.0 - distinct.sum(axis=1), distinct])
        used = np.flatnonzero(np.abs(whole).max(axis=0) > 0.0)
        parents = [self._sources.base, *(Parent(c.path, c.sha256) for c in self._sources.checkpoints)]
        members = [names[which.reshape(-1) == i].tolist() for i in range(len(distinct))]
        order = sorted(range(len(distinct)), key=lambda i: len(members[i]))  # the largest is the rest
        groups: list[str] = []
        rows: list[tuple[float, ...]] = []
        for i in order[:-1]:
            others = [n for j in order if j != i for n in members[j]]
            patterns = separating_patterns(members[i], others)
            groups += patterns
            rows += [tuple(whole[i, used].tolist())] * len(patterns)
        return Recombination(
            parents=tuple(parents[i] for i in used),
            coefficients=(*rows, tuple(whole[order[-1], used].tolist())),
            groups=tuple(groups),
        )
