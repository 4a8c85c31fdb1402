"""What checkpoints began from: the start of a restarted run, and the checkpoints that a merge is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna.storages import RDBStorage

from epsopt.studies.optuna_io.run_folders import folder_of
from epsopt.studies.optuna_io.stored_trials import proposed_trials
from epsopt.studies.project.project import Project
from epsopt.studies.schedule.budget import MeasuredMerge
from epsopt.studies.schedule.study_snapshot import named_start
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.layouts.merge_record import DIGITS, merged_parents


def proposed_starts(project: Project, storage: RDBStorage) -> dict[Path, str]:
    """Return the checkpoint that each proposed run started from, by the run's folder.

    Args:
        project: names the study.
        storage: where it is.
    """
    trials = proposed_trials(storage, project.name)
    return {folder_of(project, t): t.user_attrs["init_from"] for t in trials if "init_from" in t.user_attrs}


def links(
    checkpoints: Sequence[Checkpoint], started: Mapping[Path, str], merges: Sequence[MeasuredMerge]
) -> list[list[int]]:
    """Return ``[row, row of what it began from]``: of a run its first checkpoint, of a merge a pair for each parent.

    Args:
        checkpoints: of the catalogue.
        started: path of the checkpoint that a run started from, by the run's folder; runs may also name it themselves.
        merges: that were measured.
    """
    content = {path: c.sha256 for c in checkpoints for path in c.paths}
    place = {path: i for i, c in enumerate(checkpoints) for path in c.paths}
    of_content = {c.sha256: i for i, c in reversed(list(enumerate(checkpoints)))}
    of_digits = {sha256[:DIGITS]: row for sha256, row in of_content.items()}
    out: list[list[int]] = []
    seen: set[int] = set()
    known = {merge.path for merge in merges if merge.ends is not None}
    for i, c in enumerate(checkpoints):
        if (parents := merged_parents(c.hyperparameters)) and not known.intersection(c.paths):
            out += [[i, of_digits[p]] for p in parents if of_digits.get(p, i) != i]
            continue
        if c.run_id in seen:
            continue
        seen.add(c.run_id)
        start = named_start(c, content) or next((started[f] for f in Path(c.path).parents if f in started), None)
        if start in place and place[start] != i:
            out.append([i, place[start]])
    for merge in merges:
        row = None if merge.path is None else place.get(merge.path)
        if row is not None and merge.ends is not None:
            out += [[row, of_content[end]] for end in merge.ends if of_content.get(end, row) != row]
    return out
