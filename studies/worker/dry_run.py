"""What a worker would do with a queue: which proposals it would launch, drop or stop at, and what it would ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.storages import RDBStorage

from epsopt.optimize.space import Space
from epsopt.studies.optuna_io.queue import recorded_space, waiting
from epsopt.studies.optuna_io.run_folders import run_folder
from epsopt.studies.project.project import Project
from epsopt.studies.project.train_command import render_command
from epsopt.studies.schedule.budget import plan_of
from epsopt.studies.worker.training_process import cannot_launch
from epsopt.zoo.errors import UsageError


@dataclass(frozen=True)
class DryRun:
    """What a worker would do.

    Attributes:
        launched: arguments by the proposal's number, in the order of the queue.
        dropped: why a proposal would be dropped, by its number.
        stopped: number of the proposal at which the work would end, since it cannot be launched, and why.
        asked: proposals that would be asked for once the queue is empty; None: again and again.
    """

    launched: Mapping[int, list[str]]
    dropped: Mapping[int, str]
    stopped: tuple[int, str] | None
    asked: int | None


def plan_work(project: Project, storage: RDBStorage, runs: int | None, *, asks: bool) -> DryRun:
    """Look at the queue as a worker would, and change nothing.

    Args:
        project: names the study, the space and the train command.
        storage: where the study is.
        runs: how many runs in all; None sets no limit.
        asks: whether more proposals are asked for when none is queued.
    """
    queued = waiting(storage, project.name)
    space = project.space or (recorded_space(storage, project.name) if queued else Space(()))
    launched: dict[int, list[str]] = {}
    dropped: dict[int, str] = {}
    stopped = None
    for taken in queued:
        if len(launched) == runs:
            break
        failure = space.validation_error(taken.params)
        if failure is not None:
            dropped[taken.number] = f"it {failure}"
            continue
        plan = plan_of(taken.attributes)
        epochs = plan.epochs if plan is not None and plan.takes_epochs else None
        params = {**space.fixed, **taken.params}
        if epochs is not None and plan is not None and plan.epochs_parameter is not None:
            params[plan.epochs_parameter] = epochs
        out = run_folder(project, taken.number)
        try:
            arguments = render_command(
                project.command or (), params, out, taken.init_from, taken.resume_from, epochs, taken.seed
            )
            why = cannot_launch(arguments, project.cwd)
        except UsageError as error:
            arguments, why = [], str(error)
        if why is not None:
            stopped = (taken.number, why)
            break
        launched[taken.number] = arguments
    left = None if runs is None else runs - len(launched)
    return DryRun(launched, dropped, stopped, 0 if stopped is not None or not asks else left)
