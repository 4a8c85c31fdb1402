"""Fit the surrogate in a process of its own, so that no launch waits for it.

With a budget, :mod:`epsopt.studies.schedule.scheduler_service` chooses the steps instead.

``python -m epsopt.studies.worker.refit_service`` reads one JSON document from standard input. When it is asked for
proposals and none is queued, it queues some by the current surrogate, conditioned on checkpoints that it was not
trained on; only the first fit is waited for. Otherwise it measures merges if asked, and fits again if the catalogue has
checkpoints that the surrogate was not trained on. It prints its messages, one a line. One worker of a database fits at
a time (refit_lease.py); one whose lease went stale ends before it writes anything, with a message. Proposals by a
surrogate that exists take no lease, so they wait for no fit.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from epsopt.optimize.objectives import Target
from epsopt.studies.background_process import Helper
from epsopt.studies.optuna_io.refit_lease import Lease, LeaseLost, lease
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from epsopt.studies.project.project import Project

LOW_PRIORITY = 10
"""What a learner adds to its niceness."""


@dataclass(frozen=True)
class Task:
    """What a learner is to do.

    Attributes:
        project: the project file.
        storage: database URL.
        propose: proposals to queue when none is queued; 0: learn instead.
        seed: of map and proposals.
        reuse: whether proposals may start from checkpoints.
        targets: what proposals shall meet, by metric.
        merges: merges to measure at most, before the map is fitted.
    """

    project: str
    storage: str
    propose: int = 0
    seed: int = 0
    reuse: bool = False
    targets: Mapping[str, float] = field(default_factory=dict)
    merges: int = 0


class BackgroundLearner:
    """Starts learners: one that proposes and one that learns, at most, so that neither waits for the other.

    Args:
        project: the project file.
        storage: database URL.
        seed: of map and proposals.
        reuse: whether proposals may start from checkpoints.
        targets: what proposals shall meet.
        merges: merges to measure at most, each time.
    """

    def __init__(
        self,
        project: Path,
        storage: str,
        *,
        seed: int = 0,
        reuse: bool = False,
        targets: Sequence[Target] = (),
        merges: int = 0,
    ) -> None:
        wanted = {t.name: t.value for t in targets}
        self.task = Task(str(project), storage, 0, seed, reuse, wanted, merges)
        self._asker: Helper | None = None
        self._learner: Helper | None = None
        self._news: list[str] = []

    def is_proposing(self) -> bool:
        """Whether proposals are being made."""
        return self._asker is not None and self._asker.runs()

    def is_fitting(self) -> bool:
        """Whether one is learning."""
        return self._learner is not None and self._learner.runs()

    def start(self, propose: int, *, merge: bool = True) -> None:  # noqa: ARG002 - none is measured for proposals
        """Begin to make so many proposals, or to learn if it is none; does nothing while one is at that."""
        if self.is_proposing() if propose else self.is_fitting():
            return
        self._collect()
        helper = Helper("epsopt.studies.worker.refit_service")
        helper.send(asdict(replace(self.task, propose=propose)))
        helper.close()
        if propose:
            self._asker = helper
        else:
            self._learner = helper

    def reconsider(self, *, merge: bool) -> None:
        """Nothing: what is proposed ahead is queued (:attr:`epsopt.studies.worker.worker.WorkerConfig.ask`)."""

    def messages(self) -> list[str]:
        """Return the messages of those that ended, a line each, once."""
        self._collect()
        messages, self._news = self._news, []
        return messages

    def _collect(self) -> None:
        for helper in (self._asker, self._learner):
            if helper is not None:
                self._news += helper.receive()

    def proposal_failure(self) -> str | None:
        """Say why the last one that was to propose failed; None if it did not, or has not ended."""
        return None if self._asker is None else self._asker.failure()

    def fit_failure(self) -> str | None:
        """Say why the last one that was to learn failed; None if it did not, or has not ended."""
        return None if self._learner is None else self._learner.failure()

    def finish(self) -> None:
        """Leave learning to itself: it ends when it is done. Proposals that nobody will train are not made."""
        if self._asker is not None:
            self._asker.kill()

    def stop(self) -> None:
        """End all of them; the next ones start from what is in the database."""
        for helper in (self._asker, self._learner):
            if helper is not None:
                helper.kill()


def learn(task: Task) -> None:
    """Queue proposals if asked, otherwise learn from what is new.

    Raises:
        EpsoptError: there is too little to learn from, nothing new is left to propose, or the project or its database
            cannot be read.
        LeaseLost: another learner took over.
    """
    import optuna

    from epsopt.studies.optuna_io.storage import open_storage
    from epsopt.studies.project.project import load_project

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    project = load_project(task.project)
    storage = open_storage(task.storage, create=False)
    with Catalogue(task.storage, **project.how_to_read) as catalogue:
        if task.propose:
            _propose(task, project, storage, catalogue)
        else:
            with lease(catalogue, wait=False) as held:
                if held is not None:
                    _refit(task, project, storage, catalogue, held)


def _propose(task: Task, project: Project, storage: RDBStorage, catalogue: Catalogue) -> None:
    """Queue proposals, unless some wait: random ones while there are too few runs."""
    from epsopt.studies.optuna_io.stored_trials import proposed_trials
    from epsopt.studies.surrogate_store import measured_metrics
    from epsopt.studies.worker.proposals import lacking, propose_next, queue_random, runs_cut_off

    if _is_queued(storage, project.name):  # another worker asked meanwhile
        return
    checkpoints, trials = catalogue.checkpoints(), proposed_trials(storage, project.name)
    if project.space is not None:
        few = lacking(project.space, checkpoints, runs_cut_off(project, trials, checkpoints))
        if few:
            # Those under way will tell where they end soon; until then one more keeps the programs busy.
            few -= sum(not t.state.is_finished() for t in trials)
            n = min(task.propose, max(few, 1))
            queue_random(project, storage, project.space, n, task.seed, checkpoints)
            return
    names = [o.name for o in project.objectives]
    propose_next(
        project, storage, checkpoints, project.objectives,
        [Target(name, value) for name, value in task.targets.items()],
        metrics=measured_metrics(catalogue, names, project.learn).names, n=task.propose, seed=task.seed,
        reuse=task.reuse, fewer=True, unless_queued=True,
    )  # fmt: skip


def _refit(task: Task, project: Project, storage: RDBStorage, catalogue: Catalogue, held: Lease) -> None:
    """Measure merges if asked, so that the map knows them; then fit it again, if there are enough runs.

    When merges cannot be measured, that is reported, and the rest is done.
    """
    from epsopt.studies.optuna_io.stored_trials import proposed_trials
    from epsopt.studies.surrogate_store import fit_map, load_map, unseen
    from epsopt.studies.worker.proposals import runs_cut_off, too_few
    from epsopt.zoo.errors import EmptyCatalogue

    checkpoints = catalogue.checkpoints()
    cut = runs_cut_off(project, proposed_trials(storage, project.name), checkpoints)
    few = project.space is not None and too_few(project.space, checkpoints, cut)
    if few and not task.merges:
        return
    try:
        surrogate, _ = load_map(catalogue)
        wanted = {o.name for o in project.objectives}  # the file may have named another one since
        stale = bool(unseen(catalogue, surrogate)) or not wanted.issubset(surrogate.metric_names)
    except EmptyCatalogue:
        stale = True
    if stale and task.merges:
        _measure_merges(task, project, catalogue, held)
    if stale and not few:
        held.assert_held()  # not once more when it is fitted: whoever fits the same map keeps the same one
        names = [o.name for o in project.objectives]
        fit_map(catalogue, seed=task.seed, objectives=names, learn=project.learn, bounds=project.bounds)


def _measure_merges(task: Task, project: Project, catalogue: Catalogue, held: Lease) -> None:
    """Measure merges and take those into the catalogue that join the front; report what came of it."""
    from epsopt.studies.merge.merge_round import merge_round

    try:
        sentences = merge_round(project, catalogue, task.merges, seed=task.seed, progress=lambda *_: held.assert_held())
    except LeaseLost:
        raise
    except EpsoptError as error:
        sentences = [f"no merge was measured: {error}"]
    for line in sentences:
        sys.stdout.write(f"{line}\n")


def _is_queued(storage: RDBStorage, project: str) -> bool:
    """Whether a proposal waits already: another worker asked meanwhile."""
    from epsopt.studies.optuna_io.queue import waiting

    return bool(waiting(storage, project))


def yield_to_training() -> None:
    """Lower the priority: of this process, and of its session, by which Linux may weigh first (sched(7), autogroup)."""
    with contextlib.suppress(OSError):
        os.nice(LOW_PRIORITY)
    if os.getsid(0) == os.getpid():  # otherwise it is the session of whoever started it
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(LOW_PRIORITY))


def main() -> int:
    """Do what standard input says; returns the exit status."""
    asked = sys.stdin.read()
    if not asked:  # whoever would have asked is gone
        return 0
    task = Task(**json.loads(asked))
    if not task.propose:  # a launch may wait for proposals, none waits for learning
        yield_to_training()
    try:
        learn(task)
    except LeaseLost as lost:  # no failure: another learner does the same
        sys.stdout.write(f"{lost}\n")
    except EpsoptError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
