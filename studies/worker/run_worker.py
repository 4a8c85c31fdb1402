"""Join a worker with a learner, a pruner, a budget and a goal, and let it work.

What predicts takes torch, which takes seconds to import: it is imported where something is to be predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.storages import RDBStorage

from epsopt.optimize.objectives import Target
from epsopt.studies.optuna_io.queue import recorded_space
from epsopt.studies.optuna_io.run_folders import cut_off
from epsopt.studies.optuna_io.stored_trials import proposed_trials
from epsopt.studies.project.project import Project
from epsopt.studies.protocols import RunPruner
from epsopt.studies.schedule.budget import Budget
from epsopt.studies.schedule.scheduler_client import StepAsker, StepTask
from epsopt.studies.worker.refit_service import BackgroundLearner
from epsopt.studies.worker.target_monitor import Goal
from epsopt.studies.worker.trial_runner import RunResult
from epsopt.studies.worker.worker import Event, Learner, Worker, WorkerConfig
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint


@dataclass(frozen=True)
class WorkSettings:
    """What work is to be done, beside how its worker works (`WorkerConfig`).

    Attributes:
        targets: what proposals shall meet and what is spared from pruning; empty for none.
        until_reached: whether the work ends when a measured checkpoint meets all targets.
        budget: epochs of training to spend, step by step; None for no budget.
        length: epochs of a whole run of a budget; None for as many as past runs had.
        prune_below: share of the average gain per epoch below which a run is pruned; 0 prunes none.
        reuse: whether runs that are asked for may start from checkpoints of the front.
        merges: merged checkpoints to measure at each refit, at most.
        min_gain: share of the front's hypervolume; a budget ends when what is left of it is expected to add less.
    """

    targets: Sequence[Target]
    until_reached: bool
    budget: int | None
    length: int | None
    prune_below: float
    reuse: bool
    merges: int
    min_gain: float = 0.0


@dataclass(frozen=True)
class Spending:
    """What a budget was spent on.

    Attributes:
        epochs: the budget, in epochs.
        spent: epochs spent, by all workers together.
        merges: merged checkpoints that were measured.
    """

    epochs: float
    spent: float
    merges: int


@dataclass(frozen=True)
class WorkResult:
    """What came of the work.

    Attributes:
        ended: the runs that ended, in that order.
        reached: the measured checkpoint that meets all targets; None where none does or nobody asked.
        spending: what was spent; None without a budget.
        why_none_merged: why a budget measured no merged checkpoint; None where it did, or could have.
    """

    ended: list[RunResult]
    reached: Checkpoint | None
    spending: Spending | None
    why_none_merged: str | None


def reached_already(project: Project, catalogue: Catalogue, settings: WorkSettings) -> Checkpoint | None:
    """Return a measured checkpoint that meets all targets, where the work is to end with one."""
    goal = _goal(project, catalogue, settings)
    return None if goal is None else goal.reached(at_once=True)


def check_steps(project: Project, storage: RDBStorage, catalogue: Catalogue, length: int | None) -> None:
    """Check before anything is trained, not in the background, that a budget's scheduler has what it needs.

    Raises:
        UsageError: it has not; the message names what is missing.
    """
    from epsopt.studies.schedule.scheduler_adapter import make_scheduler
    from epsopt.studies.schedule.study_snapshot import StudySnapshot

    make_scheduler(StudySnapshot.read(project, storage, catalogue, length))


def run_worker(
    project: Project, url: str, storage: RDBStorage, config: WorkerConfig, settings: WorkSettings,
    notify: Callable[[Event], None],
) -> WorkResult:  # fmt: skip
    """Work until it is done.

    Args:
        project: what epsopt.toml says.
        url: database URL of the catalogue and the studies.
        storage: the studies, open.
        config: how the worker works.
        settings: what is to be done.
        notify: called with each event, in the order in which they happen.
    """
    with Catalogue(url, **project.how_to_read) as catalogue:
        budget = None if settings.budget is None else Budget(settings.budget, storage, catalogue, project.name)
        learner: Learner
        if budget is None:
            learner = BackgroundLearner(
                project.file, url, reuse=settings.reuse, targets=settings.targets, merges=settings.merges
            )
        else:
            task = StepTask(str(project.file), url, budget.end, settings.length, min_gain=settings.min_gain)
            learner = StepAsker(task, budget.settle)
        pruner = _pruner(project, storage, catalogue, settings)
        goal = _goal(project, catalogue, settings)
        worker = Worker(project, storage, catalogue, config, pruner, learner, notify, goal, budget)
        ended = worker.work()
        spending = None if budget is None else Spending(budget.epochs, budget.spent, budget.merges)
        unmerged = None
        if spending is not None and not spending.merges:
            from epsopt.studies.schedule.weight_geometry import why_none_merged

            unmerged = why_none_merged(project, catalogue)
    return WorkResult(ended, worker.reached, spending, unmerged)


def _goal(project: Project, catalogue: Catalogue, settings: WorkSettings) -> Goal | None:
    return Goal(catalogue, project.objectives, settings.targets) if settings.until_reached else None


def _pruner(project: Project, storage: RDBStorage, catalogue: Catalogue, settings: WorkSettings) -> RunPruner | None:
    if settings.budget is not None:
        from epsopt.studies.prune.budget_pruner import BudgetPruner

        return BudgetPruner(project, storage, catalogue, settings.targets)
    if not settings.prune_below:
        return None
    from epsopt.studies.prune.catalogue_pruner import CataloguePruner

    space = project.space
    if space is None and proposed_trials(storage, project.name):
        space = recorded_space(storage, project.name)
    return CataloguePruner(
        catalogue, space, project.objectives,
        targets=settings.targets, bounds=project.bounds, gain_ratio=settings.prune_below,
        unfinished=lambda: cut_off(project, proposed_trials(storage, project.name)),
    )  # fmt: skip
