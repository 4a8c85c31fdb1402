"""Keep the catalogue's runs as Optuna studies, a trial a run: what the dashboard compares.

``<project>/runs`` holds what the last checkpoint of every run measured. Optuna keeps intermediate values for one
objective only; so with several of them ``<project>/runs/<objective>`` holds the curve of each. All of them are views of
the catalogue: when something has changed, their trials are replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from epsopt.optimize.measured_front import complete_values
from epsopt.optimize.objectives import Objective
from epsopt.studies.optuna_io.distributions import fits, infer_distributions, searched_names
from epsopt.studies.optuna_io.recording import CONTENT, measured_attributes, show_trials, trial_of
from epsopt.studies.optuna_io.study import delete_study
from epsopt.studies.optuna_io.study_notes import curve_note, runs_note
from epsopt.studies.protocols import Catalogued
from epsopt.zoo.layouts.parsed import RECOMBINED


@dataclass(frozen=True)
class Recorded:
    """What a study of runs shows.

    Attributes:
        study: the study's name.
        runs: that it shows.
        left_out: runs of which no checkpoint has every objective, so that they cannot be compared.
        changed: whether it showed something else before.
    """

    study: str
    runs: int
    left_out: int
    changed: bool


def record_runs(
    storage: RDBStorage, project: str, objectives: Sequence[Objective], checkpoints: Sequence[Catalogued]
) -> Recorded:
    """Record every run as a finished trial of the study ``<project>/runs``, and its curve for every objective.

    The trial's values are those of the run's last checkpoint that has all objectives. Its parameters are the
    hyperparameters that differ between runs and that somebody chose: constants, seeds, paths and the like are user
    attributes ``hyperparameter.NAME``, and so is what Optuna cannot hold as a parameter.

    Args:
        storage: the studies (:func:`epsopt.studies.open_storage`).
        project: the project's name, first part of the studies' names.
        objectives: the metrics that count, in the order of the trials' values.
        checkpoints: all of the catalogue; a run of which none has every objective is not recorded.

    Returns:
        The name of the study that compares runs, and how many runs it shows.

    Raises:
        UsageError: there is no objective.
    """
    runs = _by_run(checkpoints)
    configs = [rows[-1].hyperparameters for rows in runs]
    chosen = searched_names(configs)
    distributions = infer_distributions([{n: v for n, v in c.items() if n in chosen} for c in configs], {})
    name = f"{project}/runs"
    ends = [rows for rows in (_measured(objectives, rows) for rows in runs) if rows]
    trials = [_run_trial(objectives, rows, distributions, i, curve=len(objectives) == 1) for i, rows in enumerate(ends)]
    changed = show_trials(storage, name, objectives, trials, runs_note(project, objectives, len(trials)))
    curves = list(objectives) if len(objectives) > 1 else []
    for objective in curves:
        some = [rows for rows in (_measured([objective], rows) for rows in runs) if rows]
        drawn = [_run_trial([objective], rows, distributions, i, curve=True) for i, rows in enumerate(some)]
        show_trials(storage, _curve_name(name, objective), [objective], drawn, curve_note(project, objective, name))
    _forget(storage, project, {_curve_name(name, o) for o in curves})
    return Recorded(name, len(trials), len(runs) - len(trials), changed)


def _curve_name(runs: str, objective: Objective) -> str:
    return f"{runs}/{objective.name}"


def _by_run(checkpoints: Sequence[Catalogued]) -> list[list[Catalogued]]:
    runs: dict[int, list[Catalogued]] = {}
    for c in checkpoints:
        runs.setdefault(c.run_id, []).append(c)
    return list(runs.values())


def _measured(objectives: Sequence[Objective], rows: Sequence[Catalogued]) -> list[Catalogued]:
    return [c for c in rows if complete_values(objectives, c.metrics) is not None]


def _run_trial(
    objectives: Sequence[Objective],
    rows: Sequence[Catalogued],
    distributions: Mapping[str, BaseDistribution],
    position: int,
    *,
    curve: bool,
) -> FrozenTrial:
    last = rows[-1]
    given = {n: v for n, v in last.hyperparameters.items() if v is not None and n != RECOMBINED}
    params = {n: v for n, v in given.items() if n in distributions and fits(distributions[n], v)}
    attributes = measured_attributes(objectives, last, given.keys() - params.keys())
    attributes |= {"checkpoints": len(rows), "merged": RECOMBINED in last.hyperparameters}
    steps = _steps(rows)
    values = {s: float(c.metrics[objectives[0].name] or 0.0) for s, c in zip(steps, rows, strict=True)} if curve else {}
    return trial_of(complete_values(objectives, last.metrics), params, distributions, attributes, position, values)


def _steps(rows: Sequence[Catalogued]) -> list[int]:
    """Where each checkpoint stands on its run's curve: its epoch, or its place where epochs are not all known."""
    epochs = [c.epoch for c in rows]
    known = [e for e in epochs if e is not None and e >= 0]
    return known if len(set(known)) == len(rows) else list(range(len(rows)))


def _forget(storage: RDBStorage, project: str, kept: set[str]) -> None:
    """Delete views of former objectives, and the study of checkpoints that versions before 0.2 kept."""
    for study in optuna.get_all_study_names(storage):
        curve = study.startswith(f"{project}/runs/") and study not in kept
        if study == f"{project}/measured" or (curve and _is_view(storage, study)):
            delete_study(storage, study)


def _is_view(storage: RDBStorage, study: str) -> bool:
    return CONTENT in storage.get_study_system_attrs(storage.get_study_id_from_name(study))
