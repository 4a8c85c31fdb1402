"""Drive the scheduler (:class:`epsopt.optimize.Scheduler`): give it what was measured, queue the step that it chooses.

Each choice builds the scheduler from the database alone. The catalogue holds what was measured, trials and ledger hold
the predicted gain of each step, and the realized gain follows from both. So any worker, on any machine, continues where
another one stopped. A worker that continues its own work keeps its model of curves (scheduler_service.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from epsopt.optimize.forecast.catalogue_curves import objective_vector
from epsopt.optimize.merge.weight_space_gp import MergeCandidate
from epsopt.optimize.planned_epochs import config_with_epochs, length_choices
from epsopt.optimize.proposals.proposals import nearest_runs
from epsopt.optimize.schedule.run_acquisition import Candidate, Start
from epsopt.optimize.schedule.run_prediction import LEVEL
from epsopt.optimize.schedule.scheduler import BRANCH_EPOCHS, FIRST_RUNS, Scheduler, SearchState, Step
from epsopt.optimize.space import Config, Space
from epsopt.studies.optuna_io.queue import ProposalRecord, proposal_attributes
from epsopt.studies.optuna_io.run_folders import folder_of
from epsopt.studies.optuna_io.stored_trials import config_of
from epsopt.studies.project.train_command import takes_start
from epsopt.studies.schedule.budget import MeasuredMerge, StepPlan, epochs_of, plan_of, was_started
from epsopt.studies.schedule.study_snapshot import StudySnapshot
from epsopt.studies.schedule.weight_geometry import Floats, WeightGeometry, as_start, shaping
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.formatting import count

EXPLORATION_EPOCHS = 6.0
"""Epochs of a run that only explores, where merges are measured between runs; as many times the distance from one
measured checkpoint to the next, where that is more than an epoch (or a step)."""

SHORT_RUNS = 8
"""Exploration runs where nothing can be merged: stopped after their grace, many short ones teach more."""

_REMEMBERED = 32  # steps that were runs; older ones hardly count (Reliability)
_EXPLORATION_CONFIG = "exploration_config"
"""Attribute of the trial of an exploration run: its configuration before it was given a number of epochs."""


def make_scheduler(snapshot: StudySnapshot, *, seed: int = 0) -> Scheduler:
    """Put the scheduler together from the predicted and realized gains of all steps so far.

    Raises:
        UsageError: how long a whole run is, is not known.
    """
    length, takes_epochs, ledger = snapshot.length, snapshot.takes_epochs, snapshot.ledger
    starts = bool(snapshot.usable) and takes_start(snapshot.project.command or ())
    spacing = snapshot.spacing
    branch = (min(BRANCH_EPOCHS * spacing, length) if takes_epochs else length) if starts else None
    scheduler = Scheduler(
        snapshot.space, snapshot.project.objectives, length=length, reference=snapshot.reference, base=snapshot.base,
        evaluation=ledger.evaluation, branch_epochs=branch, first_runs=FIRST_RUNS if snapshot.can_merge else SHORT_RUNS,
        exploration_epochs=min(EXPLORATION_EPOCHS * spacing, length) if takes_epochs and snapshot.can_merge else None,
        bounds=snapshot.project.bounds, seed=seed,
    )  # fmt: skip
    planned = [(t, p) for t in ledger.trials if (p := plan_of(t.user_attrs)) is not None]
    again = {n for t in ledger.trials for n in t.system_attrs.get("retry_history", ())}
    first = [(t, p) for t, p in planned if "retry_of" not in t.user_attrs]
    explored = [t.user_attrs.get(_EXPLORATION_CONFIG, config_of(t)) for t, p in first if p.kind == "exploration"]
    scheduler.restore([*(p.kind for _, p in first), *("merge" for _ in ledger.merges)], explored)
    ended = [
        (t, p) for t, p in planned
        if t.state.is_finished() and t.number not in again and p.kind != "exploration" and was_started(t)
    ]  # fmt: skip
    for trial, plan in ended[-_REMEMBERED:]:
        kind: Literal["run", "branch"] = "branch" if plan.kind == "branch" else "run"
        step = Step(kind, plan.predicted_gain, plan.gain_per_epoch, plan.cost, reliability=plan.reliability)
        scheduler.learn(step, snapshot.realized_gain(trial, plan.reference_point), taken=max(ledger.used(trial), 1))
    for merge in ledger.merges:
        scheduler.learn(_step_of(merge, len(snapshot.project.objectives)), merge.realized_gain)
    return scheduler


def _step_of(merge: MeasuredMerge, objectives: int) -> Step:
    """A merge as the step that it was, as far as the scheduler learns from it."""
    unknown = np.full(objectives, np.nan)
    chosen = MergeCandidate(np.zeros((1, 0)), merge.predicted_gain, unknown, unknown, unknown, merge.kind)
    return Step("merge", merge.predicted_gain, 0.0, merge.cost, merge=chosen, reliability=merge.reliability)


def running(snapshot: StudySnapshot) -> list[Candidate]:
    """Return what is under way or waits, as the scheduler sees it."""
    places = {run_id: i for i, run_id in enumerate(snapshot.curves)}
    values = {
        path: objective_vector(c.metrics, snapshot.project.objectives) for c in snapshot.checkpoints for path in c.paths
    }
    run_in = {folder: c.run_id for c in snapshot.checkpoints for folder in Path(c.path).parents}
    out = []
    for trial in snapshot.ledger.under_way:
        config = config_of(trial)
        if not snapshot.space.accepts(config):
            continue
        run = None
        if trial.state == TrialState.RUNNING:
            run = places.get(run_in.get(folder_of(snapshot.project, trial), -1))
        done = 0.0 if run is None else float(list(snapshot.curves.values())[run].steps[-1])
        epochs = float(epochs_of(trial) or snapshot.length)
        if epochs > done:
            out.append(Candidate(_active(snapshot, config), _start(snapshot, trial, values), epochs, run, done))
    return out


def failed(snapshot: StudySnapshot) -> list[Candidate]:
    """Return runs of the study that failed and have no checkpoint with all objectives, in none of their attempts.

    Not those whose program could not be started, nor those that somebody stopped: they say nothing of what was to run.
    """
    objectives, trials = snapshot.project.objectives, snapshot.ledger.trials
    values = {path: objective_vector(c.metrics, objectives) for c in snapshot.checkpoints for path in c.paths}
    measured = {f for path, row in values.items() if np.isfinite(row).all() for f in Path(path).parents}
    again = {n for t in trials for n in t.system_attrs.get("retry_history", ())}
    folders = {t.number: folder_of(snapshot.project, t) for t in trials}
    out = []
    for trial in trials:
        config = config_of(trial)
        attempts = [trial.number, *trial.system_attrs.get("retry_history", ())]
        over = trial.state == TrialState.FAIL and trial.number not in again and was_started(trial)
        if over and snapshot.space.accepts(config) and not any(folders[n] in measured for n in attempts):
            epochs = float(max(snapshot.ledger.used(trial), 1))
            out.append(Candidate(_active(snapshot, config), _start(snapshot, trial, values), epochs))
    return out


def _active(snapshot: StudySnapshot, config: Mapping[str, Any]) -> Config:
    return {p.name: config[p.name] for p in snapshot.space.active(config)}


def _start(snapshot: StudySnapshot, trial: FrozenTrial, values: Mapping[str, Floats]) -> Start | None:
    """What a trial's run starts from, as far as it was measured."""
    path = trial.user_attrs.get("init_from")
    if path is None:
        return snapshot.base
    return Start(path, values[path]) if path in values else None


def known(snapshot: StudySnapshot, placed: WeightGeometry | None) -> SearchState:
    """Return the state that the scheduler chooses from."""
    objectives = snapshot.project.objectives
    fixed = shaping(snapshot.checkpoints, snapshot.space)
    usable = snapshot.usable if placed is None else placed.checkpoints
    merged = [snapshot.clipped_values(c) for c in snapshot.checkpoints if is_recombined(c)]
    nothing = failed(snapshot)
    trained = sum(float(c.steps[-1]) for c in snapshot.curves.values()) + sum(c.epochs for c in nothing)
    return SearchState(
        [replace(curve, moved=_moved(snapshot, placed, run_id)) for run_id, curve in snapshot.curves.items()],
        [replace(as_start(c, objectives, fixed), values=snapshot.clipped_values(c)) for c in usable],
        np.stack(merged) if merged else None,
        None if placed is None else placed.space,
        trained + sum(m.cost for m in snapshot.ledger.merges),
        nothing,
    )


def _moved(snapshot: StudySnapshot, placed: WeightGeometry | None, run_id: int) -> Floats | None:
    start = snapshot.starts.get(run_id)
    return None if placed is None or start is None else placed.moved(snapshot.trained[run_id], start)


@dataclass(frozen=True, eq=False)
class ChosenRun:
    """A run that was chosen: what is queued when it is to be launched.

    Attributes:
        space: of its configuration.
        config: active hyperparameters, as the program is to get them.
        init_from: the checkpoint that it starts from; None: where runs start.
        attributes: of its trial.
        key: the same for whoever chooses the same one from what is known by now.
    """

    space: Space
    config: Config
    init_from: str | None
    attributes: Mapping[str, Any]
    key: str


def chosen_run(snapshot: StudySnapshot, step: Step, candidate: Candidate, room: int) -> ChosenRun:
    """Return what is to be queued of a step.

    Args:
        snapshot: at the moment when it was chosen.
        step: a run of any kind.
        candidate: what it launches.
        room: epochs that are left.
    """
    epochs = max(round(candidate.epochs), 1)
    if snapshot.takes_epochs:
        epochs = min(epochs, room, _most(snapshot.space, snapshot.epochs_parameter))
        if snapshot.spacing < epochs < snapshot.length:  # what comes after a shorter run's last checkpoint is lost
            epochs = max(round(epochs // snapshot.spacing * snapshot.spacing), 1)
    plan = StepPlan(
        step.kind, step.predicted_gain, step.gain_per_epoch, step.cost, epochs, snapshot.length,
        snapshot.takes_epochs, snapshot.epochs_parameter,
        short=step.kind == "exploration" and not snapshot.can_merge, reference_point=tuple(snapshot.reference.tolist()),
        reliability=step.reliability,
    )  # fmt: skip
    config = config_with_epochs(snapshot.space, candidate.config, snapshot.epochs_parameter, epochs)
    suggestion = suggested(snapshot, step, replace(candidate, config=config, epochs=plan.ends))
    attributes: dict[str, Any] = {"step": plan.to_json(), **proposal_attributes(suggestion, LEVEL)}
    if plan.kind == "exploration" and config != candidate.config:
        attributes[_EXPLORATION_CONFIG] = dict(candidate.config)
    start = suggestion.init_from
    alike = sum(config_of(t) == config and t.user_attrs.get("init_from") == start for t in snapshot.ledger.trials)
    identity = json.dumps([config, start, alike], sort_keys=True)
    return ChosenRun(snapshot.space, config, start, attributes, hashlib.sha256(identity.encode()).hexdigest()[:16])


def suggested(snapshot: StudySnapshot, step: Step, candidate: Candidate) -> ProposalRecord:
    """Return a step as a proposal: what is expected of it, and why it was chosen.

    Args:
        snapshot: at the moment when it was chosen.
        step: a run of any kind.
        candidate: that run as it will be launched, with its number of epochs: its last one is what is predicted.
    """
    names = {c.run_id: c.run for c in snapshot.checkpoints}
    past = [(names.get(run_id, str(run_id)), c.config) for run_id, c in snapshot.curves.items()]
    near = nearest_runs(snapshot.space, candidate.config, past)
    init_from = candidate.start.key if candidate.start is not None and candidate.start.key else None
    long = count(f"{candidate.epochs:g}", "epoch")
    if step.model is None:
        why = f"an exploration run of up to {long}: too few runs are known to expect anything of one"
        return ProposalRecord(candidate.config, init_from=init_from, nearest_runs=near, reason=why)
    expected = step.model.expect(candidate)
    begun = next((c for c in snapshot.checkpoints if init_from in c.paths), None)
    where = "" if begun is None else f" from {begun.run}" + ("" if begun.epoch is None else f":{begun.epoch}")
    each = step.predicted_gain / step.cost
    added = each * min(candidate.cost, step.cost)
    why = (
        f"a {step.kind} of {long}{where}, expected to add {added:.2g} to the hypervolume, {each:.2g} an epoch, and "
        f"to join the front ({expected.joins_front:.0%})"
    )
    return ProposalRecord(
        candidate.config, expected.point, expected.low, expected.high, init_from=init_from,
        joins_front=expected.joins_front, nearest_runs=near, reason=why,
    )  # fmt: skip


def _most(space: Space, by: str | None) -> int:
    return next((int(max(length_choices(p))) for p in space.parameters if p.name == by), 1 << 62)
