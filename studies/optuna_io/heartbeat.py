"""A thread that says for a worker that it is still there, whatever the worker is busy with."""

from __future__ import annotations

import contextlib
import threading
from typing import Self

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from epsopt.studies.optuna_io.trial_leases import heartbeat


class Heartbeat:
    """Beats for the claims of one worker, as a context.

    Args:
        storage: as open_storage gives it.
        interval: seconds between beats; a few of them must fit into the time after which others give a claim up.
    """

    def __init__(self, storage: RDBStorage, interval: float) -> None:
        self._storage = storage
        self._interval = interval
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._lost: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="epsopt-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def hold(self, trial_id: int) -> None:
        """Beat for a claim from now on."""
        with self._lock:
            self._held.add(trial_id)

    def release(self, trial_id: int) -> None:
        """Beat for it no longer."""
        with self._lock:
            self._held.discard(trial_id)
            self._lost.discard(trial_id)

    def has_lost(self, trial_id: int) -> bool:
        """Whether somebody took this worker for dead and gave the trial to others."""
        with self._lock:
            return trial_id in self._lost

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            with self._lock:
                held = sorted(self._held)
            # A database that does not answer for a while is no reason to stop training: others cannot reach it either,
            # or they will give the trial up and the next beat that gets through says so.
            with contextlib.suppress(SQLAlchemyError, StorageInternalError):
                lost = heartbeat(self._storage, held) if held else set()
                with self._lock:
                    self._lost |= lost & self._held
