"""Which kind of step to take next: the predicted gain of each, by how reliable its predicted gains were so far.

Models of different things (runs, merges) are not wrong in the same way. Each kind of step has a reliability, its
realized gain by its predicted gain, recent steps counting more. When the predicted gain of the next merge falls below a
share of what an epoch added on average so far, it is time to train instead: the marginal value theorem of foraging
(Charnov 1976).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PATIENCE = 0.5
"""Share of the average gain per epoch below which a predicted gain is not worth its cost."""

_FADING = 0.9
_MOST = 2.0  # a kind that brought more than it promised is believed up to twice its promise
_DOUBT = 0.005  # of the hypervolume: about so much must have been promised before its failing counts
_FAILURES = 0.5  # and as much as so many of its promises: what is likely to bring nothing may bring a lot all the same


@dataclass
class Reliability:
    """Predicted and realized gain of kinds of steps, in hypervolume.

    Args:
        first: what a promise of 1 is believed to be worth before anything is known, by kind; others are believed.
    """

    first: Mapping[str, float] = field(default_factory=dict)
    _brought: dict[str, float] = field(default_factory=dict, init=False)
    _promised: dict[str, float] = field(default_factory=dict, init=False)
    _times: dict[str, float] = field(default_factory=dict, init=False)

    def learn(self, kind: str, promised: float, brought: float) -> None:
        """Take note of a step: what it was expected to add to the front, and what it added."""
        self._brought[kind] = _FADING * self._brought.get(kind, 0.0) + brought
        self._promised[kind] = _FADING * self._promised.get(kind, 0.0) + promised
        self._times[kind] = _FADING * self._times.get(kind, 0.0) + 1.0

    def of(self, kind: str, volume: float) -> float:
        """Return what a promise of 1 is worth, given the hypervolume of the front."""
        promised = self._promised.get(kind, 0.0)
        usual = promised / self._times[kind] if kind in self._times else 0.0
        doubt = max(_DOUBT * volume, _FAILURES * usual, 1e-12)
        worth = (self._brought.get(kind, 0.0) + doubt * self.first.get(kind, 1.0)) / (promised + doubt)
        return min(worth, _MOST)


def marginal_value_threshold(volume: float, epochs: float) -> float:
    """Return what a step must promise for each epoch that it costs, lest it is better to train elsewhere.

    Args:
        volume: hypervolume of the front.
        epochs: trained so far.
    """
    return PATIENCE * volume / max(epochs, 1.0)
