"""Early stopping for workers: what the catalogue knows of earlier runs decides about the ones that train now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from epsopt.optimize.inference import infer_space
from epsopt.optimize.loop.curves import Curve
from epsopt.optimize.loop.history import past_curves, values_of
from epsopt.optimize.loop.stopping import Decision
from epsopt.optimize.loop.stopping import Stopper as RunStopper
from epsopt.optimize.space import Space
from epsopt.optimize.targets import Objective
from epsopt.studies.kinds import ActiveRun, Measured
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.errors import UsageError
from epsopt.zoo.records import Checkpoint


class CatalogueStopper:
    """Stops a run that will hardly join the front; learns again when more runs are known.

    Args:
        catalogue: of all runs.
        space: of the hyperparameters; None: what varies among the catalogue's runs.
        objectives: what counts.
        read_again: seconds for which what was read from the catalogue is believed.
        options: of :class:`epsopt.optimize.loop.stopping.Stopper`.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        space: Space | None,
        objectives: Sequence[Objective],
        *,
        read_again: float = 30.0,
        **options: Any,
    ) -> None:
        self._catalogue, self._space, self._objectives = catalogue, space, tuple(objectives)
        self._read_again, self._options = read_again, options
        self._read_at = float("-inf")
        self._checkpoints: list[Checkpoint] = []
        self._starts: dict[str, Checkpoint] = {}
        self._learned_from = -1
        self._stopper: RunStopper | None = None

    def should_stop(self, run: ActiveRun, checkpoints_so_far: Sequence[Measured]) -> Decision:
        """Decide; the checkpoints are the run's own, measured, oldest first."""
        steps = [c for c in checkpoints_so_far if c.epoch is not None and c.epoch > 0]
        if not steps:
            return Decision(stop=False, probability=float("nan"), reason="its checkpoints do not say which epoch")
        stopper = self._learn(run.name)
        if stopper is None:
            return Decision(stop=False, probability=float("nan"), reason="no earlier run is known")
        start = None if run.init_from is None else self._starts.get(run.init_from)
        so_far = Curve(
            run.params,
            np.array([float(c.epoch or 0) for c in steps]),
            np.stack([values_of(c.metrics, self._objectives) for c in steps]),
            None if start is None else values_of(start.metrics, self._objectives),
        )
        return stopper.should_stop(run.name, so_far)

    def _learn(self, but: str) -> RunStopper | None:
        """Learn from all other runs, when there are a tenth more of them than last time."""
        if time.monotonic() - self._read_at > self._read_again:
            self._checkpoints = self._catalogue.checkpoints()
            self._starts = {c.path: c for c in self._checkpoints}
            self._read_at = time.monotonic()
        others = [c for c in self._checkpoints if c.run != but]
        known = len({c.run for c in others})
        if known and (self._stopper is None or known > 1.1 * self._learned_from):
            space = self._space or _inferred(others)
            if space is None:
                return None
            curves = list(past_curves(others, space, self._objectives).values())
            if curves:
                length = float(np.median([c.steps[-1] for c in curves]))
                self._stopper = RunStopper(space, self._objectives, length, **self._options)
                self._stopper.learn(curves)
                self._learned_from = known
        return self._stopper


def _inferred(checkpoints: Sequence[Checkpoint]) -> Space | None:
    """What varies among runs; None if nothing does yet."""
    try:
        return infer_space(list({c.run: c.hyperparameters for c in checkpoints}.values()))
    except UsageError:
        return None
