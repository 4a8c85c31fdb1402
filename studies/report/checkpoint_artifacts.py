"""What the dashboard shows with a trial: its checkpoint's config, path over the map and output, made on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from threading import Lock
from typing import BinaryIO

import numpy as np
import torch
from bottle import HTTPError  # the dashboard is made with it

from epsopt.figures.path_pictures import Curve, notice_picture, path_picture
from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.latent.trajectory import run_paths
from epsopt.studies.optuna_io.run_output import output_tail
from epsopt.studies.optuna_io.trial_artifacts import KINDS, artifact_id
from epsopt.studies.surrogate_store import load_map
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import EmptyCatalogue, EpsoptError
from epsopt.zoo.layouts.parsed import RECOMBINED


class CheckpointArtifacts:
    """An artifact store of Optuna's protocol that holds nothing: contents come from the catalogue and from run folders.

    Args:
        open_catalogue: opens the catalogue; it is closed after each file.
        objectives: metrics that a picture shows first.
    """

    def __init__(self, open_catalogue: Callable[[], Catalogue], objectives: tuple[str, ...] = ()) -> None:
        self._open = open_catalogue
        self._objectives = objectives
        self._lock = Lock()

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Make a file.

        Args:
            artifact_id: as :func:`epsopt.studies.optuna_io.trial_artifacts.artifact_id` names it.

        Raises:
            HTTPError: 404: nothing of the kind, or its checkpoint is no longer in the catalogue.
        """
        make = {KINDS["config"]: _config, KINDS["trajectory"]: self._trajectory, KINDS["output"]: _output}
        chosen = make.get(artifact_id.partition("-")[0])
        if chosen is None:
            raise HTTPError(404, f"{artifact_id} is no file of a checkpoint")
        with self._lock, self._open() as catalogue:  # a map takes memory: one at a time
            checkpoint = _named(catalogue, artifact_id)
            if checkpoint is None:
                raise HTTPError(404, f"the checkpoint of {artifact_id} is not in the catalogue any more")
            return BytesIO(chosen(catalogue, checkpoint).encode(errors="replace"))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:  # noqa: ARG002 - the protocol's
        """Refuse: nothing is kept here.

        Raises:
            HTTPError: 403, always.
        """
        raise HTTPError(403, "epsopt dashboard keeps no files that are uploaded: put them into the folder of the run")

    def remove(self, artifact_id: str) -> None:
        """Do nothing: a study that is deleted takes the names of its files with it, and there is nothing else."""

    def _trajectory(self, catalogue: Catalogue, checkpoint: Checkpoint) -> str:
        try:
            surrogate, _ = load_map(catalogue)
            return trajectory_picture(surrogate, catalogue.checkpoints(), checkpoint, self._objectives)
        except EpsoptError as error:  # the map is gone, or another one
            return notice_picture(str(error))


def trajectory_picture(
    surrogate: Surrogate, checkpoints: list[Checkpoint], chosen: Checkpoint, first: tuple[str, ...] = ()
) -> str:
    """Draw the path of a checkpoint's run over the map, the checkpoint ringed, beside what the run measured.

    Args:
        surrogate: the map.
        checkpoints: all of the catalogue.
        chosen: one of them.
        first: metrics that are drawn before others.

    Returns:
        An SVG document.

    Raises:
        EmptyCatalogue: the map does not know the checkpoint.
    """
    latents, known = known_latents(surrogate, checkpoints, of_runs=True)
    mine = [i for i, c in enumerate(known) if c.run_id == chosen.run_id]
    if not any(known[i].sha256 == chosen.sha256 for i in mine):
        raise EmptyCatalogue("the map does not know this checkpoint yet: 'epsopt fit' learns what is new")
    own = [known[i] for i in mine]
    path = run_paths(surrogate, own, latents[mine])[0]
    z = latents[next(i for i in mine if known[i].sha256 == chosen.sha256)]
    ringed = int((path.z - z).norm(dim=1).argmin())
    names = surrogate.metric_names
    order = sorted(range(len(names)), key=lambda j: (names[j] not in first, j))
    curves = [Curve(names[j], path.epochs, np.asarray(path.metrics[:, j])) for j in order]
    plane = surrogate.plane
    where = chosen.run if chosen.epoch is None else f"{chosen.run}, epoch {chosen.epoch} ringed"
    return path_picture(
        plane.coordinates(torch.as_tensor(latents)), plane.coordinates(path.z), ringed, plane.titles, curves, where
    )


def _config(_: Catalogue, checkpoint: Checkpoint) -> str:
    kept = {name: v for name, v in checkpoint.hyperparameters.items() if name != RECOMBINED}
    return json.dumps(kept, indent=1, ensure_ascii=True, default=str) + "\n"


def _output(_: Catalogue, checkpoint: Checkpoint) -> str:
    found = output_tail(checkpoint.path)
    return (found or "No output or log was found beside this run's checkpoints.") + "\n"


def _named(catalogue: Catalogue, name: str) -> Checkpoint | None:
    kind = next(k for k, digits in KINDS.items() if digits == name.partition("-")[0])
    return next((c for c in catalogue.checkpoints() if artifact_id(kind, c) == name), None)
