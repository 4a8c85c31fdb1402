"""Propose what to train next from all that a catalogue and a study know, and queue it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from epsopt.optimize.forecast.catalogue_curves import objective_vector, past_curves
from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.objectives import Objective, Objectives, Target, measured_table
from epsopt.optimize.proposals.proposals import FEWEST_RUNS, History, Proposal, propose
from epsopt.optimize.schedule.run_acquisition import Candidate, Start
from epsopt.optimize.space import Space
from epsopt.optimize.space_inference import diverged_runs, infer_space
from epsopt.studies.optuna_io.queue import ProposalRecord, record_proposals, waiting, was_tried
from epsopt.studies.optuna_io.run_folders import cut_off, folder_of, run_folder
from epsopt.studies.optuna_io.stored_trials import config_of, proposed_trials
from epsopt.studies.project.project import Project
from epsopt.studies.project.train_command import render_command, takes_start
from epsopt.studies.schedule.budget import begun_short
from epsopt.studies.schedule.study_snapshot import named_start
from epsopt.studies.schedule.weight_geometry import as_start, shaping
from epsopt.zoo.catalogue.types import Checkpoint, each_content_once
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import EpsoptError, UsageError

MOST_STARTS = 12
"""Front checkpoints that are weighed as starts; a larger front is thinned evenly."""
RANDOM = "drawn at random: too few runs are known to learn from"
_DRAWS = 32  # times as many random configurations are drawn as are wanted


@dataclass(frozen=True)
class ProposalBatch:
    """What was proposed.

    Attributes:
        proposals: the most valuable first.
        numbers: of their trials; where they were not queued, those that they would have got.
        space: what was searched.
        n_past: runs that were learned from, those that were cut off included.
    """

    proposals: tuple[Proposal, ...]
    numbers: tuple[int, ...]
    space: Space
    n_past: int


def propose_next(
    project: Project,
    storage: RDBStorage | None,
    checkpoints: Sequence[Checkpoint],
    objectives: Sequence[Objective],
    targets: Sequence[Target] = (),
    *,
    metrics: Sequence[str] = (),
    n: int = 8,
    level: float = 0.9,
    seed: int = 0,
    reuse: bool = False,
    fewer: bool = False,
    record: bool = True,
    unless_queued: bool = False,
    check: Callable[[Sequence[Proposal]], object] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> ProposalBatch:
    """Propose the next training runs, none of which ran, runs or waits already, and queue them.

    A run from a checkpoint is another one than a run from scratch with the same hyperparameters, or than one from
    another checkpoint. Of runs that were stopped early, failed or still train, what they measured by then is learned.

    Args:
        project: the space, unless it is to be inferred, and the train command.
        storage: where the study of proposals is; None: nothing was ever proposed, and nothing is recorded.
        checkpoints: the catalogue's.
        objectives: what to push.
        targets: what the outcome is to meet.
        metrics: names of metrics that are predicted, those of objectives may be among them.
        n: how many.
        level: coverage of the intervals.
        seed: the same seed proposes the same, until something changes.
        reuse: whether some may start from a checkpoint of the measured front.
        fewer: whether to propose what there is where that is less than ``n``.
        record: whether to queue them.
        unless_queued: queue them only if nothing waits by then, since others may have asked meanwhile.
        check: called with the proposals before they are queued; what it raises keeps all of them from it.
        progress: called as ``progress(what, share done)``.

    Returns:
        The proposals, the numbers of their trials, and the space that they are from.

    Raises:
        UsageError: ``reuse`` without a place for the start in the train command; a proposal that the train command
            cannot be filled with; or as :func:`propose`. Nothing is queued then.
        EmptyCatalogue: as :func:`propose`.
    """
    if reuse:
        require_start(project)
    trials = [] if storage is None else proposed_trials(storage, project.name)
    cut = runs_cut_off(project, trials, checkpoints)
    history, names = history_of(project, trials, checkpoints, objectives, metrics, cut)
    own = [t for t in trials if "init_from" not in t.user_attrs and was_tried(t)]
    reused = {folder_of(project, t) for t in trials if "init_from" in t.user_attrs}
    scratch = [c for c in checkpoints if reused.isdisjoint(Path(c.path).parents)]
    before = [*map(config_of, own), *{c.run_id: c.hyperparameters for c in scratch}.values()]
    starts: list[Start] = []
    tried: list[tuple[str, Mapping[str, Any]]] = []
    if reuse:
        front = front_checkpoints(checkpoints, objectives)
        begun = _branches_before([t for t in trials if was_tried(t)], checkpoints)
        by_content = {c.sha256: c.path for c in front}
        tried = [(by_content[s], config) for s, config in begun if s in by_content]
        fixed = shaping(checkpoints, history.space)
        every = [*objectives, *_named(metrics, objectives)]
        starts = [as_start(c, every, fixed) for c in front]
    proposals = propose(
        history, targets, n=n, level=level, seed=seed, avoid=before,
        pending=_under_way(project, trials, checkpoints, history, names), starts=starts,
        tried=tried, fewer=fewer, progress=progress,
    )  # fmt: skip
    space = history.space
    if project.command is not None:
        out = run_folder(project, len(trials))
        for p in proposals:
            render_command(project.command, {**p.fixed, **p.params}, out, p.init_from, seed=len(trials))
    if check is not None:
        check(proposals)
    if record and storage is not None and not (unless_queued and waiting(storage, project.name)):
        numbers = record_proposals(storage, project.name, objectives, space, proposals, level=level)
    else:
        numbers = list(range(len(trials), len(trials) + len(proposals)))
    return ProposalBatch(tuple(proposals), tuple(numbers), space, len(history.curves))


def _inferred_space(ends: Sequence[Checkpoint], objectives: Sequence[Objective]) -> Space:
    diverged = diverged_runs([c.metrics for c in ends], objectives)
    return infer_space([c.hyperparameters for c in ends], diverged=diverged)


def require_start(project: Project) -> None:
    """Hold the train command to having a place for the checkpoint that a run starts from.

    Raises:
        UsageError: it has none, or there is no train command.
    """
    if project.command is None or not takes_start(project.command):
        raise UsageError(
            f"{project.file}: reuse needs a train command that takes the checkpoint to start from: add a list such as "
            '["--init-from", "{init_from}"] to train.command'
        )


def _branches_before(
    trials: Sequence[FrozenTrial], checkpoints: Sequence[Checkpoint]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Runs from checkpoints that wait, run or ended, and those of the catalogue: the start's content, hyperparameters.

    What starts from a checkpoint that is not in the catalogue is left out: nothing is proposed to start from it.
    """
    content = {path: c.sha256 for c in checkpoints for path in c.paths}
    begun = [(t.user_attrs["init_from"], config_of(t)) for t in trials if "init_from" in t.user_attrs]
    runs = {c.run_id: c for c in checkpoints}.values()
    begun += [(path, c.hyperparameters) for c in runs if (path := named_start(c, content)) is not None]
    return [(content[path], config) for path, config in begun if path in content]


def runs_cut_off(project: Project, trials: Sequence[FrozenTrial], checkpoints: Sequence[Checkpoint]) -> set[int]:
    """Return the ids of proposed runs that did not end by themselves: stopped early, failed, lost or still training."""
    folders = cut_off(project, trials)
    return {c.run_id for c in checkpoints if not folders.isdisjoint(Path(c.path).parents)}


def too_few(space: Space, checkpoints: Sequence[Checkpoint], cut_off: Collection[int] = ()) -> bool:
    """Whether there are too few runs to learn proposals from; those that were cut off show no end, merges none."""
    return lacking(space, checkpoints, cut_off) > 0


def lacking(space: Space, checkpoints: Sequence[Checkpoint], cut_off: Collection[int] = ()) -> int:
    """Return how many more runs that end by themselves it takes to learn proposals from them."""
    whole = [c for c in checkpoints if c.run_id not in cut_off and not is_recombined(c)]
    configs = {c.run_id: c.hyperparameters for c in whole if any(v is not None for v in c.metrics.values())}
    return max(FEWEST_RUNS - sum(space.accepts(config) for config in configs.values()), 0)


def queue_random(
    project: Project,
    storage: RDBStorage,
    space: Space,
    n: int,
    seed: int = 0,
    checkpoints: Sequence[Checkpoint] = (),
) -> list[int]:
    """Queue random configurations, with nothing predicted of them: what a search begins with.

    Args:
        project: names the study.
        storage: where it is.
        space: what may be launched.
        n: how many at most; fewer where a small space holds no more that did not run.
        seed: of the configurations.
        checkpoints: the catalogue's; what they ran with is not queued again.

    Returns:
        Their trials' numbers.

    Raises:
        EpsoptError: everything that was drawn from the space ran already.
    """
    trials = proposed_trials(storage, project.name)
    ran = {c.run_id: c.hyperparameters for c in checkpoints}.values()
    seen = {space.key(c) for c in [*map(config_of, filter(was_tried, trials)), *ran] if space.accepts(c)}
    rng = np.random.default_rng([seed, len(trials)])  # the next ones differ from those before
    found: dict[Any, Mapping[str, Any]] = {}
    for config in (c for _ in range(_DRAWS) for c in space.sample(n, rng)):
        key = space.key(config)
        if key not in seen and len(found) < n:
            found.setdefault(key, config)
    if not found:
        raise EpsoptError(
            f"no configuration of the search space is left that did not run, in {_DRAWS * n} random ones: widen "
            f"[space] in {project.file}"
        )
    drawn = [ProposalRecord(config, reason=RANDOM) for config in found.values()]
    return record_proposals(storage, project.name, project.objectives, space, drawn)


def front_checkpoints(checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]) -> list[Checkpoint]:
    """Return checkpoints of the measured front whose files are there, at most MOST_STARTS, spread over the front."""
    there = each_content_once([c for c in checkpoints if Path(c.path).is_file()])
    table = measured_table([c.metrics for c in there], objectives)
    front = [there[i] for i in Objectives(objectives).front(table)]
    front.sort(key=lambda c: _first(c.metrics, objectives))
    if len(front) <= MOST_STARTS:
        return front
    return [front[round(i * (len(front) - 1) / (MOST_STARTS - 1))] for i in range(MOST_STARTS)]


def _first(metrics: Mapping[str, float | None], objectives: Sequence[Objective]) -> float:
    return float(metrics[objectives[0].name] or 0.0)


def _named(metrics: Sequence[str], objectives: Sequence[Objective]) -> list[Objective]:
    """Metrics that are none of the objectives; which way is better does not matter."""
    return [Objective(name, maximize=True) for name in metrics if name not in {o.name for o in objectives}]


def history_of(
    project: Project,
    trials: Sequence[FrozenTrial],
    checkpoints: Sequence[Checkpoint],
    objectives: Sequence[Objective],
    metrics: Sequence[str] = (),
    cut: Collection[int] = (),
) -> tuple[History, dict[int, str]]:
    """Return what choices of runs learn from, and the names of its runs by their ids.

    Args:
        project: its space and bounds.
        trials: of its proposals.
        checkpoints: of the catalogue.
        objectives: what counts.
        metrics: names of further metrics that are predicted.
        cut: ids of runs that did not end by themselves.

    Raises:
        UsageError: no space is declared, and nothing varies among past runs.
    """
    trained = {c.run_id: c for c in checkpoints if not is_recombined(c)}
    reused = {folder_of(project, t) for t in trials if "init_from" in t.user_attrs}
    # A run that started from another's checkpoint may have what nobody would launch from scratch.
    own = [c for c in trained.values() if reused.isdisjoint(Path(c.path).parents)]
    space = project.space or _inferred_space(own, objectives)
    further = _named(metrics, objectives)
    every = [*objectives, *further]
    begun = {folder_of(project, t): path for t in trials if (path := t.user_attrs.get("init_from")) is not None}
    values = {path: objective_vector(c.metrics, every) for c in checkpoints for path in c.paths}
    found = past_curves(checkpoints, space, every)
    whole = {**_without_epochs(checkpoints, space, every, found), **found}
    curves, names = {}, {}
    for run_id in sorted(whole):
        path = next((begun[f] for f in Path(trained[run_id].path).parents if f in begun), None)
        name = trained[run_id].run
        names[run_id] = name if name not in curves else f"{name} ({run_id})"
        start = whole[run_id].start if path is None else values.get(path)
        known = start is not None and np.isfinite(start).all()
        curves[names[run_id]] = replace(whole[run_id], start=start if known else None)
    short = begun_short(project, trials)
    shorter = {name for i, name in names.items() if not short.isdisjoint(Path(trained[i].path).parents)}
    history = History(
        space, tuple(objectives), tuple(o.name for o in further), curves,
        {names[i] for i in cut if i in names}, measured_table([c.metrics for c in checkpoints], objectives),
        project.bounds, shorter,
    )  # fmt: skip
    return history, names


def _without_epochs(
    checkpoints: Sequence[Checkpoint], space: Space, objectives: Sequence[Objective], known: Mapping[int, Curve]
) -> dict[int, Curve]:
    """Curves of runs whose checkpoints name no epoch: what their last one measured, at the end of a run."""
    length = float(np.median([c.steps[-1] for c in known.values()])) if known else 1.0
    last = {c.run_id: c for c in checkpoints if not is_recombined(c) and c.epoch is None}
    out = {}
    for run_id, c in last.items():
        measured = objective_vector(c.metrics, objectives)
        if run_id not in known and np.isfinite(measured).any() and space.accepts(c.hyperparameters):
            out[run_id] = Curve(space.given(c.hyperparameters), np.array([length]), measured[None])
    return out


def _under_way(
    project: Project,
    trials: Sequence[FrozenTrial],
    checkpoints: Sequence[Checkpoint],
    history: History,
    names: Mapping[int, str],
) -> list[Candidate]:
    """Runs that wait or train, and are expected to reach something yet."""
    every = [*history.objectives, *_named(history.metrics, ())]
    values = {path: objective_vector(c.metrics, every) for c in checkpoints for path in c.paths}
    begun = {folder: c.run_id for c in checkpoints if c.run_id in names for folder in Path(c.path).parents}
    out = []
    for trial in trials:
        config = config_of(trial)
        if trial.state.is_finished() or not history.space.accepts(config) or folder_of(project, trial) in begun:
            continue  # of a run that trains more is known than its hyperparameters
        path = trial.user_attrs.get("init_from")
        start = history.base if path is None else Start(path, values[path]) if path in values else None
        out.append(Candidate(history.space.given(config), start, history.length))
    return out
