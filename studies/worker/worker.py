"""A worker: takes proposals, trains them, watches their checkpoints, prunes, records outcomes in the study."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from optuna.storages import RDBStorage

from epsopt.optimize.schedule.decision import Decision
from epsopt.optimize.space import Space
from epsopt.studies.optuna_io.heartbeat import Heartbeat
from epsopt.studies.optuna_io.queue import ClaimedProposal, recorded_space, take_proposal
from epsopt.studies.optuna_io.storage import DATABASE_ERRORS
from epsopt.studies.optuna_io.stored_trials import recorded_objectives, study_name
from epsopt.studies.optuna_io.trial_leases import StaleTrial, fail_stale_trials, release, return_to_queue, unfinished
from epsopt.studies.project.project import Project
from epsopt.studies.project.train_command import holes
from epsopt.studies.protocols import RunPruner
from epsopt.studies.schedule.budget import Budget
from epsopt.studies.worker.target_monitor import Goal
from epsopt.studies.worker.training_process import LaunchError, cannot_be_launched, stop_all
from epsopt.studies.worker.trial_runner import Run, RunResult, prepare, recover_attempt
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.credentials import masked
from epsopt.zoo.errors import CatalogueError, EpsoptError, UsageError
from epsopt.zoo.formatting import count

BEATS = 4
"""Heartbeats within the time after which a worker counts as lost: three may fail."""

COUNT_AGAIN = 10.0
"""Seconds between looks at what other workers spend."""

_LEARNS_ON = (
    "the map still learns in the background and is left to it: the next command uses what it has learned when it is "
    "done, and the map of before until then"
)

EventKind = Literal[
    "started", "ended", "stale", "released", "refused", "proposing", "fitting", "merged", "failure", "reached"
]


@dataclass(frozen=True)
class Event:
    """Something that a worker tells while it works.

    Attributes:
        kind: what happened.
        text: the same in one line.
        ended: the run that ended, if one did.
    """

    kind: EventKind
    text: str
    ended: RunResult | None = None


class Learner(Protocol):
    """Queues more proposals when asked, and learns, each in the background of the other (refit_service.py)."""

    def is_proposing(self) -> bool:
        """Whether it is making proposals."""

    def is_fitting(self) -> bool:
        """Whether it is learning."""

    def start(self, propose: int, *, merge: bool = True) -> None:
        """Begin to make so many proposals, or to learn from what came back if it is none; not twice at a time.

        With `merge` merges may be measured before, if they are worth more.
        """

    def proposal_failure(self) -> str | None:
        """Say why the last proposals could not be made; None if they could."""

    def fit_failure(self) -> str | None:
        """Say why learning failed the last time; None if it did not."""

    def messages(self) -> list[str]:
        """Return what there was to tell, a line each, once."""

    def reconsider(self, *, merge: bool) -> None:
        """Make up its mind while programs run, with what they wrote by now, about what it may be asked for next.

        With `merge` it may measure merges beside them.
        """

    def finish(self) -> None:
        """Let go of it: wait for what would be lost, and leave to itself what goes on without anybody."""

    def stop(self) -> None:
        """End it at once."""


@dataclass(frozen=True)
class WorkerConfig:
    """How a worker works.

    Attributes:
        jobs: runs at a time.
        runs: how many runs in all; None sets no limit.
        ask: proposals to ask the learner for when none is queued, while programs still run; 0 never asks.
        forever: whether to wait for more when nothing is queued and nobody is asked.
        learn_after: finished runs after which the learner learns from them, as it does whenever it was asked for
            proposals; 0 never does.
        await_learning: whether the work ends only when the learner has learned from the last runs.
        grace: seconds between SIGTERM and SIGKILL when a run is stopped.
        stale_after: seconds without a heartbeat after which another worker's run is given to others; the same for all
            workers of a study.
        watch: seconds between looks at the folders of running programs.
        most_failures: failed runs in a row after which the worker gives up.
    """

    jobs: int = 1
    runs: int | None = None
    ask: int = 0
    forever: bool = False
    learn_after: int = 0
    await_learning: bool = False
    grace: float = 30.0
    stale_after: float = 120.0
    watch: float = 1.0
    most_failures: int = 3


@dataclass
class Worker:
    """One process that trains proposals; any number of them may share a database.

    Attributes:
        project: names the study, the objectives, the train command, and the folder of runs.
        storage: where the study is.
        catalogue: takes the checkpoints.
        orders: how to work.
        pruner: decides at each new checkpoint whether its run goes on; None lets all runs end.
        learner: learns in the background; None never learns or asks.
        notify: given every event.
        goal: what ends the work before the orders are carried out; None: nothing does.
        budget: epochs that may be spent, by all workers; None: as many as runs take.
        name: who this is: machine and process.
        reached: the checkpoint that reached the goal.
    """

    project: Project
    storage: RDBStorage
    catalogue: Catalogue
    orders: WorkerConfig = field(default_factory=WorkerConfig)
    pruner: RunPruner | None = None
    learner: Learner | None = None
    notify: Callable[[Event], None] = lambda _event: None
    goal: Goal | None = None
    budget: Budget | None = None
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    reached: Checkpoint | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._runs: list[Run] = []
        self._ended: list[RunResult] = []
        self._cannot_launch: str | None = None  # why no program can be launched; it ends the work
        self._launched = 0
        self._learned = 0  # of the runs that ended, those that were learned from
        self._failures = 0  # in a row
        self._reaped = -float("inf")
        self._space: Space | None = None
        self._empty_since: list[float] = []  # of each slot that no program runs in
        self._asked: tuple[int, int] | None = None  # runs that had ended and been launched when it last asked
        self._asking = False
        self._learn_next = False  # since proposals were asked for
        self._known_at_last_choice: list[tuple[int, int]] = []  # runs and their checkpoints when it last looked ahead
        self._nothing_at = -float("inf")  # when the queue was last found empty
        self._refused_since: float | None = None  # the database, time after time
        self._refused_at = -float("inf")  # the last time
        self._counted_at = -float("inf")  # when it was last looked at what is spent
        self._counted: list[int] = []  # checkpoints of what ran then
        self._learner_failures: tuple[str | None, str | None] = (None, None)  # of asking and of learning, reported last
        self._unjudged: str | None = None  # why runs cannot be judged, reported last

    def work(self) -> list[RunResult]:
        """Work until the orders are carried out, the budget is spent, or the goal is reached.

        A run that fails is recorded in the study with the reason, and the next one is taken. When this is interrupted,
        running programs are stopped and their proposals queued again. So they are when the goal is reached; the run
        that reached it counts as stopped early.

        Returns:
            The runs that ended, in that order.

        Raises:
            UsageError: the project has no train command, or runs where no program can write.
            EpsoptError: nothing was ever proposed and nobody is asked; the train command cannot be launched (what was
                to be is queued as before); too many failures in a row; or the learner could not propose. Nothing runs
                any more then.
        """
        self.project.require_command()
        if not isinstance(self.project.runs, type(Path())):
            raise UsageError(f"{self.project.file}: runs = {self.project.runs}: training needs a folder, not a URL")
        with Heartbeat(self.storage, self.orders.stale_after / BEATS) as heart:
            try:
                self._empty_since = [time.monotonic()] * self.orders.jobs
                while self._patiently(heart):
                    time.sleep(min(0.1, self.orders.watch) if self._runs or self._asking else self.orders.watch)
                self._last_lesson()
                if self.goal is not None and self.reached is None:
                    self._arrive(self.goal.reached(at_once=True), heart)
            except BaseException:
                self._abandon(heart)
                raise
        return self._ended

    def _patiently(self, heart: Heartbeat) -> bool:
        """Step; a database that does not answer for a while is waited for, and programs run on."""
        try:
            more = self._step(heart)
        except DATABASE_ERRORS as error:
            self._refused_at, why = time.monotonic(), masked(str(error).splitlines()[0])
            if self._refused_since is None:
                self._refused_since = self._refused_at
                self.notify(Event("failure", f"the database does not answer: {why}"))
            if self._refused_at - self._refused_since > self.orders.stale_after:
                raise CatalogueError(f"the database does not answer: {why}") from error
            return True
        # It was asked since, for stale trials.
        if time.monotonic() - self._refused_at > 2 * self.orders.stale_after / BEATS:
            self._refused_since = None
        return more

    def _step(self, heart: Heartbeat) -> bool:
        """Do what there is to do now; False when there is nothing left."""
        self._reap()
        heard = self._receive()
        self._receive_proposals()
        looked_at = list(self._runs)
        for run in looked_at:
            now = time.monotonic()
            ended = run.poll(self.pruner, lost=heart.has_lost(run.taken.trial_id))
            self._report_once(run.pruner_failure)
            if ended is not None:
                self._runs.remove(run)
                self._empty_since.append(now)
                heart.release(run.taken.trial_id)
                self._settle(ended)
        if self.goal is not None and self.reached is None:  # after the looks: this hands back what else runs
            reached = self.goal.met_by(c for run in looked_at for c in run.checkpoints)
            self._arrive(reached or self.goal.reached(at_once=heard), heart)  # a merge may have got there
        if self.reached is not None:
            return bool(self._runs)
        if self._cannot_launch is not None:
            if self._runs:
                return True
            raise EpsoptError(cannot_be_launched(self.project, self._cannot_launch))
        if self._failures >= self.orders.most_failures:
            if self._runs:
                return True
            failed = "a run failed" if self._failures == 1 else f"{self._failures} runs in a row failed, the last one"
            raise EpsoptError(f"{failed}: {self._ended[-1].failure}; the worker stops, what is queued stays queued")
        self._stop_at_the_budget()
        self._learn(self.orders.learn_after)
        more = self._fill(heart)
        self._ask_ahead()
        self._reconsider()
        return bool(self._runs) or more

    def _arrive(self, reached: Checkpoint | None, heart: Heartbeat) -> None:
        """Stop what runs if the goal is reached: the run that reached it is ended, others are queued again."""
        if reached is None:
            return
        self.reached = reached
        place = reached.run if reached.epoch is None else f"{reached.run}:{reached.epoch}"
        self.notify(Event("reached", f"{place} meets the targets: {reached.path}"))
        others = []
        for run in self._runs:
            if any(c.path == reached.path for c in run.checkpoints):
                run.stop(Decision(stop=True, probability=1.0, reason="since it meets the targets"))
            else:
                others.append(run)
        self._hand_back(others, heart, "another run reached the targets")

    def _stop_at_the_budget(self) -> None:
        """Once it is spent, end what goes on: above all programs that do not take their number of epochs.

        One that has written its last epoch is left to end by itself.
        """
        if self.budget is None:
            return
        wrote = [len(run.checkpoints) for run in self._runs]
        if wrote == self._counted and time.monotonic() - self._counted_at < COUNT_AGAIN:
            return
        self._counted, self._counted_at = wrote, time.monotonic()
        going = [run for run in self._runs if not run.ending]
        if going and self.budget.left() < 1:
            for run in going:
                run.stop(Decision(stop=True, probability=float("nan"), reason="since the budget is spent"))

    def _reap(self) -> None:
        if time.monotonic() - self._reaped < self.orders.stale_after / BEATS:
            return
        self._reaped = time.monotonic()
        study_id = self._study_id()
        for lost in [] if study_id is None else fail_stale_trials(self.storage, study_id, self.orders.stale_after):
            self.notify(Event("stale", _lost(lost)))

    def _study_id(self) -> int | None:
        try:
            return self.storage.get_study_id_from_name(study_name(self.project.name))
        except KeyError:
            return None

    def _fill(self, heart: Heartbeat) -> bool:
        """Start runs while there is room; False when no more will come."""
        while len(self._runs) < self.orders.jobs:
            if self._launches_no_more():
                return False
            if (self._runs or self._asking) and time.monotonic() - self._nothing_at < self.orders.watch:
                return True
            room = None if self.budget is None else self.budget.available()
            if room is not None and room < 1:
                self._nothing_at = time.monotonic()
                return self.budget is not None and self.budget.left() >= 1  # a run may be stopped early yet
            taken = self._take()
            if taken is None:
                self._nothing_at = time.monotonic()
                return self._wait_for_more()
            self._launched += 1
            heart.hold(taken.trial_id)
            try:
                taken = recover_attempt(self.project, self.storage, self.catalogue, taken)
                most = None if room is None else room + self._behind(taken)
                prepared = prepare(
                    self.project, self.storage, self.catalogue, self._known_space(), taken, self.orders, most
                )
            except LaunchError as error:
                self._launched -= 1
                heart.release(taken.trial_id)
                return_to_queue(self.storage, taken.trial_id)
                self._launches_nothing(str(error))
                return True
            except BaseException as error:
                self._launched -= 1
                heart.release(taken.trial_id)  # if it cannot be given back, it is taken for lost, and queued again
                why = str(error) if isinstance(error, EpsoptError) else "its worker was interrupted"
                with contextlib.suppress(*DATABASE_ERRORS):
                    release(self.storage, self._study_id() or 0, taken.trial_id, why)
                raise
            self._runs.append(prepared)
            prepared.set_attribute("idle_seconds", time.monotonic() - self._empty_since.pop(0))
            start = f" from {taken.init_from}" if taken.init_from else ""
            self.notify(Event("started", f"{prepared.name}: started{_what(prepared)}{start}"))
        return True

    def _launches_nothing(self, why: str) -> None:
        """Launch no more programs: the next one would fail in the same way. What runs is left to end."""
        self._cannot_launch = why
        if self._runs:
            self.notify(Event("failure", f"no more programs are launched, what runs goes on: {why}"))

    def _behind(self, taken: ClaimedProposal) -> int:
        """Epochs that a run need not train again, since it goes on from an interrupted attempt."""
        goes_on = any("resume_from" in holes(item) for item in self.project.command or ())
        return self.budget.resumed(taken.attributes) if goes_on and self.budget is not None else 0

    def _take(self) -> ClaimedProposal | None:
        if self._study_id() is None:
            if self.orders.ask or self.orders.forever:
                return None
            raise EpsoptError(f"{self.project.name} has no proposals yet: run 'epsopt propose' first")
        made_for = recorded_objectives(self.storage, self.project.name)
        if made_for is not None and made_for != self.project.objectives:
            raise EpsoptError(
                f"the proposals of {self.project.name} are for {', '.join(o.name for o in made_for)} since this worker "
                "began with other objectives: start it again"
            )
        while True:
            try:
                return take_proposal(self.storage, self.project.name, self._known_space(), worker=self.name)
            except UsageError as error:  # queued by somebody who did not check; its trial says so too
                self.notify(Event("refused", str(error)))

    def _known_space(self) -> Space:
        if self.project.space is not None:
            return self.project.space
        if self._space is None or not self._runs:  # inferred: it grows with the runs
            self._space = recorded_space(self.storage, self.project.name)
        return self._space

    def _wait_for_more(self) -> bool:
        """Nothing is queued: ask for more, or wait for those that others may leave behind."""
        if self.orders.ask and self.learner is not None:
            failure = self.learner.proposal_failure()
            if failure is None or self._knows_more():  # what more runs measured may help
                self._ask(self.learner)
            elif not self._runs:
                raise EpsoptError(failure)
            return True
        if self.orders.forever:
            return True
        study_id = self._study_id()
        # Another worker may die yet, and what it ran would be queued again.
        return study_id is not None and any(unfinished(self.storage, study_id))

    def _ask_ahead(self) -> None:
        """Ask for more as soon as nothing waits, while programs run: so there is something when one has ended.

        Not with a budget: each of its steps needs the realized gain of the one before it (:meth:`_reconsider`).
        """
        if not self._runs or not self.orders.ask or self.learner is None or self.budget is not None or self._asking:
            return
        if self._launches_no_more():
            return
        if not self._knows_more() or time.monotonic() - self._nothing_at < self.orders.watch:
            return
        study_id = self._study_id()
        if study_id is not None and unfinished(self.storage, study_id)[0]:
            return
        self._nothing_at = time.monotonic()
        self._ask(self.learner)

    def _launches_no_more(self) -> bool:
        if self.budget is not None and self.budget.settled is not None:
            return True
        return self.orders.runs is not None and self._launched >= self.orders.runs

    def _reconsider(self) -> None:
        """With a budget, have the next step chosen ahead while programs run, anew with every checkpoint."""
        if self.budget is None or self.learner is None or not self.orders.ask or self._launches_no_more():
            return
        looked_at = [(run.taken.trial_id, len(run.checkpoints)) for run in self._runs]
        if looked_at and looked_at != self._known_at_last_choice:
            self._known_at_last_choice = looked_at
            self.learner.reconsider(merge=self._may_merge())

    def _may_merge(self) -> bool:
        """Whether all programs that run have begun to train, and know what memory they need."""
        return all(run.checkpoints for run in self._runs)

    def _knows_more(self) -> bool:
        """Whether anything happened since it last asked, so that the answer may be another one."""
        return self._asked != (len(self._ended), self._launched)

    def _ask(self, learner: Learner) -> None:
        """Ask for proposals, unless they are being made, or were made a moment ago and not yet looked at."""
        if self._asking or learner.is_proposing():
            return
        room = self.orders.ask
        if self.orders.runs is not None:
            room = min(room, self.orders.runs - self._launched)
        if self.budget is not None:
            room = min(room, self.orders.jobs - len(self._runs))
        self._asked = (len(self._ended), self._launched)
        self._asking = self._learn_next = True
        learner.start(room, merge=self._may_merge())
        wanted = count(room, "proposal") if self.budget is None else "the next step"
        self.notify(Event("proposing", f"nothing is queued: asking for {wanted}"))

    def _receive_proposals(self) -> None:
        """Look at the queue at once when proposals were made."""
        if self._asking and self.learner is not None and not self.learner.is_proposing():
            self._asking = False
            self._nothing_at = -float("inf")

    def _learn(self, runs: int) -> None:
        """Have the learner learn if so many runs ended since it last did, or some and it has made proposals since."""
        if not self.orders.learn_after or self.learner is None:
            return
        new = len(self._ended) - self._learned
        due = new >= runs or (new > 0 and self._learn_next and not self._asking)
        if due and not self.learner.is_fitting():
            self._learned, self._learn_next = len(self._ended), False
            self.learner.start(0)
            self.notify(Event("fitting", "learning from what came back, in the background"))

    def _last_lesson(self) -> None:
        """Learn from the last runs: waited for is only what the orders ask for, and what would be lost."""
        if self.learner is None:
            return
        awaited = self.orders.await_learning or self.budget is not None
        if awaited:
            self._wait_for_learner()  # what it is at may have begun before the last runs ended
        self._learn(1)
        if awaited:
            self._wait_for_learner()
        self.learner.finish()
        self._receive()
        if not awaited and self.learner.is_fitting():
            self.notify(Event("fitting", _LEARNS_ON))

    def _wait_for_learner(self) -> None:
        while self.learner is not None and (self.learner.is_proposing() or self.learner.is_fitting()):
            time.sleep(0.1)
        self._receive()

    def _receive(self) -> bool:
        """Report the learner's messages, and why it failed if it did; whether there was any news."""
        if self.learner is None:
            return False
        news, failures = self.learner.messages(), (self.learner.proposal_failure(), self.learner.fit_failure())
        for text in news:
            self.notify(Event("merged", text))
        what = ("nothing could be proposed", "learning in the background failed")
        for problem, failure, before in zip(what, failures, self._learner_failures, strict=True):
            if failure is not None and failure != before:
                self.notify(Event("failure", f"{problem}: {failure}"))
        self._learner_failures = failures
        return bool(news)

    def _report_once(self, failure: str | None) -> None:
        """Report what keeps runs from being judged."""
        if failure is not None and failure != self._unjudged:
            self._unjudged = failure
            self.notify(Event("failure", f"runs go on, since whether to stop them cannot be decided: {failure}"))

    def _settle(self, ended: RunResult) -> None:
        if not ended.launched:
            self._launched -= 1
            self._launches_nothing(ended.failure or "")
            return
        self._ended.append(ended)
        self._failures = self._failures + 1 if ended.state == "fail" else 0
        self.notify(Event("ended", ended.sentence(), ended))

    def _abandon(self, heart: Heartbeat) -> None:
        """Stop everything; what ran is queued again, whatever its number of retries."""
        if self.learner is not None:
            self.learner.stop()
        with contextlib.suppress(*DATABASE_ERRORS):  # others queue it again, when they take this worker for dead
            self._hand_back(list(self._runs), heart, "its worker was interrupted")

    def _hand_back(self, runs: list[Run], heart: Heartbeat, why: str) -> None:
        """Stop programs, read what they wrote last, and queue their proposals again."""
        stop_all([run.training for run in runs])
        self._runs = [run for run in self._runs if run not in runs]
        interrupt: KeyboardInterrupt | None = None
        try:
            study_id = self._study_id()
            for run in runs if study_id is not None else []:
                try:
                    run.save_interrupted()
                except KeyboardInterrupt as again:  # there is no time for that, but they are queued again
                    interrupt = again
                number = release(self.storage, study_id or 0, run.taken.trial_id, why)
                if number is not None:
                    self.notify(Event("released", f"{run.name}: stopped; queued again as proposal {number}"))
        finally:
            for run in runs:
                heart.release(run.taken.trial_id)
        if interrupt is not None:
            raise interrupt


def _what(run: Run) -> str:
    """What it is as a step of the scheduler."""
    if run.plan is None:
        return ""
    article = "an exploration run" if run.plan.kind == "exploration" else f"a {run.plan.kind}"
    return f", {article} of {count(run.plan.epochs, 'epoch')}"


def _lost(lost: StaleTrial) -> str:
    after = f"queued again as proposal {lost.retry}" if lost.retry is not None else "it was retried before: given up"
    return f"proposal {lost.number}: its worker {lost.worker} stopped answering; {after}"
