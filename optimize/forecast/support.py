"""How far a configuration lies from what past runs tried, choice by choice.

A learning rate of .1 that was only ever tried with SGD says little about Adam, yet a model whose distances add up over
hyperparameters takes one for the other. So each number is compared with the range that runs with the *same choice*
covered, one choice after another. A few runs cover only a part of the range that they were drawn from: their range is
extended by what as many uniform draws leave open at each end on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epsopt.optimize.space import Parameter, Space, identity

UNTRIED = 0.5
"""Distance of a choice that no past run made, in shares of a range."""

REACH = 0.15
"""Distance beyond the tried range over which what past runs say fades to a third, in shares of a range."""


@dataclass(frozen=True)
class Support:
    """What past runs tried.

    Attributes:
        space: of the hyperparameters.
        ranges: by choice and number, the lowest and the highest place in its range that runs with this choice had,
            extended; by choice alone, what says that it was made.
    """

    space: Space
    ranges: Mapping[tuple[Any, ...], tuple[float, float]]

    @staticmethod
    def of(space: Space, configs: Sequence[Mapping[str, Any]]) -> Support:
        """Take note of the configurations of past runs, which the space accepts."""
        seen: dict[tuple[Any, ...], list[float]] = {}
        for config in configs:
            for key, place in _places(space, config):
                seen.setdefault(key, []).append(place)
        ranges = {}
        for key, places in seen.items():
            margin = 1.0 / (len(places) + 1.0)
            ranges[key] = min(places) - margin, max(places) + margin
        return Support(space, ranges)

    def beyond(self, config: Mapping[str, Any]) -> float:
        """Return how far a configuration lies beyond what was tried.

        Args:
            config: that the space accepts.

        Returns:
            The largest distance of a number from the range that runs with one of the same choices covered, in shares of
            the number's range on its own scale; ``UNTRIED`` at least for a choice that no run made.
        """
        worst = 0.0
        for key, place in _places(self.space, config):
            known = self.ranges.get(key)
            worst = max(worst, UNTRIED if known is None else max(known[0] - place, place - known[1]))
        return worst

    def weight(self, config: Mapping[str, Any]) -> float:
        """Return from 1, where past runs support what is predicted of a configuration, down to 0."""
        return math.exp(-self.beyond(config) / REACH)


def _places(space: Space, config: Mapping[str, Any]) -> list[tuple[tuple[Any, ...], float]]:
    """Places of a configuration's numbers in their ranges, beside each of its choices; a choice lies at zero."""
    active = space.active(config)
    choices = [(p.name, identity(config.get(p.name))) for p in active if p.kind == "categorical"]
    numbers = [(p.name, p.to_unit(config[p.name])) for p in active if _has_number(p, config)]
    out: list[tuple[tuple[Any, ...], float]] = [((c,), 0.0) for c in choices]
    for name, place in numbers:
        out += [((c, name), place) for c in choices] or [((name,), place)]
    return out


def _has_number(p: Parameter, config: Mapping[str, Any]) -> bool:
    return p.kind != "categorical" and config.get(p.name) is not None
