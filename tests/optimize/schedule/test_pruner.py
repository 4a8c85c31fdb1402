from __future__ import annotations

import numpy as np
import pytest
import torch

from epsopt.optimize.forecast.learning_curve_gp import Curve, fit_curves
from epsopt.optimize.objectives import Objective, Target
from epsopt.optimize.schedule.pruner import Pruner, is_control_run
from epsopt.optimize.space import Parameter, Space
from epsopt.zoo.errors import UsageError

SPACE = Space((Parameter("a", "float", 0.0, 1.0), Parameter("b", "float", 0.0, 1.0)))
OBJECTIVES = (Objective("gain", maximize=True), Objective("cost", maximize=False))
STEPS = np.arange(1.0, 11.0)


def curve(a: float, b: float, epochs: int = 10) -> Curve:
    """The gain grows towards a and the cost towards 1 - a; b spoils both."""
    grown = 1 - np.exp(-STEPS[:epochs] / 3)
    values = np.stack([grown * (a - b), 2 - grown * (1 - a - b)], axis=1)
    return Curve({"a": a, "b": b}, STEPS[:epochs], values)


@pytest.fixture(scope="module")
def past() -> list[Curve]:
    rng = np.random.default_rng(0)
    front = [curve(a, 0.0) for a in np.linspace(0.05, 0.95, 7)]
    return front + [curve(*rng.uniform(0, 1, 2)) for _ in range(9)]


@pytest.fixture(scope="module")
def pruner(past: list[Curve]) -> Pruner:
    out = Pruner(SPACE, OBJECTIVES, 10, control_share=0.0)
    out.learn(past)
    return out


def test_a_bad_run_is_stopped_and_a_good_one_is_not(pruner: Pruner) -> None:
    bad = pruner.should_stop("bad", curve(0.5, 0.9, 4))
    assert bad.stop
    assert bad.probability < 0.05
    good = pruner.should_stop("good", curve(1.0, 0.0, 4))
    assert not good.stop
    assert good.probability > 0.2
    assert "join the front" in good.reason


def test_no_run_is_stopped_within_its_grace_nor_at_its_end(pruner: Pruner) -> None:
    assert not pruner.should_stop("bad", curve(0.5, 0.9, 1)).stop
    assert not pruner.should_stop("bad", curve(0.5, 0.9, 10)).stop


def test_too_few_earlier_runs_stop_nothing_and_say_so(past: list[Curve]) -> None:
    young = Pruner(SPACE, OBJECTIVES, 10)
    young.learn(past[:3])
    decision = young.should_stop("bad", curve(0.5, 0.9, 5))
    assert not decision.stop
    assert "only 3 earlier runs" in decision.reason


def test_a_control_run_is_left_to_finish(past: list[Curve]) -> None:
    lenient = Pruner(SPACE, OBJECTIVES, 10, control_share=1.0)
    lenient.learn(past)
    decision = lenient.should_stop("bad", curve(0.5, 0.9, 5))
    assert (decision.stop, decision.control) == (False, True)
    assert "control run" in decision.reason


def test_about_the_asked_share_of_names_are_control_runs() -> None:
    assert 0.05 < np.mean([is_control_run(f"run {i}", 0.1) for i in range(1000)]) < 0.15


def test_a_run_that_may_meet_the_targets_goes_on_though_it_is_dominated(past: list[Curve]) -> None:
    easy = Pruner(SPACE, OBJECTIVES, 10, targets=[Target("gain", 0.1)], control_share=0.0)
    easy.learn(past)
    dominated = curve(0.5, 0.25, 5)
    assert easy.should_stop("meets", dominated).probability > 0.9


def test_a_run_that_may_meet_the_targets_is_worth_its_epochs(past: list[Curve]) -> None:
    dominated = curve(0.5, 0.25, 5)
    for targets, stop in (([], True), ([Target("gain", 0.1)], False), ([Target("gain", 0.9)], True)):
        asked = Pruner(SPACE, OBJECTIVES, 10, targets=targets, control_share=0.0)
        asked.learn(past)
        assert asked.should_stop("dominated", dominated, least_gain=1e3).stop is stop


def test_a_run_of_which_something_is_unknown_goes_on(pruner: Pruner) -> None:
    bad = curve(0.5, 0.9, 5)
    decision = pruner.should_stop("bad", Curve({"a": 0.5}, bad.steps, bad.values))
    assert (decision.stop, decision.reason) == (False, "nothing usable is known of its b")


def test_the_first_runs_only_look_around() -> None:
    young = Pruner(SPACE, OBJECTIVES, 10, exploration_runs=3, grace=3)
    young.learn([curve(0.1, 0.1, 3)])
    assert not young.should_stop("second", curve(0.3, 0.0, 2)).stop
    assert young.should_stop("second", curve(0.3, 0.0, 3)).stop
    young.learn([curve(0.1, 0.1, 3)] * 3)
    assert not young.should_stop("fourth", curve(0.3, 0.0, 3)).stop


def test_a_shorter_run_is_judged_by_its_own_end(pruner: Pruner) -> None:
    assert pruner.should_stop("bad", curve(0.5, 0.9, 4)).stop
    assert pruner.should_stop("bad", curve(0.5, 0.9, 4), length=4).reason == "at its end"


def test_nonsense_is_refused() -> None:
    for ratio in (0.0, 0.3, float("nan")):
        with pytest.raises(UsageError, match=r"expected above 0 and at most 0\.2"):
            Pruner(SPACE, OBJECTIVES, 10, gain_ratio=ratio)
    with pytest.raises(UsageError, match="known are gain, cost"):
        Pruner(SPACE, OBJECTIVES, 10, targets=[Target("loss", 1.0)])
    with pytest.raises(UsageError, match="control runs"):
        Pruner(SPACE, OBJECTIVES, 10, control_share=-1.0)


def test_forecasts_of_unseen_runs_are_better_than_a_median(past: list[Curve]) -> None:
    rng = np.random.default_rng(1)
    unseen = [curve(*rng.uniform(0, 1, 2)) for _ in range(20)]
    model = fit_curves(SPACE, OBJECTIVES, past, length=10)
    x = model.inputs([c.config for c in unseen], np.array([10.0]), [None] * 20, len(past))
    gains = model.untransform(model.model.posterior(x).mean)[:, 0].detach().numpy()
    truth = np.stack([c.values[-1] * [1, -1] for c in unseen])
    median = np.median([c.values[-1] * [1, -1] for c in past], axis=0)
    assert (np.abs(gains - truth).mean(axis=0) < 0.3 * np.abs(median - truth).mean(axis=0)).all()


def test_the_forecast_is_the_share_of_the_models_own_draws_that_join() -> None:
    def sized(a: float) -> Curve:
        """The cost is known before a run begins, the gain is not."""
        gain = STEPS / 10 * (a + rng.normal(0, 0.3))
        return Curve({"a": a, "b": 0.5}, STEPS, np.stack([gain, np.full(10, 1 + a)], axis=1))

    rng = np.random.default_rng(0)
    past = [sized(a) for a in np.linspace(0.05, 0.95, 16)]
    judge = Pruner(SPACE, OBJECTIVES, 10, control_share=0.0)
    model = fit_curves(SPACE, OBJECTIVES, past, length=10)
    judge.learn(past, model=model)
    for so_far in [part(sized(a), 2) for a in np.linspace(0.1, 0.9, 9)]:
        known = model.given([*past, so_far])
        x = known.inputs([so_far.config], np.linspace(2, 10, 7)[1:], [None], len(past))
        torch.manual_seed(0)
        drawn = known.untransform(known.model.posterior(x).rsample(torch.Size([4000]))).detach().numpy()[:, 0, :, None]
        joins = (~(known.measured() >= drawn).all(axis=3).any(axis=2)).any(axis=1).mean()
        # 256 draws of its own: three standard errors.
        assert judge.should_stop("any", so_far).probability == pytest.approx(joins, abs=3 * np.sqrt(joins / 256) + 0.01)


def gaining(a: float, luck: float) -> Curve:
    """A run that has one objective, and luck of its own."""
    return Curve({"a": a, "b": 0.5}, STEPS, ((1 - np.exp(-STEPS / 3)) * (a + luck))[:, None])


@pytest.fixture(scope="module")
def gains() -> list[Curve]:
    rng = np.random.default_rng(3)
    return [gaining(a, rng.normal(0, 0.3)) for a in np.linspace(0.05, 0.95, 16)]


def test_a_run_is_stopped_whose_epochs_are_expected_to_add_less_than_needed(gains: list[Curve]) -> None:
    judge = Pruner(SPACE, OBJECTIVES[:1], 10, reference=np.array([-1.0]), control_share=0.0)
    model = fit_curves(SPACE, OBJECTIVES[:1], gains, length=10)
    judge.learn(gains, model=model)
    so_far = part(gaining(1.0, 0.6), 2)
    known = model.given([*gains, so_far])
    best = known.measured().max()
    x = known.inputs([so_far.config], np.linspace(2, 10, 7)[1:], [None], len(gains))
    torch.manual_seed(0)
    drawn = known.untransform(known.model.posterior(x).rsample(torch.Size([4000]))).detach().numpy()
    added = np.maximum(drawn.reshape(4000, -1).max(axis=1) - best, 0.0) / 8
    error = 4 * added.std() / np.sqrt(256)
    assert 0.0 < error < added.mean()
    assert judge.should_stop("any", so_far, least_gain=added.mean() + error).stop
    assert not judge.should_stop("any", so_far, least_gain=added.mean() - error).stop
    # By default a share of what an epoch added: the front's hypervolume by all epochs.
    needed = 0.1 * (best + 1.0) / (16 * 10 + 2)
    assert judge.should_stop("any", so_far).reason.endswith(f"needed is {needed:.2g}")


def test_a_small_chance_to_add_much_keeps_a_run_that_one_to_add_little_does_not(gains: list[Curve]) -> None:
    best, so_far = max(c.values.max() for c in gains), part(gaining(1.0, 0.45), 2)
    decisions = []
    for worth in (0.01, 100.0):  # of the front
        judge = Pruner(SPACE, OBJECTIVES[:1], 10, reference=np.array([best - worth]), control_share=0.0)
        judge.learn(gains)
        average = worth / (16 * 10 + 2)
        decisions.append(judge.should_stop("any", so_far, least_gain=0.02 * average))
    assert decisions[0].probability == decisions[1].probability < 0.2
    assert [d.stop for d in decisions] == [False, True]


def test_a_run_among_the_best_third_goes_on_however_little_it_is_expected_to_add(gains: list[Curve]) -> None:
    judge = Pruner(SPACE, OBJECTIVES[:1], 10, control_share=0.0)
    judge.learn(gains)
    ranks = {luck: judge.should_stop("any", part(gaining(1.0, luck), 2)) for luck in (0.0, -0.6)}
    assert (ranks[0.0].stop, ranks[0.0].reason.endswith("and at epoch 2 it ranks 2 of 17 runs")) == (False, True)
    assert (ranks[-0.6].stop, ranks[-0.6].reason.endswith("and at epoch 2 it ranks 10 of 17 runs")) == (True, True)
    assert ranks[0.0].probability == ranks[-0.6].probability == 0.0
    assert judge.should_stop("any", part(gaining(1.0, 0.0), 2), least_gain=1e-3).stop, "where its rank does not count"


def test_a_run_of_which_nothing_was_measured_at_its_rung_is_judged_by_its_forecast(gains: list[Curve]) -> None:
    judge = Pruner(SPACE, OBJECTIVES[:1], 10, control_share=0.0)
    judge.learn(gains)
    late = Curve({"a": 0.0, "b": 0.5}, STEPS[:3], np.array([[np.nan], [np.nan], [0.0]]))
    decision = judge.should_stop("any", late)
    assert decision.stop
    assert "ranks" not in decision.reason


def test_between_rungs_a_run_is_pruned_that_would_have_been_at_the_last_one(gains: list[Curve]) -> None:
    judge = Pruner(SPACE, OBJECTIVES[:1], 10, gain_ratio=0.02, control_share=0.0)
    judge.learn(gains)
    poor = gaining(1.0, -0.6)
    assert [judge.should_stop("any", part(poor, n)).stop for n in (1, 2, 3, 5, 7)] == [False, True, True, True, True]
    # It fell after the second epoch: what it was expected to add there keeps it until the sixth, among early leaders.
    early = gaining(1.0, 0.9)
    falls = Curve(early.config, STEPS, np.where(STEPS[:, None] <= 2, early.values, poor.values))
    leaders = [Curve(gains[i % 3].config, STEPS, np.full((10, 1), 0.95 + 0.01 * i)) for i in range(10)]
    leading = judge.given([*gains, *leaders])
    found = [leading.should_stop("any", part(falls, n)) for n in (2, 4, 6)]
    assert [d.reason.rpartition("it ranks ")[2] for d in found[1:]] == ["11 of 27 runs", "20 of 27 runs"]
    assert [d.stop for d in found] == [False, False, True]


def noisy(rng: np.random.Generator) -> Curve:
    """A run that a random seed of its own moves, measured with noise."""
    clean = curve(*rng.uniform(0, 1, 2))
    own = (1 - np.exp(-STEPS / 3))[:, None] * rng.normal(0, 0.15, 2)
    return Curve(clean.config, STEPS, clean.values + own + rng.normal(0, 0.02, (10, 2)))


@pytest.mark.slow
def test_intervals_of_where_begun_runs_end_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    past, begun = [noisy(rng) for _ in range(40)], [noisy(rng) for _ in range(100)]
    fitted = fit_curves(SPACE, OBJECTIVES, past, length=10)
    noise = torch.stack([p.noise for p in fitted.processes])
    errors = []
    for run in begun:
        model = fitted.given([*past, part(run, 4)])
        posterior = model.model.posterior(model.inputs([run.config], np.array([10.0]), [None], len(past)))
        end = np.concatenate([t.forward(run.values[-1:, j]) for j, t in enumerate(model.transforms)])
        errors.append((torch.from_numpy(end) - posterior.mean[0, 0]) / (posterior.variance[0, 0] + noise).sqrt())
    deviations = torch.stack(errors).abs().numpy()
    # Given the past the runs are independent: 100 of them count within three standard errors, 12 and 9 in a hundred.
    np.testing.assert_allclose((deviations < 1.2816).mean(axis=0), 0.8, atol=0.12)
    np.testing.assert_allclose((deviations < 1.6449).mean(axis=0), 0.9, atol=0.09)


def part(run: Curve, n: int) -> Curve:
    return Curve(run.config, run.steps[:n], run.values[:n])


def test_one_objective_is_enough_and_runs_that_measured_nothing_do_not_matter(past: list[Curve]) -> None:
    judge = Pruner(SPACE, OBJECTIVES[:1], 10, control_share=0.0)
    nothing = Curve(past[0].config, STEPS, np.full((10, 1), np.nan))
    judge.learn([*(Curve(c.config, c.steps, c.values[:, :1]) for c in past), nothing])
    answers = [
        judge.should_stop("any", Curve(c.config, c.steps, c.values[:, :1])) for c in (curve(0.2, 0, 4), curve(1, 0, 4))
    ]
    assert [decision.stop for decision in answers] == [True, False]


def test_a_run_that_starts_at_a_checkpoint_begins_there(past: list[Curve]) -> None:
    start = np.array([0.4, 1.2])
    model = fit_curves(
        SPACE, OBJECTIVES, [Curve(c.config, c.steps, c.values, np.array([0.0, 2.0])) for c in past], length=10
    )
    x = model.inputs([{"a": 0.4, "b": 0.0}], np.array([0.01, 10.0]), [start], len(past))
    posterior = model.model.posterior(x)
    np.testing.assert_allclose(model.untransform(posterior.mean)[0, 0].numpy(), start * [1, -1], atol=0.05)
    assert (posterior.variance[0, 0] < 0.2 * posterior.variance[0, 1]).all()
