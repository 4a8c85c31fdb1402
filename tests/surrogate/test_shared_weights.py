"""Untrained weights that every run saved with its own configuration: one observation, and nothing predicts itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from epsopt.surrogate import TrainingConfig, TrainingSet, fit
from epsopt.surrogate import fitting as fitting_module
from epsopt.surrogate.dataset import shared_weights
from epsopt.surrogate.refinement import refine
from epsopt.zoo.fingerprints.fingerprint import fingerprint

from ..conftest import network_weights  # noqa: TID252

QUICK = TrainingConfig(steps=10, batch=16)
LATER = 4  # epochs that are kept of each run, after the untrained one


def with_untrained_starts(train: TrainingSet, runs: int) -> TrainingSet:
    """Let the first checkpoint of each run hold the same weights; no two files are the same."""
    untrained = fingerprint(network_weights(0).items(), network_weights(0).get)
    rows = np.flatnonzero(train.runs < runs)
    part = train.take(rows)
    starts = np.unique(part.runs, return_index=True)[1]
    metrics = part.metrics.copy()
    metrics[starts] = [0.9, 0.1]
    prints = tuple(untrained if i in set(starts.tolist()) else f for i, f in enumerate(part.fingerprints))
    return replace(part, fingerprints=prints, metrics=metrics)


def test_no_fold_learns_from_the_weights_that_it_is_tested_on(zoo, monkeypatch):
    train = with_untrained_starts(zoo[0], 6)
    seen: list[TrainingSet] = []
    train_all = fitting_module.train_all
    monkeypatch.setattr(
        fitting_module, "train_all", lambda parts, *a, **k: seen.extend(parts) or train_all(parts, *a, **k)
    )
    surrogate, validation = fit(train, recipe=QUICK, folds=3)
    untrained = train.fingerprints[0].sketch.tobytes()
    knows = [any(f.sketch.tobytes() == untrained for f in part.fingerprints) for part in seen]
    assert knows.count(False) == 1, "the fold in which it is held out"
    assert knows[-1], "the map itself learns from everything"
    assert len(surrogate.memory.keys) == len(train)
    assert [m.n for m in validation.metrics] == [6 * LATER + 1] * 2, "it counts once, not once a run"
    assert all(np.isfinite([m.error, m.width, m.coverage]).all() for m in validation.metrics)


def test_a_metric_that_the_first_run_did_not_measure_counts_for_the_run_that_did(zoo):
    train = with_untrained_starts(zoo[0], 6)
    starts = np.flatnonzero(shared_weights(train) == 0)
    assert len(starts) == 6
    metrics = train.metrics.copy()
    metrics[starts[:2], 1] = np.nan
    _, validation = fit(replace(train, metrics=metrics), recipe=QUICK, folds=3)
    assert [m.n for m in validation.metrics] == [6 * LATER + 1] * 2


def test_runs_that_hold_nothing_but_the_same_weights_can_still_be_fitted(zoo):
    untrained = zoo[0].fingerprints[0]
    part = zoo[0].take(np.flatnonzero(zoo[0].runs < 4))
    same = replace(part, fingerprints=(untrained,) * len(part), metrics=np.full_like(part.metrics, 0.5))
    surrogate, validation = fit(same, recipe=QUICK, folds=2)
    assert np.isfinite(surrogate.predict(surrogate.encode(same.fingerprints)).point).all()
    assert all(np.isfinite(m.error) for m in validation.metrics)


def test_a_new_run_is_not_tested_on_the_untrained_weights_that_the_map_knows(zoo):
    known = with_untrained_starts(zoo[0], 6)
    more = with_untrained_starts(zoo[0], 8)
    surrogate, validation = fit(known, recipe=QUICK, folds=3)
    _, after, change = refine(surrogate, validation, more, trained_on="k", recipe=QUICK)
    assert change.new_checkpoints == 2 * (LATER + 1)
    assert [a.n - b.n for a, b in zip(after.metrics, validation.metrics, strict=True)] == [2 * LATER] * 2
