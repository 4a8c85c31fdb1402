"""Proposed configurations as an Optuna study: queued, taken by exactly one process, told the outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from epsopt.optimize.space import Space
from epsopt.optimize.targets import Objective
from epsopt.studies.kinds import Proposal
from epsopt.studies.records.distributions import distribution_of
from epsopt.studies.records.recording import NOT_EVALUATED, predicted_attributes
from epsopt.studies.records.study import open_study
from epsopt.studies.records.trials import next_waiting
from epsopt.studies.show.figure import complete_values
from epsopt.zoo.errors import EpsoptError, UsageError


@dataclass(frozen=True)
class Taken:
    """A proposal that this process, and no other, is to train.

    Attributes:
        number: of the trial; record_outcome wants it.
        params: active hyperparameters by name.
    """

    number: int
    params: dict[str, Any]


def record_proposals(
    storage: RDBStorage,
    project: str,
    objectives: Sequence[Objective],
    space: Space,
    proposals: Sequence[Proposal],
) -> list[int]:
    """Queue proposals as waiting trials of the study ``<project>/proposals``.

    Optuna runs whatever is queued, inside its distribution or not; so every proposal is checked here.

    Returns:
        The trial's number of each proposal; one that the study has already keeps its number.

    Raises:
        UsageError: a configuration is not one of the search space. Nothing is queued then.
    """
    for proposal in proposals:
        _check(space, proposal.params)
    study = open_study(storage, f"{project}/proposals", objectives)
    known = {t.user_attrs.get("key"): t.number for t in study.get_trials(deepcopy=False)}
    numbers = []
    for proposal in proposals:
        params = dict(proposal.params)
        key = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:16]
        if key not in known:
            attributes: dict[str, Any] = {"key": key, "kind": "proposal", "provenance": NOT_EVALUATED}
            attributes |= {f"predicted.{n}": float(v) for n, v in proposal.point.items()}
            attributes |= predicted_attributes(proposal)
            study.enqueue_trial(params, user_attrs=attributes)
            known |= {t.user_attrs.get("key"): t.number for t in study.get_trials(deepcopy=False)}
        numbers.append(known[key])
    return numbers


def take_proposal(storage: RDBStorage, project: str, space: Space, number: int | None = None) -> Taken | None:
    """Take the next waiting proposal, or a certain one; no two processes are given the same.

    Returns:
        The proposal, its trial now running; None when none is waiting (any more).

    Raises:
        EpsoptError: nothing was ever proposed.
        UsageError: the queued configuration is not one of the search space; the trial fails.
    """
    study = _load(storage, project)
    study_id = storage.get_study_id_from_name(study.study_name)
    while (trial_id := next_waiting(storage, study_id, number)) is not None:
        if not _claim(storage, trial_id):
            continue
        frozen = storage.get_trial(trial_id)
        params = dict(frozen.system_attrs.get("fixed_params", {}))
        try:
            _check(space, params)
        except UsageError:
            storage.set_trial_state_values(trial_id, TrialState.FAIL)
            raise
        for parameter in space.active(params):
            distribution = distribution_of(parameter)
            value = distribution.to_internal_repr(params[parameter.name])
            storage.set_trial_param(trial_id, parameter.name, value, distribution)
        return Taken(frozen.number, params)
    return None


def record_outcome(
    storage: RDBStorage,
    project: str,
    objectives: Sequence[Objective],
    space: Space,
    number: int,
    metrics: Mapping[str, float | None] | None,
    *,
    path: str | None = None,
) -> None:
    """Tell the study what training a proposal gave.

    Args:
        storage: as open_storage gives it.
        project: the project's name.
        objectives: the metrics that count.
        space: the search space, to take the proposal with when nobody has yet.
        number: the trial's number.
        metrics: measured values by name; None, or one without a finite value of every objective, is a failed
            trial.
        path: the checkpoint that was measured.

    Raises:
        EpsoptError: there is no such proposal, or its outcome is another one already.
    """
    study = _load(storage, project)
    frozen = _trial(study, project, number)
    values = None if metrics is None else complete_values(objectives, metrics)
    state = TrialState.FAIL if values is None else TrialState.COMPLETE
    if frozen.state == TrialState.WAITING:
        take_proposal(storage, project, space, number)
        frozen = _trial(study, project, number)
    if frozen.state.is_finished():
        if frozen.state == state and (values is None or frozen.values == values):
            return
        raise EpsoptError(f"proposal {number} of {project} has its outcome already: {frozen.state.name.lower()}")
    trial_id = frozen._trial_id  # noqa: SLF001
    for name, value in (metrics or {}).items():
        storage.set_trial_user_attr(trial_id, f"measured.{name}", value)
    if path is not None:
        storage.set_trial_user_attr(trial_id, "path", path)
    storage.set_trial_user_attr(trial_id, "provenance", "measured" if values else "training failed")
    storage.set_trial_state_values(trial_id, state, values)


def _claim(storage: RDBStorage, trial_id: int) -> bool:
    try:
        return storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False


def _load(storage: RDBStorage, project: str) -> optuna.Study:
    try:
        return optuna.load_study(study_name=f"{project}/proposals", storage=storage)
    except KeyError as error:
        raise EpsoptError(f"{project} has no proposals yet: run `epsopt propose` first") from error


def _trial(study: optuna.Study, project: str, number: int) -> FrozenTrial:
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise EpsoptError(f"{project} has no proposal {number}: it has {len(trials)}, counted from 0")
    return trials[number]


def _check(space: Space, params: Mapping[str, Any]) -> None:
    active = {p.name: p for p in space.active(params)}
    declared = {p.name for p in space.parameters}
    for name, parameter in active.items():
        if name not in params:
            raise UsageError(f"a proposal lacks {name}, which is active in it: {dict(params)}")
        if not parameter.contains(params[name]):
            span = list(parameter.choices) if parameter.kind == "categorical" else [parameter.low, parameter.high]
            raise UsageError(f"a proposal has {name} = {params[name]!r}, expected a value of {span}")
    for name, value in params.items():
        if name in declared and name not in active:
            raise UsageError(f"a proposal sets {name}, which is inactive in it: leave it out")
        if name not in declared and space.fixed.get(name) != value:
            raise UsageError(f"a proposal sets {name}, which the search space does not have")
