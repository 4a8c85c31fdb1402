"""Add many trials at once, each only once.

Optuna's ``Study.add_trials`` takes some 20 ms a trial with 14 parameters, half a minute for a zoo of a
thousand checkpoints, and cannot see to it that two processes do not add the same one. This writes the same
rows into Optuna's tables in one transaction; tests/studies/optuna_io/test_recording.py compares them
with what ``add_trial`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, delete, insert, select

_PARTS = (
    models.TrialValueModel.__table__,
    models.TrialParamModel.__table__,
    models.TrialIntermediateValueModel.__table__,
    models.TrialUserAttributeModel.__table__,
    models.TrialSystemAttributeModel.__table__,
)


def add_new(storage: RDBStorage, study_id: int, trials: Sequence[FrozenTrial], key: str) -> int:
    """Add the trials whose user attribute ``key`` no trial of the study has yet.

    Args:
        storage: as open_storage gives it.
        study_id: the study's id.
        trials: from ``optuna.create_trial``, finished or waiting.
        key: name of the user attribute that tells trials apart; every trial has it, a text.

    Returns:
        How many were added.
    """
    with storage.engine.begin() as connection:
        lock_study(connection, study_id)
        fresh: dict[str, FrozenTrial] = {}
        known = _known(connection, study_id, key)
        for trial in trials:
            name = trial.user_attrs[key]
            if name not in known:
                fresh.setdefault(name, trial)
        if fresh:
            insert_trials(connection, study_id, list(fresh.values()))
        return len(fresh)


def replace_trials(storage: RDBStorage, study_id: int, trials: Sequence[FrozenTrial]) -> None:
    """Delete all trials of a study and write these instead, in one transaction; the study keeps its id.

    Args:
        storage: as open_storage gives it.
        study_id: the study's id.
        trials: from ``optuna.create_trial``, finished.
    """
    trial = models.TrialModel.__table__
    with storage.engine.begin() as connection:
        lock_study(connection, study_id)
        own = select(trial.c.trial_id).where(trial.c.study_id == study_id)
        for table in (*_PARTS, models.TrialHeartbeatModel.__table__):
            connection.execute(delete(table).where(table.c.trial_id.in_(own)))
        connection.execute(delete(trial).where(trial.c.study_id == study_id))
        if trials:
            insert_trials(connection, study_id, trials)


def lock_study(connection: Connection, study_id: int) -> None:
    """Become a study's one writer, so that trial numbers count up without gaps (SQLite is locked already)."""
    study = models.StudyModel.__table__
    connection.execute(select(study.c.study_id).where(study.c.study_id == study_id).with_for_update())


def numbers_by(storage: RDBStorage, study_id: int, key: str) -> dict[str, int]:
    """Return the number of the newest trial for each value of a user attribute."""
    trial, attribute = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
    query = (
        select(attribute.c.value_json, trial.c.number)
        .join(trial, trial.c.trial_id == attribute.c.trial_id)
        .where(trial.c.study_id == study_id, attribute.c.key == key)
        .order_by(trial.c.number)
    )
    with storage.engine.begin() as connection:
        return {json.loads(text): number for text, number in connection.execute(query)}


def known_distributions(storage: RDBStorage, study_id: int) -> dict[str, BaseDistribution]:
    """Return a distribution of every parameter of a study: kinds and choices never change within one."""
    trial, param = models.TrialModel.__table__, models.TrialParamModel.__table__
    query = (
        select(param.c.param_name, param.c.distribution_json)
        .join(trial, trial.c.trial_id == param.c.trial_id)
        .where(trial.c.study_id == study_id)
        .distinct()
    )
    with storage.engine.begin() as connection:
        return {name: json_to_distribution(text) for name, text in connection.execute(query)}


def _known(connection: Connection, study_id: int, key: str) -> set[str]:
    trial, attribute = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
    query = (
        select(attribute.c.value_json)
        .join(trial, trial.c.trial_id == attribute.c.trial_id)
        .where(trial.c.study_id == study_id, attribute.c.key == key)
    )
    return {json.loads(text) for text in connection.scalars(query)}


def insert_trials(connection: Connection, study_id: int, trials: Sequence[FrozenTrial]) -> list[int]:
    """Write trials into a study that is locked; return their numbers."""
    trial = models.TrialModel.__table__
    last = connection.scalar(
        select(trial.c.number).where(trial.c.study_id == study_id).order_by(trial.c.number.desc()).limit(1)
    )
    first = 0 if last is None else last + 1
    rows = [
        {
            "study_id": study_id,
            "number": first + i,
            "state": t.state,
            "datetime_start": t.datetime_start,
            "datetime_complete": t.datetime_complete,
        }
        for i, t in enumerate(trials)
    ]
    returning = insert(trial).returning(trial.c.trial_id, sort_by_parameter_order=True)
    ids = list(connection.scalars(returning, rows))
    values: list[dict[str, Any]] = []
    params: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    user: list[dict[str, Any]] = []
    system: list[dict[str, Any]] = []
    for trial_id, t in zip(ids, trials, strict=True):
        for objective, value in enumerate(t.values or ()):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            values.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
        for step, value in t.intermediate_values.items():
            stored, sort = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
            row = {"step": step, "intermediate_value": stored, "intermediate_value_type": sort}
            steps.append({"trial_id": trial_id, **row})
        for name, value in t.params.items():
            distribution = t.distributions[name]
            params.append(
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": distribution_to_json(distribution),
                }
            )
        for attributes, found in ((user, t.user_attrs), (system, t.system_attrs)):
            attributes += [
                {"trial_id": trial_id, "key": name, "value_json": json.dumps(v)} for name, v in found.items()
            ]
    for table, some in zip(_PARTS, (values, params, steps, user, system), strict=True):
        if some:
            connection.execute(insert(table), some)
    return [first + i for i in range(len(trials))]
