"""Nothing that is predicted leaves what a metric can be, whichever door it comes through."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.optimize import History, Objective, Target, infer_space, propose, search
from epsopt.optimize.forecast.catalogue_curves import past_curves
from epsopt.optimize.forecast.learning_curve_gp import Curve, fit_curves
from epsopt.optimize.forecast.run_forecaster import fit_run_forecaster
from epsopt.optimize.latent.interpolation import along, straight
from epsopt.optimize.latent.predict_checkpoint import assess
from epsopt.optimize.latent.region_sampling import sample_region
from epsopt.optimize.latent.trajectory import run_paths
from epsopt.optimize.merge.simplex_merge import merge
from epsopt.optimize.proposals.proposals import learn_history
from epsopt.optimize.proposals.warm_start import Start, plan_runs
from epsopt.optimize.schedule.run_acquisition import Start as RunStart
from epsopt.surrogate import Surrogate, TrainingConfig, TrainingSet, fit
from epsopt.zoo.catalogue.types import Checkpoint

from ..sweeps import sweep  # noqa: TID252

LIMITS = {"val_acc": (0.0, 1.0), "loss": (0.0, math.inf), "r2": (-math.inf, 1.0), "pearson": (-1.0, 1.0)}
OBJECTIVES = tuple(Objective(n, maximize=n != "loss") for n in LIMITS)
TARGETS = [Target("val_acc", 0.6), Target("loss", 0.3)]
DRAWS = 20  # of points that are far from everything known


def values_of(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Four metrics that stand at their ends in much of the zoo."""
    coverage, structure = metrics["coverage"] or 0.0, metrics["structure"] or 0.0
    return {
        "val_acc": round(coverage, 2),
        "loss": max(0.0, 0.5 - coverage),
        "r2": 1.0 - 3.0 * (1.0 - structure) ** 2 if structure < 0.7 else 1.0,
        "pearson": 2.0 * structure - 1.0,
    }


@pytest.fixture(scope="module")
def world(zoo: tuple[TrainingSet, list[Checkpoint]]) -> Iterable[tuple[Surrogate, list[Checkpoint]]]:
    checkpoints = [replace(c, metrics=values_of(c.metrics)) for c in zoo[1]]
    table = np.array([[c.metrics[n] for n in LIMITS] for c in checkpoints], dtype=np.float64)
    train = replace(zoo[0], metric_names=tuple(LIMITS), metrics=table)
    surrogate, validation = fit(train, recipe=TrainingConfig(steps=40, batch=16), folds=3)
    held = validation.held_out
    for ends in (held.point, held.low, held.high):
        possible(dict(zip(LIMITS, ends.T, strict=True)))
    return surrogate, checkpoints


def past(checkpoints: list[Checkpoint], objectives: Sequence[Objective]) -> History:
    space = infer_space([c.hyperparameters for c in checkpoints])
    rest = tuple(n for n in LIMITS if n not in {o.name for o in objectives})
    every = [*objectives, *(Objective(n, maximize=True) for n in rest)]
    curves = {str(i): c for i, c in past_curves(checkpoints, space, every).items()}
    measured = np.array([[c.metrics[o.name] for o in objectives] for c in checkpoints])
    return History(space, tuple(objectives), rest, curves, (), measured, {})


def possible(*predicted: Mapping[str, object]) -> None:
    for values in predicted:
        for name, value in values.items():
            array = np.asarray(value, dtype=np.float64)
            low, high = LIMITS[name]
            assert np.isfinite(array).all(), f"{name}: {array}"
            assert (array >= low).all(), f"{name} of {array.min()}"
            assert (array <= high).all(), f"{name} of {array.max()}"


def checked(answers: Iterable[object]) -> int:
    """Hold points and intervals to what is possible; return how many there were."""
    count = 0
    for answer in answers:
        possible(answer.point, answer.low, answer.high)
        assert all(answer.low[n] <= answer.point[n] <= answer.high[n] for n in answer.point)
        count += 1
    return count


def test_the_map_knows_what_its_metrics_can_be_without_being_given_bounds(world):
    surrogate = world[0]
    assert dict(zip(surrogate.metric_names, (t.bounds for t in surrogate.transforms), strict=True)) == LIMITS
    again = Surrogate.from_bytes(*surrogate.to_bytes())
    assert again.transforms == surrogate.transforms


@pytest.mark.parametrize("level", [0.05, 0.9, 0.9999])
@pytest.mark.parametrize("far", [0.0, 1.0, 30.0])
def test_predictions_of_any_point(world, level, far):
    generator = torch.Generator().manual_seed(0)
    z = far * torch.randn(DRAWS, world[0].latent, generator=generator)
    found = world[0].predict(z, level)
    for ends in (found.low, found.point, found.high):
        possible(dict(zip(LIMITS, ends.T, strict=True)))


@pytest.mark.parametrize("engine", ["gradient", "optuna"])
def test_answers_of_a_search(world, engine):
    assert checked(search(*world, OBJECTIVES, TARGETS, engine=engine, level=0.99).answers)


@pytest.mark.parametrize("k", sweep([1, 3, 2, 4], quick=2))
def test_one_to_four_objectives_are_searched_and_proposed_for(world, k):
    surrogate, checkpoints = world
    assert checked(search(surrogate, checkpoints, OBJECTIVES[:k], TARGETS[:1], limit=3).answers)
    assert checked(propose(past(checkpoints, OBJECTIVES[:k]), n=1)) == 1


def test_samples_of_a_region(world):
    found = sample_region(*world, OBJECTIVES, TARGETS[:1], probability=0.1, n=30, level=0.99)
    assert checked(found.points)


def test_assessments_and_the_way_between_checkpoints(world, zoo):
    surrogate, checkpoints = world
    assert checked(assess(surrogate, checkpoints, zoo[0].fingerprints[:DRAWS], level=0.99)) == DRAWS
    latents = surrogate.memory.latents
    assert checked(along(surrogate, checkpoints, straight(latents[0], 40.0 * latents[-1], 7), 0.99)) == 7


def test_proposals_and_branches(world):
    checkpoints = world[1]
    history = past(checkpoints, OBJECTIVES)
    columns = [*(o.name for o in OBJECTIVES), *history.metrics]
    starts = [RunStart(c.path, np.array([c.metrics[n] for n in columns])) for c in checkpoints[4:15:5]]
    found = propose(history, TARGETS, n=4, level=0.99, starts=starts)
    assert checked(found) == 4
    assert any(p.init_from is not None for p in found)


def test_forecasts_of_runs_and_their_samples(world):
    surrogate, checkpoints = world
    paths = run_paths(surrogate, checkpoints, surrogate.memory.latents)
    outlook = fit_run_forecaster(surrogate, infer_space([p.config for p in paths]), paths[1:])
    for first in (0, 2):
        found = outlook.forecast(paths[0].first(first), level=0.99)
        for ends in (found.samples.T, found.low, found.point, found.high):
            possible(dict(zip(LIMITS, ends, strict=True)))


def test_plans_of_where_to_start(world):
    checkpoints = world[1]
    learned = learn_history(past(checkpoints, OBJECTIVES), TARGETS, level=0.99)
    starts = [Start(c.run, dict(c.metrics), measured=True, kind="checkpoint", checkpoint=c) for c in checkpoints[::20]]
    assert checked(plan_runs(learned, starts, epochs=3)) == len(starts)


def test_futures_of_learning_curves(world):
    runs: dict[int, list[Checkpoint]] = {}
    for c in world[1]:
        runs.setdefault(c.run_id, []).append(c)
    space = infer_space([r[0].hyperparameters for r in runs.values()])
    curves = [
        Curve(
            {p.name: r[0].hyperparameters[p.name] for p in space.parameters},
            np.array([float(c.epoch or 0) for c in r]),
            np.array([[c.metrics[n] for n in LIMITS] for c in r], dtype=np.float64),
        )
        for r in list(runs.values())[:6]
    ]
    model = fit_curves(space, OBJECTIVES, curves, length=5.0)
    outputs = 40.0 * torch.randn(50, len(LIMITS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gains = model.untransform(outputs) * model.signs
    possible(dict(zip(LIMITS, gains.T.numpy(), strict=True)))


def test_merges_of_weights():
    two = tuple(o for o in OBJECTIVES if o.name in ("val_acc", "loss"))

    def measure(c: np.ndarray) -> dict[str, float]:
        return {"val_acc": float(np.clip(1.2 * c[0, 0], 0.0, 1.0)), "loss": float(max(0.0, 0.4 * c[0, 0] - 0.1))}

    found = merge(measure, 2, two, budget=9)
    predicted = [e.predicted for e in found.evaluations if e.predicted is not None]
    assert predicted
    for of_metrics in predicted:
        for name, p in of_metrics.items():
            possible({name: [p["value"], p["low"], p["high"]]})


def test_a_target_at_the_end_of_a_range_is_met_there_and_nowhere_before(world):
    """No slack: a measured .995 is not 1, and what the model puts beyond the end is the end itself."""
    surrogate, checkpoints = world
    result = search(surrogate, checkpoints, OBJECTIVES, [Target("val_acc", 1.0)])
    assert result.measured_meeting_targets
    assert all(c.metrics["val_acc"] == 1.0 for c in result.measured_meeting_targets)
    near = replace(
        checkpoints[0], sha256="near", path="/near.pt", metrics={**checkpoints[0].metrics, "val_acc": 0.9951}
    )
    again = search(surrogate, [*checkpoints, near], OBJECTIVES, [Target("val_acc", 1.0)])
    assert "near" not in [c.sha256 for c in again.measured_meeting_targets]
    assert 0.0 < max(a.probability for a in result.answers) < 1.0
