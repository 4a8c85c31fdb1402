"""Go over to other objectives: proposals keep their numbers, configurations, predictions and measurements."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import optuna
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, select, update

from epsopt.optimize.measured_front import complete_values
from epsopt.optimize.objectives import Objective
from epsopt.studies.optuna_io.stored_trials import recorded_objectives, study_name
from epsopt.studies.optuna_io.study import open_study
from epsopt.studies.optuna_io.trial_leases import fail_stale_trials
from epsopt.studies.optuna_io.trials import insert_trials, lock_study
from epsopt.zoo.errors import UsageError
from epsopt.zoo.formatting import count

LOST_AFTER = 120.0
"""Seconds without a heartbeat after which a worker counts as lost."""
_NAMED = 3
_SINCE = ", an objective since"  # ends the reason why a run that was trained counts as failed
_MADE_FOR = "step.objectives"
_FAR = 1e300  # beyond it lies nothing, so a step adds nothing there


def follow_objectives(storage: RDBStorage, project: str, objectives: Sequence[Objective]) -> str | None:
    """Have a project's proposals follow the objectives that its file names now.

    The study ``<project>/proposals`` is replaced, in one transaction, by one that has the same trials under the same
    numbers, with the values that their runs measured of the new objectives. A run that did not measure one of them
    counts as failed there, with the reason, until the objectives are those that it measured again. The study of before
    stays, as ``<project>/proposals/OBJECTIVES``.

    Args:
        storage: as open_storage gives it.
        project: the project's name.
        objectives: named in the project file.

    Returns:
        What was done, in one sentence; ``None``: the proposals are for these objectives, or there are none.

    Raises:
        UsageError: a worker trains for the objectives of before.
    """
    before = recorded_objectives(storage, project)
    if before is None or before == tuple(objectives) or not objectives:
        return None
    old = optuna.load_study(study_name=study_name(project), storage=storage)
    old_id = storage.get_study_id_from_name(old.study_name)
    fail_stale_trials(storage, old_id, LOST_AFTER)
    name = f"{old.study_name}/next"
    new = open_study(storage, name, objectives, rebuild=True)
    new_id = storage.get_study_id_from_name(name)
    for key, value in old.user_attrs.items():
        new.set_user_attr(key, value)
    kept_as = _free_name(storage, f"{old.study_name}/{'+'.join(o.name for o in before)}"[:400])
    while True:
        trials = old.get_trials(deepcopy=False)
        running = [str(t.number) for t in trials if t.state == TrialState.RUNNING]
        if running:
            raise UsageError(
                f"the project file names other objectives than the proposals of {project} were made for, and "
                f"{count(len(running), 'proposal')} ({', '.join(running[:_NAMED])}) is being trained for those: let "
                "the workers end, or stop them, and start again"
            )
        with storage.engine.begin() as connection:
            lock_study(connection, old_id)
            if not _is_named(connection, old_id, old.study_name):
                return None  # somebody else has done so
            if _states(connection, old_id) == [t.state for t in trials]:  # else somebody took or added one meanwhile
                insert_trials(connection, new_id, [_carried(t, before, objectives) for t in trials])
                _rename(connection, old_id, kept_as)
                _rename(connection, new_id, old.study_name)
                break
    done = sum(t.state == TrialState.COMPLETE for t in trials)
    now = ", ".join(o.name for o in objectives)
    return (
        f"the objectives are {now} now: {count(len(trials), 'proposal')} and what {count(done, 'run')} measured went "
        f"over to them; the study of before, with what was predicted, is kept as {kept_as}"
    )


def _carried(trial: FrozenTrial, before: Sequence[Objective], objectives: Sequence[Objective]) -> FrozenTrial:
    """The same trial for other objectives, or for those again that it was for once."""
    new = copy.copy(trial)
    attrs = new.user_attrs = dict(trial.user_attrs)
    new.values = None
    step = attrs.get("step.before", attrs.get("step"))
    if step is not None:  # what it was expected to add, and added, is no volume of these objectives: epochs still count
        made_for = attrs.pop(_MADE_FOR, [[o.name, o.maximize] for o in before])
        attrs.pop("step.before", None)
        if made_for == [[o.name, o.maximize] for o in objectives]:
            attrs["step"] = step
        else:
            corner = [_FAR if o.maximize else -_FAR for o in objectives]
            nothing = {"predicted_gain": 0.0, "gain_per_epoch": 0.0, "reference_point": corner}
            attrs |= {"step": {**step, **nothing}, "step.before": step, _MADE_FOR: made_for}
    lacked = trial.state == TrialState.FAIL and str(attrs.get("failure", "")).endswith(_SINCE)
    if trial.state != TrialState.COMPLETE and not lacked:
        return new
    measured = {o.name: attrs.get(f"measured.{o.name}") for o in objectives}
    values = complete_values(objectives, measured)
    if values is None:
        lacking = ", ".join(name for name, value in measured.items() if value is None)
        new.state = TrialState.FAIL
        attrs["failure"] = f"its run did not measure {lacking}{_SINCE}"
    else:
        attrs.pop("failure", None)
        new.state, new.values = TrialState.COMPLETE, values
    return new


def _free_name(storage: RDBStorage, wanted: str) -> str:
    taken = {s.study_name for s in storage.get_all_studies()}
    return next(n for n in (wanted, *(f"{wanted} {i}" for i in range(2, len(taken) + 3))) if n not in taken)


def _is_named(connection: Connection, study_id: int, name: str) -> bool:
    study = models.StudyModel.__table__
    return connection.scalar(select(study.c.study_name).where(study.c.study_id == study_id)) == name


def _states(connection: Connection, study_id: int) -> list[TrialState]:
    trial = models.TrialModel.__table__
    query = select(trial.c.state).where(trial.c.study_id == study_id).order_by(trial.c.number)
    return list(connection.scalars(query))


def _rename(connection: Connection, study_id: int, name: str) -> None:
    study = models.StudyModel.__table__
    connection.execute(update(study).where(study.c.study_id == study_id).values(study_name=name))
