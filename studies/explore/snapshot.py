"""What the page is about: the catalogue and the map as they were when it was opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.storages import RDBStorage
from torch import Tensor

from epsopt.optimize.latent.neighbours import nearest
from epsopt.optimize.latent.predict_checkpoint import why_refused
from epsopt.optimize.latent.search import known_latents, learned_latents
from epsopt.optimize.latent.trajectory import run_paths
from epsopt.optimize.latent.trust_region import trust_region
from epsopt.optimize.objectives import Objective
from epsopt.studies.explore.links import proposed_starts
from epsopt.studies.project.project import Project
from epsopt.studies.report.report import LoopReport, loop_report
from epsopt.studies.schedule.budget import MeasuredMerge, measured_merges
from epsopt.studies.surrogate_store import load_map
from epsopt.surrogate.hyperparameter_table import hyperparameters_of
from epsopt.surrogate.surrogate import Surrogate
from epsopt.surrogate.validation import Validation
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import EmptyCatalogue, UsageError
from epsopt.zoo.reading.text import visible


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A project, its checkpoints and its map at one moment.

    Attributes:
        project: what epsopt.toml says.
        objectives: they, all known to the catalogue.
        checkpoints: ``n`` of the catalogue.
        labels: what tables call each run, by its name.
        surrogate: the map.
        validation: of the fit, on runs that it had not seen.
        latents: ``(n, latent)`` encoded checkpoints; NaN where weights are NaN.
        learned: ``(n,)`` whether the map was trained on each; the others it only encodes.
        steps: usual step of each run by its id: the median distance between consecutive checkpoints.
        refused: why the map predicts nothing of a checkpoint, by its row; those that it predicts, and those with NaN
            weights, are missing.
        level: coverage of the intervals.
        storage: of the studies; None where there are none.
        report: how proposals fared; None where there are none.
        started: path of the checkpoint that a proposed run started from, by the run's folder.
        merges: that were measured as steps of the scheduler.
        url: of the catalogue, for embeddings; empty: none is asked.
        lock: held while the map computes an answer.
    """

    project: Project
    objectives: tuple[Objective, ...]
    checkpoints: tuple[Checkpoint, ...]
    labels: Mapping[str, str]
    surrogate: Surrogate
    validation: Validation
    latents: Tensor
    learned: NDArray[np.bool_]
    steps: Mapping[int, float]
    refused: Mapping[int, str] = field(default_factory=dict)
    level: float = 0.9
    storage: RDBStorage | None = None
    report: LoopReport | None = None
    started: Mapping[Path, str] = field(default_factory=dict)
    merges: tuple[MeasuredMerge, ...] = ()
    url: str = ""
    lock: Lock = field(default_factory=Lock)

    def placed(self, row: int) -> Checkpoint:
        """Return the checkpoint of a row that has a place on the map.

        Args:
            row: of :attr:`checkpoints`.

        Raises:
            UsageError: there is none, or it has no place on the map.
        """
        if not 0 <= row < len(self.checkpoints):
            raise UsageError(f"there is no checkpoint {row}, expected 0 to {len(self.checkpoints) - 1}")
        if not bool(torch.isfinite(self.latents[row]).all()):
            path = visible(self.checkpoints[row].path)
            raise UsageError(f"{path} has no place on the map: some of its weights are NaN")
        return self.checkpoints[row]


def take_snapshot(
    project: Project,
    objectives: Sequence[Objective],
    catalogue: Catalogue,
    storage: RDBStorage | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    level: float = 0.9,
) -> Snapshot:
    """Read everything that the page shows.

    Args:
        project: what epsopt.toml says.
        objectives: they, all known to the catalogue.
        catalogue: its checkpoints and its newest map.
        storage: of the studies; None where there are none.
        labels: what tables call each run, by its name; by default its name.
        level: coverage of the intervals.

    Raises:
        EmptyCatalogue: there is no checkpoint, or no map yet.
        UsageError: the map knows none of the checkpoints.
    """
    surrogate, validation = load_map(catalogue)
    checkpoints = catalogue.checkpoints()
    known_latents(surrogate, checkpoints)  # says so where there is none
    latents, learned, refused = _encoded(surrogate, catalogue, checkpoints, level)
    merges = measured_merges(catalogue, project.name)
    report, started = None, {}
    if storage is not None:
        started = proposed_starts(project, storage)
        try:
            report = loop_report(project, storage, checkpoints, merges)
        except EmptyCatalogue:
            report = None
    return Snapshot(
        project=project,
        objectives=tuple(objectives),
        checkpoints=tuple(checkpoints),
        labels=labels or {c.run: c.run for c in checkpoints},
        surrogate=surrogate,
        validation=validation,
        latents=latents,
        learned=learned,
        steps=_usual_steps(surrogate, checkpoints, latents),
        refused=refused,
        level=level,
        storage=storage,
        report=report,
        started=started,
        merges=merges,
        url=catalogue.url,
    )


def _encoded(
    surrogate: Surrogate, catalogue: Catalogue, checkpoints: Sequence[Checkpoint], level: float
) -> tuple[Tensor, NDArray[np.bool_], dict[int, str]]:
    """Latents of all checkpoints, those that the map was not trained on encoded now; which it was; what it refuses."""
    place = {key: i for i, key in enumerate(surrogate.memory.keys)}
    learned = np.array([c.sha256 in place for c in checkpoints], dtype=bool)
    latents = torch.full((len(checkpoints), surrogate.latent), torch.nan)
    latents[torch.from_numpy(learned)] = surrogate.memory.latents[
        [place[c.sha256] for c in checkpoints if c.sha256 in place]
    ].float()
    others = np.flatnonzero(~learned).tolist()
    prints = catalogue.fingerprints([checkpoints[i].id for i in others])
    usable = [(i, found) for i, found in zip(others, prints, strict=True) if not found.nan_weights]
    refused: dict[int, str] = {}
    if usable:
        known_of = hyperparameters_of(checkpoints[i] for i, _ in usable)
        z = surrogate.encode([found for _, found in usable], hyperparameters=known_of).float()
        latents[[i for i, _ in usable]] = z
        known_z, known = learned_latents(surrogate, checkpoints)
        region = trust_region(known_z, np.array([c.run_id for c in known]))
        for (i, found), (near,) in zip(usable, nearest(z, known_z, known, 1), strict=True):
            if (why := why_refused(surrogate, found, near.distance, region, level)) is not None:
                refused[i] = why
    return latents, learned, refused


def _usual_steps(surrogate: Surrogate, checkpoints: Sequence[Checkpoint], latents: Tensor) -> dict[int, float]:
    finite = torch.isfinite(latents).all(dim=1).tolist()
    placed = [c for c, there in zip(checkpoints, finite, strict=True) if there]
    out = {}
    for path in run_paths(surrogate, placed, latents[torch.tensor(finite)]):
        steps = (path.z[1:] - path.z[:-1]).norm(dim=1)
        if path.run_id is not None and len(steps):
            out[path.run_id] = float(steps.median())
    return out
