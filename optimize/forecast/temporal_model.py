"""Where the next checkpoints of a run lie on the map and what they measure, epoch by epoch, as a distribution.

Every two checkpoints of a past run are an example: from the first one on, with these hyperparameters, so many epochs
led to the second. A forest learns how z and the metrics change. Beside it stand forecasts that know less: nothing
changes; the latest step goes on in a line; a forest that does not see the map; what the map says of where z is
predicted to be. Errors on runs left out weigh them, metric by metric and by how far they look ahead
(``stacking.py``); a plain one that was clearly better answers alone.

A sample is the forecast plus what was missed on a run left out, all epochs, metrics and components of z together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor

from epsopt.optimize.forecast.path_misses import DISTANCES, PathMisses, fit_path_misses
from epsopt.optimize.forecast.run_features import Reader, reader
from epsopt.optimize.forecast.stacking import STACK, by_run, convex_weights, standard_error
from epsopt.optimize.latent.trajectory import RunPath, planned_epochs
from epsopt.optimize.space import Space
from epsopt.surrogate.dataset import run_folds
from epsopt.surrogate.surrogate import Surrogate
from epsopt.surrogate.thinning import evenly_spaced
from epsopt.zoo.errors import EmptyCatalogue, UsageError

Floats = NDArray[np.float64]

FEWEST_RUNS = 8
FORECASTS = ("carry-forward", "linear extrapolation", "curves", "curves and path", "map")
"""Of metrics: as they are now, the latest step goes on, forests without and with z, the map where z is predicted."""
PLAIN = ("carry-forward", "linear extrapolation")
PATH_FORECASTS = (*PLAIN, "curves and path")
"""Of z."""

_COMPONENTS = 16  # of z that are predicted; the rest stays where it is
_MOMENTS = 12  # of a run that are learned from
_AHEAD = 8  # later checkpoints of each that are looked at
_FOLDS = 5
_TREES = 60
_WIDTH = 0.5  # in log distance: within about this factor examples speak of the same distance ahead


@dataclass(frozen=True, eq=False)
class PredictedPath:
    """The next checkpoints of a run; every number is finite.

    Attributes:
        epochs: ``(h,)`` epochs of training behind each.
        z: ``(h, latent)`` predicted places on the map.
        z_samples: ``(s, h, latent)`` joint samples of them.
        point: ``(h, m)`` predicted metrics in their own units.
        low: ``(h, m)`` lower ends of the intervals.
        high: ``(h, m)`` upper ends.
        samples: ``(s, h, m)`` joint samples of the metrics, of the same futures as ``z_samples``.
        answered_by: which forecast answered farthest ahead, by metric: ``stack`` or one of :data:`PLAIN`.
        errors: mean absolute error on runs left out, as far ahead as the last epoch: by metric and forecast
            (:data:`FORECASTS` and ``stack``), in the metric's own units.
        z_errors: mean distance on runs left out between predicted and real z, by forecast
            (:data:`PATH_FORECASTS` and ``stack``), as far ahead.
        longest: epochs of the longest past run, where an epoch asked for lies beyond it; else ``None``.
    """

    epochs: Floats
    z: Tensor
    z_samples: Tensor
    point: Floats
    low: Floats
    high: Floats
    samples: Floats
    answered_by: Mapping[str, str]
    errors: Mapping[str, Mapping[str, float]]
    z_errors: Mapping[str, float]
    longest: float | None


@dataclass(frozen=True, eq=False)
class _Examples:
    """Pairs of checkpoints of one run. Metrics are on the model's scale, places in components of z.

    Attributes:
        curve: ``(n, a)`` what is known without the map: metrics, their latest step, hyperparameters, epoch, distance.
        place: ``(n, b)`` place on the map and latest move.
        now: ``(n, m)`` metrics at the first checkpoint.
        step: ``(n, m)`` their change per epoch over the step before it; 0 without one.
        move: ``(n, c)`` the same of the place.
        ahead: ``(n,)`` epochs from the first to the second.
        change: ``(n, m)`` of the metrics from the first to the second.
        moved: ``(n, c)`` of the place.
        measured: ``(n, m)`` whether the metrics were measured at the second; else the map filled them in.
        z: ``(n, latent)`` of the first.
        run: ``(n,)`` index of the run.
        moment: ``(n,)`` index of the first checkpoint among all that are learned from.
        progress: ``(n,)`` epochs behind the first, as a share of a whole run.
    """

    curve: Floats
    place: Floats
    now: Floats
    step: Floats
    move: Floats
    ahead: Floats
    change: Floats
    moved: Floats
    measured: NDArray[np.bool_]
    z: Tensor
    run: NDArray[np.int64]
    moment: NDArray[np.int64]
    progress: Floats

    def take(self, rows: NDArray[np.int64]) -> _Examples:
        """Return some of the pairs."""
        return _Examples(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True, eq=False)
class TemporalModel:
    """What :func:`fit_temporal_model` learned.

    Attributes:
        reader: metrics on the model's scale, and components of z.
        space: encodes hyperparameters.
        without_map: forest of the metrics' change that does not see z.
        with_map: forest of the change of metrics and place.
        limits: ``(2, m)`` smallest and largest value of each metric on the model's scale, finite.
        weights: ``(distances, m, forecasts)``, finite, of :data:`FORECASTS`.
        path_weights: ``(distances, forecasts)``, of :data:`PATH_FORECASTS`.
        errors: one per distance, as in :class:`PredictedPath`.
        z_errors: likewise.
        answered_by: one per distance, by metric.
        misses: of runs left out.
        total: epochs of a whole run.
        longest: epochs of the longest past run.
    """

    reader: Reader
    space: Space
    without_map: ExtraTreesRegressor
    with_map: ExtraTreesRegressor
    limits: Floats
    weights: Floats
    path_weights: Floats
    errors: tuple[Mapping[str, Mapping[str, float]], ...]
    z_errors: tuple[Mapping[str, float], ...]
    answered_by: tuple[Mapping[str, str], ...]
    misses: PathMisses
    total: float
    longest: float

    def predict(
        self, path: RunPath, epochs: Sequence[float], *, level: float = 0.9, samples: int = 256, seed: int = 0
    ) -> PredictedPath:
        """Predict the next checkpoints of a run.

        Args:
            path: the run so far, at least one checkpoint; metrics that were not measured are filled in by the map.
            epochs: ``h`` increasing epochs of training, all beyond the last of the path.
            level: probability that each interval holds.
            samples: how many futures are drawn.
            seed: of the draws.

        Returns:
            The ``h`` predicted checkpoints.

        Raises:
            UsageError: the path is empty, an epoch does not lie beyond its last, or a hyperparameter of the search
                space is missing.
        """
        wanted = np.asarray(epochs, dtype=np.float64)
        rows, metrics, places = self._single(path, wanted)
        shares = _between(rows.ahead / self.total)
        point = np.einsum("hd,dmf,hfm->hm", shares, self.weights, metrics)
        moved = np.einsum("hd,df,hfc->hc", shares, self.path_weights, places)
        drawn, drift = self.misses.draw(float(rows.progress[0]), rows.ahead / self.total, samples, seed)
        surrogate = self.reader.surrogate
        joint = surrogate.draws_to_metrics(torch.from_numpy(point + drawn)).numpy()
        middle = surrogate.to_metrics(torch.from_numpy(point)).numpy()
        low, high = np.quantile(joint, ((1.0 - level) / 2.0, (1.0 + level) / 2.0), axis=0)
        last = int(shares[-1].argmax())
        return PredictedPath(
            epochs=wanted,
            z=self._latents(path.z[-1], moved),
            z_samples=self._latents(path.z[-1], moved + drift),
            point=middle,
            low=np.minimum(low, middle),
            high=np.maximum(high, middle),
            samples=np.asarray(joint),
            answered_by=self.answered_by[last],
            errors=self.errors[last],
            z_errors=self.z_errors[last],
            longest=self.longest if wanted[-1] > self.longest else None,
        )

    def single_forecasts(self, path: RunPath, epochs: Sequence[float]) -> tuple[Floats, Tensor]:
        """Return what each of the weighed forecasts says by itself.

        Args:
            path: as in :meth:`predict`.
            epochs: likewise.

        Returns:
            ``(h, forecasts, m)`` metrics in their own units, in the order of :data:`FORECASTS`, and
            ``(h, path forecasts, latent)`` places, in that of :data:`PATH_FORECASTS`.

        Raises:
            UsageError: as :meth:`predict`.
        """
        _, metrics, places = self._single(path, np.asarray(epochs, dtype=np.float64))
        own = self.reader.surrogate.to_metrics(torch.from_numpy(metrics)).numpy()
        return np.asarray(own), self._latents(path.z[-1], places)

    def _single(self, path: RunPath, wanted: Floats) -> tuple[_Examples, Floats, Floats]:
        if len(path) == 0:
            raise UsageError(f"run {path.name} has no checkpoint yet, so nothing is known of where it starts")
        if len(wanted) == 0 or wanted[0] <= path.epochs[-1] or bool((np.diff(wanted) <= 0).any()):
            raise UsageError(
                f"epochs {wanted.tolist()} are asked of run {path.name}: expected increasing ones beyond epoch "
                f"{path.epochs[-1]:g}, its last"
            )
        rows = _asked(self.reader, self.space, path, wanted, self.total)
        return rows, *_forecasts(self.reader, self.without_map, self.with_map, rows, self.limits)

    def predict_next_z(
        self, z: Tensor, hyperparameters: Mapping[str, Any], epoch: float, *, ahead: float = 1.0, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Predict where a checkpoint is after some more training.

        Args:
            z: ``(latent,)`` of the checkpoint; finite.
            hyperparameters: of the training to come.
            epoch: epochs of training behind the checkpoint.
            ahead: epochs of training to come, positive.
            seed: of the draws.

        Returns:
            ``(latent,)`` the prediction, and ``(256, latent)`` samples around it.
        """
        found = self.predict(_alone(self, z, hyperparameters, epoch), [epoch + ahead], seed=seed)
        return found.z[0], found.z_samples[:, 0]

    def _latents(self, start: Tensor, moved: Floats) -> Tensor:
        """``(..., components)`` moves from one place to ``(..., latent)``; the other directions stay."""
        return start + torch.from_numpy(moved @ self.reader.back).to(start.dtype)


def predict_training_trajectory(
    model: TemporalModel,
    z: Tensor,
    hyperparameters: Mapping[str, Any],
    n_epochs: int = 100,
    *,
    epoch: float = 0.0,
    level: float = 0.9,
    seed: int = 0,
) -> PredictedPath:
    """Predict the checkpoints of training to come, epoch by epoch, from a checkpoint and hyperparameters.

    Args:
        model: learned from past runs (:func:`fit_temporal_model`).
        z: ``(latent,)`` of the checkpoint that training starts from; finite.
        hyperparameters: of the training.
        n_epochs: how many epochs, 1 or more.
        epoch: epochs of training behind the checkpoint.
        level: probability that each interval holds.
        seed: of the draws.

    Returns:
        ``n_epochs`` predicted checkpoints.

    Raises:
        UsageError: no epoch is asked for, or a hyperparameter of the search space is missing.
    """
    return model.predict(
        _alone(model, z, hyperparameters, epoch), (epoch + np.arange(1, n_epochs + 1)).tolist(), level=level, seed=seed
    )


def _alone(model: TemporalModel, z: Tensor, hyperparameters: Mapping[str, Any], epoch: float) -> RunPath:
    unmeasured = np.full((1, len(model.reader.surrogate.metric_names)), np.nan)
    return RunPath("of one checkpoint", hyperparameters, np.array([float(epoch)]), z[None], unmeasured)


def fit_temporal_model(surrogate: Surrogate, space: Space, paths: Sequence[RunPath], seed: int = 0) -> TemporalModel:
    """Learn from past runs where checkpoints lead.

    Args:
        surrogate: the map that encoded them.
        space: of their hyperparameters.
        paths: past runs, finished or not; those whose hyperparameters the space does not describe are left out.
        seed: of folds and forests.

    Returns:
        The model.

    Raises:
        EmptyCatalogue: fewer than eight runs have two checkpoints.
    """
    past = [p for p in paths if len(p) > 1 and space.accepts(p.config)]
    if len(past) < FEWEST_RUNS:
        raise EmptyCatalogue(
            f"where a run goes next is learned from past runs: {len(past)} have two checkpoints or more and every "
            f"hyperparameter of the search space, at least {FEWEST_RUNS} are needed"
        )
    total = planned_epochs(past)[0]
    reading = reader(surrogate, past, _COMPONENTS)
    examples = _examples(reading, space, past, total)
    curves = examples.now, examples.now + examples.change
    limits = np.stack([np.min(curves, axis=(0, 1)), np.max(curves, axis=(0, 1))])
    folds = [np.flatnonzero(np.isin(examples.run, rows)) for rows in run_folds(np.arange(len(past)), _FOLDS, seed)]
    everything = np.arange(len(examples.run))
    metrics = np.empty((len(everything), len(FORECASTS), examples.now.shape[1]))
    places = np.empty((len(everything), len(PATH_FORECASTS), examples.move.shape[1]))
    for rows in folds:
        forests = _grow(examples.take(np.setdiff1d(everything, rows)), seed)
        metrics[rows], places[rows] = _forecasts(reading, *forests, examples.take(rows), limits)
    held = _HeldOut(metrics, places, examples, surrogate, total, np.linalg.norm(reading.back, axis=1))
    point, moved = np.empty_like(examples.change), np.empty_like(examples.moved)
    for rows in folds:
        rest = held.take(np.setdiff1d(everything, rows))
        point[rows], moved[rows] = held.take(rows).answers(*rest.weights())
    weights, path_weights = held.weights()
    errors, answered_by = held.judge(point)
    for d, chosen in enumerate(answered_by):
        for j, name in enumerate(surrogate.metric_names):
            if chosen[name] != STACK:
                weights[d, j] = np.eye(len(FORECASTS))[FORECASTS.index(chosen[name])]
    plain, _ = held.answers(weights, path_weights)
    stacked = np.array([[float(chosen[n] == STACK) for n in surrogate.metric_names] for chosen in answered_by])
    share = held.shares @ stacked  # weights of the stack were learned without the run in question
    answered = share * point + (1.0 - share) * plain
    return TemporalModel(
        reader=reading,
        space=space,
        limits=limits,
        **dict(zip(("without_map", "with_map"), _grow(examples, seed), strict=True)),
        weights=weights,
        path_weights=path_weights,
        errors=errors,
        z_errors=held.judge_path(moved),
        answered_by=answered_by,
        misses=fit_path_misses(
            examples.progress, examples.ahead / total, examples.now + examples.change - answered,
            examples.moved - moved, examples.run, examples.moment, examples.measured,
        ),
        total=total,
        longest=float(max(p.epochs[-1] for p in past)),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """What each forecast said of runs that it had not seen.

    Attributes:
        metrics: ``(n, forecasts, m)``.
        places: ``(n, path forecasts, components)`` changes.
        examples: what came of them.
        surrogate: gives the metrics' own units.
        total: epochs of a whole run.
        lengths: ``(components,)`` length of a unit of each component in z.
    """

    metrics: Floats
    places: Floats
    examples: _Examples
    surrogate: Surrogate
    total: float
    lengths: Floats

    @property
    def shares(self) -> Floats:
        """``(n, distances)`` how far the weights of each distance count for each pair."""
        return _between(self.examples.ahead / self.total)

    def take(self, rows: NDArray[np.int64]) -> _HeldOut:
        """Return some of the pairs."""
        return _HeldOut(
            self.metrics[rows], self.places[rows], self.examples.take(rows), self.surrogate, self.total, self.lengths
        )

    def near(self, distance: int, metric: int | None = None) -> Floats:
        """``(n,)`` how much each pair says about a distance ahead; of a metric only those where it was measured."""
        gap = np.log(self.examples.ahead / self.total / DISTANCES[distance])
        near = np.asarray(np.exp(-0.5 * np.square(gap / _WIDTH)) + 1e-9)
        known = np.ones(len(near), dtype=bool) if metric is None else self.examples.measured[:, metric]
        return np.where(known, near, 0.0) if known.any() else near

    def weights(self) -> tuple[Floats, Floats]:
        """Weigh the forecasts at each distance: ``(distances, m, forecasts)``, ``(distances, path forecasts)``."""
        truth = self.examples.now + self.examples.change
        errors = self._errors(self.metrics)
        m, c = truth.shape[1], self.places.shape[2]
        runs = self.examples.run
        out, path = np.empty((len(DISTANCES), m, len(FORECASTS))), np.empty((len(DISTANCES), len(PATH_FORECASTS)))
        flat = (self.places * self.lengths).transpose(0, 2, 1).reshape(-1, len(PATH_FORECASTS))
        moved = (self.examples.moved * self.lengths).reshape(-1)
        for d in range(len(DISTANCES)):
            near = self.near(d)
            for j in range(m):
                own = self.near(d, j)
                out[d, j] = convex_weights(self.metrics[:, :, j], truth[:, j], errors[:, :, j], own, runs)
            path[d] = convex_weights(
                flat, moved, np.abs(flat - moved[:, None]), np.repeat(near, c), np.repeat(runs, c)
            )  # fmt: skip
        return out, path

    def answers(self, weights: Floats, path_weights: Floats) -> tuple[Floats, Floats]:
        """``(n, m)`` metrics and ``(n, components)`` moves that these weights answer."""
        return (
            np.einsum("nd,dmf,nfm->nm", self.shares, weights, self.metrics),
            np.einsum("nd,df,nfc->nc", self.shares, path_weights, self.places),
        )

    def judge(self, point: Floats) -> tuple[tuple[dict[str, dict[str, float]], ...], tuple[dict[str, str], ...]]:
        """Errors at each distance by metric and forecast, and who answers: a plain one if it was clearly better."""
        every = np.concatenate([self._errors(self.metrics), self._errors(point[:, None])], axis=1)
        options = (*FORECASTS, STACK)
        errors, chosen = [], []
        for d in range(len(DISTANCES)):
            of, by = {}, {}
            for j, name in enumerate(self.surrogate.metric_names):
                each = by_run(every[:, :, j], self.near(d, j), self.examples.run)
                mean, noise = each.mean(axis=0), standard_error(each - each[:, -1:])
                best = int(mean[: len(PLAIN)].argmin())
                of[name] = dict(zip(options, mean.tolist(), strict=True))
                by[name] = PLAIN[best] if mean[-1] - mean[best] > noise[best] else STACK
            errors.append(of)
            chosen.append(by)
        return tuple(errors), tuple(chosen)

    def judge_path(self, moved: Floats) -> tuple[dict[str, float], ...]:
        """Mean distance in z at each distance ahead, by forecast."""
        described = np.concatenate([self.places, moved[:, None]], axis=1)
        gaps = np.linalg.norm((described - self.examples.moved[:, None]) * self.lengths, axis=2)
        options = (*PATH_FORECASTS, STACK)
        return tuple(
            dict(zip(options, by_run(gaps, self.near(d), self.examples.run).mean(axis=0).tolist(), strict=True))
            for d in range(len(DISTANCES))
        )

    def _errors(self, forecasts: Floats) -> Floats:
        """``(n, k, m)`` absolute errors in the metrics' own units."""

        def own(values: Floats) -> Floats:
            return np.asarray(self.surrogate.to_metrics(torch.from_numpy(values)).numpy())

        truth = self.examples.now + self.examples.change
        return np.abs(own(forecasts) - own(truth)[:, None])


def _between(ahead: Floats) -> Floats:
    """``(n,)`` shares of a run ahead to ``(n, distances)`` weights of the distances that each lies between."""
    at = np.interp(np.log(np.maximum(ahead, 1e-9)), np.log(DISTANCES), np.arange(len(DISTANCES)))
    return np.maximum(1.0 - np.abs(at[:, None] - np.arange(len(DISTANCES))), 0.0)


def _examples(reading: Reader, space: Space, paths: Sequence[RunPath], total: float) -> _Examples:
    """Pairs of checkpoints, evenly over each run."""
    parts: list[_Examples] = []
    moment = 0
    for run, path in enumerate(paths):
        for i in evenly_spaced(len(path) - 1, _MOMENTS, np.floor).tolist():
            later = i + 1 + evenly_spaced(len(path) - 1 - i, _AHEAD, np.ceil)
            parts.append(_described(reading, space, path.first(i + 1), path, later, total, run, moment))
            moment += 1
    joined: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])}
    return _Examples(**{**joined, "z": torch.cat([p.z for p in parts])})


def _asked(reading: Reader, space: Space, path: RunPath, epochs: Floats, total: float) -> _Examples:
    """Pairs whose second checkpoint does not exist yet; what came of it is NaN."""
    h = len(epochs)
    more = RunPath(
        path.name, path.config, np.concatenate([path.epochs, epochs]), torch.cat([path.z, path.z[-1:].expand(h, -1)]),
        np.concatenate([path.metrics, np.full((h, path.metrics.shape[1]), np.nan)]),
    )  # fmt: skip
    return _described(reading, space, path, more, len(path) + np.arange(h), total, 0, 0)


def _described(
    reading: Reader, space: Space, so_far: RunPath, path: RunPath, later: NDArray[np.int64], total: float,
    run: int, moment: int,
) -> _Examples:  # fmt: skip
    """Describe one moment of a run beside each of some later checkpoints."""
    values, places = reading.curves(path)
    here, n = len(so_far) - 1, len(later)
    epoch, now, place = float(path.epochs[here]), values[here], places[here]
    step, move = np.zeros_like(now), np.zeros_like(place)
    if here > 0:
        before = path.epochs[here] - path.epochs[here - 1]
        step, move = (now - values[here - 1]) / before, (place - places[here - 1]) / before
    ahead = path.epochs[later] - epoch
    encoded = space.encode([path.config])[0]
    known = np.concatenate([now, step * total, encoded, [np.log1p(epoch)]])
    return _Examples(
        curve=np.column_stack([np.tile(known, (n, 1)), np.log(ahead / total)]),
        place=np.tile(np.concatenate([place, move * total]), (n, 1)),
        now=np.tile(now, (n, 1)),
        step=np.tile(step, (n, 1)),
        move=np.tile(move, (n, 1)),
        ahead=ahead,
        change=values[later] - now,
        moved=places[later] - place,
        measured=np.isfinite(path.metrics[later]),
        z=so_far.z[-1:].expand(n, -1).double(),
        run=np.full(n, run),
        moment=np.full(n, moment),
        progress=np.full(n, epoch / total),
    )


def _grow(examples: _Examples, seed: int) -> tuple[ExtraTreesRegressor, ExtraTreesRegressor]:
    """Grow the forests without and with the map."""
    whole = np.concatenate([examples.change, examples.moved], axis=1)

    def forest(x: Floats, y: Floats) -> ExtraTreesRegressor:
        grown = ExtraTreesRegressor(_TREES, min_samples_leaf=3, max_features=0.5, random_state=seed, n_jobs=1)
        return grown.fit(x, y)

    return forest(examples.curve, examples.change), forest(np.hstack([examples.curve, examples.place]), whole)


def _forecasts(
    reading: Reader, without_map: ExtraTreesRegressor, with_map: ExtraTreesRegressor, rows: _Examples, limits: Floats
) -> tuple[Floats, Floats]:
    """``(n, forecasts, m)`` metrics on the model's scale, and ``(n, path forecasts, components)`` moves."""
    n, m = rows.now.shape
    alone = without_map.predict(rows.curve).reshape(n, m)
    both = with_map.predict(np.hstack([rows.curve, rows.place])).reshape(n, -1)
    gap = rows.ahead[:, None]
    there = rows.z + torch.from_numpy(both[:, m:] @ reading.back)
    with torch.no_grad():
        on_map = (reading.surrogate.posterior_mean(there) - reading.surrogate.posterior_mean(rows.z)).double().numpy()
    changes = (np.zeros_like(rows.now), rows.step * gap, alone, both[:, :m], on_map)
    metrics = np.clip(np.stack([rows.now + c for c in changes], axis=1), limits[0], limits[1])
    places = np.stack([np.zeros_like(rows.move), rows.move * gap, both[:, m:]], axis=1)
    return metrics, places
