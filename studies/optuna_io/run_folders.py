"""The folder of a trial's run: where a worker trains it, and which runs did not end by themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.types import Checkpoint


def run_folder(project: Project, number: int) -> Path:
    """Return where a proposal's run goes, by its trial's number, if nothing is there yet."""
    return project.runs / f"proposal_{number:03d}"


def folder_of(project: Project, trial: FrozenTrial) -> Path:
    """Return the folder of a proposal's run: where it went, or else where it would go."""
    folder: Any = trial.user_attrs.get("folder")
    return Path(folder) if isinstance(folder, str) else run_folder(project, trial.number)


def cut_off(project: Project, trials: Sequence[FrozenTrial]) -> set[Path]:
    """Return the folders of the runs that did not end by themselves: stopped early, failed, lost, or still training."""
    whole = (TrialState.COMPLETE, TrialState.WAITING)
    return {folder_of(project, t) for t in trials if t.state not in whole}


def owner_of(folders: Mapping[Path, int], checkpoint: Checkpoint) -> int | None:
    """Return the number of the proposal in whose folder a checkpoint lies; None: it is of no proposal.

    Args:
        folders: number of each proposal by its resolved folder.
        checkpoint: of the catalogue.
    """
    return next((folders[f] for f in Path(checkpoint.path).parents if f in folders), None)


def owners_of(folders: Mapping[Path, int], checkpoints: Sequence[Checkpoint]) -> dict[int, int]:
    """Return the numbers of the proposals in whose folders checkpoints lie, by their ids; others are left out.

    Args:
        folders: number of each proposal by its resolved folder.
        checkpoints: of the catalogue; the folder of several is looked up once.
    """
    owners: dict[str, int | None] = {}
    for c in checkpoints:
        folder = os.path.dirname(c.path)  # noqa: PTH120 - of a hundred thousand; a Path takes ten times as long
        if folder not in owners:
            owners[folder] = owner_of(folders, c)
    found = ((c.id, owners[os.path.dirname(c.path)]) for c in checkpoints)  # noqa: PTH120
    return {i: number for i, number in found if number is not None}
