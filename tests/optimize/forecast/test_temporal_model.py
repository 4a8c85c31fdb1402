"""The next checkpoints of synthetic runs whose law is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epsopt.optimize.forecast.temporal_model import (
    FORECASTS,
    PATH_FORECASTS,
    TemporalModel,
    fit_temporal_model,
    predict_training_trajectory,
)
from epsopt.optimize.latent.trajectory import RunPath
from epsopt.zoo.errors import EmptyCatalogue, UsageError

from .test_run_forecaster import EPOCHS, MAP, SPACE, made


@pytest.fixture(scope="module")
def model() -> TemporalModel:
    return fit_temporal_model(MAP, SPACE, [made(i) for i in range(32)])


@pytest.fixture(scope="module")
def new() -> list[RunPath]:
    return [made(i) for i in range(1000, 1030)]


def test_new_runs_go_where_they_are_predicted_to_go(model, new):
    ends, answers, plain, places, moved = [], [], [], [], []
    for run in new:
        found = model.predict(run.first(3), run.epochs[3:].tolist())
        single, where = model.single_forecasts(run.first(3), run.epochs[3:].tolist())
        ends.append(run.metrics[-1])
        answers.append(found.point[-1])
        plain.append(single[-1, FORECASTS.index("carry-forward")])
        places.append(torch.linalg.norm(found.z[-1] - run.z[-1]).item())
        moved.append(torch.linalg.norm(where[-1, PATH_FORECASTS.index("carry-forward")] - run.z[-1]).item())
    assert np.abs(np.array(answers) - ends).mean() < 0.5 * np.abs(np.array(plain) - ends).mean()
    assert np.mean(places) < 0.5 * np.mean(moved)


def test_intervals_hold_at_every_epoch_ahead(model, new):
    inside = []
    for run in new:
        found = model.predict(run.first(2), run.epochs[2:].tolist())
        inside.append((found.low <= run.metrics[2:]) & (run.metrics[2:] <= found.high))
    shares = np.mean(inside, axis=(0, 2))
    assert shares.min() > 0.75
    assert 0.82 < shares.mean() <= 1.0


def test_samples_are_futures_not_epochs_drawn_alone(model, new):
    found = model.predict(new[0].first(3), [6.0, 7.0, 10.0])
    away = found.samples - found.samples.mean(axis=0)
    assert np.corrcoef(away[:, 0, 1], away[:, 1, 1])[0, 1] > 0.7
    # The first two coordinates of z are the metrics on the model's scale: a future has both, or neither.
    scaled = np.stack([MAP.to_scale("score", v) for v in found.samples[:, 2, 1]])
    assert np.corrcoef(scaled, found.z_samples[:, 2, 1].numpy())[0, 1] > 0.7
    assert found.samples[..., 0].min() >= 0.0
    assert found.samples[..., 0].max() <= 1.0


def test_a_checkpoint_and_hyperparameters_are_enough(model):
    start = made(2000).z[0]
    good, bad = ({"lr": lr, "other": 0.5, "epochs": EPOCHS} for lr in (0.9, 0.1))
    better, worse = (predict_training_trajectory(model, start, c, n_epochs=9, epoch=1.0) for c in (good, bad))
    assert better.epochs.tolist() == list(range(2, 11))
    assert better.z.shape == (9, 5)
    assert (better.point[-1] > worse.point[-1]).all()
    z, samples = model.predict_next_z(start, good, epoch=1.0, ahead=3.0)
    assert torch.equal(z, predict_training_trajectory(model, start, good, n_epochs=3, epoch=1.0).z[-1])
    assert samples.shape == (256, 5)


def test_beyond_the_longest_run_it_says_so(model, new):
    assert model.predict(new[0], [11.0, 14.0]).longest == EPOCHS
    assert model.predict(new[0].first(4), [5.0]).longest is None


def test_how_far_off_it_was_on_runs_left_out_stands_beside_every_plain_forecast(model, new):
    found = model.predict(new[0].first(4), [5.0, 8.0])
    for errors in found.errors.values():
        assert set(errors) == {*FORECASTS, "stack"}
        assert errors["stack"] < errors["carry-forward"]
    assert set(found.z_errors) == {*PATH_FORECASTS, "stack"}


def test_what_cannot_be_predicted_is_refused(model, new):
    with pytest.raises(UsageError, match="no checkpoint yet"):
        model.predict(new[0].first(0), [1.0])
    for epochs in ([], [4.0], [6.0, 5.0]):
        with pytest.raises(UsageError, match="beyond epoch 4"):
            model.predict(new[0].first(4), epochs)
    with pytest.raises(EmptyCatalogue, match=r"7 have two checkpoints or more .* at least 8"):
        fit_temporal_model(MAP, SPACE, [made(i) for i in range(7)])


def test_metrics_that_were_never_measured_are_filled_in_by_the_map(model, new):
    run = new[1].first(3)
    unmeasured = RunPath(run.name, run.config, run.epochs, run.z, np.full_like(run.metrics, np.nan))
    found, known = (model.predict(r, [5.0, 9.0]) for r in (unmeasured, run))
    assert np.isfinite(found.point).all()
    assert np.abs(found.point - known.point).max() < 0.05


@pytest.mark.slow
def test_intervals_of_a_metric_that_only_ends_measure_are_those_of_measurements():
    """Elsewhere the map fills it in, which is nearer to what the map predicts than a measurement is."""

    def measured_at_the_end(number: int) -> RunPath:
        run, noise = made(number), np.random.default_rng(number).normal(size=(1, 2))
        metrics = np.full_like(run.metrics, np.nan)
        metrics[-1] = MAP.to_metrics(run.z[-1:, :2].double() + torch.from_numpy(noise)).numpy()[0]
        return RunPath(run.name, run.config, run.epochs, run.z, metrics)

    learned = fit_temporal_model(MAP, SPACE, [measured_at_the_end(i) for i in range(40)])
    inside = []
    for run in (measured_at_the_end(i) for i in range(3000, 3080)):
        found = learned.predict(run.first(4), run.epochs[4:].tolist())
        inside.append((found.low[-1] <= run.metrics[-1]) & (run.metrics[-1] <= found.high[-1]))
    shares = np.mean(inside, axis=0)
    assert shares.min() > 0.84
    assert shares.max() < 0.97
