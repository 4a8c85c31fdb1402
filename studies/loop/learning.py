"""Learn from what came back in a process of its own, so that no launch waits for it.

With a budget it takes the steps of the policy instead of learning the map (following.py).

``python -m epsopt.studies.loop.learning`` takes one JSON document on standard input: measures mixtures if asked, fits
the map again if the catalogue has checkpoints that it does not know, and queues proposals if asked and nothing is
queued. What there is to tell it prints, a line each. Of all workers of a database one learns at a time (lease.py); one
that was taken for dead ends before it writes anything more, and says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from epsopt.optimize.targets import Target
from epsopt.studies.loop.lease import Lease, LeaseLost, lease
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from epsopt.studies.project.file import Project


@dataclass(frozen=True)
class Task:
    """What a learner is to do.

    Attributes:
        project: the project file.
        storage: database URL.
        propose: proposals to queue when none is queued.
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


class BackgroundLearner:
    """Starts learners, one at a time.

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
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._told: IO[bytes] | None = None
        self._news: list[str] = []

    def busy(self) -> bool:
        """Whether one is at it."""
        return self._process is not None and self._process.poll() is None

    def start(self, propose: int) -> None:
        """Begin to learn, then queue so many proposals; does nothing while one is at it."""
        if self.busy():
            return
        self._collect()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the learner that writes to it
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 - likewise
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "epsopt.studies.loop.learning"],
            stdin=subprocess.PIPE,
            stdout=self._told,
            stderr=self._said,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is the worker's to hear
        )
        if self._process.stdin is not None:
            # Not as arguments: a database URL may hold a password, and anybody can list the arguments of a process.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(json.dumps({**asdict(self._task), "propose": propose}).encode())

    def news(self) -> list[str]:
        """Return what those that ended had to tell, a line each, once."""
        if not self.busy():
            self._collect()
        told, self._news = self._news, []
        return told

    def _collect(self) -> None:
        if self._told is not None:
            self._told.seek(0)
            self._news += [line for line in self._told.read().decode(errors="replace").splitlines() if line.strip()]
            self._told.close()
            self._told = None

    def trouble(self) -> str | None:
        """Say why the last one failed; None if it did not, or has not ended."""
        if self._process is None or self._said is None or not self._process.poll():
            return None
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"learning from the runs ended with status {self._process.returncode}"

    def stop(self) -> None:
        """End it; the next one starts from what is in the database."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def learn(task: Task) -> None:
    """Learn from what is new, and queue proposals if asked: random ones while there are too few runs.

    With a budget the policy is followed instead, and no map is learned.

    Mixtures are measured first, so that the map knows them and proposals may start from them. When they cannot be, that
    is told, and the rest is done.

    Raises:
        EpsoptError: there is too little to learn from, or the project or its database cannot be read.
        LeaseLost: another learner took over.
    """
    import optuna

    from epsopt.studies.loop.proposing import propose_next, queue_random, runs_cut_off, too_few
    from epsopt.studies.loop.queue import proposed_trials
    from epsopt.studies.maps import fit_map, load_map, unseen
    from epsopt.studies.project.file import load_project
    from epsopt.studies.storage import open_storage
    from epsopt.zoo.errors import EmptyCatalogue

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    project = load_project(task.project)
    storage = open_storage(task.storage, create=False)
    with Catalogue(task.storage, project.rename) as catalogue, lease(catalogue, wait=bool(task.propose)) as held:
        if held is None:
            return
        if task.until is not None:
            _follow(task, project, storage, catalogue, held)
            return
        checkpoints = catalogue.checkpoints()
        cut = runs_cut_off(project, proposed_trials(storage, project.name), checkpoints)
        few = project.space is not None and too_few(project.space, checkpoints, cut)
        if few and project.space is not None and task.propose and not _is_queued(storage, project.name):
            held.require()
            queue_random(project, storage, project.space, task.propose, task.seed, checkpoints)
        if few and not task.mix:
            return
        try:
            surrogate, _ = load_map(catalogue)
            stale = bool(unseen(catalogue, surrogate))
        except EmptyCatalogue:
            stale = True
        if stale and task.mix:
            _mix(task, project, catalogue, held)
        if few:
            return
        if stale:
            held.require()  # not once more when it is fitted: whoever fits the same map keeps the same one
            surrogate, _, _ = fit_map(catalogue, seed=task.seed, bounds=project.bounds)
        if task.propose and not _is_queued(storage, project.name):
            propose_next(
                project, storage, surrogate, catalogue.checkpoints(), project.objectives,
                [Target(name, value) for name, value in task.targets.items()],
                n=task.propose, seed=task.seed, reuse=task.reuse, progress=lambda *_: held.require(),
            )  # fmt: skip


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


def main() -> int:
    """Do what standard input says; returns the exit status."""
    with contextlib.suppress(OSError):
        os.nice(10)  # training comes first
    try:
        learn(Task(**json.load(sys.stdin)))
    except LeaseLost as lost:  # no trouble: what is to be learned is learned
        sys.stdout.write(f"{lost}\n")
    except EpsoptError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
