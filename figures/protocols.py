"""What figures draw: anything with these fields, whichever room it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Measured(Protocol):
    """A checkpoint with what was measured on it (:class:`epsopt.zoo.Checkpoint` is one)."""

    @property
    def run(self) -> str:
        """Name of its run."""

    @property
    def epoch(self) -> int | None:
        """Epoch or step, None when unknown."""

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Measured values by name."""

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """The run's hyperparameters by name."""


class Interval(Protocol):
    """Predicted metrics with intervals."""

    @property
    def point(self) -> Mapping[str, float]:
        """Medians by metric."""

    @property
    def low(self) -> Mapping[str, float]:
        """Lower ends of the intervals."""

    @property
    def high(self) -> Mapping[str, float]:
        """Upper ends of the intervals."""


class Predicted(Interval, Protocol):
    """A predicted point; the ``nearest`` checkpoints of a :class:`epsopt.optimize.Answer` are shown besides."""

    @property
    def probability(self) -> float | None:
        """That all targets are met, None where there are none."""
