"""Open and delete the studies of a project."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from epsopt.optimize.objectives import Objective
from epsopt.studies.optuna_io.stored_trials import ATTRIBUTES_VERSION, MARK, is_of_proposals
from epsopt.zoo.errors import UsageError


def open_study(
    storage: RDBStorage, name: str, objectives: Sequence[Objective], *, rebuild: bool = False
) -> optuna.Study:
    """Load or create a study with these objectives.

    Args:
        storage: as open_storage gives it.
        name: the study's name.
        objectives: one direction and one metric name each.
        rebuild: whether a study of that name with other objectives gives way to an empty one.

    Raises:
        UsageError: no objective, or a study of that name has other ones.
    """
    if not objectives:
        raise UsageError("no objective is named: add [objectives.NAME] tables to epsopt.toml")
    names = [o.name for o in objectives]
    directions = [StudyDirection.MAXIMIZE if o.maximize else StudyDirection.MINIMIZE for o in objectives]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    known = study.metric_names
    if study.directions == directions and known in (None, names):
        if known is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(names)
            if is_of_proposals(name):  # a new one: nothing in it has former names
                study_id = storage.get_study_id_from_name(name)
                storage.set_study_system_attr(study_id, MARK, ATTRIBUTES_VERSION)
        return study
    if not rebuild:
        raise UsageError(
            f"the study {name} has other objectives ({', '.join(known or [])}) than the project "
            f"({', '.join(names)}): 'epsopt propose' and 'epsopt work' take a project's proposals over to other ones"
        )
    delete_study(storage, name)
    return open_study(storage, name, objectives)


def delete_study(storage: RDBStorage, name: str) -> None:
    """Delete a study; that another process has just done so is as good."""
    with contextlib.suppress(KeyError):
        optuna.delete_study(study_name=name, storage=storage)
