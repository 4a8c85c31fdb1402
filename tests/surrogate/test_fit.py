from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.parego import qLogNParEGO

from epsopt.surrogate import Surrogate, TrainingConfig, TrainingSet, Validation, fit, run_folds
from epsopt.zoo.errors import CatalogueError, EmptyCatalogue, UsageError
from epsopt.zoo.fingerprints.fingerprint import fingerprint

QUICK = TrainingConfig(steps=40, batch=32)


def test_runs_are_never_split_between_folds() -> None:
    runs = np.random.default_rng(0).integers(0, 13, size=200)
    folds = run_folds(runs, 5, seed=3)
    assert sorted(np.concatenate(folds).tolist()) == list(range(200))
    for i, one in enumerate(folds):
        for other in folds[i + 1 :]:
            assert not set(runs[one]) & set(runs[other])


def test_unseen_runs_are_predicted_better_than_by_their_median(fitted: tuple[Surrogate, Validation]) -> None:
    for metric in fitted[1].metrics:
        assert metric.skill > 0.5, metric
        assert metric.n == 70
    assert fitted[1].embedding_r2 is not None
    assert fitted[1].embedding_r2 > 0.5


def test_intervals_cover_about_their_level_on_unseen_runs(fitted: tuple[Surrogate, Validation]) -> None:
    for metric in fitted[1].metrics:
        assert 0.75 <= metric.coverage <= 1.0, metric


def test_what_intervals_cover_within_the_trust_region_and_beyond_it_adds_up(
    fitted: tuple[Surrogate, Validation],
) -> None:
    assert any(0 < metric.n_far < metric.n for metric in fitted[1].metrics)
    for metric in fitted[1].metrics:
        near, far = (0.0 if c is None else c for c in (metric.near_coverage, metric.far_coverage))
        assert (metric.n - metric.n_far) * near + metric.n_far * far == pytest.approx(metric.n * metric.coverage)
    assert "held-out checkpoints lie beyond it." in fitted[1].region_sentence()


def test_few_runs_are_warned_of(fitted: tuple[Surrogate, Validation]) -> None:
    assert any("only 14 runs" in text for text in fitted[1].warnings())


def test_a_metric_without_any_signal_is_said_to_be_untrustworthy(zoo) -> None:
    train = zoo[0]
    noise = np.random.default_rng(0).normal(size=(len(train), 1))
    noisy = replace(train, metric_names=("noise",), metrics=noise)
    _, validation = fit(noisy, recipe=QUICK, folds=3)
    assert any(text.startswith("noise: no better than the median") for text in validation.warnings())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(zoo) -> None:
    train: TrainingSet = zoo[0]
    points = [fit(train, recipe=QUICK, folds=2, seed=s)[0] for s in (1, 1, 2)]
    first, again, other = (s.predict(s.encode(train.fingerprints)).point for s in points)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


def test_fitting_leaves_the_global_random_state_alone(zoo) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(zoo[0], recipe=TrainingConfig(steps=3), folds=2)
    torch.testing.assert_close(torch.rand(3), expected)


def test_bytes_round_trip_gives_the_same_map(zoo, fitted) -> None:
    surrogate, train = fitted[0], zoo[0]
    data, meta = surrogate.to_bytes()
    assert b"pickle" not in data[:4096]
    again = Surrogate.from_bytes(data, meta)
    z = surrogate.encode(train.fingerprints)
    torch.testing.assert_close(again.encode(train.fingerprints), z)
    for name in ("point", "low", "high"):
        np.testing.assert_allclose(getattr(again.predict(z), name), getattr(surrogate.predict(z), name), atol=1e-9)
    torch.testing.assert_close(again.decode_embeddings(z), surrogate.decode_embeddings(z))


def test_a_map_of_another_version_says_to_fit_again(fitted) -> None:
    data, meta = fitted[0].to_bytes()
    with pytest.raises(CatalogueError, match="epsopt fit"):
        Surrogate.from_bytes(data, {**meta, "format": 99})


def test_points_lie_in_their_intervals_and_shares_in_their_bounds(zoo, fitted) -> None:
    prediction = fitted[0].predict(fitted[0].encode(zoo[0].fingerprints))
    assert (prediction.low <= prediction.point).all()
    assert (prediction.point <= prediction.high).all()
    coverage = prediction.metric_names.index("coverage")
    assert prediction.low[:, coverage].min() >= 0.0
    assert prediction.high[:, coverage].max() <= 1.0


def test_a_higher_level_widens_the_intervals(zoo, fitted) -> None:
    z = fitted[0].encode(zoo[0].fingerprints[:5])
    narrow, wide = fitted[0].predict(z, 0.5), fitted[0].predict(z, 0.95)
    assert (wide.high - wide.low >= narrow.high - narrow.low).all()
    with pytest.raises(UsageError, match="between 0 and 1"):
        fitted[0].predict(z, 1.5)


def test_doubt_grows_away_from_the_data(zoo, fitted) -> None:
    z = fitted[0].encode(zoo[0].fingerprints[:5])
    _, near = fitted[0].posterior_moments(z)
    _, far = fitted[0].posterior_moments(z + 50.0)
    assert (far > 1.5 * near).all()


def test_fast_moments_are_the_posterior_s(zoo, fitted) -> None:
    surrogate = fitted[0]
    z = torch.cat([surrogate.encode(zoo[0].fingerprints[:7]), 3.0 * torch.randn(5, surrogate.latent)])
    posterior = surrogate.model.posterior(z.double(), observation_noise=True)
    mean, deviation = surrogate.posterior_moments(z)
    torch.testing.assert_close(mean, posterior.mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(deviation, posterior.variance.sqrt(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(surrogate.posterior_mean(z[:, None, :])[:, 0], mean, atol=1e-3, rtol=1e-3)


def test_the_posterior_is_batched_and_differentiable_and_serves_botorch(zoo, fitted) -> None:
    surrogate = fitted[0]
    z = surrogate.encode(zoo[0].fingerprints[:6]).double()
    x = z[:4].reshape(2, 2, -1).clone().requires_grad_()
    posterior = surrogate.model.posterior(x)
    assert posterior.mean.shape == (2, 2, 2)
    assert posterior.rsample(torch.Size([3])).shape == (3, 2, 2, 2)
    assert torch.autograd.grad(posterior.mean.sum(), x)[0].abs().sum() > 0
    nehvi = qLogNoisyExpectedHypervolumeImprovement(surrogate.model, ref_point=[-2.0, -2.0], X_baseline=z)
    assert torch.isfinite(nehvi(z[:3].unsqueeze(1))).all()
    parego = qLogNParEGO(surrogate.model, X_baseline=z)
    assert torch.isfinite(parego(z[:3].unsqueeze(1))).all()


def test_recombination_uses_real_checkpoints_of_the_lineage_and_sums_to_one(zoo, fitted) -> None:
    parts = fitted[0].recombine(fitted[0].encode(zoo[0].fingerprints[:3]), lineage=1, parents=4)
    for part in parts:
        assert 1 <= len(part) <= 4
        assert sum(c for _, c in part) == pytest.approx(1.0, abs=1e-5)
        assert all(key in zoo[0].keys for key, _ in part)
    with pytest.raises(UsageError, match="lineage 7"):
        fitted[0].recombine(fitted[0].encode(zoo[0].fingerprints[:1]), lineage=7)


def test_unmeasured_metrics_and_mixed_architectures_are_learned_from(zoo) -> None:
    train = zoo[0]
    g = torch.Generator().manual_seed(0)
    other = [
        fingerprint([("a.weight", torch.randn(7, 3, generator=g)), ("b.weight", torch.randn(2, 7, generator=g))])
        for _ in range(8)
    ]
    metrics = np.vstack([train.metrics, np.full((8, 2), np.nan)])
    metrics[70:, 0] = 0.5
    mixed = TrainingSet(
        keys=(*train.keys, *(f"other-{i}" for i in range(8))),
        fingerprints=(*train.fingerprints, *other),
        runs=np.concatenate([train.runs, 100 + np.arange(8) // 2]),
        lineages=np.concatenate([train.lineages, np.full(8, 2)]),
        metric_names=train.metric_names,
        metrics=metrics,
    )
    surrogate, validation = fit(mixed, recipe=QUICK, folds=3)
    assert np.isfinite(surrogate.predict(surrogate.encode(mixed.fingerprints)).point).all()
    assert validation.metrics[1].n == 70
    unknown = fingerprint([("new.weight", torch.randn(9, 9, generator=g))])
    assert torch.isfinite(surrogate.encode([unknown])).all()
    with pytest.raises(UsageError, match=r"hooks\.embed"):
        surrogate.decode_embeddings(surrogate.encode([unknown]))


def test_too_few_runs_and_unknown_bounds_are_refused_in_one_sentence(zoo) -> None:
    train = zoo[0]
    with pytest.raises(EmptyCatalogue, match="2 runs"):
        fit(train.take(np.flatnonzero(train.runs < 2)))
    with pytest.raises(UsageError, match="'speed'"):
        fit(train, bounds={"speed": (0, 1)})


def test_arrays_of_different_lengths_are_refused(zoo) -> None:
    with pytest.raises(UsageError, match="runs has 3 rows"):
        replace(zoo[0], runs=np.arange(3))


def test_a_metric_that_never_varies_can_be_predicted(zoo) -> None:
    train = zoo[0]
    constant = replace(train, metric_names=("three",), metrics=np.full((len(train), 1), 3.0))
    surrogate, validation = fit(constant, recipe=TrainingConfig(steps=5), folds=2)
    prediction = surrogate.predict(surrogate.encode(train.fingerprints[:3]), 0.5)
    np.testing.assert_allclose(prediction.point, 3.0, atol=1e-3)
    assert any("does not vary" in text for text in validation.warnings())


def test_nonsense_folds_levels_and_an_empty_set_of_metrics_are_refused(zoo) -> None:
    with pytest.raises(UsageError, match="folds is 1"):
        fit(zoo[0], folds=1)
    with pytest.raises(UsageError, match="level is 2"):
        fit(zoo[0], level=2.0)
    nothing = replace(zoo[0], metric_names=(), metrics=np.zeros((len(zoo[0]), 0)))
    with pytest.raises(EmptyCatalogue, match="no checkpoint has a measured metric"):
        fit(nothing)
