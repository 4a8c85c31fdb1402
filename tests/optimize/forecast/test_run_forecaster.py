"""Forecasts of where runs end, on synthetic runs whose law is known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from epsopt.optimize.forecast.base_forecasters import BEFORE, EXPERTS
from epsopt.optimize.forecast.conformal_residuals import fit_misses
from epsopt.optimize.forecast.run_features import NOT_BEGUN
from epsopt.optimize.forecast.run_forecaster import RunForecaster, fit_run_forecaster
from epsopt.optimize.forecast.stacking import STACK, StackingRow, stack, stage_of
from epsopt.optimize.latent.trajectory import (
    RunPath,
    median_speed,
    path_statistics,
    planned_epochs,
    planned_total,
    run_paths,
)
from epsopt.optimize.space import Parameter, Space
from epsopt.surrogate.dataset import run_folds
from epsopt.surrogate.transforms import MetricTransform
from epsopt.zoo.errors import EmptyCatalogue, UsageError

EPOCHS = 10
TRANSFORMS = (MetricTransform((0.0, 1.0), 0.0, 1.0), MetricTransform(None, 0.0, 1.0))
MAP = SimpleNamespace(
    metric_names=("share", "score"),
    transforms=TRANSFORMS,
    to_metrics=lambda v: torch.stack([t.backward(v[..., j]) for j, t in enumerate(TRANSFORMS)], dim=-1),
    draws_to_metrics=lambda v: torch.stack([t.backward_draws(v[..., j]) for j, t in enumerate(TRANSFORMS)], dim=-1),
    to_scale=lambda name, value: float(TRANSFORMS[name == "score"].forward(np.array([value]))[0]),
    posterior_mean=lambda z: z[..., :2].double(),
)
SPACE = Space((Parameter("lr", "float", 0.0, 1.0), Parameter("other", "float", 0.0, 1.0)))


def made(number: int, *, luck: float = 0.5, epochs: int = EPOCHS) -> RunPath:
    """A run that goes straight to where its learning rate and its luck lead; the luck shows from the first epoch."""
    rng = np.random.default_rng(number)
    lr, other, own = rng.random(), rng.random(), luck * rng.standard_normal()
    end = np.array([4.0 * (lr - 0.5) + own, 2.0 * lr - own])
    t = np.arange(1, epochs + 1) / EPOCHS
    values = t[:, None] * end + 0.02 * rng.standard_normal((epochs, 2))
    z = torch.zeros(epochs, 5)
    z[:, :2] = torch.from_numpy(values).float()
    metrics = MAP.to_metrics(torch.from_numpy(values)).numpy()
    config = {"lr": lr, "other": other, "epochs": EPOCHS}
    return RunPath(f"run_{number}", config, np.arange(1.0, epochs + 1), z, metrics)


@pytest.fixture(scope="module")
def outlook() -> RunForecaster:
    return fit_run_forecaster(MAP, SPACE, [made(i) for i in range(48)])


@pytest.fixture(scope="module")
def later() -> list[RunPath]:
    return [made(i) for i in range(1000, 1060)]


def test_ends_that_the_map_filled_in_do_not_narrow_the_intervals() -> None:
    rng = np.random.default_rng(0)
    runs, progress = np.arange(60), np.full(60, 0.5)
    final = rng.normal(size=(60, 1))
    measured = np.arange(60)[:, None] < 30
    final[30:] *= 0.01  # the map's own means: as good as forecast
    forecasts = np.zeros((60, 1))
    blind, table = (fit_misses(progress, forecasts, final, runs, known) for known in (None, measured))
    for fitted, covers in ((blind, False), (table, True)):
        low, high = np.quantile(fitted.draw(0.5, np.zeros(1), 4000, 0), (0.05, 0.95))
        inside = np.mean((final[:30] >= low) & (final[:30] <= high))
        assert (inside >= 0.87) == covers


@pytest.mark.slow
def test_half_a_run_tells_more_than_its_hyperparameters(outlook, later) -> None:
    errors = {n: np.mean([np.abs(outlook.forecast(p.first(n)).point - p.metrics[-1]) for p in later]) for n in (0, 5)}
    assert errors[5] < 0.4 * errors[0]
    carried = np.mean([np.abs(p.metrics[4] - p.metrics[-1]) for p in later])
    assert errors[5] < 0.5 * carried


def test_nine_of_ten_intervals_hold_on_runs_never_seen(outlook, later) -> None:
    covered = []
    for known in (0, 2, 4, 6):
        forecasts = [outlook.forecast(p.first(known)) for p in later]
        covered.append(
            np.mean(
                [(f.low <= p.metrics[-1]) & (p.metrics[-1] <= f.high) for f, p in zip(forecasts, later, strict=True)]
            )
        )
        # Not because they are as wide as the zoo.
        width = np.mean([f.high - f.low for f in forecasts], axis=0)
        assert (width < 0.75 * np.ptp([p.metrics[-1] for p in later], axis=0)).all()
    # Calibrated on 48 runs, a stage's own coverage varies by a few per cent.
    assert min(covered) > 0.75
    assert 0.84 <= np.mean(covered) <= 0.97


def test_samples_hold_the_metrics_together_as_runs_do(outlook, later) -> None:
    # Luck moves the two metrics in opposite directions; independent samples would have no correlation.
    samples = outlook.sample(later[0].first(0), samples=2000)
    assert np.corrcoef(samples.T)[0, 1] < -0.5


def test_samples_are_bounded_and_repeat_with_the_seed(outlook, later) -> None:
    path = later[3].first(4)
    samples = outlook.sample(path, samples=500, seed=7)
    assert samples.shape == (500, 2)
    assert samples[:, 0].min() >= 0.0
    assert samples[:, 0].max() <= 1.0
    assert (samples == outlook.sample(path, samples=500, seed=7)).all()
    assert (samples != outlook.sample(path, samples=500, seed=8)).any()


def test_intervals_narrow_as_the_run_goes_on(outlook, later) -> None:
    widths = [
        np.mean([np.ptp(outlook.sample(p.first(n)), axis=0) for p in later[:20]], axis=0) for n in (0, 3, 8)
    ]  # fmt: skip
    assert (widths[1] < widths[0]).all()
    assert (widths[2] < widths[1]).all()


def test_a_baseline_answers_only_where_it_was_the_best_on_runs_left_out(outlook) -> None:
    for stage in outlook.errors:
        for name, errors in stage.errors.items():
            answered = stage.chosen[name]
            assert errors[answered] <= 1.1 * min(errors.values())
            if answered != STACK:
                assert errors[answered] == min(errors.values())


def test_a_run_that_goes_beyond_all_past_ones_is_said_to_be_extrapolated(outlook, later) -> None:
    assert outlook.forecast(later[0].first(4)).longest is None
    assert outlook.forecast(later[0].first(4), total=EPOCHS + 1).longest == EPOCHS
    old = made(3, epochs=EPOCHS + 4)
    forecast = outlook.forecast(old)
    assert (forecast.total, forecast.longest) == (EPOCHS + 4, EPOCHS)


def table(errors: np.ndarray, progress: float) -> StackingRow:
    """Forecasts that are off by so much, on made-up runs with one moment each."""
    runs = np.arange(len(errors))
    final = np.random.default_rng(0).standard_normal((len(errors), 1))
    values = final[:, None] + errors[:, :, None]
    return StackingRow(values, final, values, final, np.full(len(errors), progress), runs)


def test_forecasts_that_cannot_be_distinguished_share_and_an_exact_one_takes_all() -> None:
    rng = np.random.default_rng(1)
    errors = rng.standard_normal((40, len(EXPERTS))) * np.array([1.0, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0])
    parts = run_folds(np.arange(40), 5, 0)
    weights, _ = stack(table(errors, 0.5), parts)
    shares = weights[stage_of(0.5), 0]
    assert shares.sum() == pytest.approx(1.0)
    assert shares[:3].min() > 0.15
    assert shares[3:].max() < 0.1
    errors[:, 3] = 0.0
    weights, _ = stack(table(errors, 0.5), parts)
    assert weights[stage_of(0.5), 0, 3] > 0.95
    # Before its first checkpoint nobody can carry a run's metrics forward.
    weights, _ = stack(table(errors, NOT_BEGUN), parts)
    assert weights[stage_of(NOT_BEGUN), 0, BEFORE:].tolist() == [0.0] * (len(EXPERTS) - BEFORE)


def test_runs_that_never_move_are_carried_forward() -> None:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(12):
        values = np.tile(rng.standard_normal(2), (6, 1))
        z = torch.from_numpy(np.tile(values[0], (6, 3))[:, :5]).float()
        config = {"lr": rng.random(), "other": rng.random()}
        paths.append(RunPath(str(i), config, np.arange(1.0, 7.0), z, MAP.to_metrics(torch.from_numpy(values)).numpy()))
    found = fit_run_forecaster(MAP, SPACE, paths)
    forecast = found.forecast(paths[0].first(3))
    for weights in forecast.weights.values():
        assert not set(weights) & {"hyperparameters", "late average", "h, then g"}
    np.testing.assert_allclose(forecast.point, paths[0].metrics[-1], atol=1e-6)


def test_a_metric_that_was_not_measured_is_what_the_map_says(outlook) -> None:
    path = made(2000)
    blind = RunPath(path.name, path.config, path.epochs, path.z, np.full_like(path.metrics, np.nan))
    seen, unseen = (outlook.forecast(p.first(6)).point for p in (path, blind))
    np.testing.assert_allclose(seen, unseen, atol=0.05)


def test_unfinished_runs_are_not_learned_from_and_eight_are_needed() -> None:
    stopped = [made(i, epochs=4) for i in range(20)]
    with pytest.raises(EmptyCatalogue, match="there are 7, at least 8"):
        fit_run_forecaster(MAP, SPACE, [*[made(i) for i in range(200, 207)], *stopped[:2]])
    assert planned_epochs([made(i) for i in range(9)]) == (EPOCHS, "epochs")


def test_senseless_totals_and_levels_are_refused(outlook, later) -> None:
    with pytest.raises(UsageError, match="0 epochs"):
        outlook.forecast(later[0], total=0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        outlook.forecast(later[0], level=1.0)


def path_through(points: list[list[float]], epochs: list[float] | None = None) -> RunPath:
    z = torch.tensor(points)
    return RunPath("run", {}, np.array(epochs or range(len(points)), dtype=float), z, np.full((len(points), 1), np.nan))


def test_motion_is_what_geometry_says() -> None:
    square = path_statistics(path_through([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]], [0, 1, 3]), typical_speed=1.0)
    assert square.length == pytest.approx(6.0)
    assert square.displacement == pytest.approx(18**0.5)
    assert square.speed.tolist() == pytest.approx([3.0, 1.5])
    assert square.turning.tolist() == pytest.approx([np.pi / 2])
    assert square.curvature.tolist() == pytest.approx([np.pi / 6])
    assert square.direction.tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    assert square.stagnant_since is None
    # A circle of radius 5 has a curvature of one fifth.
    angle = np.linspace(0.0, 1.0, 60)
    circle = path_statistics(path_through((5.0 * np.stack([np.cos(angle), np.sin(angle)], 1)).tolist()), 1.0)
    np.testing.assert_allclose(circle.curvature, 0.2, rtol=1e-2)


def test_a_run_that_stands_still_is_flagged_since_when() -> None:
    still = path_statistics(path_through([[0.0], [1.0], [1.001], [1.002]]), typical_speed=1.0)
    assert still.stagnant_since == 1.0
    pause = path_statistics(path_through([[0.0], [1.0], [1.001], [2.0]]), typical_speed=1.0)
    assert pause.stagnant_since is None
    never = path_statistics(path_through([[1.0], [1.0], [1.0]]), typical_speed=1.0)
    assert never.stagnant_since == 0.0
    assert np.isnan(never.straightness)
    assert median_speed([path_through([[0.0], [1.0], [3.0]])]) == 1.5


def test_paths_are_the_catalogues_checkpoints_in_order(zoo, fitted) -> None:
    surrogate = fitted[0]
    paths = run_paths(surrogate, zoo[1], surrogate.memory.latents)
    assert [p.name for p in paths] == sorted({c.run for c in zoo[1]})
    assert paths[0].epochs.tolist() == [1, 2, 3, 4, 5]
    assert paths[0].metrics[2].tolist() == zoo[0].metrics[2].tolist()
    with pytest.raises(UsageError, match="do not increase"):
        RunPath("run", {}, np.array([1.0, 1.0]), torch.zeros(2, 2), np.zeros((2, 1)))
    with pytest.raises(UsageError, match="as many of each"):
        RunPath("run", {}, np.array([1.0]), torch.zeros(2, 2), np.zeros((2, 1)))


def test_epochs_of_a_path_count_training_where_files_count_from_0(zoo, fitted) -> None:
    surrogate = fitted[0]
    there = [replace(c, epoch=(c.epoch or 0) - 1, layout="lightning") for c in zoo[1]]
    paths = run_paths(surrogate, there, surrogate.memory.latents)
    assert {tuple(p.epochs.tolist()) for p in paths} == {(1.0, 2.0, 3.0, 4.0, 5.0)}
    assert [p.run_id for p in paths] == list(range(14))
    assert planned_total(paths[0].first(2), paths[1:]) == 5.0, "the first two of five epochs are 40 %, not 25 %"
