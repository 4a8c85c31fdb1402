"""Ask the scheduler's process (scheduler_service.py) for steps: what learns for a worker that spends a budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from epsopt.studies.background_process import Helper


@dataclass(frozen=True)
class StepTask:
    """What steps are taken for.

    Attributes:
        project: the project file.
        storage: database URL.
        until: what the ledger says is spent when the budget is.
        length: epochs of a whole run; None: as past ones had.
        seed: of the scheduler.
        min_gain: share of the front's hypervolume; when what is left is expected to add less, no step is chosen.
    """

    project: str
    storage: str
    until: float
    length: float | None = None
    seed: int = 0
    min_gain: float = 0.0


class StepAsker:
    """Has the next step chosen while programs run, and queued when a slot is free.

    Args:
        task: what steps are taken for.
        settled: called, with a sentence, when what is left of the budget is expected to add too little.
    """

    def __init__(self, task: StepTask, settled: Callable[[str], object] = lambda _sentence: None) -> None:
        self.task, self._settled = task, settled
        self.helper: Helper | None = None
        self._waits = False
        self._failure: str | None = None
        self._fit_failure: str | None = None
        self._news: list[str] = []

    def is_proposing(self) -> bool:
        """Whether a step was asked for that is not queued yet."""
        if self._waits:
            self._receive()
        return self._waits

    def is_fitting(self) -> bool:
        """Never: all that it learns, the next step is chosen by."""
        return False

    def start(self, propose: int, *, merge: bool = True) -> None:
        """Ask for the next step, if any is wanted; not twice at a time. With `merge` merges may be measured before."""
        if propose and not self.is_proposing():
            self._failure = self._fit_failure = None
            self._send(launch=True, merge=merge)
            self._waits = True

    def reconsider(self, *, merge: bool) -> None:
        """Have the next step chosen anew, since more is known; with `merge`, merges may be measured meanwhile."""
        self._receive()
        if self._fit_failure is None:  # else not before a step is asked for
            self._send(launch=False, merge=merge)

    def messages(self) -> list[str]:
        """Return what there was to tell, a line each, once."""
        self._receive()
        messages, self._news = self._news, []
        return messages

    def proposal_failure(self) -> str | None:
        """Say why the last step that was asked for could not be chosen; None if it could, or is not yet."""
        return self._failure

    def fit_failure(self) -> str | None:
        """Say why choosing ahead failed, until the next step is asked for; None if it did not."""
        return self._fit_failure

    def finish(self) -> None:
        """End it, when it has measured what it is measuring."""
        if self.helper is not None:
            self.helper.close()
            self.helper.wait()

    def stop(self) -> None:
        """End it at once; the next one starts from what is in the database."""
        if self.helper is not None:
            self.helper.kill()

    def _send(self, **order: bool) -> None:
        self._receive()
        if self.helper is None or not self.helper.runs():
            self.helper = Helper("epsopt.studies.schedule.scheduler_service")
            self.helper.send(asdict(self.task))
        self.helper.send(order)

    def _receive(self) -> None:
        if self.helper is None:
            return
        ended = not self.helper.runs()
        for line in self.helper.receive():
            message = json.loads(line)
            if "answered" in message:
                self._waits, self._failure = False, message["answered"]
            elif "settled" in message:
                self._settled(message["settled"])
                self._news.append(message["settled"])
            else:
                self._news.append(message["message"])
        if ended:
            failure, self.helper = self.helper.failure(), None
            if self._waits:
                self._waits, self._failure = False, failure or "what chooses the next step has ended"
            else:
                self._fit_failure = failure
