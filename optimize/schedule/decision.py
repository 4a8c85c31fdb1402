"""Whether a run is to be stopped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """Whether to stop a run.

    Attributes:
        stop: whether.
        probability: that a checkpoint still to come joins the front, or meets the targets; NaN when it is too early.
        reason: one sentence.
        control: whether it would be stopped, if it were no control run.
    """

    stop: bool
    probability: float
    reason: str
    control: bool = False
