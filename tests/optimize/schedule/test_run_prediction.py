"""What is expected of a run before it is launched, computed without changing what is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.objectives import Objective
from epsopt.optimize.schedule.run_acquisition import Candidate, Start
from epsopt.optimize.schedule.run_prediction import expect
from epsopt.optimize.schedule.scheduler import SearchState
from epsopt.zoo.errors import UsageError

from .test_scheduler import BASE, SIX, SPACE, known, policy, weights_of

COST = (Objective("up", maximize=True), Objective("cost", maximize=False))


@pytest.fixture(scope="module")
def model() -> CurveModel:
    """Of a share to maximise, which lies near its bound, and a cost to minimise."""
    rng = np.random.default_rng(0)
    steps = np.arange(1.0, 9.0)

    def run(a: float, b: float) -> Curve:
        grown = 1.0 - np.exp(-steps / 3)
        up = np.clip(0.4 + 0.6 * a * grown + 0.02 * rng.standard_normal(8), 0.0, 1.0)
        return Curve(
            {"a": a, "b": b}, steps, np.column_stack([up, 5.0 - 3.0 * b * grown + 0.1 * rng.standard_normal(8)])
        )

    curves = [run(*rng.uniform(0, 1, 2)) for _ in range(14)]
    return fit_curves(SPACE, COST, curves, length=8.0, bounds={"up": (0.0, 1.0)})


def test_medians_and_intervals_are_those_of_what_will_be_measured_in_its_own_units(model):
    candidate = Candidate({"a": 0.9, "b": 0.5}, None, 8.0)
    found = expect(model, candidate, level=0.8)
    with torch.no_grad():
        end = model.model.posterior(model.inputs([candidate.config], np.array([8.0]), [None], len(model.curves)))
        spread = (end.variance[0, 0] + torch.stack([p.noise for p in model.processes])).sqrt().numpy()
        mean = end.mean[0, 0].numpy()
    drawn = mean + spread * np.random.default_rng(1).standard_normal((200_000, 2))
    for j, name in enumerate(("up", "cost")):
        values = model.transforms[j].backward(torch.from_numpy(drawn[:, j])).numpy()
        low, point, high = np.quantile(values, [0.1, 0.5, 0.9])
        said = (found.low[name], found.point[name], found.high[name])
        assert said == pytest.approx((low, point, high), abs=0.02 * np.ptp(values))
    assert found.level == 0.8
    assert found.high["up"] <= 1.0, "a share is none above one"
    assert found.point["cost"] == pytest.approx(3.6, abs=0.5), "a cost is not turned round"


def test_intervals_hold_about_as_many_new_measurements_as_they_say(model):
    rng = np.random.default_rng(7)
    inside = []
    for a, b in rng.uniform(0.05, 0.95, (60, 2)):
        grown = 1.0 - np.exp(-8.0 / 3)
        up = np.clip(0.4 + 0.6 * a * grown + 0.02 * rng.standard_normal(), 0.0, 1.0)
        cost = 5.0 - 3.0 * b * grown + 0.1 * rng.standard_normal()
        found = expect(model, Candidate({"a": a, "b": b}, None, 8.0))
        inside += [found.low["up"] <= up <= found.high["up"], found.low["cost"] <= cost <= found.high["cost"]]
    assert 0.8 <= np.mean(inside) <= 1.0


def test_the_better_run_joins_the_front_and_the_worse_one_does_not(model):
    best = expect(model, Candidate({"a": 1.0, "b": 1.0}, None, 8.0))
    worst = expect(model, Candidate({"a": 0.0, "b": 0.0}, None, 8.0))
    assert best.joins_front > 0.8
    assert worst.joins_front < 0.2
    merged = replace(model, others=np.array([[1.0, -9.0]]))  # a merge that nothing is better than
    assert expect(merged, Candidate({"a": 1.0, "b": 1.0}, None, 8.0)).joins_front == 0.0
    top = Start("top", np.array([1.0, -9.0]))
    assert expect(model, Candidate({"a": 0.5, "b": 0.5}, top, 1.0)).joins_front < 1.0


def test_each_objective_is_drawn_with_its_own_uncertainty(model):
    """What a few draws say is what many draws of the posterior itself say."""
    signs, front = np.array([1.0, -1.0]), model.measured()
    for a, b in ((0.2, 0.9), (0.5, 0.5), (0.6, 0.8), (0.8, 0.6), (0.9, 0.3)):
        config = {"a": a, "b": b}
        with torch.no_grad():
            x = model.inputs([config], np.linspace(0.0, 8.0, 7)[1:], [None], len(model.curves))
            drawn = model.model.posterior(x).rsample(torch.Size([4000]))[:, 0]
            columns = [t.backward(drawn[..., j]) for j, t in enumerate(model.transforms)]
        gains = torch.stack(columns, dim=-1).numpy() * signs
        beaten = (front[None, None] >= gains[:, :, None]).all(axis=3).any(axis=2)
        assert expect(model, Candidate(config, None, 8.0)).joins_front == pytest.approx(
            (~beaten).any(axis=1).mean(), abs=0.1
        )


def test_of_an_earlier_epoch_something_else_is_expected(model):
    early, late = (expect(model, Candidate({"a": 0.9, "b": 0.9}, None, e)) for e in (2.0, 8.0))
    assert early.point["up"] < late.point["up"]
    assert early.point["cost"] > late.point["cost"]


def test_what_cannot_be_predicted_is_refused_in_a_sentence(model):
    with pytest.raises(UsageError, match="level is 1"):
        expect(model, Candidate({"a": 0.5, "b": 0.5}, None, 8.0), level=1.0)
    with pytest.raises(UsageError, match="a run of 8 epochs has 8 behind it"):
        expect(model, Candidate({"a": 0.5, "b": 0.5}, None, 8.0, run=0, done=8.0))


def test_asking_what_is_expected_changes_nothing_of_what_is_chosen():
    def steps(*, asks: bool) -> list[tuple]:
        chooser, curves, out = policy(), list(SIX), []
        for _ in range(3):
            before = known(curves)
            step = chooser.next(before)
            if asks:
                states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one
                assert step.expected is not None
                assert torch.equal(torch.get_rng_state(), states[0])
                assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
            a, b = step.candidate.config["a"], step.candidate.config["b"]
            start = step.candidate.start
            out.append(
                (
                    step.kind,
                    step.predicted_gain,
                    step.gain_per_epoch,
                    step.cost,
                    a,
                    b,
                    None if start is None else start.key,
                )
            )
            curves.append(replace(SIX[0], config={"a": a, "b": b}))
            chooser.learn(step, 0.01)
        return out

    assert steps(asks=True) == steps(asks=False)


def test_a_step_says_what_is_expected_of_it_and_a_look_or_a_merge_nothing():
    step = policy().next(known(SIX))
    assert set(step.expected.point) == {"up", "right"}
    assert all(step.expected.low[n] <= step.expected.point[n] <= step.expected.high[n] for n in ("up", "right"))
    assert 0.0 < step.expected.joins_front <= 1.0
    assert policy().next(SearchState([], [], None, None, 0.0)).expected is None
    merge = policy(evaluation=0.5).next(known(SIX[:2], weights_of(8), spent=1000.0))
    assert merge.kind == "merge"
    assert merge.expected is None
    assert policy().next(known([])).candidate.start is BASE
