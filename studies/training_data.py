"""What a catalogue of any size gives a map to learn from: what was measured, and fingerprints as they are needed.

What was measured takes a few hundred bytes a checkpoint and is read whole. Fingerprints take kilobytes a tensor: of a
large catalogue those are read that the map learns from, and then the others, a batch at a time, to be placed on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.hyperparameter_table import hyperparameters_digest, hyperparameters_of
from epsopt.surrogate.surrogate import Surrogate
from epsopt.surrogate.thinning import MOST_CHECKPOINTS, learned_rows
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint, each_content_once
from epsopt.zoo.errors import EmptyCatalogue
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.ingestion.unusable_embeddings import embedded, unusable, usual_shape

BATCH = 256
"""Checkpoints that are read together, at most, to be placed on a map: 60 MB of fingerprints."""


@dataclass(frozen=True, eq=False)
class MeasuredZoo:
    """What was measured in a catalogue: every checkpoint with at least one measured metric, each content once.

    Attributes:
        catalogue: where fingerprints and embeddings are read from.
        checkpoints: ``n`` of them, in the catalogue's order.
        metric_names: ``m`` names.
        metrics: ``(n, m)`` float64; NaN where not measured.
        superseded: checkpoints that are not among them, since there are newer fingerprints of the same network.
    """

    catalogue: Catalogue
    checkpoints: tuple[Checkpoint, ...]
    metric_names: tuple[str, ...]
    metrics: NDArray[np.float64]
    superseded: int = 0

    def __len__(self) -> int:
        return len(self.checkpoints)

    @cached_property
    def runs(self) -> NDArray[np.int64]:
        """``(n,)`` run of each checkpoint."""
        return np.array([c.run_id for c in self.checkpoints], dtype=np.int64)

    @property
    def n_runs(self) -> int:
        """Number of different runs."""
        return len(np.unique(self.runs))

    @property
    def is_large(self) -> bool:
        """Whether there are more checkpoints than a map is learned from."""
        return len(self) > MOST_CHECKPOINTS

    @property
    def _hyperparameters_digest(self) -> bytes:
        """Tells the runs' hyperparameters, and the epochs; a run's are looked at once."""
        of_runs = {c.run_id: c.hyperparameters for c in self.checkpoints}
        return hyperparameters_digest([{"epochs": [c.epoch for c in self.checkpoints]}, *of_runs.values()])

    @cached_property
    def _bounded(self) -> list[str]:
        """Architectures of which fingerprints do not keep everything; one fingerprint of each is looked at."""
        return sorted(f.signature for f in _one_of_each(self.catalogue, self.checkpoints).values() if f.kept.is_bounded)

    @property
    def digest(self) -> str:
        """What identifies a large zoo without its fingerprints: what was measured on what, in which runs."""
        about = [
            [c.sha256 for c in self.checkpoints],
            self.metric_names,
            sorted({c.signature for c in self.checkpoints}),
            *self._bounded,
        ]
        content = hashlib.sha256(json.dumps([MOST_CHECKPOINTS, *about]).encode())
        lineages = np.array([c.lineage_id for c in self.checkpoints])
        for array in (*(np.unique(ids, return_inverse=True)[1] for ids in (self.runs, lineages)), self.metrics):
            content.update(np.ascontiguousarray(array).tobytes())
        content.update(self._hyperparameters_digest)
        return content.hexdigest()[:16]

    def rows_to_learn(self, old: Surrogate | None = None) -> NDArray[np.int64]:
        """Choose what a map is learned from: all rows of a zoo that is not large.

        Args:
            old: a map that is to be refined: what it was learned from is learned again, beside new checkpoints.
        """
        if not self.is_large:
            return np.arange(len(self))
        if old is None:
            return learned_rows(self.runs, self.metrics, MOST_CHECKPOINTS)
        place = {c.sha256: i for i, c in enumerate(self.checkpoints)}
        kept = [place[key] for key in old.memory.learned_only.keys if key in place]
        known = set(old.memory.keys)
        new = np.array([i for key, i in place.items() if key not in known], dtype=np.int64)
        some = new[learned_rows(self.runs[new], self.metrics[new], MOST_CHECKPOINTS // 2)]
        return np.sort(np.concatenate([np.array(kept, dtype=np.int64), some]))

    def training_set(self, rows: NDArray[np.int64]) -> tuple[TrainingSet, tuple[str, ...]]:
        """Read some checkpoints as a training set, and sentences about embeddings that count as none in it.

        Checkpoints with NaN weights are left out, unless all have such.
        """
        return _training_set(self.catalogue, [self.checkpoints[i] for i in rows.tolist()], self.metric_names)

    def batches(self, rows: NDArray[np.int64]) -> Iterator[TrainingSet]:
        """Read some checkpoints a batch at a time; those with NaN weights are left out."""
        for start in range(0, len(rows), BATCH):
            part = self.training_set(rows[start : start + BATCH])[0]
            sound = [i for i, f in enumerate(part.fingerprints) if not f.nan_weights]
            if sound:
                yield part if len(sound) == len(part) else part.take(sound)


def measured_zoo(catalogue: Catalogue, metric_names: Sequence[str] | None = None) -> MeasuredZoo:
    """Read what was measured in a catalogue.

    Args:
        catalogue: what to read.
        metric_names: metrics, in the order of the columns; None: all.

    Returns:
        What was measured, but for checkpoints whose files are gone and whose fingerprints are of an earlier format than
        others of the same network.

    Raises:
        EmptyCatalogue: nothing was; names the command to run first.
    """
    measured = _measured_once(catalogue)
    checkpoints = _without_superseded(catalogue, measured)
    if not checkpoints:
        raise EmptyCatalogue(
            "the catalogue holds no checkpoint with metrics: read your runs with 'epsopt ingest RUNS' first"
        )
    names = tuple(catalogue.metric_names() if metric_names is None else metric_names)
    left_out = len(measured) - len(checkpoints)
    return MeasuredZoo(catalogue, tuple(checkpoints), names, _table(checkpoints, names), left_out)


def measured_contents(catalogue: Catalogue, checkpoints: Sequence[Checkpoint] | None = None) -> list[Checkpoint]:
    """Return the checkpoints with at least one measured metric, each content once, but for those that are superseded.

    Args:
        catalogue: what to read.
        checkpoints: all of the catalogue's, where they were read already; None: they are read.
    """
    return _without_superseded(catalogue, _measured_once(catalogue, checkpoints))


def _measured_once(catalogue: Catalogue, checkpoints: Sequence[Checkpoint] | None = None) -> list[Checkpoint]:
    found = catalogue.checkpoints() if checkpoints is None else checkpoints
    return each_content_once([c for c in found if any(v is not None for v in c.metrics.values())])


def _without_superseded(catalogue: Catalogue, checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """Leave out fingerprints of an earlier format where there are newer ones of the same network.

    Their files are gone, or they would have been read again. Under the same names they say something else.
    """
    if len({c.signature for c in checkpoints}) < 2:  # of most catalogues
        return checkpoints
    one_of_each = _one_of_each(catalogue, checkpoints)
    tensors = {signature: frozenset(zip(f.names, f.shapes, strict=True)) for signature, f in one_of_each.items()}
    newer = {tensors[signature] for signature, f in one_of_each.items() if not f.is_outdated}
    old = {signature for signature, f in one_of_each.items() if f.is_outdated and tensors[signature] in newer}
    return [c for c in checkpoints if c.signature not in old]


def _one_of_each(catalogue: Catalogue, checkpoints: Sequence[Checkpoint]) -> dict[str, Fingerprint]:
    """One fingerprint of each architecture, by its signature in the catalogue."""
    ids = {c.signature: c.id for c in checkpoints}
    return dict(zip(ids, catalogue.fingerprints([*ids.values()]), strict=True))


def _table(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> NDArray[np.float64]:
    rows = [[np.nan if (v := c.metrics.get(name)) is None else float(v) for name in names] for c in checkpoints]
    return np.array(rows, dtype=np.float64).reshape(len(checkpoints), len(names))


def _training_set(
    catalogue: Catalogue, checkpoints: Sequence[Checkpoint], names: tuple[str, ...]
) -> tuple[TrainingSet, tuple[str, ...]]:
    prints = dict(zip((c.id for c in checkpoints), catalogue.fingerprints([c.id for c in checkpoints]), strict=True))
    # What NaN weights measured says nothing of others, and their fingerprint is that of zeros.
    checkpoints = [c for c in checkpoints if not prints[c.id].nan_weights] or list(checkpoints)
    ids = [c.id for c in checkpoints]
    embeddings = catalogue.embeddings(ids)
    points = [embedded(c.path, e) for c, e in zip(checkpoints, embeddings, strict=True) if e is not None]
    shape, stacked = usual_shape(p.shape for p in points), None
    if shape is not None:
        # One shape per map, the most frequent one; another one, or one that is not finite, counts as none.
        blank = np.full(shape, np.nan, dtype=np.float32)
        usable = [e if e is not None and e.shape == shape and np.isfinite(e).all() else blank for e in embeddings]
        stacked = np.stack(usable).astype(np.float32)
    doubts = tuple(f"{path}: {text}" for path, text in unusable(points, shape or ()))
    found: tuple[Fingerprint, ...] = tuple(prints[i] for i in ids)
    train = TrainingSet(
        keys=tuple(c.sha256 for c in checkpoints),
        fingerprints=found,
        runs=np.array([c.run_id for c in checkpoints], dtype=np.int64),
        lineages=np.array([c.lineage_id for c in checkpoints], dtype=np.int64),
        metric_names=names,
        metrics=_table(checkpoints, names),
        embeddings=stacked,
        hyperparameters=tuple(hyperparameters_of(checkpoints)),
    )
    return train, doubts
