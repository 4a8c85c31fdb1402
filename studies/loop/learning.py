"""Learn from what came back in a process of its own, so that no launch waits for it.

With a budget it takes the steps of the policy instead of learning the map (following.py).

``python -m epsopt.studies.loop.learning`` takes one JSON document on standard input. Asked for proposals it queues
them, if none is queued, by the map that there is, which is told of the checkpoints that it was not trained on; only the
first map is waited for. Otherwise it measures mixtures if asked, and fits the map again if the catalogue has
checkpoints that it was not trained on. What there is to tell it prints, a line each. Of all workers of a database one
learns at a time (lease.py); one that was taken for dead ends before it writes anything more, and says so. Proposals by
a map that is there take no lease, so they wait for no fit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from epsopt.optimize.targets import Target
from epsopt.studies.loop.lease import Lease, LeaseLost, lease
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from epsopt.studies.project.file import Project
    from epsopt.surrogate.surrogate import Surrogate

FOLLOWS = "follow"
"""Argument of a learner that will be told to follow the policy."""

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
        mix: mixtures to measure at most, before the map is fitted.
        until: what the ledger says is spent when the budget is, if the policy is to be followed; None: the map is.
        length: epochs of a whole run, for the policy; None: as past ones had.
    """

    project: str
    storage: str
    propose: int = 0
    seed: int = 0
    reuse: bool = False
    targets: Mapping[str, float] = field(default_factory=dict)
    mix: int = 0
    until: float | None = None
    length: float | None = None


class _Process:
    """A learner: a process that waits for what it is to do, does it, and ends.

    Args:
        follows: whether it will be told to follow the policy: then what that takes is loaded before it is told.
    """

    def __init__(self, *, follows: bool) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._told: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - likewise
        self._heard = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "epsopt.studies.loop.learning", *([FOLLOWS] if follows else [])],
            stdin=subprocess.PIPE,
            stdout=self._told,
            stderr=self._said,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,  # a terminal's Ctrl-C is the worker's to hear
        )

    def give(self, task: Task) -> None:
        """Tell it what to do."""
        if self._process.stdin is not None:
            # Not as arguments: a database URL may hold a password, and anybody can list the arguments of a process.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(json.dumps(asdict(task)).encode())

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def news(self) -> list[str]:
        """Return what it had to tell, a line each, once it has ended, and once."""
        if self._heard or self.runs():
            return []
        self._heard = True
        return _lines(self._told)

    def failure(self) -> str | None:
        """Say why it failed; None if it did not, or has not ended."""
        if not self._process.poll():
            return None
        lines = _lines(self._said)
        return lines[-1] if lines else f"learning from the runs ended with status {self._process.returncode}"

    def end(self) -> None:
        """Kill it and the processes that it started, unless it has ended."""
        if self.runs():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it leads a session of its own
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


class BackgroundLearner:
    """Starts learners: one that proposes and one that learns, at most, so that neither waits for the other.

    With a budget the next one to propose is started as soon as the one before has ended, and waits to be asked: what
    takes seconds to load is loaded while programs run.

    Args:
        project: the project file.
        storage: database URL.
        seed: of map and proposals.
        reuse: whether proposals may start from checkpoints.
        targets: what proposals shall meet.
        mix: mixtures to measure at most, each time.
        until: what the ledger says is spent when the budget is; None: there is none, and the map proposes.
        length: epochs of a whole run, where there is a budget; None: as past ones had.
    """

    def __init__(
        self,
        project: Path,
        storage: str,
        *,
        seed: int = 0,
        reuse: bool = False,
        targets: Sequence[Target] = (),
        mix: int = 0,
        until: float | None = None,
        length: float | None = None,
    ) -> None:
        wanted = {t.name: t.value for t in targets}
        self._task = Task(str(project), storage, 0, seed, reuse, wanted, mix, until, length)
        self._asker: _Process | None = None
        self._learner: _Process | None = None
        self._next: _Process | None = None  # waits to be asked
        self._news: list[str] = []

    def asks(self) -> bool:
        """Whether proposals are being made."""
        return self._asker is not None and self._asker.runs()

    def learns(self) -> bool:
        """Whether one is learning."""
        return self._learner is not None and self._learner.runs()

    def start(self, propose: int) -> None:
        """Begin to make so many proposals, or to learn if it is none; does nothing while one is at that."""
        if self.asks() if propose else self.learns():
            return
        self._collect()
        follows = self._task.until is not None
        process, self._next = self._next, None
        if process is None or not process.runs():
            process = _Process(follows=follows)
        process.give(replace(self._task, propose=propose))
        if propose:
            self._asker = process
        else:
            self._learner = process

    def news(self) -> list[str]:
        """Return what those that ended had to tell, a line each, once."""
        self._collect()
        told, self._news = self._news, []
        return told

    def _collect(self) -> None:
        if self._asker is not None and not self._asker.runs():
            self._news += self._asker.news()
            if self._task.until is not None and self._next is None:
                self._next = _Process(follows=True)
        if self._learner is not None and not self._learner.runs():
            self._news += self._learner.news()

    def trouble(self) -> str | None:
        """Say why the last one that was to propose failed; None if it did not, or has not ended."""
        return None if self._asker is None else self._asker.failure()

    def setback(self) -> str | None:
        """Say why the last one that was to learn failed; None if it did not, or has not ended."""
        return None if self._learner is None else self._learner.failure()

    def stop(self) -> None:
        """End all of them; the next ones start from what is in the database."""
        for process in (self._asker, self._learner, self._next):
            if process is not None:
                process.end()
        self._next = None


def learn(task: Task) -> None:
    """Queue proposals if asked, otherwise learn from what is new.

    With a budget the policy is followed instead, and no map is learned.

    Raises:
        EpsoptError: there is too little to learn from, nothing new is left to propose, or the project or its database
            cannot be read.
        LeaseLost: another learner took over.
    """
    import optuna

    from epsopt.studies.project.file import load_project
    from epsopt.studies.storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    project = load_project(task.project)
    storage = open_storage(task.storage, create=False)
    with Catalogue(task.storage, project.rename) as catalogue:
        if task.until is not None:
            with lease(catalogue, wait=bool(task.propose)) as held:
                if held is not None:
                    _follow(task, project, storage, catalogue, held)
        elif task.propose:
            _propose(task, project, storage, catalogue)
        else:
            with lease(catalogue, wait=False) as held:
                if held is not None:
                    _refit(task, project, storage, catalogue, held)


def _propose(task: Task, project: Project, storage: RDBStorage, catalogue: Catalogue) -> None:
    """Queue proposals, unless some wait: random ones while there are too few runs, then by the map that there is.

    Only where there is none, or one that knows too little of the runs, it is fitted first.
    """
    from epsopt.studies.loop.proposing import lacking, propose_next, queue_random, runs_cut_off
    from epsopt.studies.loop.queue import proposed_trials
    from epsopt.zoo.errors import EmptyCatalogue

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

    def by(surrogate: Surrogate) -> None:
        propose_next(
            project, storage, surrogate, catalogue.checkpoints(), project.objectives,
            [Target(name, value) for name, value in task.targets.items()],
            n=task.propose, seed=task.seed, reuse=task.reuse, fewer=True, unless_queued=True,
        )  # fmt: skip

    surrogate = _map(catalogue, project)
    if surrogate is not None:
        with contextlib.suppress(EmptyCatalogue):
            by(surrogate)
            return
    with lease(catalogue, wait=True) as held:
        if held is not None:
            _refit(task, project, storage, catalogue, held)
    surrogate = _map(catalogue, project)
    if surrogate is None:
        raise EmptyCatalogue("no map can be learned from what was measured: 'epsopt fit' says why")
    by(surrogate)


def _map(catalogue: Catalogue, project: Project) -> Surrogate | None:
    """The map that there is, told of what it was not trained on; None: there is none, or it lacks an objective."""
    from epsopt.studies.maps import extend_map, load_map, unseen
    from epsopt.zoo.errors import EmptyCatalogue

    try:
        surrogate, _ = load_map(catalogue)
    except EmptyCatalogue:
        return None
    if not unseen(catalogue, surrogate):
        return surrogate
    if any(o.name not in surrogate.metric_names for o in project.objectives):
        return None
    return extend_map(catalogue, surrogate)


def _refit(task: Task, project: Project, storage: RDBStorage, catalogue: Catalogue, held: Lease) -> None:
    """Measure mixtures if asked, so that the map knows them; then fit it again, if there are enough runs.

    When mixtures cannot be measured, that is told, and the rest is done.
    """
    from epsopt.studies.loop.proposing import runs_cut_off, too_few
    from epsopt.studies.loop.queue import proposed_trials
    from epsopt.studies.maps import fit_map, load_map, unseen
    from epsopt.zoo.errors import EmptyCatalogue

    checkpoints = catalogue.checkpoints()
    cut = runs_cut_off(project, proposed_trials(storage, project.name), checkpoints)
    few = project.space is not None and too_few(project.space, checkpoints, cut)
    if few and not task.mix:
        return
    try:
        surrogate, _ = load_map(catalogue)
        stale = bool(unseen(catalogue, surrogate))
    except EmptyCatalogue:
        stale = True
    if stale and task.mix:
        _mix(task, project, catalogue, held)
    if stale and not few:
        held.require()  # not once more when it is fitted: whoever fits the same map keeps the same one
        fit_map(catalogue, seed=task.seed, bounds=project.bounds)


def _follow(task: Task, project: Project, storage: RDBStorage, catalogue: Catalogue, held: Lease) -> None:
    """Take the policy's next steps; tell of the mixtures."""
    from epsopt.studies.loop.following import Follower

    assert task.until is not None
    follower = Follower(
        project, storage, catalogue, until=task.until, length=task.length, seed=task.seed,
        before_writing=held.require, tell=lambda line: sys.stdout.write(f"{line}\n"),
    )  # fmt: skip
    follower.queue(task.propose)


def _mix(task: Task, project: Project, catalogue: Catalogue, held: Lease) -> None:
    """Measure mixtures and take those into the catalogue that join the front; tell what came of it."""
    from epsopt.studies.loop.mixing import mix_round

    try:
        told = mix_round(project, catalogue, task.mix, seed=task.seed, progress=lambda *_: held.require())
    except LeaseLost:
        raise
    except EpsoptError as error:
        told = [f"no mixture was measured: {error}"]
    for line in told:
        sys.stdout.write(f"{line}\n")


def _is_queued(storage: RDBStorage, project: str) -> bool:
    """Whether a proposal waits already: another worker asked meanwhile."""
    from epsopt.studies.loop.queue import waiting

    return bool(waiting(storage, project))


def _load() -> None:
    """Load what takes seconds to load, before it is asked for: the first optimiser and the first study load, too."""
    import optuna
    import torch

    import epsopt.studies.loop.following  # noqa: F401

    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.storages.RDBStorage("sqlite://")


def _let_training_come_first() -> None:
    """Lower the priority: of this process, and of its session, by which Linux may weigh first (sched(7), autogroup)."""
    with contextlib.suppress(OSError):
        os.nice(LOW_PRIORITY)
    if os.getsid(0) == os.getpid():  # otherwise it is the session of whoever started it
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(LOW_PRIORITY))


def main() -> int:
    """Do what standard input says; returns the exit status."""
    if FOLLOWS in sys.argv[1:]:
        _load()
    asked = sys.stdin.read()
    if not asked:  # it is not needed any more, or whoever would have asked is gone
        return 0
    task = Task(**json.loads(asked))
    if not task.propose:  # a launch may wait for proposals, none waits for learning
        _let_training_come_first()
    try:
        learn(task)
    except LeaseLost as lost:  # no trouble: what is to be learned is learned
        sys.stdout.write(f"{lost}\n")
    except EpsoptError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
