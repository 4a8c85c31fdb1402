"""What keeps parts of a network from being trained: choices that freeze them, and delays counted in epochs.

A run whose encoder never moved tells nothing of what training the encoder does, and costs as much as any. Why it did
not move is seen from the checkpoints long before metrics tell: blocks that begin to move after just as many epochs as a
hyperparameter says, in run after run, are delayed by it; blocks that never move under one choice and do under others
are frozen by that. Gradual unfreezing and frozen layers are the usual cases (Howard and Ruder 2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.space import Space
from epsopt.zoo.errors import UsageError

STILL = 1e-6
"""Relative distance up to which a block counts as where it was."""

_SELDOM = 0.05  # how likely something is that a rule without exceptions forbids
_AGREEING = 2  # runs that a delay must explain; one is enough where it says more than none
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Blocks that began to move together, in every run.

    Attributes:
        share: of all blocks that ever moved.
        freezer: the categorical parameter that keeps them still, if one does.
        frozen: how many runs each of its values kept still, of those that never let them move.
        delay: the parameter that says after how many epochs they move, if one does.
        onsets: epochs before they moved in the runs that no frozen value kept still; inf: never.
        lengths: epochs of those runs.
    """

    share: float
    freezer: str | None
    frozen: Mapping[Any, int]
    delay: str | None
    onsets: tuple[float, ...]
    lengths: tuple[float, ...]

    def moves_by(self, config: Mapping[str, Any], epochs: float) -> float:
        """How likely they have moved after so many epochs."""
        runs = self.frozen.get(config.get(self.freezer), 0) if self.freezer is not None else 0
        alive = 1.0 / (1.0 + runs)
        if self.delay is not None and config.get(self.delay) is not None:
            return alive * (1.0 if epochs > float(config[self.delay]) else _SELDOM)
        moved = [o < epochs for o, n in zip(self.onsets, self.lengths, strict=True) if n >= epochs or o < epochs]
        return alive * (1.0 + sum(moved)) / (2.0 + len(moved))


@dataclass(frozen=True)
class Onsets:
    """What was learned of when blocks move; no group where nothing is known."""

    groups: tuple[Group, ...]

    def expected_trainable_share(self, config: Mapping[str, Any], epochs: float) -> float:
        """Return the share of blocks and epochs of a run in which a block that ever moved is expected to move."""
        steps = np.arange(1.0, math.ceil(epochs) + 1.0)
        return sum(g.share * float(np.mean([g.moves_by(config, t) for t in steps])) for g in self.groups) or 1.0


def learn_onsets(space: Space, curves: Sequence[Curve]) -> Onsets:
    """Learn what freezes and what delays, from runs that say how far their blocks moved.

    Raises:
        UsageError: runs have different numbers of blocks.
    """
    known = [c for c in curves if c.moved is not None and len(c.steps)]
    if len(known) < 2:
        return Onsets(())
    blocks = sorted({c.moved.shape[1] for c in known if c.moved is not None})
    if len(blocks) > 1:
        counts = " and ".join(map(str, blocks))
        raise UsageError(f"runs say how far {counts} blocks moved, expected the same blocks of all of them")
    onsets = np.stack([_onset(c) for c in known])
    live = np.isfinite(onsets).any(axis=0)
    if not live.any():
        return Onsets(())
    patterns, sizes = np.unique(onsets[:, live], axis=1, return_counts=True)
    shares = sizes / live.sum()
    return Onsets(tuple(_group(space, known, p, s) for p, s in zip(patterns.T, shares.tolist(), strict=True)))


def _onset(curve: Curve) -> Floats:
    """``(blocks,)`` last epoch of which it is known that a block had not moved; inf: it never did."""
    assert curve.moved is not None
    moving = curve.moved > STILL
    before = np.concatenate([[0.0], curve.steps[:-1]])
    return np.where(moving.any(axis=0), before[moving.argmax(axis=0)], np.inf)


def _group(space: Space, curves: Sequence[Curve], onsets: Floats, share: float) -> Group:
    freezer, frozen = _freezer(space, curves, onsets)
    free = [i for i, c in enumerate(curves) if freezer is None or c.config.get(freezer) not in frozen]
    delays = [
        p.name for p in space.parameters
        if p.kind == "int" and _delays(p.name, [curves[i] for i in free], onsets[free])
    ]  # fmt: skip
    return Group(
        share, freezer, frozen, delays[0] if len(delays) == 1 else None,
        tuple(onsets[free].tolist()), tuple(float(curves[i].steps[-1]) for i in free),
    )  # fmt: skip


def _freezer(space: Space, curves: Sequence[Curve], onsets: Floats) -> tuple[str | None, dict[Any, int]]:
    """The categorical parameter whose values explain most runs in which nothing moved."""
    best: tuple[str | None, dict[Any, int]] = (None, {})
    for p in space.parameters:
        if p.kind == "categorical":
            values = [c.config.get(p.name) for c in curves]
            moved = {v for v, o in zip(values, onsets, strict=True) if np.isfinite(o)}
            still = [v for v in values if v is not None and v not in moved]
            if moved and sum(best[1].values()) < len(still):
                best = (p.name, {v: still.count(v) for v in set(still)})
    return best


def _delays(name: str, curves: Sequence[Curve], onsets: Floats) -> bool:
    """Whether every run's onset is what a parameter says."""
    agreeing = 0
    for curve, onset in zip(curves, onsets.tolist(), strict=True):
        stated = curve.config.get(name)
        if stated is None:
            continue
        if not math.isfinite(onset):
            if curve.steps[-1] > float(stated):
                return False
        elif not onset <= math.ceil(float(stated)) < _after(curve, onset):
            return False
        else:
            agreeing += _AGREEING if onset > 0.0 else 1
    return agreeing >= _AGREEING


def _after(curve: Curve, onset: float) -> float:
    """The first measured epoch after this one: checkpoints may be epochs apart, and an attempt goes on from another."""
    return float(curve.steps[np.searchsorted(curve.steps, onset, side="right")])
