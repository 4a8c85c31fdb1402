"""Gradient-boosted trees on statistics of the weights: what they predict is part of what z says of a checkpoint.

They look at the run's hyperparameters and the epoch as well, where these are known (benchmarks/results/families.txt
has the errors with and without). These are mixed with trees on weights alone, and with trees on hyperparameters alone,
as inner folds of whole runs ask for it: some metrics hardly show in the weights. Trees on weights alone speak of a
merge, or of a file that somebody sent. A map with probes has them look at the views of the anchor embeddings, too.

On many families of models such trees (Unterthiner et al. 2020, arXiv:2002.11448) see what no smooth function of the
views does. Their predictions are coordinates of z beside the encoder's, and the metrics' Gaussian processes take them
as far as they were right on runs that both had not seen (stacked generalisation: Wolpert 1992, Breiman 1996). What
they say of a checkpoint that they learn from is therefore always said by trees that have not seen its run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.baselines import UNTERTHINER, boosted, feature_table, random_forest
from epsopt.surrogate.dataset import TrainingSet, run_folds
from epsopt.surrogate.hyperparameter_table import Hyperparameters, HyperparameterTable
from epsopt.surrogate.side_by_side import in_order
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.ray_cluster import RayCluster

INNER_FOLDS = 4
"""Of whole runs, for what trees say of checkpoints that they learn from."""
FEWEST_ROWS = 10
"""Measured checkpoints that trees are grown from; with fewer they say nothing."""

_SHARES = np.linspace(0.0, 1.0, 6)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StatisticsTrees:
    """Trees of all metrics.

    Attributes:
        names: tensors whose statistics are looked at; those that a checkpoint lacks count as missing.
        models: per metric LightGBM's own text of the trees; ``None``: too few measurements, 0 is predicted.
        answers: columns beside the statistics, of :meth:`epsopt.surrogate.views.FeatureEncoder.answers`.
        informed: as `models`, of trees that look at hyperparameters behind these columns; ``None``: too few
            measurements, `models` predict. Empty: no hyperparameter tells runs apart.
        columns: of hyperparameters and epoch.
        forests: as `models`, of trees that look at these columns alone.
        weighed: share of `informed` beside `models`, per metric; empty: all of it.
        shares: of `forests` in what these two predict together, per metric; empty: none.
    """

    names: tuple[str, ...]
    models: tuple[str | None, ...]
    answers: int = 0
    informed: tuple[str | None, ...] = ()
    columns: HyperparameterTable = field(default_factory=HyperparameterTable)
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
        answers: Floats | None = None,
        hyperparameters: Sequence[Hyperparameters | None] | None = None,
    ) -> Floats:
        """Predict ``n`` checkpoints.

        Args:
            fingerprints: of the checkpoints.
            answers: ``(n, answers)``, if any.
            hyperparameters: of each, with its epoch; None: not known.

        Returns:
            ``(n, m)`` on the model's scale.
        """
        table = feature_table(fingerprints, self.names, UNTERTHINER)
        known = [None] * len(table) if hyperparameters is None else hyperparameters
        described = self.columns.tells(known)
        both = np.hstack([table, answers]) if self.answers and answers is not None else table
        return self.of_table(both, self.columns(known), described)

    def of_table(self, table: Floats, columns: Floats, described: NDArray[np.bool_]) -> Floats:
        """Predict ``n`` checkpoints from the statistics of :attr:`names`, tensor by tensor, then the answers.

        Args:
            table: ``(n, c)``.
            columns: ``(n, :attr:`columns`.width)`` of hyperparameters and epoch.
            described: ``(n,)`` whether these are known.
        """
        out = np.zeros((len(table), len(self.models)))
        for j, (alone, informed, forest) in enumerate(
            zip(self._boosters, self._informed_boosters, self._forest_boosters, strict=True)
        ):
            if alone is not None:
                out[:, j] = alone.predict(table, num_threads=1) if len(table) else 0.0
            weighed = self.weighed[j] if self.weighed else 1.0
            share = self.shares[j] if self.shares else 0.0
            if informed is None or not described.any():
                continue
            found = out[described, j]
            if weighed:
                by_informed = informed.predict(np.hstack([table[described], columns[described]]), num_threads=1)
                found += weighed * (by_informed - found)
            if share and forest is not None:
                found += share * (forest.predict(columns[described], num_threads=1) - found)
            out[described, j] = found
        return out


@dataclass(frozen=True, eq=False)
class _Statistics:
    """What trees look at: a table that other machines take, where fingerprints are too large to send.

    Attributes:
        names: ``t`` tensors.
        values: ``(n, t, statistics)``; NaN where a checkpoint lacks a tensor.
        there: ``(n, t)``, whether it has it.
        runs: ``(n,)``.
        answers: ``(n, c)`` columns beside the statistics.
        columns: what the hyperparameters are laid out in.
        hyperparameters: ``(n, columns.width)``.
        described: ``(n,)``, whether they are known.
    """

    names: tuple[str, ...]
    values: Floats
    there: NDArray[np.bool_]
    runs: NDArray[np.int64]
    answers: Floats
    columns: HyperparameterTable
    hyperparameters: Floats
    described: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        fingerprints: Sequence[Fingerprint],
        runs: NDArray[np.int64],
        answers: Floats | None = None,
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
        seen = np.zeros((len(runs), 0)) if answers is None else answers
        described = columns.tells(known)
        return cls(names, values, there, runs, seen, columns, columns(known), described)

    def grow(self, rows: NDArray[np.int64], targets: Floats, seed: int) -> StatisticsTrees:
        """Grow trees on some checkpoints; ``targets`` are ``(n, m)``, of all."""
        used = self.there[rows].any(axis=0)
        table = np.hstack([self.values[rows][:, used].reshape(len(rows), -1), self.answers[rows]])
        models = _grown_on(table, targets[rows], seed)
        informed: list[str | None] = []
        forests: list[str | None] = []
        if self.columns.width:
            described = self.described[rows]
            both = np.hstack([table, self.hyperparameters[rows]])
            informed = _grown_on(both[described], targets[rows][described], seed)
            forests = _grown_on(self.hyperparameters[rows][described], targets[rows][described], seed, random_forest)
        names = tuple(self.names[i] for i in np.flatnonzero(used))
        return StatisticsTrees(
            names, tuple(models), self.answers.shape[1], tuple(informed), self.columns, tuple(forests)
        )

    def predicted_by(self, trees: StatisticsTrees, rows: NDArray[np.int64]) -> Floats:
        """Predict some checkpoints by trees that were grown on others: ``(rows, m)``."""
        place = {name: i for i, name in enumerate(self.names)}
        columns = [place[name] for name in trees.names]
        table = np.hstack([self.values[rows][:, columns].reshape(len(rows), -1), self.answers[rows]])
        return trees.of_table(table, self.hyperparameters[rows], self.described[rows])

    def unseen_predictions(self, targets: Floats, seed: int) -> tuple[Floats, tuple[float, ...], tuple[float, ...]]:
        """Predict every checkpoint by trees that have not seen its run, and choose by that what each kind counts.

        Returns:
            ``(n, m)`` predictions, and the ``m`` numbers of :attr:`StatisticsTrees.weighed` and of
            :attr:`StatisticsTrees.shares` in them; empty where no hyperparameter tells runs apart.
        """
        nothing, everything = (0.0,) * targets.shape[1], (1.0,) * targets.shape[1]
        kinds = (
            [(nothing, nothing), (everything, nothing), (everything, everything)] if self.columns.width else [((), ())]
        )
        out = np.zeros((len(kinds), *targets.shape))
        for rows in run_folds(self.runs, INNER_FOLDS, seed):
            others = np.setdiff1d(np.arange(len(targets)), rows)
            if len(others):
                trees = self.grow(others, targets, seed)
                for part, (weighed, shares) in zip(out, kinds, strict=True):
                    part[rows] = self.predicted_by(replace(trees, weighed=weighed, shares=shares), rows)
        if not self.columns.width:
            return out[0], (), ()
        by_weights, by_informed, by_forests = out
        described, known = self.described, targets[self.described]
        weighed = _best_share(known, by_weights[described], by_informed[described])
        both = by_weights + weighed * (by_informed - by_weights)
        # On few runs the best share is partly luck, and hyperparameters alone say nothing of what went otherwise.
        shares = 0.5 * _best_share(known, both[described], by_forests[described])
        mixed = both + shares * (by_forests - both)
        return np.where(described[:, None], mixed, by_weights), tuple(weighed.tolist()), tuple(shares.tolist())


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
    return _Statistics.of(fingerprints, rows, hyperparameters=hyperparameters).grow(rows, targets, seed)


def unseen_predictions(train: TrainingSet, targets: Floats, seed: int) -> Floats:
    """Predict every checkpoint of a training set by trees that have not seen its run: ``(n, m)``.

    Args:
        train: ``n`` checkpoints.
        targets: ``(n, m)`` on the model's scale; NaN where not measured.
        seed: of folds and boosting.
    """
    return _of_set(train).unseen_predictions(targets, seed)[0]


def grow_all(
    parts: Sequence[tuple[TrainingSet, Floats, Floats]], seed: int, cluster: RayCluster | None = None
) -> list[tuple[StatisticsTrees, Floats]]:
    """Grow trees on several training sets and give what they say of their own checkpoints' runs unseen.

    Args:
        parts: training sets, their ``(n, m)`` targets on the model's scale, and ``(n, c)`` what is to be looked at
            beside the statistics.
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


def _grown_of(train: TrainingSet, targets: Floats, answers: Floats, seed: int) -> tuple[StatisticsTrees, Floats]:
    return _grown(_of_set(train, answers), targets, seed)


def _grown(statistics: _Statistics, targets: Floats, seed: int) -> tuple[StatisticsTrees, Floats]:
    trees = statistics.grow(np.arange(len(targets)), targets, seed)
    unseen, weighed, shares = statistics.unseen_predictions(targets, seed)
    return replace(trees, weighed=weighed, shares=shares), unseen


def _of_set(train: TrainingSet, answers: Floats | None = None) -> _Statistics:
    return _Statistics.of(train.fingerprints, train.runs, answers, train.hyperparameters)


def _best_share(targets: Floats, of_one: Floats, of_other: Floats) -> Floats:
    """``(m,)`` shares of the second of two ``(n, m)`` predictions with which what they give together errs least."""
    errors = np.abs(of_one + _SHARES[:, None, None] * (of_other - of_one) - targets)
    known = np.isfinite(targets)
    mean = np.where(known, errors, 0.0).sum(axis=1) / np.maximum(known.sum(axis=0), 1)
    return np.asarray(_SHARES[mean.argmin(axis=0)])


def _grown_on(
    table: Floats, targets: Floats, seed: int, grow: Callable[[Floats, Floats, int], Any] = boosted
) -> list[str | None]:
    """Per metric the text of trees grown on ``(n, c)`` columns and ``(n, m)`` targets; None: too few are measured."""
    models: list[str | None] = []
    for column in targets.T:
        known = np.isfinite(column)
        few = known.sum() < FEWEST_ROWS
        models.append(None if few else grow(table[known], column[known], seed).model_to_string())
    return models


def _booster(text: str | None) -> Any:
    import lightgbm

    return None if text is None else lightgbm.Booster(model_str=text)


def weights_digest(fingerprint: Fingerprint) -> str:
    """Identify a checkpoint by its weights as far as its fingerprint tells them: 16 hexadecimal digits."""
    return hashlib.sha256(fingerprint.signature.encode() + fingerprint.sketch.tobytes()).hexdigest()[:16]
