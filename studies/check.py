"""Go over all that the project's database holds: the catalogue, the maps and the studies. Nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, Select, inspect, select, text, type_coerce
from sqlalchemy.engine import make_url
from sqlalchemy.types import NullType

from epsopt.studies.map_index import KINDS
from epsopt.studies.surrogate_store import damage_of_map
from epsopt.zoo.catalogue.check import Damage, check_catalogue, damaged_file, kept_artifacts, opened_read_only
from epsopt.zoo.credentials import masked_url
from epsopt.zoo.errors import EpsoptError

_VIEWS = ("/measured", "/runs", "/front", "/front/predicted")
_JSON = (
    (models.StudyUserAttributeModel, "value_json"),
    (models.StudySystemAttributeModel, "value_json"),
    (models.TrialUserAttributeModel, "value_json"),
    (models.TrialSystemAttributeModel, "value_json"),
    (models.TrialParamModel, "distribution_json"),
)


def check_database(url: str) -> list[Damage]:
    """Return what is damaged in the database, each with the command that mends it.

    Args:
        url: as of the catalogue.

    Raises:
        EmptyCatalogue: there is no such database, or no catalogue in it.
        CatalogueError: it cannot be opened.
    """
    try:
        return _checked(url)
    except (EpsoptError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - SQLite's own words may be damaged, too
        return [damaged_file(url, f"{type(error).__name__}: {str(error)[:80]}")]


def _checked(url: str) -> list[Damage]:
    found = check_catalogue(url)
    if any(damage.file for damage in found):
        return found
    with opened_read_only(url) as connection:
        newest = {kind: (meta, data) for kind, _, meta, data in kept_artifacts(connection) if kind in KINDS.values()}
        for probes, kind in KINDS.items():
            damage = damage_of_map(*newest[kind], probes=probes) if kind in newest else None
            if damage is not None:
                found.append(
                    Damage(f"the fitted map is damaged: {damage}", "epsopt fit" + (" --probes" if probes else ""))
                )
        if inspect(connection).has_table("studies"):
            found += _studies(connection, url)
    return found


def _studies(connection: Connection, url: str) -> Iterator[Damage]:
    version = connection.execute(text("SELECT schema_version FROM version_info")).scalars().first()
    if not isinstance(version, int):
        yield Damage(
            f"the version of Optuna's tables is {version!r:.40}, expected a whole number",
            f"optuna storage upgrade --storage {masked_url(url)}",
        )
        return
    rows = connection.execute(text("SELECT study_id, study_name FROM studies ORDER BY study_id")).all()
    storage = RDBStorage(_read_only(url), skip_compatibility_check=True, skip_table_creation=True)
    try:
        for study_id, name in rows:
            wrong = _wrong_json(connection, study_id) or _unreadable(storage, study_id)
            if wrong is not None:
                yield Damage(f"the study {name}: {wrong}", _remedy(str(name), url))
    finally:
        storage.engine.dispose()


def _read_only(url: str) -> str:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    return f"sqlite:///file:{quote(str(Path(parsed.database).absolute()))}?mode=ro&uri=true"


def _wrong_json(connection: Connection, study_id: int) -> str | None:
    trials = select(models.TrialModel.trial_id).where(models.TrialModel.study_id == study_id)
    for model, column in _JSON:
        table = model.__table__
        mine = table.c.study_id == study_id if "study_id" in table.c else table.c.trial_id.in_(trials)
        query: Select[Any] = select(type_coerce(table.c[column], NullType())).where(mine)
        for value in connection.execute(query).scalars():
            try:
                json.loads(value)
            except (ValueError, TypeError, RecursionError):
                return f"{table.name} holds {column} that is not valid JSON"
    return None


def _unreadable(storage: RDBStorage, study_id: int) -> str | None:
    """Say why Optuna cannot read a study; None: it can."""
    try:
        storage.get_study_directions(study_id)
        storage.get_study_user_attrs(study_id)
        storage.get_study_system_attrs(study_id)
        for trial in storage.get_all_trials(study_id):
            _ = trial.params, trial.user_attrs
            numbers = [*(trial.values or ()), *trial.intermediate_values.values()]
            if not all(isinstance(v, int | float) for v in numbers):
                return f"trial {trial.number} has a value that is no number"
    except Exception as error:  # noqa: BLE001 - whatever damaged values provoke in Optuna and SQLAlchemy
        lines = str(error).strip().splitlines()
        return f"its trials cannot be read ({lines[0][:100] if lines else type(error).__name__})"
    return None


def _remedy(name: str, url: str) -> str:
    delete = f"optuna delete-study --study-name '{name}' --storage '{masked_url(url)}'"
    if name.endswith(_VIEWS) or any(part in name for part in ("/runs/", "/search ", "/search/")):
        return f"{delete}, and 'epsopt search' records it anew"
    return f"put a copy of the database from before in its place, or give the study up: {delete}"
