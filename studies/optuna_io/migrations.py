"""Rename the attributes of proposals that an older version of epsopt wrote into Optuna's tables.

:mod:`epsopt.zoo.catalogue.migrations` upgrades the catalogue's own tables. In Optuna's, only trials of the studies
``PROJECT/proposals`` and ``PROJECT/proposals/OBJECTIVES`` have attributes whose names changed. One transaction converts
such a study and sets its system attribute ``epsopt:attributes``: two processes at once convert it once, and one that is
killed leaves it as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, Table, insert, select, update

from epsopt.studies.optuna_io.stored_trials import ATTRIBUTES_VERSION, MARK, unmarked_studies
from epsopt.studies.optuna_io.trials import lock_study

_MARKS: Table = models.StudySystemAttributeModel.__table__
_TRIAL: Table = models.TrialModel.__table__
_USER: Table = models.TrialUserAttributeModel.__table__

_STEPS = ("step", "step.before")
_RENAMED = {
    "audit.checkpoints": "control.checkpoints",
    "audit.probability": "control.probability",
    "looked": "exploration_config",
    "stopped.probability": "pruned.probability",
    "stopped.reason": "pruned.reason",
    "unseen": "checkpoints_after_loss",
    "waited": "idle_seconds",
}
_RENAMED_OF_STEP = {
    "by": "epochs_parameter",
    "probe": "short",
    "promised": "predicted_gain",
    "reference": "reference_point",
    "told": "takes_epochs",
    "worth": "gain_per_epoch",
}


def convert_attributes(storage: RDBStorage) -> None:
    """Convert the studies of proposals that carry no mark yet.

    Args:
        storage: on SQLite its transactions begin with BEGIN IMMEDIATE.
    """
    with storage.engine.begin() as connection:
        unmarked = unmarked_studies(connection)
    for study_id in unmarked:
        with storage.engine.begin() as connection:
            lock_study(connection, study_id)
            if study_id in unmarked_studies(connection):  # another process was not faster
                _convert(connection, study_id)


def _convert(connection: Connection, study_id: int) -> None:
    names = [*_RENAMED, *_STEPS]
    proposals = (
        select(_TRIAL.c.trial_id)
        .join(_USER, _USER.c.trial_id == _TRIAL.c.trial_id)
        .where(_TRIAL.c.study_id == study_id, _USER.c.key == "kind", _USER.c.value_json == json.dumps("proposal"))
    )
    query = select(_USER).where(_USER.c.trial_id.in_(proposals), _USER.c.key.in_(names))
    for row in connection.execute(query).all():
        values = {"key": _RENAMED.get(row.key, row.key)}
        if row.key in _STEPS:
            values["value_json"] = json.dumps(_step(json.loads(row.value_json)))
        own = _USER.c.trial_user_attribute_id == row.trial_user_attribute_id
        connection.execute(update(_USER).where(own).values(values))
    connection.execute(insert(_MARKS).values(study_id=study_id, key=MARK, value_json=json.dumps(ATTRIBUTES_VERSION)))


def _step(kept: Mapping[str, Any]) -> dict[str, Any]:
    step = {_RENAMED_OF_STEP.get(name, name): value for name, value in kept.items()}
    return {**step, "kind": "exploration" if step.get("kind") == "look" else step.get("kind")}
