"""Early stopping for workers: what the catalogue knows of earlier runs decides about the ones that train now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from epsopt.optimize.loop.curves import Curve
from epsopt.optimize.loop.history import past_curves, values_of
from epsopt.optimize.loop.stopping import Decision
from epsopt.optimize.loop.stopping import Stopper as RunStopper
from epsopt.optimize.space import Space
from epsopt.optimize.targets import Objective, Target
from epsopt.studies.kinds import ActiveRun, Measured
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.records import Checkpoint


class CatalogueStopper:
    """Stops a run that will hardly join the front; learns again when more runs are known.

    Args:
        catalogue: of all runs; read when a decision is asked for.
        space: of the hyperparameters.
        objectives: what counts.
        targets: a run that may meet all of them goes on as well.
        threshold: a run whose probability is below is stopped.
        grace: epochs that every run is given.
        audit: share of runs that are left to finish.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        space: Space,
        objectives: Sequence[Objective],
        *,
        targets: Sequence[Target] = (),
        threshold: float = 0.05,
        grace: float = 2.0,
        audit: float = 0.1,
    ) -> None:
        self._catalogue, self._space, self._objectives = catalogue, space, tuple(objectives)
        self._options = {"targets": tuple(targets), "threshold": threshold, "grace": grace, "audit": audit}
        self._learned_from = -1
        self._stopper: RunStopper | None = None
        self._starts: dict[str, Checkpoint] = {}

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
        checkpoints = self._catalogue.checkpoints()
        self._starts = {c.path: c for c in checkpoints}
        curves = past_curves(checkpoints, self._space, self._objectives)
        curves.pop(but, None)
        if self._stopper is None or len(curves) > 1.1 * self._learned_from:
            if not curves:
                return None
            length = float(np.median([c.steps[-1] for c in curves.values()]))
            self._stopper = RunStopper(self._space, self._objectives, length, **self._options)  # type: ignore[arg-type]
            self._stopper.learn(list(curves.values()))
            self._learned_from = len(curves)
        return self._stopper
