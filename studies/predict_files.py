"""What the map says of checkpoint files, whether the catalogue has them or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

from epsopt.optimize.latent.predict_checkpoint import Assessment, assess, measured_at_ends
from epsopt.studies.project.project import Project
from epsopt.studies.surrogate_store import load_map, load_map_with_probes
from epsopt.surrogate.hyperparameter_table import Hyperparameters, with_epoch
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import Failure
from epsopt.zoo.ingestion.ingest import read_fingerprints
from epsopt.zoo.layouts.nothing_found import nothing_found
from epsopt.zoo.layouts.scan import scan
from epsopt.zoo.reading.reader import CheckpointContents


@dataclass(frozen=True)
class Tested:
    """How predictions of one metric compare with what files measured that the map did not learn from.

    Attributes:
        metric: its name.
        n: files.
        error: mean absolute error, in the metric's unit.
        inside: of the measured values, how many lie in their intervals.
    """

    metric: str
    n: int
    error: float
    inside: int


@dataclass(frozen=True, eq=False)
class FilePredictions:
    """Files that were read, and what is predicted of them.

    Attributes:
        surrogate: that predicts: the one with probes where the embed hook ran.
        read: contents of ``n`` files.
        predicted: of the same files.
        measured_at_ends: metrics that only the ends of runs have.
        failed: files that could not be read.
        side_file_failures: files beside them that could not be read.
        outside_links: links that lead out of the folders and were not followed.
    """

    surrogate: Surrogate
    read: Sequence[CheckpointContents]
    predicted: Sequence[Assessment]
    measured_at_ends: list[str]
    failed: list[Failure] = field(default_factory=list)
    side_file_failures: list[Failure] = field(default_factory=list)
    outside_links: list[str] = field(default_factory=list)

    @property
    def n_taught(self) -> int:
        """How many of the files that are predicted the map has learned from."""
        taught = self._taught
        return sum(r.sha256 in taught for r, a in zip(self.read, self.predicted, strict=True) if a.refused is None)

    def tested(self) -> list[Tested]:
        """Compare predictions with what is measured in files that the map did not learn from.

        Returns:
            One a metric that any of them measured, in the map's order.
        """
        taught = self._taught
        apart = [
            (r.metrics, a)
            for r, a in zip(self.read, self.predicted, strict=True)
            if a.refused is None and r.sha256 not in taught
        ]
        found = []
        for name in self.surrogate.metric_names:
            pairs = [(v, a) for m, a in apart if (v := m.get(name)) is not None and math.isfinite(v)]
            if pairs:
                inside = sum(a.low[name] <= v <= a.high[name] for v, a in pairs)
                error = fmean(abs(a.point[name] - v) for v, a in pairs)
                found.append(Tested(name, len(pairs), error, inside))
        return found

    @cached_property
    def _taught(self) -> set[str]:
        memory = self.surrogate.memory
        return {k for k, ok in zip(memory.keys, memory.metrics.isfinite().any(1).tolist(), strict=True) if ok}


def predict_files(
    catalogue: Catalogue,
    project: Project | None,
    paths: Sequence[Path],
    *,
    level: float = 0.9,
    weights_only: bool = False,
    follow_links: bool = False,
    progress: Callable[[str, float | None], None] = lambda _what, _share: None,
) -> FilePredictions:
    """Read checkpoint files and predict their metrics; nothing is recorded.

    Args:
        catalogue: of the map.
        project: whose embed hook runs on each file; None: no hook runs.
        paths: files, or folders of files.
        level: coverage of the intervals, between 0 and 1.
        weights_only: run no hook.
        follow_links: follow links that lead out of the folders.
        progress: called as ``progress(what, share done)``.

    Returns:
        The predictions; NaN nowhere: what is not predicted has a reason instead.

    Raises:
        EpsoptError: there is no map, or no checkpoint at these paths.
    """
    seen = scan(list(paths), follow_links=follow_links or (project is not None and project.follow_links))
    checkpoints = catalogue.checkpoints()
    embed = project.embed if project is not None and not weights_only else None
    probed = load_map_with_probes(catalogue) if embed is not None else None
    surrogate = probed or load_map(catalogue)[0]
    side_file_failures: list[Failure] = []
    results = read_fingerprints(
        [f.path for f in seen.files], catalogue, embed=embed if probed else None,
        progress=lambda done, total: progress("reading checkpoints", done / total), folders=seen.folders,
        on_failure=side_file_failures.append,
    )  # fmt: skip
    read = _as_catalogued([r for r in results if not isinstance(r, Failure)], catalogue, checkpoints)
    failed = seen.failures + [r for r in results if isinstance(r, Failure)]
    if not (read or failed):
        raise nothing_found(paths, others=seen.other.kinds.values())
    prints, embeddings = [r.fingerprint for r in read], [r.embedding for r in read]
    known = _hyperparameters(read, checkpoints)
    predicted = (
        assess(surrogate, checkpoints, prints, embeddings=embeddings, hyperparameters=known, level=level)
        if read
        else []
    )
    at_ends = measured_at_ends(checkpoints, surrogate.metric_names)
    return FilePredictions(surrogate, read, predicted, at_ends, failed, side_file_failures, seen.outside_links)


def _hyperparameters(
    read: Sequence[CheckpointContents], checkpoints: Sequence[Checkpoint]
) -> list[Hyperparameters | None]:
    """What is known of each file: by the catalogue, or else by itself and by the files beside it."""
    catalogued = {c.sha256: c for c in checkpoints}
    of_files = ((catalogued.get(r.sha256), r) for r in read)
    return [
        with_epoch(known.hyperparameters, known.epoch) if known is not None else with_epoch(r.hyperparameters, r.epoch)
        for known, r in of_files
    ]


def _as_catalogued(
    read: Sequence[CheckpointContents], catalogue: Catalogue, checkpoints: Sequence[Checkpoint]
) -> list[CheckpointContents]:
    """Give checkpoints that their weights alone place in no lineage the one that they have in the catalogue."""
    alone = {r.sha256 for r in read if r.lineage is None}
    known = {c.sha256: c for c in checkpoints if c.sha256 in alone and c.lineage_id is not None}
    kept = dict(zip(known, catalogue.fingerprints([c.id for c in known.values()]), strict=True))
    return [
        replace(r, lineage=known[r.sha256].lineage_id, fingerprint_bytes=kept[r.sha256].to_bytes())
        if r.sha256 in known
        else r
        for r in read
    ]
