"""The artifacts of a trial: files of the checkpoint that it is, or that lies nearest to it, named but not copied.

Optuna keeps an artifact's name in the study and its content in a store. What these hold is in the catalogue and in the
folders of runs, so nothing is stored: :mod:`epsopt.studies.report.checkpoint_artifacts` makes the content on demand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol

from optuna.storages import RDBStorage

PREFIX = "artifacts:"
"""Of a trial's system attributes that name its artifacts, as ``optuna.artifacts`` writes them."""

KINDS = {"config": "01", "trajectory": "02", "output": "03"}
"""First digits of an artifact's id by what it holds; Optuna's ids are hexadecimal."""
_OF_TRIAL = "dashboard:artifacts:"
"""Of a study's system attributes that name artifacts of a trial: attributes of a finished trial cannot be added."""
_FILES = {
    "config": ("config.json", "application/json"),
    "trajectory": ("trajectory.svg", "image/svg+xml"),
    "output": ("output.txt", "text/plain; charset=utf-8"),
}


class Stored(Protocol):
    """A checkpoint that lies somewhere."""

    @property
    def path(self) -> str:
        """Where its file lies."""

    @property
    def run(self) -> str:
        """Name of its run."""


def artifact_id(kind: str, checkpoint: Stored) -> str:
    """Name a file of a checkpoint; the same file has the same name in every study.

    Args:
        kind: a key of :data:`KINDS`.
        checkpoint: whose it is.
    """
    digest = hashlib.sha256(f"{checkpoint.run}\0{checkpoint.path}".encode(errors="surrogateescape")).hexdigest()
    return f"{KINDS[kind]}-{digest[:32]}"


def artifact_attributes(checkpoint: Stored) -> dict[str, str]:
    """Return the system attributes by which the dashboard lists a checkpoint's files with a trial.

    Args:
        checkpoint: whose they are.
    """
    found = {}
    for kind, (name, mimetype) in _FILES.items():
        identity = artifact_id(kind, checkpoint)
        described = {"artifact_id": identity, "filename": name, "mimetype": mimetype, "encoding": None}
        found[PREFIX + identity] = json.dumps(described)
    return found


def name_artifacts(storage: RDBStorage, study: str, checkpoints: Mapping[int, Stored]) -> None:
    """Name the files of checkpoints with trials that ended before, where they are not named yet.

    Args:
        storage: the studies.
        study: name of the study of the trials.
        checkpoints: whose files they are, by the trials' ids.
    """
    study_id = storage.get_study_id_from_name(study)
    kept = storage.get_study_system_attrs(study_id)
    for trial_id, checkpoint in checkpoints.items():
        for key, described in artifact_attributes(checkpoint).items():
            name = f"{_OF_TRIAL}{trial_id}:{key.removeprefix(PREFIX)}"
            if name not in kept:
                storage.set_study_system_attr(study_id, name, described)
