"""When a search has what it was after: a measured checkpoint that meets all targets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from epsopt.optimize.objectives import Objective, Target, meets
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

READ_AGAIN = 30.0
"""Seconds between looks at the catalogue for what other workers measured."""


class Goal:
    """Tells when a measured checkpoint meets all targets, whoever measured it.

    Args:
        catalogue: of all checkpoints.
        objectives: the directions of the targets' metrics.
        targets: what is wanted, all at once.

    Raises:
        UsageError: no target, or one that is no objective.
    """

    def __init__(self, catalogue: Catalogue, objectives: Sequence[Objective], targets: Sequence[Target]) -> None:
        if not targets:
            raise UsageError("there is no target to be reached: give one")
        meets({}, targets, objectives)
        self._catalogue, self._objectives, self._targets = catalogue, tuple(objectives), tuple(targets)
        self._read_at = -float("inf")

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is wanted."""
        return self._targets

    def met_by(self, checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
        """Return the first of these that meets all targets, as it was measured."""
        return next((c for c in checkpoints if self._meets(c)), None)

    def reached(self, *, at_once: bool = False) -> Checkpoint | None:
        """Look for one in the catalogue, at most every READ_AGAIN seconds unless at once; None in between, too."""
        if not at_once and time.monotonic() - self._read_at < READ_AGAIN:
            return None
        self._read_at = time.monotonic()
        return self.met_by(self._catalogue.checkpoints())

    def _meets(self, checkpoint: Checkpoint) -> bool:
        known = {n: v for n, v in checkpoint.metrics.items() if v is not None}
        return meets(known, self._targets, self._objectives)
