"""What predictions of *chosen* runs are worth, by replaying the history of the project's own runs.

Whoever takes the best of a thousand predictions takes the one that is overrated most (the optimiser's curse,
Smith and Winkler 2006), and intervals that hold what they should on average do not hold it there. So the model is
learned from the first half of the runs, and at a few moments of the second half the runs that came later are candidates
of which it is known what they added: those predicted best say what such predictions are to be multiplied by.
What a run did after one of its own checkpoints stands for a branch from there, as long as no branch was launched.
With few runs the factors stay near what they were on the development tables of benchmarks/replay.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.optimize.forecast.calibration import Calibration, fit_calibration
from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel
from epsopt.optimize.pareto import hypervolume, joins_front

Floats = NDArray[np.float64]

FEWEST_RUNS = 10
"""Runs of which a half can say something of the other half."""

SAMPLES = 128
"""Of the future of each run that is replayed."""

_MOMENTS = 3
_CHOSEN = 1 / 3  # of the later runs: those that would have been chosen
_WEIGHT = 3.0  # of a chosen one's error, of any other's 1
_DOUBT = 4.0  # runs: as much as these says the assumption that predictions are right
_STRETCHES = (0.8, 4.0)
_GAINS = (0.02, 1.0)
_USUAL_GAINS = {"run": 0.35, "branch": 0.1}  # realized by predicted gain of chosen steps (docs/decisions)
_USUAL_JOINS = Calibration(shift=-1.0)  # of 36 chosen steps 73 % were expected to join the front, 42 % did
_Z90 = 1.645
_PER_RUN = 4
_SHORT = 0.3  # of a run lies before its checkpoint that stands for a branch's start


@dataclass(frozen=True)
class SelectionCalibration:
    """What predictions of chosen runs are to be corrected by.

    Attributes:
        stretch: one per output: of standard deviations; none where nothing is known.
        gains: what expected hypervolume is multiplied by, of a ``"run"`` and of a ``"branch"``; where nothing is known,
            by what is usual of such steps.
        joins: of the probability that a run joins the front.
    """

    stretch: tuple[float, ...] = ()
    gains: Mapping[str, float] = field(default_factory=dict)
    joins: Calibration = _USUAL_JOINS

    def gain(self, kind: str) -> float:
        """Return what the expected hypervolume of a kind of step is multiplied by."""
        return self.gains.get(kind, _USUAL_GAINS.get(kind, 1.0))


@dataclass(frozen=True, eq=False)
class _Replayed:
    """What was predicted of later runs at one moment, and what came of them.

    Attributes:
        runs: ``(n,)`` which they are.
        error: ``(n, outputs)`` of their last checkpoints, in standard deviations; NaN where not measured.
        gain: ``(n,)`` expected hypervolume.
        realized: ``(n,)`` hypervolume that they added.
        joins: ``(n,)`` probability that they join the front.
        joined: ``(n,)`` 1 where they did.
    """

    runs: NDArray[np.int64]
    error: Floats
    gain: Floats
    realized: Floats
    joins: Floats
    joined: Floats

    @property
    def chosen(self) -> NDArray[np.int64]:
        """Places of those that would have been chosen."""
        best: NDArray[np.int64] = np.argsort(-self.gain, kind="stable")[: max(round(_CHOSEN * len(self.gain)), 1)]
        return best

    @property
    def weights(self) -> Floats:
        """``(n,)`` what each says of those that are chosen."""
        out = np.ones(len(self.gain))
        out[self.chosen] = _WEIGHT
        return out


def fit_selection_calibration(
    model: CurveModel, curves: Sequence[Curve], *, reference: Floats, seed: int = 0
) -> SelectionCalibration:
    """Replay the second half of the runs.

    Args:
        model: learned from the first half of the curves, or fewer.
        curves: of all runs, in the order in which they were launched.
        reference: ``(m,)`` the reference point, in the objectives' own units.
        seed: of the samples.

    Returns:
        The corrections; the usual ones with fewer than ``FEWEST_RUNS`` runs.
    """
    n = len(curves)
    if n < FEWEST_RUNS:
        return SelectionCalibration()
    moments = np.unique(np.linspace(n // 2, n - max(n // 8, 1), _MOMENTS).astype(np.int64)).tolist()
    usual = usual_start(curves)
    kinds: dict[str, list[Curve | None]] = {
        "run": [c if start_of(c) == usual else None for c in curves],
        "branch": [_branch(c, usual) for c in curves],
    }
    kinds = {kind: some for kind, some in kinds.items() if sum(c is not None for c in some[n // 2 :]) > 1}
    replays = _all(model, curves, kinds, moments, reference, seed)
    stretch = _stretch([r for mine in replays.values() for r in mine], len(model.processes))
    replays = _all(replace(model, stretch=stretch), curves, kinds, moments, reference, seed)
    return SelectionCalibration(
        stretch,
        {kind: _gain(mine, _USUAL_GAINS[kind]) for kind, mine in replays.items()},
        _joins([r for mine in replays.values() for r in mine]),
    )


def usual_start(curves: Sequence[Curve]) -> bytes:
    """Where most runs start: what was measured there; nothing, where that is not known."""
    return Counter(start_of(c) for c in curves).most_common(1)[0][0]


def start_of(curve: Curve) -> bytes:
    """What was measured where a run starts; nothing, where that is not known."""
    return b"" if curve.start is None else curve.start.tobytes()


def _branch(curve: Curve, usual: bytes) -> Curve | None:
    """A run that started from a checkpoint; of any other, what it did after one of its own."""
    if curve.start is None or start_of(curve) != usual:
        return None if curve.start is None else curve
    place = min(int(_SHORT * len(curve.steps)), len(curve.steps) - 2)
    if place < 0 or not np.isfinite(curve.values[place]).all():
        return None
    later = slice(place + 1, None)
    return Curve(curve.config, curve.steps[later] - curve.steps[place], curve.values[later], curve.values[place])


def _all(
    model: CurveModel,
    curves: Sequence[Curve],
    kinds: Mapping[str, Sequence[Curve | None]],
    moments: Sequence[int],
    reference: Floats,
    seed: int,
) -> dict[str, list[_Replayed]]:
    out: dict[str, list[_Replayed]] = {kind: [] for kind in kinds}
    for k in moments:
        known = model.given(curves[:k])
        for kind, some in kinds.items():
            later = {i: c for i, c in enumerate(some) if i >= k and c is not None}
            if later:
                out[kind].append(_replay(known, later, reference, seed))
    return out


def _replay(model: CurveModel, later: Mapping[int, Curve], reference: Floats, seed: int) -> _Replayed:
    signs, m = model.signs.numpy(), len(model.objectives)
    measured, corner, maximize = model.measured(), reference * signs, [True] * m
    curves = list(later.values())
    steps = np.stack([np.linspace(0.0, c.steps[-1], _PER_RUN + 1)[1:] for c in curves])
    x = model.inputs([c.config for c in curves], steps, [c.start for c in curves], [len(model.curves)] * len(curves))
    with torch.no_grad():
        posterior = model.model.posterior(x)
        drawn = model.sample_futures(posterior, SAMPLES, seed)
        mean, variance = posterior.mean[:, -1].numpy(), posterior.variance[:, -1].numpy()
    stretch = np.array(model.stretch or (1.0,) * len(model.processes))
    noise = stretch**2 * np.array([float(p.noise) for p in model.processes])
    ends = np.stack([c.values[-1] for c in curves])
    scaled = np.column_stack([t.forward(column) for t, column in zip(model.transforms, ends.T, strict=True)])
    replayed = []
    for curve, paths in zip(curves, drawn, strict=True):
        known = measured
        if curve.start is not None and np.isfinite(curve.start[:m]).all():
            known = np.vstack([measured, curve.start[:m] * signs])
        rows = curve.values[np.isfinite(curve.values[:, :m]).all(axis=1), :m] * signs
        volume = hypervolume(known, corner, maximize)
        gain = np.mean([hypervolume(np.vstack([known, path]), corner, maximize) for path in paths]) - volume
        realized = hypervolume(np.vstack([known, rows]), corner, maximize) - volume
        joined = bool(len(rows)) and bool(joins_front(rows[None], known)[0])
        replayed.append((gain, realized, joins_front(paths, known).mean(), float(joined)))
    return _Replayed(np.array(list(later)), (scaled - mean) / np.sqrt(variance + noise), *np.array(replayed).T)


def _shares(replayed: Sequence[_Replayed]) -> tuple[Floats, NDArray[np.int64]]:
    """Weights of all that was predicted, those of a run as much as of one prediction; and the runs."""
    runs = np.concatenate([r.runs for r in replayed])
    return np.concatenate([r.weights for r in replayed]) / (runs[:, None] == runs).sum(axis=1), runs


def _stretch(replayed: Sequence[_Replayed], outputs: int) -> tuple[float, ...]:
    if not replayed:
        return (1.0,) * outputs
    weights, runs = _shares(replayed)
    out = []
    for column in np.concatenate([r.error for r in replayed]).T:
        known = np.isfinite(column)
        if not known.any():
            out.append(1.0)
            continue
        size, weight = np.abs(column[known]), weights[known]
        order = np.argsort(size, kind="stable")
        place = int(np.searchsorted(np.cumsum(weight[order]) / weight.sum(), 0.9))
        quantile = float(size[order[min(place, len(size) - 1)]]) / _Z90
        count = len(np.unique(runs[known]))
        log = count * np.log(max(quantile, 1e-3)) / (count + _DOUBT)
        out.append(float(np.clip(np.exp(log), *_STRETCHES)))
    return tuple(out)


def _gain(replayed: Sequence[_Replayed], usual: float) -> float:
    """Realized by predicted gain of those that would have been chosen, as if one more had added the usual share."""
    predicted = sum(float(r.gain[r.chosen].sum()) for r in replayed) / len(replayed)
    realized = sum(float(r.realized[r.chosen].sum()) for r in replayed) / len(replayed)
    doubt = sum(float(r.gain[r.chosen].mean()) for r in replayed) / len(replayed)
    return min(max((realized + usual * doubt) / max(predicted + doubt, 1e-300), _GAINS[0]), _GAINS[1])


def _joins(replayed: Sequence[_Replayed]) -> Calibration:
    if not replayed:
        return _USUAL_JOINS
    weights, _ = _shares(replayed)
    forecasts, outcomes = (np.concatenate([getattr(r, name) for r in replayed]) for name in ("joins", "joined"))
    return fit_calibration(forecasts, outcomes, weights / _WEIGHT, usual=_USUAL_JOINS)
