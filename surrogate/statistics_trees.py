"""Trees on statistics of the weights, and a process of views: what they predict is part of what z says of a checkpoint.

Both look at the run's hyperparameters and the epoch as well, where these are known (benchmarks/results/families.txt has
the errors with and without); others, of weights alone, speak of a merge, or of a file that somebody sent. Of each pair
both count the same, unless inner folds of whole runs clearly ask for other shares. A map with probes has trees
look at the views of the anchor embeddings, too.

On many families of models such trees (Unterthiner et al. 2020, arXiv:2002.11448) see what no smooth function of the
views does; on others it is the other way round. What they predict together are coordinates of z beside the encoder's,
and the metrics' Gaussian processes take them as far as they were right on runs that both had not seen (stacked
generalisation: Wolpert 1992, Breiman 1996). What they say of a checkpoint that they learn from is therefore always said
by those that were not given what its run measured. Only how much a view counts for a process is learned once, from all
runs of a fold; held-out runs of the validation are not among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.baselines import UNTERTHINER, boosted, feature_table
from epsopt.surrogate.dataset import TrainingSet, run_folds
from epsopt.surrogate.hyperparameter_table import ColumnScale, Hyperparameters, HyperparameterTable
from epsopt.surrogate.metric_gp import run_weights
from epsopt.surrogate.side_by_side import in_order
from epsopt.surrogate.view_process import Lengths, ViewProcess, condition, learn_lengths
from epsopt.surrogate.views import Seen
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.ray_cluster import RayCluster

INNER_FOLDS = 4
"""Of whole runs, for what trees say of checkpoints that they learn from."""
FEWEST_ROWS = 10
"""Measured checkpoints that trees are grown from; with fewer they say nothing."""

_SHARES = np.linspace(0.0, 1.0, 21)
# What a share's distance from a half counts, in units of the error with equal halves; chosen on the development
# families of benchmarks/families.py, where it hardly mattered.
_UNEQUAL = 0.7

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StatisticsTrees:
    """Trees and processes of all metrics.

    Attributes:
        names: tensors whose statistics are looked at; those that a checkpoint lacks count as missing.
        models: per metric LightGBM's own text of the trees; ``None``: too few measurements, 0 is predicted.
        answers: columns beside the statistics (:attr:`epsopt.surrogate.views.Seen.answers`).
        informed: as `models`, of trees that look at hyperparameters behind these columns; ``None``: too few
            measurements, `models` predict. Empty: no hyperparameter tells runs apart.
        columns: of hyperparameters and epoch.
        scale: of these columns, for the process.
        process: of views alone; None in a map of an earlier version.
        informed_process: of views and hyperparameters; None where `informed` is empty.
        process_shares: of `process` beside `models`, per metric.
        informed_shares: of `informed_process` beside `informed`, per metric.
        forests: as `models`, of trees that look at hyperparameters alone; in a map of an earlier version.
        weighed: share of `informed` beside `models`, per metric; empty, but in a map of an earlier version: all of it.
        shares: of `forests` in what these two predict together, per metric; in a map of an earlier version.
    """

    names: tuple[str, ...]
    models: tuple[str | None, ...]
    answers: int = 0
    informed: tuple[str | None, ...] = ()
    columns: HyperparameterTable = field(default_factory=HyperparameterTable)
    scale: ColumnScale = field(default_factory=ColumnScale)
    process: ViewProcess | None = None
    informed_process: ViewProcess | None = None
    process_shares: tuple[float, ...] = ()
    informed_shares: tuple[float, ...] = ()
    forests: tuple[str | None, ...] = ()
    weighed: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()

    @cached_property
    def _forest_boosters(self) -> list[Any]:
        return list(map(_booster, self.forests or (None,) * len(self.models)))

    @cached_property
    def _boosters(self) -> list[Any]:
        return list(map(_booster, self.models))

    @cached_property
    def _informed_boosters(self) -> list[Any]:
        return list(map(_booster, self.informed or (None,) * len(self.models)))

    def __call__(
        self,
        fingerprints: Sequence[Fingerprint],
        seen: Seen | None = None,
        hyperparameters: Sequence[Hyperparameters | None] | None = None,
    ) -> Floats:
        """Predict ``n`` checkpoints.

        Args:
            fingerprints: of the checkpoints.
            seen: what is looked at beside their statistics; None: trees without :attr:`answers` predict alone.
            hyperparameters: of each, with its epoch; None: not known.

        Returns:
            ``(n, m)`` on the model's scale.
        """
        table = feature_table(fingerprints, self.names, UNTERTHINER)
        known = [None] * len(table) if hyperparameters is None else hyperparameters
        both = np.hstack([table, seen.answers]) if self.answers and seen is not None else table
        tokens = None if seen is None else seen.tokens
        return self.of_table(both, tokens, self.columns(known), self.columns.tells(known))

    def of_table(self, table: Floats, tokens: Floats | None, columns: Floats, described: NDArray[np.bool_]) -> Floats:
        """Predict ``n`` checkpoints from the statistics of :attr:`names`, tensor by tensor, then the answers.

        Args:
            table: ``(n, c)``.
            tokens: ``(n, columns)`` of the views; None: trees predict alone.
            columns: ``(n, :attr:`columns`.width)`` of hyperparameters and epoch.
            described: ``(n,)`` whether these are known.
        """
        by_trees = self.by_trees(table, columns, described)
        by_process = self.by_process(tokens, columns, described)
        return by_trees if by_process is None else by_trees + self._shares(described) * (by_process - by_trees)

    def by_trees(self, table: Floats, columns: Floats, described: NDArray[np.bool_]) -> Floats:
        """Predict ``n`` checkpoints by trees alone; arguments as of :meth:`of_table`.

        Args:
            table: as there.
            columns: as there.
            described: as there.
        """
        out = np.zeros((len(table), len(self.models)))
        for j, (alone, informed, forest) in enumerate(
            zip(self._boosters, self._informed_boosters, self._forest_boosters, strict=True)
        ):
            weighed = self.weighed[j] if self.weighed else 1.0
            share = self.shares[j] if self.shares else 0.0
            by_informed = described if informed is not None else np.zeros_like(described)
            rows = np.flatnonzero(~by_informed) if weighed == 1.0 else np.arange(len(table))
            if alone is not None and len(rows):
                out[rows, j] = alone.predict(table[rows], num_threads=1)
            if not by_informed.any():
                continue
            found = out[by_informed, j]
            if weighed:
                both = np.hstack([table[by_informed], columns[by_informed]])
                found += weighed * (informed.predict(both, num_threads=1) - found)
            if share and forest is not None:
                found += share * (forest.predict(columns[by_informed], num_threads=1) - found)
            out[by_informed, j] = found
        return out

    def by_process(self, tokens: Floats | None, columns: Floats, described: NDArray[np.bool_]) -> Floats | None:
        """Predict ``n`` checkpoints by processes alone; None: there are none, or no views.

        Args:
            tokens: as of :meth:`of_table`.
            columns: as there.
            described: as there.
        """
        if self.process is None or tokens is None:
            return None
        if self.informed_process is None or not described.any():
            return self.process(tokens)
        says = self.informed_process.weights.any(axis=1)
        out = np.zeros((len(tokens), len(self.models)))
        if not says.all() or not described.all():
            out = self.process(tokens)
        informed = self.informed_process(np.hstack([tokens[described], self.scale(columns[described])]))
        out[described] = np.where(says, informed, out[described])
        return out

    def _shares(self, described: NDArray[np.bool_]) -> Floats:
        """``(n, m)`` shares of the processes."""
        informed = self.informed_shares or self.process_shares
        return np.where(described[:, None], np.array(informed), np.array(self.process_shares))


@dataclass(frozen=True, eq=False)
class _Statistics:
    """What trees and processes look at: a table that other machines take, where fingerprints are too large to send.

    Attributes:
        names: ``t`` tensors.
        values: ``(n, t, statistics)``; NaN where a checkpoint lacks a tensor.
        there: ``(n, t)``, whether it has it.
        runs: ``(n,)``.
        seen: of the checkpoints.
        columns: what the hyperparameters are laid out in.
        hyperparameters: ``(n, columns.width)``.
        described: ``(n,)``, whether they are known.
    """

    names: tuple[str, ...]
    values: Floats
    there: NDArray[np.bool_]
    runs: NDArray[np.int64]
    seen: Seen
    columns: HyperparameterTable
    hyperparameters: Floats
    described: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        fingerprints: Sequence[Fingerprint],
        runs: NDArray[np.int64],
        seen: Seen | None = None,
        hyperparameters: Sequence[Hyperparameters | None] | None = None,
    ) -> _Statistics:
        """Lay out those of ``n`` checkpoints."""
        known = [None] * len(fingerprints) if hyperparameters is None else hyperparameters
        columns = HyperparameterTable.of(known, runs)
        names = tuple(sorted({name for f in fingerprints for name in f.kept.names}))
        place = {name: i for i, name in enumerate(names)}
        there = np.zeros((len(fingerprints), len(names)), dtype=bool)
        for i, fingerprint in enumerate(fingerprints):
            there[i, [place[name] for name in fingerprint.kept.names]] = True
        values = feature_table(fingerprints, names, UNTERTHINER).reshape(*there.shape, len(UNTERTHINER))
        views = Seen.nothing(len(runs)) if seen is None else seen
        return cls(names, values, there, runs, views, columns, columns(known), columns.tells(known))

    def learn(self, targets: Floats, seed: int) -> _Learned:
        """Learn, on all checkpoints, what processes take measurements with; ``targets`` are ``(n, m)``."""
        if not self.seen.slices:
            return _Learned()
        tokens, slices = self.seen.tokens, self.seen.slices
        alone = learn_lengths(tokens, slices, targets, self.runs, seed)
        if not self.columns.width:
            return _Learned(alone)
        described, scale = self.described, ColumnScale.of(self.hyperparameters[self.described])
        inputs = np.hstack([tokens, scale(self.hyperparameters)])
        each = [slice(i, i + 1) for i in range(tokens.shape[1], inputs.shape[1])]
        informed = learn_lengths(inputs[described], [*slices, *each], targets[described], self.runs[described], seed)
        return _Learned(alone, informed, inputs, scale)

    def grow(self, rows: NDArray[np.int64], targets: Floats, seed: int, learned: _Learned) -> StatisticsTrees:
        """Grow trees on some checkpoints, and give processes what they measured; ``targets`` are ``(n, m)``, of all."""
        used = self.there[rows].any(axis=0)
        table = np.hstack([self.values[rows][:, used].reshape(len(rows), -1), self.seen.answers[rows]])
        models = _grown_on(table, targets[rows], seed)
        informed: list[str | None] = []
        described = rows[self.described[rows]]
        if self.columns.width:
            both = np.hstack([table, self.hyperparameters[rows]])[self.described[rows]]
            informed = _grown_on(both, targets[described], seed)
        process = informed_process = None
        if learned.alone is not None:
            process = condition(self.seen.tokens[rows], targets[rows], self.runs[rows], learned.alone, FEWEST_ROWS)
        if learned.informed is not None:
            inputs, runs = learned.inputs[described], self.runs[described]
            informed_process = condition(inputs, targets[described], runs, learned.informed, FEWEST_ROWS)
        equal = (0.5,) * targets.shape[1] if process is not None else ()
        return StatisticsTrees(
            names=tuple(self.names[i] for i in np.flatnonzero(used)), models=tuple(models),
            answers=self.seen.answers.shape[1], informed=tuple(informed), columns=self.columns, scale=learned.scale,
            process=process, informed_process=informed_process, process_shares=equal,
            informed_shares=equal if informed_process is not None else (),
        )  # fmt: skip

    def predicted_by(
        self, trees: StatisticsTrees, rows: NDArray[np.int64], described: NDArray[np.bool_]
    ) -> tuple[Floats, Floats]:
        """Predict some checkpoints by those that were grown on others: ``(rows, m)`` by trees, and by processes."""
        place = {name: i for i, name in enumerate(self.names)}
        columns = [place[name] for name in trees.names]
        table = np.hstack([self.values[rows][:, columns].reshape(len(rows), -1), self.seen.answers[rows]])
        by_trees = trees.by_trees(table, self.hyperparameters[rows], described)
        by_process = trees.by_process(self.seen.tokens[rows], self.hyperparameters[rows], described)
        return by_trees, by_trees if by_process is None else by_process

    def unseen_predictions(
        self, targets: Floats, seed: int, learned: _Learned
    ) -> tuple[Floats, tuple[float, ...], tuple[float, ...]]:
        """Predict every checkpoint by trees and processes that have not seen its run; choose by that what each counts.

        Returns:
            ``(n, m)`` predictions, and the ``m`` numbers of :attr:`StatisticsTrees.process_shares` and of
            :attr:`StatisticsTrees.informed_shares` in them; empty where there is no such process.
        """
        states = [np.zeros_like(self.described), *([self.described] if self.columns.width else [])]
        found = np.zeros((len(states), 2, *targets.shape))
        for rows in run_folds(self.runs, INNER_FOLDS, seed):
            others = np.setdiff1d(np.arange(len(targets)), rows)
            if len(others):
                trees = self.grow(others, targets, seed, learned)
                for part, described in zip(found, states, strict=True):
                    part[:, rows] = self.predicted_by(trees, rows, described[rows])
        if learned.alone is None:
            alone, *informed = found[:, 0]
            return np.where(self.described[:, None], informed[0], alone) if informed else alone, (), ()
        shares, mixed = [], []
        for (by_trees, by_process), counted in zip(found, (np.ones_like(self.described), self.described), strict=False):
            share = _best_share(targets[counted], by_trees[counted], by_process[counted], self.runs[counted])
            shares.append(tuple(share.tolist()))
            mixed.append(by_trees + share * (by_process - by_trees))
        if len(mixed) == 1:
            return mixed[0], shares[0], ()
        return np.where(self.described[:, None], mixed[1], mixed[0]), shares[0], shares[1]


@dataclass(frozen=True, eq=False)
class _Learned:
    """What processes take measurements with; None: there are no views, or no hyperparameters.

    Attributes:
        alone: of views alone.
        informed: of views and hyperparameters.
        inputs: ``(n, c)`` both of all checkpoints.
        scale: of the hyperparameters.
    """

    alone: Lengths | None = None
    informed: Lengths | None = None
    inputs: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    scale: ColumnScale = field(default_factory=ColumnScale)


def grow_trees(
    fingerprints: Sequence[Fingerprint],
    targets: Floats,
    seed: int,
    hyperparameters: Sequence[Hyperparameters | None] | None = None,
) -> StatisticsTrees:
    """Grow trees, every checkpoint a run of its own.

    Args:
        fingerprints: ``n`` checkpoints.
        targets: ``(n, m)`` on the model's scale; NaN where not measured.
        seed: of the boosting.
        hyperparameters: of each, with its epoch; None: not known.
    """
    rows = np.arange(len(fingerprints))
    return _Statistics.of(fingerprints, rows, hyperparameters=hyperparameters).grow(rows, targets, seed, _Learned())


def unseen_predictions(train: TrainingSet, targets: Floats, seed: int) -> Floats:
    """Predict every checkpoint of a training set by trees that have not seen its run: ``(n, m)``.

    Args:
        train: ``n`` checkpoints.
        targets: ``(n, m)`` on the model's scale; NaN where not measured.
        seed: of folds and boosting.
    """
    return _of_set(train).unseen_predictions(targets, seed, _Learned())[0]


def grow_all(
    parts: Sequence[tuple[TrainingSet, Floats, Seen]], seed: int, cluster: RayCluster | None = None
) -> list[tuple[StatisticsTrees, Floats]]:
    """Grow trees on several training sets and give what they say of their own checkpoints' runs unseen.

    Args:
        parts: training sets, their ``(n, m)`` targets on the model's scale, and what is to be looked at beside the
            statistics.
        seed: of folds and boosting.
        cluster: where to, in place of this machine.

    Returns:
        For each the trees, and :func:`unseen_predictions`.
    """
    if cluster is None:  # one table at a time for each thread
        return in_order(_grown_of, [(*part, seed) for part in parts], threads=True)
    tables = [(_of_set(train, seen), targets, seed) for train, targets, seen in parts]
    grown = in_order(_grown, tables, cluster)
    return [(trees, unseen.copy()) for trees, unseen in grown]  # what comes from Ray is not to be written to


def _grown_of(train: TrainingSet, targets: Floats, seen: Seen, seed: int) -> tuple[StatisticsTrees, Floats]:
    return _grown(_of_set(train, seen), targets, seed)


def _grown(statistics: _Statistics, targets: Floats, seed: int) -> tuple[StatisticsTrees, Floats]:
    learned = statistics.learn(targets, seed)
    trees = statistics.grow(np.arange(len(targets)), targets, seed, learned)
    unseen, shares, informed = statistics.unseen_predictions(targets, seed, learned)
    return replace(trees, process_shares=shares, informed_shares=informed), unseen


def _of_set(train: TrainingSet, seen: Seen | None = None) -> _Statistics:
    return _Statistics.of(train.fingerprints, train.runs, seen, train.hyperparameters)


def _best_share(targets: Floats, of_one: Floats, of_other: Floats, runs: NDArray[np.int64]) -> Floats:
    """``(m,)`` shares of the second of two ``(n, m)`` predictions with which what they give together errs least.

    Every run counts once. On few runs the best share is partly luck: it is a half unless another one errs clearly less.
    """
    best = np.full(targets.shape[1], 0.5)
    for j, (target, one, other) in enumerate(zip(targets.T, of_one.T, of_other.T, strict=True)):
        known = np.isfinite(target)
        if known.any():
            errors = np.abs(one + _SHARES[:, None] * (other - one) - np.where(known, target, 0.0))
            error = errors @ run_weights(runs, known)
            equal = max(float(error[len(_SHARES) // 2]), np.finfo(float).tiny)
            best[j] = _SHARES[np.argmin(error / equal + _UNEQUAL * np.abs(_SHARES - 0.5))]
    return best


def _grown_on(table: Floats, targets: Floats, seed: int) -> list[str | None]:
    """Per metric the text of trees grown on ``(n, c)`` columns and ``(n, m)`` targets; None: too few are measured."""
    models: list[str | None] = []
    for column in targets.T:
        known = np.isfinite(column)
        few = known.sum() < FEWEST_ROWS
        models.append(None if few else boosted(table[known], column[known], seed).model_to_string())
    return models


def _booster(text: str | None) -> Any:
    import lightgbm

    return None if text is None else lightgbm.Booster(model_str=text)


def weights_digest(fingerprint: Fingerprint) -> str:
    """Identify a checkpoint by its weights as far as its fingerprint tells them: 16 hexadecimal digits."""
    return hashlib.sha256(fingerprint.signature.encode() + fingerprint.sketch.tobytes()).hexdigest()[:16]
