"""Who runs which trial: claims, heartbeats, outcomes and retries, each one transaction on Optuna's own tables.

Optuna's heartbeat does not cover ask and tell, and its transitions take several transactions: a worker killed between
two of them would leave half of what it meant to say. Here a trial is waiting, or claimed with a heartbeat, or finished
with all its values and attributes, at every moment, on SQLite as on PostgreSQL
(tests/studies/optuna_io/test_trial_leases.py, benchmarks/faults.py). Ages are taken by the database's clock: the
machines' clocks need not agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection, Row, Table, delete, func, insert, select, update

from epsopt.studies.optuna_io.distributions import fits
from epsopt.studies.optuna_io.stored_trials import DROPPED
from epsopt.studies.optuna_io.trials import insert_trials, lock_study

_TRIAL: Table = models.TrialModel.__table__
_PARAM: Table = models.TrialParamModel.__table__
_VALUE: Table = models.TrialValueModel.__table__
_USER: Table = models.TrialUserAttributeModel.__table__
_SYSTEM: Table = models.TrialSystemAttributeModel.__table__
_BEAT: Table = models.TrialHeartbeatModel.__table__

MOST_RETRIES = 1
"""How often a trial whose worker died is queued again: what kills two workers would kill a third."""

OF_ONE_ATTEMPT = (
    "worker", "folder", "checkpoints", "failure", "path", "pruned.probability", "pruned.reason",
    "control.probability", "control.checkpoints", "epochs", "not_started", "idle_seconds", "interrupted",
    "checkpoints_after_loss",
)  # fmt: skip
"""User attributes (and all ``measured.NAME``) that say what became of a trial; a retry starts without them."""


@dataclass(frozen=True)
class Claim:
    """A trial that this process, and no other, is to run.

    Attributes:
        trial_id: Optuna's.
        number: of the trial in its study.
        params: the configuration that was queued.
        attributes: the trial's user attributes.
    """

    trial_id: int
    number: int
    params: dict[str, Any]
    attributes: dict[str, Any]


_OF_THE_CLAIM = ("worker", "folder", "epochs", "idle_seconds", "failure")


@dataclass(frozen=True)
class Refused:
    """A queued configuration that cannot be run and was dropped.

    Attributes:
        number: of the trial.
        reason: what is wrong with it.
    """

    number: int
    reason: str


def claim(
    storage: RDBStorage,
    study_id: int,
    worker: str | None,
    distributions: Mapping[str, BaseDistribution],
    check: Callable[[Mapping[str, Any]], str | None],
    number: int | None = None,
) -> Claim | Refused | None:
    """Claim the first waiting trial.

    Args:
        storage: as open_storage gives it.
        study_id: the study's id.
        worker: who claims it, and will beat for it; None for somebody who will not, and is trusted to come back.
        distributions: of the parameters; a value that does not fit becomes the attribute ``hyperparameter.NAME``.
        check: says what is wrong with a configuration; such a trial is dropped, and nobody gets it. It was never
            started, so it spends no budget, and the same configuration may be queued again.
        number: claim this trial or none.

    Returns:
        The claim; or what was wrong with the configuration; or None when no trial waits.
    """
    query = select(_TRIAL.c.trial_id, _TRIAL.c.number).where(
        _TRIAL.c.study_id == study_id, _TRIAL.c.state == TrialState.WAITING
    )
    if number is not None:
        query = query.where(_TRIAL.c.number == number)
    with storage.engine.begin() as connection:
        # SQLite is locked as a whole (BEGIN IMMEDIATE); PostgreSQL locks the row, and others pass over it.
        row = connection.execute(query.order_by(_TRIAL.c.number).limit(1).with_for_update(skip_locked=True)).first()
        if row is None:
            return None
        params = _attributes(connection, _SYSTEM, row.trial_id).get("fixed_params", {})
        failure = check(params)
        if failure is not None:
            _end(connection, row.trial_id, TrialState.FAIL, TrialState.WAITING)
            _put(connection, row.trial_id, {"failure": failure, DROPPED: True})
            _forget(connection, row.trial_id, ("key",))
            return Refused(row.number, failure)
        mine = _TRIAL.c.trial_id == row.trial_id
        connection.execute(update(_TRIAL).where(mine).values(state=TrialState.RUNNING, datetime_start=datetime.now()))  # noqa: DTZ005 - as Optuna
        _put_params(connection, row.trial_id, params, distributions)
        if worker is not None:
            _put(connection, row.trial_id, {"worker": worker})
            connection.execute(delete(_BEAT).where(_BEAT.c.trial_id == row.trial_id))
            connection.execute(insert(_BEAT).values(trial_id=row.trial_id, heartbeat=func.current_timestamp()))
        return Claim(row.trial_id, row.number, params, _attributes(connection, _USER, row.trial_id))


def heartbeat(storage: RDBStorage, trial_ids: Sequence[int]) -> set[int]:
    """Say that these trials are still being run; return those that are not ours any more: somebody gave them up."""
    with storage.engine.begin() as connection:
        query = select(_TRIAL.c.trial_id).where(_TRIAL.c.trial_id.in_(trial_ids), _TRIAL.c.state == TrialState.RUNNING)
        running = set(connection.scalars(query))
        ours = _BEAT.c.trial_id.in_(running)
        connection.execute(update(_BEAT).where(ours).values(heartbeat=func.current_timestamp()))
    return set(trial_ids) - running


def finish(
    storage: RDBStorage,
    trial_id: int,
    state: TrialState,
    values: Sequence[float] | None,
    attributes: Mapping[str, Any],
) -> bool:
    """End a running trial with all that is known of it; False when it is not running (any more)."""
    with storage.engine.begin() as connection:
        if not _end(connection, trial_id, state, TrialState.RUNNING):
            return False
        for objective, value in enumerate(values or ()):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            row = {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind}
            connection.execute(insert(_VALUE).values(row))
        _put(connection, trial_id, attributes)
        return True


def release(storage: RDBStorage, study_id: int, trial_id: int, reason: str) -> int | None:
    """Give up a claim, for others to run: the trial fails and is queued again, whatever its number of retries.

    Returns:
        The number of the trial that was queued; None when the claim was lost already.
    """
    with storage.engine.begin() as connection:
        lock_study(connection, study_id)
        if not _end(connection, trial_id, TrialState.FAIL, TrialState.RUNNING):
            return None
        _put(connection, trial_id, {"failure": reason})
        return _queue_again(connection, study_id, trial_id, counted=False)


def return_to_queue(storage: RDBStorage, trial_id: int) -> bool:
    """Give up a claim as if it had never been made: its program could not be launched, so nothing was tried.

    Returns:
        Whether it waits again; False: the claim was lost already.
    """
    with storage.engine.begin() as connection:
        mine = (_TRIAL.c.trial_id == trial_id) & (_TRIAL.c.state == TrialState.RUNNING)
        values = {"state": TrialState.WAITING, "datetime_start": None}
        if connection.execute(update(_TRIAL).where(mine).values(values)).rowcount != 1:
            return False
        for table in (_PARAM, _BEAT):
            connection.execute(delete(table).where(table.c.trial_id == trial_id))
        _forget(connection, trial_id, _OF_THE_CLAIM)
        return True


@dataclass(frozen=True)
class StaleTrial:
    """A trial whose worker stopped beating.

    Attributes:
        number: of the trial, which failed.
        worker: who had claimed it.
        retry: number of the trial that was queued for it; None when it had been retried before.
    """

    number: int
    worker: str
    retry: int | None


def fail_stale_trials(storage: RDBStorage, study_id: int, stale_after: float) -> list[StaleTrial]:
    """End the trials whose workers have not beaten for so many seconds, and queue each again, once."""
    now = func.current_timestamp().label("now")
    stale = (
        select(_TRIAL.c.trial_id, _TRIAL.c.number, _BEAT.c.heartbeat, now)
        .join(_BEAT, _BEAT.c.trial_id == _TRIAL.c.trial_id)
        .where(_TRIAL.c.study_id == study_id, _TRIAL.c.state == TrialState.RUNNING)
    )
    with storage.engine.begin() as connection:  # a look, before the lock
        if not any(_is_stale(row, stale_after) for row in connection.execute(stale)):
            return []
    found = []
    with storage.engine.begin() as connection:
        lock_study(connection, study_id)
        for row in connection.execute(stale.order_by(_TRIAL.c.number)).all():
            if not _is_stale(row, stale_after) or not _end(
                connection, row.trial_id, TrialState.FAIL, TrialState.RUNNING
            ):
                continue
            worker = str(_attributes(connection, _USER, row.trial_id).get("worker"))
            _put(connection, row.trial_id, {"failure": f"its worker {worker} stopped answering"})
            found.append(StaleTrial(row.number, worker, _queue_again(connection, study_id, row.trial_id, counted=True)))
    return found


def set_attributes(storage: RDBStorage, trial_id: int, attributes: Mapping[str, Any]) -> None:
    """Say something more of a trial, finished or not."""
    with storage.engine.begin() as connection:
        _put(connection, trial_id, attributes)


def unfinished(storage: RDBStorage, study_id: int) -> tuple[int, int]:
    """Count a study's waiting trials, and the running ones that somebody beats for."""
    waiting = select(func.count()).where(_TRIAL.c.study_id == study_id, _TRIAL.c.state == TrialState.WAITING)
    running = (
        select(func.count())
        .select_from(_TRIAL.join(_BEAT, _BEAT.c.trial_id == _TRIAL.c.trial_id))
        .where(_TRIAL.c.study_id == study_id, _TRIAL.c.state == TrialState.RUNNING)
    )
    with storage.engine.begin() as connection:
        return int(connection.scalar(waiting) or 0), int(connection.scalar(running) or 0)


def _is_stale(row: Row[Any], stale_after: float) -> bool:
    now = row.now if isinstance(row.now, datetime) else datetime.fromisoformat(row.now)
    age: timedelta = now.replace(tzinfo=None) - row.heartbeat
    return age > timedelta(seconds=stale_after)


def _end(connection: Connection, trial_id: int, state: TrialState, before: TrialState) -> bool:
    """Finish a trial if it is in the expected state."""
    mine = (_TRIAL.c.trial_id == trial_id) & (_TRIAL.c.state == before)
    values = {"state": state, "datetime_complete": datetime.now()}  # noqa: DTZ005 - as Optuna does
    return connection.execute(update(_TRIAL).where(mine).values(values)).rowcount == 1


def _queue_again(connection: Connection, study_id: int, trial_id: int, *, counted: bool) -> int | None:
    """Queue a trial's configuration once more; None when it was retried often enough. The study is locked."""
    number = connection.scalar(select(_TRIAL.c.number).where(_TRIAL.c.trial_id == trial_id))
    user, system = _attributes(connection, _USER, trial_id), _attributes(connection, _SYSTEM, trial_id)
    retries = int(user.get("retries", 0)) + counted
    if retries > MOST_RETRIES:
        return None
    kept = {n: v for n, v in user.items() if n not in OF_ONE_ATTEMPT and not n.startswith("measured.")}
    written = user.get("checkpoints")
    if written:  # a program that can go on from its checkpoints may (train.command's {resume_from})
        kept["resume_from"] = written[-1]["path"]
    if counted and "folder" in user:  # nobody saw what it wrote last
        kept["interrupted"] = {"trial_id": trial_id, "folder": user["folder"]}
    # As Optuna's own RetryHeartbeatStaleTrialCallback marks a retry.
    history = [*system.get("retry_history", []), number]
    again = create_trial(
        state=TrialState.WAITING,
        user_attrs={**kept, "retries": retries, "retry_of": history[0]},
        system_attrs={
            "fixed_params": system.get("fixed_params", {}),
            "failed_trial": history[0],
            "retry_history": history,
        },
    )
    return insert_trials(connection, study_id, [again])[0]


def _attributes(connection: Connection, table: Table, trial_id: int) -> dict[str, Any]:
    rows = connection.execute(select(table.c.key, table.c.value_json).where(table.c.trial_id == trial_id))
    return {row.key: json.loads(row.value_json) for row in rows}


def _forget(connection: Connection, trial_id: int, names: Sequence[str]) -> None:
    connection.execute(delete(_USER).where((_USER.c.trial_id == trial_id) & _USER.c.key.in_(names)))


def _put(connection: Connection, trial_id: int, attributes: Mapping[str, Any]) -> None:
    if attributes:
        same = (_USER.c.trial_id == trial_id) & _USER.c.key.in_(list(attributes))
        connection.execute(delete(_USER).where(same))
        rows = [{"trial_id": trial_id, "key": n, "value_json": json.dumps(v)} for n, v in attributes.items()]
        connection.execute(insert(_USER), rows)


def _put_params(
    connection: Connection, trial_id: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> None:
    rows = []
    for name, value in params.items():
        distribution = distributions.get(name)
        if distribution is None or not fits(distribution, value):
            _put(connection, trial_id, {f"hyperparameter.{name}": value})
            continue
        rows.append(
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(value),
                "distribution_json": distribution_to_json(distribution),
            }
        )
    if rows:
        connection.execute(insert(_PARAM), rows)
