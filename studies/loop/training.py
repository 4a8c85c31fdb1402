"""Train what was proposed and tell the study what came of it: the step from proposals to measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from epsopt.optimize.space import Space
from epsopt.studies.loop.launch import Launch, launch_all
from epsopt.studies.loop.queue import record_outcome, take_proposal
from epsopt.studies.project.command import render_command
from epsopt.studies.project.file import Project
from epsopt.zoo.errors import UsageError
from epsopt.zoo.records import Checkpoint


@dataclass(frozen=True)
class Trained:
    """A proposal after its training program ended.

    Attributes:
        number: of its trial in the study of proposals.
        params: its hyperparameters.
        out: its run folder.
        failure: why it failed, in one line; ``None`` when the program ended well.
    """

    number: int
    params: Mapping[str, Any]
    out: Path
    failure: str | None


def train_waiting(
    project: Project,
    storage: RDBStorage,
    space: Space,
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Trained]:
    """Take every waiting proposal and run the project's train command for it.

    Args:
        project: names the runs folder and the train command.
        storage: where the proposals are queued.
        space: checks them, and says what else each run gets (``space.fixed``).
        jobs: how many at a time.
        progress: called as ``progress(done, total)``.

    Returns:
        The proposals that were trained, each into ``RUNS/proposal_NNN``, output in ``RUNS/../logs``. The study is
        not told yet: that takes measurements (:func:`settle`).

    Raises:
        UsageError: the project has no train command.
        EpsoptError: it could not be started. Then, or when interrupted, the study is told that all of them failed.
    """
    if project.command is None:
        raise UsageError(f"{project.file} has no train command: add [train] with command = [...]")
    taken = []
    while (proposal := take_proposal(storage, project.name, space)) is not None:
        taken.append(proposal)
    try:
        launches = []
        for proposal in taken:
            out = proposal_folder(project, proposal.number)
            arguments = render_command(project.command, {**space.fixed, **proposal.params}, out)
            launches.append(Launch(tuple(arguments), out, project.runs.parent / "logs" / f"{out.name}.log"))
        finished = launch_all(launches, cwd=project.cwd, jobs=jobs, progress=progress)
    except BaseException:  # also Ctrl-C: nothing may be left running in the study that no process runs
        for proposal in taken:
            record_outcome(storage, project.name, project.objectives, space, proposal.number, None)
        raise
    return [
        Trained(p.number, p.params, f.launch.out, f"exit status {f.status}: {f.last_line()}" if f.status else None)
        for p, f in zip(taken, finished, strict=True)
    ]


def proposal_folder(project: Project, number: int) -> Path:
    """Return the run folder of a proposal, by its trial's number."""
    return project.runs / f"proposal_{number:03d}"


def settle(
    project: Project,
    storage: RDBStorage,
    space: Space,
    trained: Sequence[Trained],
    checkpoints: Sequence[Checkpoint],
) -> dict[int, Checkpoint]:
    """Tell the study of proposals what their runs measured.

    Args:
        project: names the study and the objectives.
        storage: where it is.
        space: of the proposals.
        trained: what was trained.
        checkpoints: the catalogue's, after the runs were ingested.

    Returns:
        The last checkpoint of each run that has one, by the proposal's number.
    """
    last: dict[int, Checkpoint] = {}
    for proposal in trained:
        folder = proposal.out.resolve()
        mine = [c for c in checkpoints if folder in Path(c.path).parents]
        end = max(mine, key=lambda c: (c.epoch is not None, c.epoch or 0, c.path), default=None)
        metrics = None if end is None or proposal.failure is not None else end.metrics
        record_outcome(
            storage, project.name, project.objectives, space, proposal.number, metrics,
            path=None if end is None else end.path,
        )  # fmt: skip
        if end is not None:
            last[proposal.number] = end
    return last
