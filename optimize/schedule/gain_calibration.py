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
_MOST = 2.0  # upper limit: a kind whose realized gains exceed the predicted ones counts at most twice as much
_DOUBT = 0.005  # of the hypervolume: about so much predicted gain must have failed before that counts
_FAILURES = 0.5  # and this many predicted gains of usual size: a step that likely adds nothing may add a lot


@dataclass
class Reliability:
    """Predicted and realized gain of kinds of steps, in hypervolume.

    Args:
        first: reliability of each kind before any step of it was measured; 1 for kinds that are not named.

    Attributes:
        realized: realized gain of each kind, recent steps counting more.
        predicted: predicted gain of each kind, likewise.
    """

    first: Mapping[str, float] = field(default_factory=dict)
    realized: dict[str, float] = field(default_factory=dict, init=False)
    predicted: dict[str, float] = field(default_factory=dict, init=False)
    _times: dict[str, float] = field(default_factory=dict, init=False)

    def learn(self, kind: str, predicted_gain: float, realized_gain: float) -> None:
        """Take note of a step: what it was expected to add to the front, and what it added."""
        self.realized[kind] = _FADING * self.realized.get(kind, 0.0) + realized_gain
        self.predicted[kind] = _FADING * self.predicted.get(kind, 0.0) + predicted_gain
        self._times[kind] = _FADING * self._times.get(kind, 0.0) + 1.0

    def of(self, kind: str, volume: float) -> float:
        """Return the reliability of a kind of step, from 0 to 2, given the hypervolume of the front."""
        predicted_gain = self.predicted.get(kind, 0.0)
        usual = predicted_gain / self._times[kind] if kind in self._times else 0.0
        doubt = max(_DOUBT * volume, _FAILURES * usual, 1e-12)
        ratio = (self.realized.get(kind, 0.0) + doubt * self.first.get(kind, 1.0)) / (predicted_gain + doubt)
        return min(ratio, _MOST)


def marginal_value_threshold(volume: float, epochs: float) -> float:
    """Return the predicted gain per epoch below which it is better to train elsewhere.

    Args:
        volume: hypervolume of the front.
        epochs: trained so far.
    """
    return PATIENCE * volume / max(epochs, 1.0)
