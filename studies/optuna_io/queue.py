"""Proposed configurations as an Optuna study: queued, taken by exactly one process, finished with the outcome."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from epsopt.optimize.measured_front import complete_values
from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Space
from epsopt.studies.optuna_io.distributions import distribution_of
from epsopt.studies.optuna_io.recording import NOT_EVALUATED, predicted_attributes
from epsopt.studies.optuna_io.stored_trials import (
    DROPPED,
    NOT_STARTED,
    config_of,
    proposed_trials,
    study_name,
)
from epsopt.studies.optuna_io.study import open_study
from epsopt.studies.optuna_io.trial_leases import Refused, claim, finish
from epsopt.studies.optuna_io.trials import add_new, known_distributions, numbers_by
from epsopt.studies.protocols import Proposal
from epsopt.zoo.errors import EpsoptError, UsageError


@dataclass(frozen=True)
class ClaimedProposal:
    """A proposal that this process, and no other, is to train.

    Attributes:
        number: of the trial; record_outcome wants it.
        params: active hyperparameters by name.
        init_from: the checkpoint that it starts from; None starts from scratch.
        trial_id: Optuna's, for heartbeats.
        attributes: everything else that was said when it was queued.
    """

    number: int
    params: dict[str, Any]
    init_from: str | None = None
    trial_id: int = -1
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resume_from(self) -> str | None:
        """The last checkpoint of an attempt that was interrupted; None: there was none, or it left nothing."""
        found = self.attributes.get("resume_from")
        return found if isinstance(found, str) else None

    @property
    def seed(self) -> int:
        """The number of its first attempt: what a train command's ``{seed}`` becomes."""
        first = self.attributes.get("retry_of")
        return first if isinstance(first, int) else self.number


@dataclass(frozen=True)
class ProposalRecord:
    """A proposal of which as much is known as is said; by default nothing but its configuration.

    Attributes:
        params: active hyperparameters by name.
        point: predicted metrics by name.
        low: lower ends of their intervals.
        high: upper ends.
        probability: that all targets are met, the product over single targets; None without targets.
        init_from: the checkpoint that it starts from; None from scratch.
        joins_front: probability that it joins the measured front; None: not known.
        nearest_runs: past runs with the most similar hyperparameters, and how far they are.
        reason: why it was chosen, in one line.
    """

    params: Mapping[str, Any]
    point: Mapping[str, float] = field(default_factory=dict)
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)
    probability: float | None = None
    init_from: str | None = None
    joins_front: float | None = None
    nearest_runs: Sequence[tuple[str, float]] = ()
    reason: str | None = None


def record_proposals(
    storage: RDBStorage,
    project: str,
    objectives: Sequence[Objective],
    space: Space,
    proposals: Sequence[Proposal],
    *,
    level: float = 0.9,
) -> list[int]:
    """Queue proposals as waiting trials of the study ``<project>/proposals``, with what is predicted of them.

    Optuna runs whatever is queued, inside its distribution or not; so every proposal is checked here. The study keeps
    the space too: workers need it where it was inferred.

    Args:
        storage: as open_storage gives it.
        project: the project's name.
        objectives: the metrics that count.
        space: what proposals may be.
        proposals: what to queue, all or nothing of it.
        level: what share of measurements the intervals are meant to hold.

    Returns:
        The trial's number of each proposal; one that the study has already keeps its number.

    Raises:
        UsageError: a configuration is not one of the search space. Nothing is queued then.
    """
    for proposal in proposals:
        failure = space.validation_error(proposal.params)
        if failure is not None:
            raise UsageError(f"a proposal {failure}")
    study = open_study(storage, study_name(project), objectives)
    study_id = storage.get_study_id_from_name(study.study_name)
    described = space.as_json()
    if study.user_attrs.get("space") != described:
        study.set_user_attr("space", described)
    trials = [_waiting(proposal, level) for proposal in proposals]
    add_new(storage, study_id, trials, "key")
    numbers = numbers_by(storage, study_id, "key")
    return [numbers[t.user_attrs["key"]] for t in trials]


def record_step(
    storage: RDBStorage,
    project: str,
    objectives: Sequence[Objective],
    space: Space,
    config: Mapping[str, Any],
    init_from: str | None,
    more: Mapping[str, Any],
    key: str | None = None,
) -> int | None:
    """Queue one run with what is said of it; unlike a proposal it is queued even if an earlier one was like it.

    Args:
        storage: as open_storage gives it.
        project: the project's name.
        objectives: the metrics that count.
        space: what runs may be.
        config: active hyperparameters by name.
        init_from: the checkpoint that it starts from; None: where runs start.
        more: attributes of the trial (:func:`proposal_attributes`, and what the step was).
        key: of the step, so that whoever else chose the same one does not queue it too; by default it has its own.

    Returns:
        The trial's number; None: a step of that key was queued before.

    Raises:
        UsageError: the configuration is not one of the search space.
    """
    failure = space.validation_error(config)
    if failure is not None:
        raise UsageError(f"a step {failure}")
    study = open_study(storage, study_name(project), objectives)
    study_id = storage.get_study_id_from_name(study.study_name)
    described = space.as_json()
    if study.user_attrs.get("space") != described:
        study.set_user_attr("space", described)
    attributes = {"key": key or uuid.uuid4().hex[:16], "kind": "proposal", "provenance": NOT_EVALUATED, **more}
    if init_from is not None:
        attributes["init_from"] = init_from
    trial = create_trial(state=TrialState.WAITING, user_attrs=attributes, system_attrs={"fixed_params": dict(config)})
    if not add_new(storage, study_id, [trial], "key"):
        return None
    return numbers_by(storage, study_id, "key")[attributes["key"]]


def _waiting(proposal: Proposal, level: float) -> FrozenTrial:
    params = dict(proposal.params)
    identity: Any = params if proposal.init_from is None else [params, proposal.init_from]
    attributes: dict[str, Any] = {
        "key": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        "kind": "proposal",
        "provenance": NOT_EVALUATED,
        **proposal_attributes(proposal, level),
    }
    if proposal.init_from is not None:
        attributes["init_from"] = proposal.init_from
    return create_trial(state=TrialState.WAITING, user_attrs=attributes, system_attrs={"fixed_params": params})


def proposal_attributes(proposal: Proposal, level: float) -> dict[str, Any]:
    """Return what a queued trial says of its proposal: what is predicted of it, and why it was chosen.

    Args:
        proposal: of which as much is said as is known.
        level: what share of measurements the intervals are meant to hold.
    """
    attributes: dict[str, Any] = {"level": level}
    attributes |= {f"predicted.{n}": float(v) for n, v in proposal.point.items()}
    attributes |= predicted_attributes(proposal)
    if proposal.joins_front is not None:
        attributes["joins_front"] = float(proposal.joins_front)
    if proposal.nearest_runs:
        attributes["nearest_runs"] = [
            {"run": run, "distance": float(distance)} for run, distance in proposal.nearest_runs
        ]
    if proposal.reason is not None:
        attributes["reason"] = proposal.reason
    return attributes


def recorded_space(storage: RDBStorage, project: str) -> Space:
    """Return the space that a project's proposals were last made in.

    Raises:
        EpsoptError: nothing was ever proposed.
    """
    described = _load(storage, project).user_attrs.get("space")
    if described is None:
        raise EpsoptError(f"the study {study_name(project)} does not say what was searched: run 'epsopt propose' again")
    return Space.from_json(described)


def was_tried(trial: FrozenTrial) -> bool:
    """Whether a proposal waits, runs or ran: neither was it dropped, nor could its program not be launched."""
    return not trial.user_attrs.get(DROPPED) and not trial.user_attrs.get(NOT_STARTED)


def waiting(storage: RDBStorage, project: str) -> list[ClaimedProposal]:
    """Return what is queued, in the order in which it would be taken; takes nothing."""
    return [
        ClaimedProposal(t.number, config_of(t), t.user_attrs.get("init_from"), attributes=t.user_attrs)
        for t in proposed_trials(storage, project)
        if t.state == TrialState.WAITING
    ]


def take_proposal(
    storage: RDBStorage,
    project: str,
    space: Space,
    number: int | None = None,
    *,
    worker: str | None = None,
) -> ClaimedProposal | None:
    """Take the next waiting proposal, or a certain one; no two processes are given the same.

    Args:
        storage: as open_storage gives it.
        project: the project's name.
        space: the search space.
        number: of the proposal wanted; None takes the first.
        worker: a name for who takes it and will say by heartbeats that it is still there. Without one nobody gives
            the proposal to somebody else, however long its outcome takes.

    Returns:
        The proposal, its trial now running; None when none is waiting (any more).

    Raises:
        EpsoptError: nothing was ever proposed.
        UsageError: the queued configuration is not one of the search space, which may be another one than when it was
            queued; it is dropped.
    """
    study_id = _study_id(storage, project)
    distributions = _distributions(storage, study_id, space)
    found = claim(storage, study_id, worker, distributions, space.validation_error, number)
    if isinstance(found, Refused):
        raise UsageError(f"proposal {found.number} {found.reason}; it is dropped")
    if found is None:
        return None
    init_from = found.attributes.get("init_from")
    return ClaimedProposal(found.number, found.params, init_from, found.trial_id, found.attributes)


def _distributions(storage: RDBStorage, study_id: int, space: Space) -> dict[str, BaseDistribution]:
    """Return how parameters are recorded: a study never changes what kind they are, nor their categories."""
    known = known_distributions(storage, study_id)
    found = {p.name: distribution_of(p) for p in space.parameters}
    for name in found.keys() & known.keys():
        try:
            check_distribution_compatibility(known[name], found[name])
        except ValueError:
            found[name] = known[name]
    return found


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
    trial = _trial(storage, project, number)
    values = None if metrics is None else complete_values(objectives, metrics)
    state = TrialState.FAIL if values is None else TrialState.COMPLETE
    if trial.state == TrialState.WAITING:
        take_proposal(storage, project, space, number)
    if not trial.state.is_finished():
        outcome = outcome_attributes(metrics, path, "measured" if values else "training failed")
        if finish(storage, trial._trial_id, state, values, outcome):  # noqa: SLF001 - Optuna has no public one
            return
        trial = _trial(storage, project, number)
    if trial.state != state or (values is not None and trial.values != values):
        raise EpsoptError(f"proposal {number} of {project} has its outcome already: {trial.state.name.lower()}")


def outcome_attributes(metrics: Mapping[str, float | None] | None, path: str | None, provenance: str) -> dict[str, Any]:
    """Return what a finished proposal's trial says of its run."""
    outcome: dict[str, Any] = {f"measured.{name}": value for name, value in (metrics or {}).items()}
    if path is not None:
        outcome["path"] = path
    return {**outcome, "provenance": provenance}


def _study_id(storage: RDBStorage, project: str) -> int:
    try:
        return storage.get_study_id_from_name(study_name(project))
    except KeyError as error:
        raise EpsoptError(f"{project} has no proposals yet: run 'epsopt propose' first") from error


def _load(storage: RDBStorage, project: str) -> optuna.Study:
    _study_id(storage, project)
    return optuna.load_study(study_name=study_name(project), storage=storage)


def _trial(storage: RDBStorage, project: str, number: int) -> FrozenTrial:
    trials = _load(storage, project).get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise EpsoptError(f"{project} has no proposal {number}: it has {len(trials)}, counted from 0")
    return trials[number]
