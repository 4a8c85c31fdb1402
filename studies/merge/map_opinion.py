"""What the fitted map expects of merges: each is decoded, fingerprinted and encoded as any checkpoint is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.objectives import Objective, Objectives
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.studies.merge.merge_sources import Sources
from epsopt.studies.surrogate_store import extend_map, find_map
from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.refinement import condition_on_observations
from epsopt.surrogate.surrogate import OtherVersion, Surrogate
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.decoding.decoder import WeightDecoder, size_of
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.errors import DamagedArtifact, Failure
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.ingestion.ingest import read_fingerprints

TOGETHER = 256 << 20
"""Bytes of merges that are decoded before each measurement, only to be looked at: seconds, or half a minute."""

_FEWEST = 6  # merges that are worth a look
_DRAWS = 64  # of what a merge may measure
_KEPT = 256  # merges that were looked at, until they are measured
Floats = NDArray[np.float64]


def map_opinion(
    decoder: WeightDecoder,
    catalogue: Catalogue,
    sources: Sequence[Sources],
    objectives: Sequence[Objective],
    seed: int = 0,
) -> tuple[MapOpinion | None, str]:
    """Return the opinion of the catalogue's map on merges of some checkpoints, and in words whether there is one.

    Args:
        decoder: decodes merges.
        catalogue: where the map is.
        sources: checkpoints that are merged.
        objectives: what counts.
        seed: of what merges may measure.
    """
    try:
        kept = find_map(catalogue)
    except (OtherVersion, DamagedArtifact) as error:
        return None, f"{error}; a model of weight space chose them without the map"
    if kept is None:
        return None, "no map is fitted ('epsopt fit' learns one), so that a model of weight space chose them alone"
    unknown = [o.name for o in objectives if o.name not in kept.surrogate.metric_names]
    if unknown:
        return None, f"the map does not know {unknown[0]}, so that a model of weight space chose them alone"
    most = TOGETHER // max(*(size_of(c.path) for one in sources for c in one.checkpoints), 1)
    if most < _FEWEST:
        return None, (
            f"merges of more than {TOGETHER // _FEWEST >> 20} MB take long to look at, so that a model of weight space "
            "chose them without the map"
        )
    found = MapOpinion(decoder, catalogue, extend_map(catalogue, kept.surrogate), objectives, most, seed)
    return found, "the map and a model of weight space chose them together"


class MapOpinion:
    """The map, which learns from every merge that is measured.

    Args:
        decoder: decodes merges.
        catalogue: its lineages give the fingerprints their reference.
        surrogate: the fitted map; it knows all objectives.
        objectives: what counts.
        most: merges to look at before each measurement, at most.
        seed: of what merges may measure.
    """

    def __init__(
        self,
        decoder: WeightDecoder,
        catalogue: Catalogue,
        surrogate: Surrogate,
        objectives: Sequence[Objective],
        most: int,
        seed: int = 0,
    ) -> None:
        self._decoder, self._catalogue, self._surrogate = decoder, catalogue, surrogate
        self._columns = [surrogate.metric_names.index(o.name) for o in objectives]
        self._maximize = Objectives(objectives).maximize
        self._most, self._rng = most, np.random.default_rng(seed)
        self._seen: dict[Recombination, Fingerprint] = {}

    def gains(self, merges: Sequence[Recombination], measured: Floats, reference: Floats) -> Floats:
        """Return the hypervolume that each merge is expected to add.

        Args:
            merges: ``n`` recombinations, those first that are worth a look most.
            measured: ``(r, m)`` all that was measured, finite, in the objectives' own units.
            reference: ``(m,)`` reference point.

        Returns:
            ``(n,)``; NaN where the map says nothing: of the last ones where they are too many, of an architecture for
            which it has no honest intervals, or of weights that cannot be read.
        """
        looked_at = self._looked_at([merge for merge in merges[: self._most] if merge not in self._seen])
        self._seen = dict([*self._seen.items(), *looked_at.items()][-_KEPT:])
        gains = np.full(len(merges), np.nan)
        rows = [i for i, merge in enumerate(merges) if merge in self._seen]
        if not rows:
            return gains
        front = measured[non_dominated(measured, self._maximize).indices]
        before = hypervolume(front, reference, self._maximize)
        for i, values in zip(rows, self._draws([self._seen[merges[i]] for i in rows]), strict=True):
            volumes = [hypervolume(np.vstack([front, v]), reference, self._maximize) for v in values]
            gains[i] = np.mean(volumes) - before
        return gains

    def predicted(self, merge: Recombination) -> Floats | None:
        """Return ``(m,)`` what the map predicts of a merge that was looked at lately; None of any other."""
        if (found := self._seen.get(merge)) is None:
            return None
        point = self._surrogate.predict(self._surrogate.encode([found])).point[0]
        return np.asarray(point[self._columns])

    def learn(self, merge: Recombination, measured: Mapping[str, float | None]) -> None:
        """Learn what a merge measured, if it was looked at.

        Args:
            merge: of those that were looked at lately.
            measured: metrics by name.
        """
        found = self._seen.get(merge)
        if found is None:
            return
        names, memory = self._surrogate.metric_names, self._surrogate.memory
        known = [measured.get(name) for name in names]
        values = np.array([[np.nan if value is None else value for value in known]], dtype=np.float64)
        run = np.array([int(memory.runs.max()) + 1])
        part = TrainingSet((repr(merge),), (found,), run, np.zeros(1, dtype=np.int64), names, values)
        self._surrogate = condition_on_observations(self._surrogate, part)

    def _looked_at(self, merges: Sequence[Recombination]) -> dict[Recombination, Fingerprint]:
        decoded = [self._decoder.decode(merge) for merge in merges]
        try:
            found = read_fingerprints([d.path for d in decoded], self._catalogue, jobs=1)
        finally:
            for d in decoded:
                self._decoder.forget(d)
        pairs = ((m, c.fingerprint) for m, c in zip(merges, found, strict=True) if not isinstance(c, Failure))
        return {m: f for m, f in pairs if self._surrogate.refusal(f.signature, kinds=f.tensor_kinds) is None}

    def _draws(self, prints: Sequence[Fingerprint]) -> Floats:
        """``(n, draws, m)`` of what merges may measure, in the objectives' own units."""
        with torch.no_grad():
            mean, deviation = self._surrogate.posterior_moments(self._surrogate.encode(prints))
            noise = torch.from_numpy(self._rng.standard_normal((_DRAWS, *mean.shape)))
            draws = self._surrogate.draws_to_metrics(mean + noise * deviation)[..., self._columns]
        return np.asarray(draws.numpy().transpose(1, 0, 2))
