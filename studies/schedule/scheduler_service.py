"""Choose the scheduler's steps in a process of its own, ahead of time, so that no launch waits for a choice.

While programs run, the service chooses the next run as if they ended as predicted, and again after each new checkpoint.
It measures merges that have a higher gain per epoch. A launch waits a short time for the choice that knows how the
programs ended; after that it takes the earlier choice.

``python -m epsopt.studies.schedule.scheduler_service`` reads lines of JSON: first the task (scheduler_client.py), then
orders. An order says whether to ``launch`` the next step or only to choose it again, and whether to ``merge``: to
measure merges meanwhile. The service writes lines of JSON, too: ``message`` is a sentence about a merge; ``answered``
says that a step is queued or that none can be, and holds the error if there was one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import optuna
import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from epsopt.optimize.forecast.catalogue_curves import objective_vector
from epsopt.optimize.merge.simplex_merge import require_objectives
from epsopt.optimize.merge.weight_space_gp import MergeCandidate, on_way
from epsopt.optimize.schedule.scheduler import Scheduler, Step
from epsopt.studies.optuna_io.queue import record_step
from epsopt.studies.optuna_io.refit_lease import Lease, LeaseLost, lease
from epsopt.studies.optuna_io.storage import DATABASE_ERRORS, open_storage
from epsopt.studies.output_paths import decoded_file, new_folder
from epsopt.studies.project.project import Project, load_project
from epsopt.studies.schedule.budget import Ledger, MeasuredMerge, save_measured_merge
from epsopt.studies.schedule.measurements import whole_rows
from epsopt.studies.schedule.remaining import remaining_sentence
from epsopt.studies.schedule.scheduler_adapter import ChosenRun, chosen_run, known, make_scheduler, running
from epsopt.studies.schedule.scheduler_client import StepTask
from epsopt.studies.schedule.study_snapshot import StudySnapshot
from epsopt.studies.schedule.weight_geometry import WeightGeometry, place
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.credentials import masked
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent
from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.formatting import count
from epsopt.zoo.ingestion.ingest import ingest

LAUNCH_WITHIN = 3.0
"""Seconds that a launch waits for a choice that knows how the last run ended, where one was made before."""

ASK_AGAIN = 0.2  # seconds until a database that did not answer is asked again
SILENT_FOR_AT_MOST = 120.0  # seconds for which it need not answer


@dataclass(frozen=True, eq=False)
class ChosenStep:
    """A step, and what was known when it was chosen.

    Attributes:
        run: what to launch; None where a merge takes the room for it.
        snapshot: what was known.
        merge: to be measured before; None: none.
    """

    run: ChosenRun | None
    snapshot: StudySnapshot
    merge: tuple[WeightGeometry, Step] | None


class SchedulerService:
    """Chooses the scheduler's next step, and queues it when asked.

    One service of a database measures merges at a time (refit_lease.py). A service that finds a step of another one
    queued meanwhile chooses again, if there is time; the same step is queued once in any case.

    Args:
        project: the space, unless it is to be inferred, the train command, hooks.
        storage: where the study is.
        catalogue: of the checkpoints.
        until: epochs that the ledger counts as spent when the budget is used up.
        length: epochs of a whole run; None: as many as past runs had.
        seed: RNG seed of the scheduler.
        min_gain: share of the front's hypervolume; when what is left of the budget is expected to add less, no further
            step is queued.
        within: seconds after which a launch takes the choice made before it was asked for, or else the next one.
        notify: called with a sentence about each merge.
        settled: called with a sentence when no further step is queued because of `min_gain`.
        answer: called once for each request, when a step is queued or none can be, with the error that keeps the
            service from choosing, or None.
    """

    def __init__(
        self,
        project: Project,
        storage: RDBStorage,
        catalogue: Catalogue,
        *,
        until: float,
        length: float | None = None,
        seed: int = 0,
        min_gain: float = 0.0,
        within: float = LAUNCH_WITHIN,
        notify: Callable[[str], object] = lambda _line: None,
        settled: Callable[[str], object] = lambda _line: None,
        answer: Callable[[str | None], object] = lambda _failure: None,
    ) -> None:
        self.project, self._storage, self._catalogue = project, storage, catalogue
        self._until, self._length, self._seed, self.within = until, length, seed, within
        self._notify, self._answer = notify, answer
        self._min_gain, self._settled = min_gain, settled
        self._decoder = WeightDecoder(project.evaluate, weights_key=project.weights_key, calibrate=project.calibrate)
        self._gave_up = False  # merging, until it is asked again
        self._folder: Path | None = None
        self._saved = 0
        self._sought: set[Parent] = set()
        self._scheduler: Scheduler | None = None
        self._placed: tuple[object, WeightGeometry | None] | None = None  # and what it was placed by
        self._news, self._hurry = threading.Event(), threading.Event()
        self._lock = threading.RLock()  # of what follows: orders come from other threads
        self._asks = 0
        self._asked: float | None = None  # when, unless it is answered
        self._queued = 0
        self.ready: ChosenRun | None = None
        self._may_merge = True
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def ask(self, *, merge: bool = True) -> None:
        """Have the next step queued as soon as it is chosen; after a while the one that was chosen before.

        Args:
            merge: whether merges may be measured before.
        """
        with self._lock:
            self._asks += 1
            self._asked, self._may_merge, self._gave_up = time.monotonic(), merge, False
            self._hurry.set()
            timer = threading.Timer(self.within, self.queue_ready, (self._asks,))
        timer.daemon = True
        timer.start()
        self._news.set()

    def reconsider(self, *, merge: bool = True) -> None:
        """Have the next step chosen anew, since more is known.

        Args:
            merge: whether merges may be measured beside the programs that run.
        """
        with self._lock:
            self._may_merge = merge
        self._news.set()

    def close(self) -> None:
        """Begin nothing more."""
        with self._lock:
            self._closed = True
            self._hurry.set()
        self._news.set()

    def run(self) -> None:
        """Advance whenever there is something new, until it is closed; ahead no more than half of the time."""
        while not self._closed:
            self._news.wait()
            self._news.clear()
            began, asks, ahead = time.monotonic(), self._asks, self._asked is None
            self.advance()
            self._decoder.rest()
            if ahead and self._asks == asks:
                self._hurry.wait(time.monotonic() - began)  # programs need the processor too

    def advance(self) -> None:
        """Choose until a run is ready, measuring merges on the way, and queue it if it was asked for."""
        refused: float | None = None  # since when the database does not answer
        while not self._closed:
            asks = self._asks
            try:
                if not self._advance(asks):
                    return
                refused = None
            except LeaseLost:
                continue  # it was taken for dead: what it chose may be out of date
            except DATABASE_ERRORS as error:
                refused = refused or time.monotonic()
                if time.monotonic() - refused > SILENT_FOR_AT_MOST:
                    self.finish(_line(error))
                    return
                time.sleep(ASK_AGAIN)
            except EpsoptError as error:
                if self.finish(_line(error), asks):
                    return

    def _advance(self, asks: int) -> bool:
        """Choose a step, and take it if it is a merge or was asked for; whether to go on."""
        queued = self._queued
        chosen = self.choose(ahead=self._asked is None)
        with self._lock:
            if self._closed:
                return False
            if self._queued != queued:  # meanwhile what was ready is: choose beside that
                return True
            self.ready = None if chosen is None else chosen.run
            asked = self._asked is not None
            late = self._asked is not None and time.monotonic() - self._asked >= self.within
            may_merge = self._may_merge
        if chosen is None:
            return not self.finish(None, asks)
        if late and chosen.run is not None:
            return not self._queue(chosen.run)
        if self._asks != asks:
            return True  # something has ended, and is known by now
        if chosen.merge is not None and may_merge and self._measured(chosen.snapshot, *chosen.merge):
            if self._queued != queued:
                self._decoder.rest()  # a program begins
            return True
        if not asked:
            return False
        if chosen.run is None:
            return not self.finish(None, asks)
        return self._is_old(chosen.snapshot) or not self._queue(chosen.run)

    def _is_old(self, snapshot: StudySnapshot) -> bool:
        """Whether steps were taken that were not known of."""
        now = Ledger.read(self._storage, self._catalogue, self.project.name)
        return (len(now.trials), len(now.merges)) != (len(snapshot.ledger.trials), len(snapshot.ledger.merges))

    def queue_ready(self, ask: int) -> None:
        """Queue what was chosen before, unless this was answered by now."""
        with self._lock:
            if self._min_gain:  # whether to go on is decided by what is known now
                return
            if self._asks == ask and self._asked is not None and self.ready is not None:
                with contextlib.suppress(EpsoptError, *DATABASE_ERRORS):  # then the choice that is being made will do
                    if self._may_launch(Ledger.read(self._storage, self._catalogue, self.project.name)):
                        self._queue(self.ready)
                    else:
                        self.finish()

    def _queue(self, run: ChosenRun) -> bool:
        """Queue it, if it was asked for and nobody else did; whether there is nothing left to do about it."""
        with self._lock:
            if self._asked is None or self._closed:
                return True
            number = record_step(
                self._storage, self.project.name, self.project.objectives, run.space, run.config, run.init_from,
                run.attributes, run.key,
            )  # fmt: skip
            self.ready = None
            if number is None:
                return False
            self._queued += 1
            self._may_merge = False  # a program is about to begin
            return self.finish()

    def finish(self, failure: str | None = None, asks: int | None = None) -> bool:
        """Answer, unless it was asked again since it was asked so many times; whether it was not."""
        with self._lock:
            if asks is not None and asks != self._asks:
                return False
            if self._asked is not None:
                self._asked = None
                if not self._closed:
                    self._hurry.clear()
                self._answer(failure)
            return True

    def _may_launch(self, ledger: Ledger) -> bool:
        """Whether nothing waits, and an epoch is left."""
        return ledger.available(self._until) >= 1 and not any(t.state == TrialState.WAITING for t in ledger.trials)

    def choose(self, *, ahead: bool) -> ChosenStep | None:
        """Choose by what is known; None: something waits already, no epoch is left, or it is not worth going on.

        Ahead, the model of curves is learned on whatever is new; later it only builds on that: a launch waits.
        """
        snapshot = self._snapshot()
        ledger = snapshot.ledger
        if not self._may_launch(ledger):
            return None
        placed = self._place(snapshot, ledger.available(self._until))
        scheduler = make_scheduler(snapshot, seed=self._seed)
        if self._scheduler is not None:
            scheduler.warm_start_from(self._scheduler, learn=ahead)
        self._scheduler = scheduler
        step = scheduler.next(known(snapshot, placed), running(snapshot))
        if not ahead and step.kind != "merge" and self._is_settled(scheduler, snapshot):
            return None
        run = step if step.candidate is not None else step.otherwise
        assert run is not None
        assert run.candidate is not None
        # Ahead, what runs may be stopped before it has had its epochs; a worker gives no run more than is left by then.
        room = self._until - ledger.spent if ahead else ledger.available(self._until)
        merge = None if placed is None or step.merge is None else (placed, step)
        room -= 0.0 if merge is None else step.cost
        left = math.floor(room + 1e-9)
        return ChosenStep(chosen_run(snapshot, run, run.candidate, left) if left >= 1 else None, snapshot, merge)

    def _is_settled(self, scheduler: Scheduler, snapshot: StudySnapshot) -> bool:
        """Whether what is left of the budget is expected to add less than was asked for; tells why."""
        if not self._min_gain:
            return False
        left = snapshot.ledger.available(self._until)
        found = scheduler.remaining_gain(known(snapshot, None), left, running(snapshot))
        if found is None or found.volume <= 0.0 or found.share(found.gain) >= self._min_gain:
            return False
        self._settled(
            f"{remaining_sentence(found, left)} That is less than {self._min_gain:.2g}: no further step begins."
        )
        return True

    def _snapshot(self) -> StudySnapshot:
        """Read it; where runs name a base among the runs that was not read yet, that is read first."""
        snapshot = StudySnapshot.read(self.project, self._storage, self._catalogue, self._length)
        lineage_tree = snapshot.lineage_tree
        if (
            lineage_tree is None
            or not lineage_tree.declared
            or lineage_tree.base_checkpoint is not None
            or lineage_tree.base in self._sought
        ):
            return snapshot
        self._sought.add(lineage_tree.base)
        base = Path(lineage_tree.base.path)
        if base.is_file() and base.is_relative_to(self.project.runs):
            ingest(
                self._catalogue, base.parent, root=self.project.runs, embed=self.project.embed, jobs=1,
                follow_links=self.project.follow_links,
            )  # fmt: skip
        return StudySnapshot.read(self.project, self._storage, self._catalogue, self._length)

    def _place(self, snapshot: StudySnapshot, room: float) -> WeightGeometry | None:
        """Where checkpoints lie, if merging them is possible and can be paid for."""
        if (
            self._gave_up
            or not snapshot.can_merge
            or snapshot.lineage_tree is None
            or snapshot.ledger.evaluation > room
        ):
            return None
        by = (snapshot.lineage_tree, snapshot.checkpoints)
        if self._placed is None or self._placed[0] != by:
            try:
                self._placed = by, place(self._decoder, self.project, snapshot.checkpoints, snapshot.lineage_tree)
            except DATABASE_ERRORS:
                raise
            except EpsoptError as error:
                self._give_up(error)
                return None
        return self._placed[1]

    def _give_up(self, error: EpsoptError) -> None:
        self._gave_up = True
        self._notify(f"no merge was measured: {error}")

    def _measured(self, snapshot: StudySnapshot, placed: WeightGeometry, step: Step) -> bool:
        """Measure a merge, unless another service does; return whether there is something new to choose by."""
        with lease(self._catalogue, wait=False) as held:
            if held is None:
                return False
            if self._is_old(snapshot):
                return True
            try:
                self.measure_merge(held, snapshot, placed, step)
            except (LeaseLost, *DATABASE_ERRORS):
                raise
            except EpsoptError as error:
                self._give_up(error)
            return True

    def measure_merge(self, held: Lease, snapshot: StudySnapshot, placed: WeightGeometry, step: Step) -> None:
        """Measure a merge and read it into the catalogue, good or not: then the next step knows it."""
        merge, decoder = step.merge, self._decoder
        assert merge is not None
        objectives = self.project.objectives
        recombination = placed.block_merges.recombination(merge.coefficients)
        began = time.monotonic()
        decoded = decoder.decode(recombination)
        try:
            measured = decoder.measure(decoded, "a merge")
            seconds = time.monotonic() - began
            require_objectives(measured, objectives)
            held.assert_held()
            self._folder = self._folder or new_folder(self.project.runs, "merged")
            path = decoded_file(self._folder, f"merged_{self._saved:03d}", None, placed.checkpoints)
            expected = zip(objectives, merge.predicted, merge.low, merge.high, strict=True)
            predicted = {o.name: {"value": float(v), "low": float(a), "high": float(b)} for o, v, a, b in expected}
            provenance = Provenance("work --budget", predicted, measured, decoder.hook, placed.labels)
            decoder.save(decoded, path, provenance)
        finally:
            decoder.forget(decoded)
        self._saved += 1
        ingest(
            self._catalogue, self._folder, root=self.project.runs, embed=self.project.embed, jobs=1,
            follow_links=self.project.follow_links,
        )  # fmt: skip
        values = objective_vector(measured, objectives)[None]
        before = snapshot.volume(snapshot.measured, snapshot.reference.tolist())
        realized_gain = (
            snapshot.volume(whole_rows(np.vstack([snapshot.measured, values])), snapshot.reference.tolist()) - before
        )
        ends, share = way_between(placed, merge)
        new = MeasuredMerge(
            step.predicted_gain, realized_gain, step.cost, seconds, merge.kind, str(path), ends, share, step.reliability
        )
        save_measured_merge(self._catalogue, self.project.name, new)
        gain = f"hypervolume {realized_gain / before:+.2%}" if before > 0.0 else "the first that counts"
        joined = f"joined the front, {gain}" if realized_gain > 0.0 else "added nothing to the front"
        self._notify(f"{self._folder.name}/{path.parent.name} {joined}; it cost {count(f'{step.cost:.2g}', 'epoch')}")


def way_between(placed: WeightGeometry, merge: MergeCandidate) -> tuple[tuple[str, str], float] | tuple[None, None]:
    """Contents of the two checkpoints that a merge lies between, and its share of the way from the second."""
    found = on_way(merge.coefficients)
    if found is None:
        return None, None
    end, start, share = found
    return (placed.checkpoints[end].sha256, placed.base if start is None else placed.checkpoints[start].sha256), share


def _line(error: Exception) -> str:
    return masked(str(error).splitlines()[0])


class _Answers:
    """Standard output, for lines of JSON; what the process and its children print otherwise goes to standard error."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def send(self, **what: str | None) -> None:
        """Write a line."""
        with self._lock:
            self._file.write(json.dumps(what) + "\n")
            self._file.flush()


def _listen(service: SchedulerService) -> None:
    """Pass orders on until nobody is there who may give any."""
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            (service.ask if asked["launch"] else service.reconsider)(merge=asked["merge"])
    finally:
        service.close()


def main() -> int:
    """Take steps as standard input says; returns the exit status."""
    answers = _Answers()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first one loads for seconds
    asked = sys.stdin.readline()
    if not asked:  # whoever would have asked is gone
        return 0
    task = StepTask(**json.loads(asked))
    try:
        project = load_project(task.project)
        storage = open_storage(task.storage, create=False)
        with (
            Catalogue(task.storage, **project.how_to_read) as catalogue,
            SchedulerService(
                project, storage, catalogue, until=task.until, length=task.length, seed=task.seed,
                min_gain=task.min_gain, notify=lambda line: answers.send(message=line),
                settled=lambda line: answers.send(settled=line), answer=lambda failure: answers.send(answered=failure),
            ) as service,
        ):  # fmt: skip
            threading.Thread(target=_listen, args=(service,), daemon=True).start()
            service.run()
    except EpsoptError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
