"""Read a project's proposals by SQL, with nothing imported of Optuna's storage.

What is read is what Optuna's own storage reads: tests/studies/optuna_io/test_stored_trials.py compares them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Row, Select, event, inspect, select
from sqlalchemy.engine import make_url

from epsopt.optimize.objectives import Objective
from epsopt.studies.optuna_io import optuna_tables as tables
from epsopt.zoo.catalogue.database import one_state, open_database
from epsopt.zoo.errors import CatalogueError

MARK = "epsopt:attributes"
"""System attribute of a study: version of the names of its trials' attributes."""

ATTRIBUTES_VERSION = 1
"""Today's version of them."""

QUERY = "query"
"""User attribute of a search's study: all that was asked for."""

DROPPED = "dropped"
"""User attribute of a trial that was queued and never tried, since the search space does not have it: it failed."""

NOT_STARTED = "not_started"
"""User attribute of a failed trial whose program could not be launched; today such a trial waits again."""


class StudyDatabase(Protocol):
    """A database with studies: Optuna's ``RDBStorage``, or what :func:`open_to_read` returns."""

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's."""


@dataclass(frozen=True)
class ReadDatabase:
    """A database whose studies are only read.

    Attributes:
        engine: SQLAlchemy's.
    """

    engine: Engine


def open_to_read(url: str) -> StudyDatabase:
    """Open the studies behind a database URL to read proposals; nothing is created.

    Where an older version of epsopt or of Optuna wrote them, this is :func:`epsopt.studies.open_storage`, which
    upgrades them or says what to do.

    Args:
        url: as the catalogue takes it.

    Raises:
        CatalogueError: there is no such database, or it cannot be opened.
    """
    check_exists(url)
    engine = open_database(url)
    if engine.dialect.name == "sqlite":  # else every query would see another moment
        event.listen(engine, "begin", _begin)
    with engine.begin() as connection:
        readable = _readable(connection)
    if readable:
        return ReadDatabase(engine)
    engine.dispose()
    from epsopt.studies.optuna_io.storage import open_storage

    return open_storage(url, create=False)


def check_exists(url: str) -> None:
    """Refuse a SQLite file that is not there.

    Raises:
        CatalogueError: it is not.
    """
    database = make_url(url).database if url.startswith("sqlite") else None
    if database and not database.startswith((":memory:", "file:")) and not Path(database).is_file():
        raise CatalogueError(f"{database}: there is no such database yet: run `epsopt ingest` first")


def study_name(project: str) -> str:
    """Name the study of a project's proposals."""
    return f"{project}/proposals"


def is_of_proposals(study: str) -> bool:
    """Whether a study of this name holds proposals, for a project's objectives of today or for former ones."""
    return study.endswith("/proposals") or "/proposals/" in study


def proposed_trials(storage: StudyDatabase, project: str) -> list[FrozenTrial]:
    """Return every proposal there ever was, whatever became of it; none where nothing was proposed."""
    with one_state(storage.engine).begin() as connection:
        study = _study(connection, study_name(project))
        return [] if study is None else _trials(connection, study)


def recorded_objectives(storage: StudyDatabase, project: str) -> tuple[Objective, ...] | None:
    """Return the objectives that a project's proposals were made for; ``None``: there are none, or without names."""
    directions = select(tables.DIRECTIONS.c.direction).order_by(tables.DIRECTIONS.c.objective)
    names = select(tables.STUDY_ATTRIBUTES.c.value_json).where(tables.STUDY_ATTRIBUTES.c.key == "study:metric_names")
    with one_state(storage.engine).begin() as connection:
        study = _study(connection, study_name(project))
        if study is None:
            return None
        named = connection.scalar(names.where(tables.STUDY_ATTRIBUTES.c.study_id == study))
        if named is None:
            return None
        better = connection.scalars(directions.where(tables.DIRECTIONS.c.study_id == study))
        return tuple(Objective(n, b == "MAXIMIZE") for n, b in zip(json.loads(named), better, strict=True))


def searched_targets(storage: StudyDatabase, project: str) -> dict[str, float] | None:
    """Return the targets of a project's last search, by metric; ``None``: no search was recorded.

    Args:
        storage: where the studies are.
        project: its name.
    """
    query, named = tables.STUDY_USER_ATTRIBUTES, tables.STUDIES.c.study_name
    of_searches = named.startswith(f"{project}/search ", autoescape=True)
    found = (
        select(query.c.value_json)
        .join(tables.STUDIES, tables.STUDIES.c.study_id == query.c.study_id)
        .where(query.c.key == QUERY, of_searches)
        .order_by(query.c.study_id.desc())
        .limit(1)
    )
    with storage.engine.begin() as connection:
        there = inspect(connection).has_table(tables.STUDIES.name)
        text = connection.scalar(found) if there else None
    return None if text is None else dict(json.loads(text).get("targets", {}))


def unmarked_studies(connection: Connection) -> list[int]:
    """Return the ids of the studies of proposals whose attributes may have former names."""
    marks, name = tables.STUDY_ATTRIBUTES, tables.STUDIES.c.study_name
    marked = select(marks.c.study_id).where(marks.c.key == MARK)
    # as in is_of_proposals
    query = select(tables.STUDIES.c.study_id).where(name.endswith("/proposals") | name.contains("/proposals/"))
    return list(connection.scalars(query.where(tables.STUDIES.c.study_id.not_in(marked))))


def config_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the hyperparameters of a proposal, whether it ran or waits."""
    return dict(trial.system_attrs.get("fixed_params") or trial.params)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _readable(connection: Connection) -> bool:
    """Whether the studies have the columns and the names that are read here, or there are none."""
    there = inspect(connection)
    if not there.has_table(tables.STUDIES.name):
        return True
    if not there.has_table(tables.REVISION.name):
        return False
    revision = connection.scalar(select(tables.REVISION.c.version_num))
    return revision == tables.READABLE and not unmarked_studies(connection)


def _study(connection: Connection, name: str) -> int | None:
    if not inspect(connection).has_table(tables.STUDIES.name):
        return None
    found: int | None = connection.scalar(select(tables.STUDIES.c.study_id).where(tables.STUDIES.c.study_name == name))
    return found


def _trials(connection: Connection, study: int) -> list[FrozenTrial]:
    trials = tables.TRIALS
    own = select(trials.c.trial_id).where(trials.c.study_id == study)

    def by_trial(query: Select[Any]) -> Mapping[int, list[Row[Any]]]:
        rows: defaultdict[int, list[Row[Any]]] = defaultdict(list)
        for row in connection.execute(query):
            rows[row.trial_id].append(row)
        return rows

    params, values, steps = tables.PARAMS, tables.VALUES, tables.INTERMEDIATE_VALUES
    user, system = tables.USER_ATTRIBUTES, tables.SYSTEM_ATTRIBUTES
    params_of = by_trial(select(params).where(params.c.trial_id.in_(own)).order_by(params.c.param_id))
    values_of = by_trial(select(values).where(values.c.trial_id.in_(own)).order_by(values.c.objective))
    steps_of = by_trial(select(steps).where(steps.c.trial_id.in_(own)).order_by(steps.c.step))
    user_of = by_trial(select(user).where(user.c.trial_id.in_(own)).order_by(user.c.trial_user_attribute_id))
    system_of = by_trial(select(system).where(system.c.trial_id.in_(own)).order_by(system.c.trial_system_attribute_id))
    found = []
    known: dict[str, BaseDistribution] = {}  # most trials have the same
    for row in connection.execute(select(trials).where(trials.c.study_id == study).order_by(trials.c.trial_id)):
        own_params = params_of.get(row.trial_id, [])
        for p in own_params:
            if p.distribution_json not in known:
                known[p.distribution_json] = json_to_distribution(p.distribution_json)
        of = {p.param_name: known[p.distribution_json] for p in own_params}
        found.append(
            FrozenTrial(
                number=row.number,
                state=TrialState[row.state],
                value=None,
                values=[_value(v.value, v.value_type) for v in values_of.get(row.trial_id, [])] or None,
                datetime_start=_local(row.datetime_start),
                datetime_complete=_local(row.datetime_complete),
                params={p.param_name: of[p.param_name].to_external_repr(p.param_value) for p in own_params},
                distributions=of,
                user_attrs=_attributes(user_of.get(row.trial_id, [])),
                system_attrs=_attributes(system_of.get(row.trial_id, [])),
                intermediate_values={
                    s.step: _value(s.intermediate_value, s.intermediate_value_type)
                    for s in steps_of.get(row.trial_id, [])
                },
                trial_id=row.trial_id,
            )
        )
    return found


def _attributes(rows: Sequence[Row[Any]]) -> dict[str, Any]:
    return {row.key: json.loads(row.value_json) for row in rows}


def _value(stored: float | None, kind: str) -> float:
    """Databases do not keep infinities and NaN: a second column says which one it is."""
    special = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
    return special[kind] if stored is None else stored


def _local(stored: datetime | None) -> datetime | None:
    """Return a time as Optuna does, local and without a zone; the database has UTC."""
    return None if stored is None else stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
