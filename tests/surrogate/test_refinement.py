"""New runs refine a map: nothing is forgotten, the picture stays, and they are predicted before they are learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate import Surrogate, TrainingSet, Validation, fit
from epsopt.surrogate.refinement import condition_on_observations, drift, refinable, refine
from epsopt.zoo.errors import UsageError
from epsopt.zoo.fingerprints.fingerprint import fingerprint

from ..conftest import QUICK  # noqa: TID252

EARLY, HELD = 8, 3


def of_runs(train: TrainingSet, runs: range) -> TrainingSet:
    return train.take(np.flatnonzero(np.isin(train.runs, runs)))


@pytest.fixture(scope="module")
def early(zoo) -> tuple[Surrogate, Validation]:
    return fit(of_runs(zoo[0], range(EARLY)), folds=2, recipe=QUICK)


@pytest.fixture(scope="module")
def grown(zoo, early):
    return refine(*early, of_runs(zoo[0], range(14 - HELD)), trained_on="grown", recipe=QUICK)


@pytest.fixture(scope="module")
def anew(zoo) -> Surrogate:
    return fit(of_runs(zoo[0], range(14 - HELD)), folds=2, recipe=QUICK)[0]


def test_a_refined_map_knows_everything_and_says_what_changed(zoo, early, grown) -> None:
    surrogate, validation, change = grown
    assert surrogate.memory.keys == of_runs(zoo[0], range(14 - HELD)).keys
    assert (change.new_runs, change.new_checkpoints) == (3, 15)
    assert validation.n_runs == 11
    assert all(m.n == before.n + 15 for m, before in zip(validation.metrics, early[1].metrics, strict=True))
    again = surrogate.encode(of_runs(zoo[0], range(14 - HELD)).fingerprints)
    torch.testing.assert_close(again, surrogate.memory.latents)


@pytest.mark.slow
def test_yesterdays_picture_is_still_right(early, grown, anew) -> None:
    assert drift(early[0], grown[0]) == pytest.approx(grown[2].drift)
    assert grown[2].drift < 0.25
    assert drift(early[0], anew) > 2 * grown[2].drift


def test_refining_loses_nothing_on_runs_held_out_of_everything(zoo, early, grown, anew) -> None:
    held = of_runs(zoo[0], range(14 - HELD, 14))
    refined, fitted, before = (
        np.abs(s.predict(s.encode(held.fingerprints)).point - held.metrics).mean() for s in (grown[0], anew, early[0])
    )
    assert refined < fitted + 0.02
    assert refined < before + 0.01


def test_new_runs_are_tested_before_they_are_learned_and_widen_intervals_when_they_surprise(zoo, early) -> None:
    # Had they been learned first, wrong labels would look right.
    train = of_runs(zoo[0], range(14 - HELD))
    wrong = train.metrics.copy()
    wrong[train.runs >= EARLY, 0] += 5.0
    surprised, validation, _ = refine(*early, replace(train, metrics=wrong), trained_on="wrong", recipe=QUICK)
    before, after = early[1].metrics[0], validation.metrics[0]
    assert after.error > before.error + 1.0
    assert after.coverage < before.coverage
    assert surprised.calibration_factor(0) > early[0].calibration_factor(0)


def test_a_new_run_counts_once_when_a_metric_was_measured_at_its_end_only(zoo, early) -> None:
    train = of_runs(zoo[0], range(14 - HELD))
    ends = train.metrics.copy()
    fresh = train.runs >= EARLY
    ends[fresh & (np.arange(len(train)) % 5 != 4), 0] = np.nan
    refined, _, _ = refine(*early, replace(train, metrics=ends), trained_on="ends", recipe=QUICK)
    old = early[0].scores[0].shape[1]
    assert refined.scores[0][1, old:].tolist() == [1.0] * 3


@pytest.mark.slow
def test_more_epochs_of_known_runs_are_no_test(zoo, early) -> None:
    train = of_runs(zoo[0], range(EARLY))
    some = train.take(np.flatnonzero(np.arange(len(train)) % 5 != 4))
    first, validation = fit(some, folds=2, recipe=QUICK)
    _, after, change = refine(first, validation, train, trained_on="longer", recipe=QUICK)
    assert (change.new_runs, change.new_checkpoints) == (0, EARLY)
    assert [m.n for m in after.metrics] == [m.n for m in validation.metrics]


def test_what_cannot_be_refined_is_said(zoo, early) -> None:
    train = of_runs(zoo[0], range(10))
    assert refinable(early[0], train) is None
    assert "gone" in str(refinable(early[0], train.take(np.arange(5, len(train)))))
    assert "changed" in str(refinable(early[0], replace(train, metrics=train.metrics + 0.01)))
    assert "not the same" in str(refinable(early[0], replace(train, metric_names=("a", "b"))))
    assert "embeddings" in str(refinable(early[0], replace(train, embeddings=None)))
    odd = list(train.fingerprints)
    odd[-1] = fingerprint({"other.weight": torch.ones(7, 9)}.items(), lambda _: None)
    assert "architecture" in str(refinable(early[0], replace(train, fingerprints=tuple(odd))))
    with pytest.raises(UsageError, match="from scratch"):
        refine(*early, replace(train, metrics=train.metrics + 0.01), trained_on="no", recipe=QUICK)


def test_a_map_is_attributes_new_checkpoints_without_training_and_its_intervals_hold(zoo, early) -> None:
    known = of_runs(zoo[0], range(14 - HELD))
    conditioned = condition_on_observations(early[0], known)
    assert set(conditioned.memory.keys) == set(known.keys)
    assert conditioned.network is early[0].network
    assert conditioned.scores is early[0].scores
    old = len(early[0].memory.keys)
    assert conditioned.memory.keys[:old] == early[0].memory.keys
    new = of_runs(zoo[0], range(EARLY, 14 - HELD))
    torch.testing.assert_close(conditioned.memory.latents[old:], early[0].encode(new.fingerprints))
    before, after = (s.predict(s.encode(new.fingerprints)) for s in (early[0], conditioned))
    assert np.abs(after.point - new.metrics).mean() < np.abs(before.point - new.metrics).mean(), "heads see them"
    held = of_runs(zoo[0], range(14 - HELD, 14))
    predicted = conditioned.predict(conditioned.encode(held.fingerprints))
    inside = (held.metrics >= predicted.low) & (held.metrics <= predicted.high)
    assert inside.mean() > 0.7, "no narrower than what runs that it has not seen ask for"
    assert condition_on_observations(conditioned, known) is conditioned


def test_what_a_map_cannot_read_is_not_taken_in(zoo, early) -> None:
    train = of_runs(zoo[0], range(EARLY + 1))
    other = fingerprint({"elsewhere": torch.ones(3, 3)}.items(), {}.get)
    odd = replace(train, fingerprints=(*train.fingerprints[:-1], other))
    assert set(odd.keys) - set(condition_on_observations(early[0], odd).memory.keys) == {odd.keys[-1]}
    renamed = replace(train, metric_names=("coverage", "another"))
    longer = condition_on_observations(early[0], renamed).memory
    assert longer.metrics[-1].isnan().tolist() == [False, True]
    nothing = replace(train, metric_names=("one", "another"))
    assert condition_on_observations(early[0], nothing) is early[0]
