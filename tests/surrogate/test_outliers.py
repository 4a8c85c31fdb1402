"""Diverged and penalised values: the rest of the zoo is learned as if they had not been measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate import TrainingConfig, TrainingSet, fit
from epsopt.surrogate.outliers import screen, unlike_neighbours
from epsopt.surrogate.refinement import condition_on_observations, refinable, refine
from epsopt.surrogate.transforms import KNEES, fit_transform
from epsopt.zoo.fingerprints.fingerprint import fingerprint

from ..conftest import network_weights  # noqa: TID252

QUICK = TrainingConfig(steps=20, batch=32)
DIVERGED = np.array([7, 33, 52, 61])


def with_losses(train: TrainingSet, diverged: object, runs: int = 14) -> TrainingSet:
    """The zoo with one metric without bounds, four values of which are `diverged`."""
    metrics = 3.0 + 5.0 * train.metrics[:, 1:]
    metrics[DIVERGED, 0] = diverged
    found = replace(train, metric_names=("score",), metrics=metrics, embeddings=None)
    return found.take(np.flatnonzero(train.runs < runs))


@pytest.fixture(scope="module")
def diverged(zoo):
    return fit(with_losses(zoo[0], [1e8, 1e300, -1e10, 1e3]), recipe=QUICK, folds=2)


@pytest.fixture(scope="module")
def unmeasured(zoo):
    """Nothing was measured on the same checkpoints, and views and z are learned without them."""
    left_out = np.isin(np.arange(len(zoo[0])), DIVERGED)
    return fit(replace(with_losses(zoo[0], np.nan), diverged=left_out), recipe=QUICK, folds=2)


def test_diverged_values_are_worth_as_much_as_checkpoints_that_were_left_out(zoo, diverged, unmeasured) -> None:
    z = unmeasured[0].encode(zoo[0].fingerprints)
    torch.testing.assert_close(diverged[0].encode(zoo[0].fingerprints), z)
    with_them, without = diverged[0].predict(z), unmeasured[0].predict(z)
    for part in ("point", "low", "high"):
        np.testing.assert_allclose(getattr(with_them, part), getattr(without, part))
    assert diverged[1].metrics[0] == replace(unmeasured[1].metrics[0], far_out=4)


@pytest.mark.slow  # several fits; those above look at values alone
def test_how_the_weights_of_diverged_checkpoints_look_is_nothing_to_the_others(zoo) -> None:
    train = with_losses(zoo[0], [1e8, 1e300, -1e10, 1e3])
    ordinary = np.setdiff1d(np.arange(len(train)), DIVERGED)
    predicted = []
    for factor in (1.0, 1e8, np.nan):
        prints = list(train.fingerprints)
        for i in DIVERGED:
            exploded = {k: w * factor for k, w in network_weights(int(i)).items()}
            prints[i] = fingerprint(exploded.items(), network_weights(0).get)
        _, validation = fit(replace(train, fingerprints=tuple(prints)), recipe=QUICK, folds=2)
        assert validation.metrics[0].far_out == 4
        predicted.append(validation.held_out.point[ordinary])
    np.testing.assert_allclose(predicted[1], predicted[0])
    np.testing.assert_allclose(predicted[2], predicted[0])


def test_how_many_values_lie_far_out_is_said(diverged, unmeasured) -> None:
    assert any("score: 4 of 70 measured values lie far from all others" in text for text in diverged[1].warnings())
    assert not any("far from all others" in text for text in unmeasured[1].warnings())


def test_a_map_with_diverged_values_is_kept_refined_and_extended(zoo, diverged) -> None:
    surrogate, validation = diverged
    train = with_losses(zoo[0], [1e8, 1e300, -1e10, 1e3])
    assert surrogate.memory.far_out.sum() == 4
    again = type(surrogate).from_bytes(*surrogate.to_bytes())
    assert torch.equal(again.memory.far_out, surrogate.memory.far_out)
    assert refinable(again, train) is None
    assert refinable(again, with_losses(zoo[0], 5.0)) is not None, "a value that became ordinary has changed"
    refined, after, _ = refine(again, validation, train, trained_on="again", recipe=QUICK)
    assert torch.isfinite(refined.memory.latents).all()
    assert after.metrics[0].far_out == 4


def test_diverged_values_that_come_later_are_set_aside_as_well(zoo) -> None:
    early = with_losses(zoo[0], [5.0] * 4, runs=8)
    surrogate, validation = fit(early, recipe=QUICK, folds=2)
    everything = with_losses(zoo[0], [5.0, 5.0, 1e8, 1e10])
    longer = condition_on_observations(surrogate, everything)
    assert longer.memory.far_out.nonzero()[:, 0].tolist() == [52, 61]
    assert longer.memory.metrics[[52, 61], 0].isnan().all()
    _, after, _ = refine(surrogate, validation, everything, trained_on="later", recipe=QUICK)
    assert after.metrics[0].far_out == 2
    assert after.metrics[0].error < 5.0


def test_a_far_out_value_is_no_outlier_if_checkpoints_like_it_have_such_values() -> None:
    # Perplexities: of an untrained model first, then of a trained one, and two that diverged.
    rng = np.random.default_rng(0)
    runs, epoch = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    loss = np.where(epoch == 0, 5e4, 20.0 + rng.normal(size=200))
    loss[[15, 77]] = 5e4
    points = torch.from_numpy(np.stack([epoch + 0.01 * rng.normal(size=200), 0.01 * runs], axis=1))
    train = TrainingSet(
        tuple(map(str, range(200))), (fingerprint([]),) * 200, runs, runs, ("perplexity",), loss[:, None]
    )
    transform = fit_transform(loss, None)
    found = screen(train, [transform], lambda: points)
    assert np.flatnonzero(np.isnan(found.answered.metrics[:, 0])).tolist() == [15, 77]
    untrained = found.answered.metrics[epoch == 0, 0]
    # Bad, but not so bad that nothing else counts.
    np.testing.assert_allclose(transform.forward(untrained), KNEES[1])
    np.testing.assert_array_equal(np.isnan(found.usual.metrics[:, 0]), (epoch == 0) | np.isin(np.arange(200), [15, 77]))


def test_values_within_reach_are_never_set_aside() -> None:
    rng = np.random.default_rng(0)
    scaled = np.clip(rng.normal(size=(300, 2)), -3.9, 3.9)
    assert not unlike_neighbours(scaled, torch.from_numpy(rng.normal(size=(300, 4))), np.arange(300) // 5).any()


def test_a_collapsed_share_is_no_outlier(zoo) -> None:
    train = zoo[0]
    share = np.full((len(train), 1), 0.99)
    share[DIVERGED] = 0.0
    surrogate, validation = fit(
        replace(train, metric_names=("accuracy",), metrics=share, embeddings=None), recipe=QUICK, folds=2
    )
    assert validation.metrics[0].far_out == 0
    assert surrogate.memory.far_out.sum() == 0


@pytest.mark.parametrize(
    "values",
    [
        np.full(70, 3.0),
        np.where(np.arange(70) == 9, 3.0, np.nan),
        np.where(np.arange(70) == 9, 1e8, 3.0),
        np.where(np.arange(70) % 5 == 4, 1e300, np.nan),
        np.where(np.arange(70) % 2 == 0, 1e8, -1e300),
        np.where(np.arange(70) % 20 == 0, np.inf, 0.1 * np.arange(70)),
    ],
    ids=["constant", "one row", "constant but one", "equal ends", "two far values", "infinite"],
)
def test_odd_metrics_are_predicted_with_numbers(zoo, values: np.ndarray) -> None:
    train = zoo[0]
    odd = replace(train, metric_names=("score",), metrics=values[:, None], embeddings=None)
    surrogate, validation = fit(odd, recipe=TrainingConfig(steps=3), folds=2)
    prediction = surrogate.predict(surrogate.encode(train.fingerprints))
    for part in (prediction.point, prediction.low, prediction.high):
        assert np.isfinite(part).all()
    assert np.isfinite([validation.metrics[0].error, validation.metrics[0].width]).all()
    if np.isclose(values, 3.0).sum() > 60:
        np.testing.assert_allclose(prediction.point, 3.0, atol=0.01)


def test_weights_of_diverged_checkpoints_do_not_set_the_scale_of_the_views(zoo) -> None:
    from epsopt.surrogate.views import fit_tokenizer

    train = zoo[0]
    base = network_weights(0)
    prints = list(train.fingerprints)
    for i, factor in zip(DIVERGED, (1e8, np.nan, 1e30, 1e3), strict=True):
        prints[i] = fingerprint({k: w * factor for k, w in network_weights(int(i)).items()}.items(), base.get)
    ordinary = np.setdiff1d(np.arange(70), DIVERGED)
    clean, dirty = fit_tokenizer(train.fingerprints, train.runs), fit_tokenizer(prints, train.runs)
    assert torch.isfinite(dirty(prints)).all()
    for name in ("values", "delta"):
        spreads = []
        for tokenizer in (clean, dirty):
            place = next(s for v, s in zip(tokenizer.views, tokenizer.slices, strict=True) if v.name == name)
            tokens = tokenizer([prints[i] for i in ordinary])[:, place]
            spreads.append(float(tokens.var(dim=0).sum()))
        assert spreads[1] > 0.5 * spreads[0], f"{name}: as much is seen of the others"


def exploded(run: int, row: int) -> object:
    """Weights of a diverged run: a million times as large, in a direction of their own."""
    return fingerprint({k: 1e6 * w for k, w in network_weights(1000 + 10 * run + row).items()}.items())


def test_two_runs_that_diverge_with_their_weights_are_nothing_to_the_others(zoo) -> None:
    train = with_losses(zoo[0], 5.0)
    bad = np.isin(train.runs, [2, 9])
    prints = tuple(
        exploded(int(run), i) if b else f
        for i, (f, run, b) in enumerate(zip(train.fingerprints, train.runs, bad, strict=True))
    )
    predicted = []
    for value in (1e8, np.nan):
        metrics = np.where(bad[:, None], value, train.metrics)
        found = replace(train, fingerprints=prints, metrics=metrics, diverged=bad if np.isnan(value) else None)
        _, validation = fit(found, recipe=QUICK, folds=2)
        predicted.append(validation.held_out)
    for part in ("point", "low", "high"):
        np.testing.assert_allclose(getattr(predicted[0], part)[~bad], getattr(predicted[1], part)[~bad])


def test_one_other_run_confirms_a_far_out_value_once_however_long_it_is() -> None:
    rng = np.random.default_rng(0)
    runs = np.repeat(np.arange(12), 6)
    column = rng.normal(size=(72, 1))
    points = torch.from_numpy(rng.normal(size=(72, 3)))

    def alone(diverged: list[int]) -> np.ndarray:
        bad = np.isin(runs, diverged)
        apart = points + 100.0 * torch.from_numpy(bad[:, None].astype(float))
        return unlike_neighbours(np.where(bad[:, None], 9.0, column), apart, runs)[bad]

    assert alone([0, 1]).all(), "one of the five nearest runs has diverged"
    assert not alone([0, 1, 2, 3]).any(), "three of them have"


@pytest.mark.parametrize(("diverged", "set_aside"), [(5, True), (20, True), (40, False)])
def test_runs_that_have_nothing_but_far_out_values_are_set_aside_unless_they_are_many(diverged, set_aside) -> None:
    rng = np.random.default_rng(0)
    runs = np.repeat(np.arange(100), 3)
    bad = runs < diverged
    points = torch.from_numpy(rng.normal(size=(300, 3)) + 100.0 * bad[:, None])
    scaled = np.where(bad[:, None], 9.0, rng.normal(size=(300, 1)).clip(-3, 3))
    assert unlike_neighbours(scaled, points, runs)[bad].all() == set_aside
    assert not unlike_neighbours(scaled, points, runs)[~bad].any()


def test_a_run_that_goes_far_out_on_its_way_is_learned_where_others_do() -> None:
    rng = np.random.default_rng(0)
    runs, epoch = np.repeat(np.arange(40), 3), np.tile(np.arange(3), 40)
    lost = (runs < 8) & (epoch == 2)
    points = torch.from_numpy(rng.normal(size=(120, 3)) + 100.0 * lost[:, None])
    scaled = np.where(lost[:, None], 9.0, rng.normal(size=(120, 1)).clip(-3, 3))
    assert not unlike_neighbours(scaled, points, runs).any()
