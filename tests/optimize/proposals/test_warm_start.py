"""Guided initialisation: plans rest on the model that chooses every run, and starts that lead further come first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from epsopt.optimize import Objective, Target, infer_space
from epsopt.optimize.proposals.proposals import learn_history
from epsopt.optimize.proposals.warm_start import Start, plan_runs
from epsopt.optimize.space import Parameter
from epsopt.zoo.errors import EmptyCatalogue, UsageError

from .test_proposals import history_of

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))


@pytest.fixture(scope="module")
def history(zoo):
    return history_of(zoo[1])


@pytest.fixture(scope="module")
def learned(history):
    return learn_history(history)


@pytest.fixture(scope="module")
def keeping(history):
    return learn_history(history, [Target("coverage", 0.9)])


@pytest.fixture(scope="module")
def starts(zoo):
    return [
        Start(f"{c.run}:{c.epoch}", dict(c.metrics), measured=True, kind="checkpoint", checkpoint=c) for c in zoo[1]
    ]


def test_plans_carry_a_valid_configuration_and_ordered_intervals(keeping, starts):
    plans = plan_runs(keeping, starts[::7], epochs=2)
    assert len(plans) == len({p.start.label for p in plans}) == 10
    for plan in plans:
        assert keeping.history.space.contains(plan.params)
        assert 0.0 <= plan.probability <= 1.0
        assert 0.0 <= plan.joins_front <= 1.0
        assert plan.gain >= 0.0
        assert all(plan.low[n] <= plan.point[n] <= plan.high[n] for n in plan.point)
    assert [p.gain for p in plans] == sorted((p.gain for p in plans), reverse=True)


def test_a_target_decides_where_to_start(keeping, starts):
    """Coverage only falls with training, so a run that must keep it cannot start where it is lost."""
    plans = plan_runs(keeping, starts[::3], epochs=1)
    first, last = plans[:5], plans[-5:]
    assert min(p.start.metrics["coverage"] for p in first) > 0.8
    assert np.mean([p.probability for p in first]) > np.mean([p.probability for p in last])


def test_what_past_runs_do_not_support_is_not_expected_to_widen_the_front(history, learned, starts):
    known = max(c.config["lr"] for c in history.curves.values())
    (plan,) = plan_runs(learned, starts[:1], epochs=2)
    supported = learned.model.support.weight(plan.params)
    far = {**plan.params, "lr": 1000.0 * known}
    assert learned.model.support.weight(far) < 0.01 < supported


def test_a_run_keeps_the_architecture_of_its_start(learned, starts):
    (plan,) = plan_runs(learned, starts[3:4], epochs=2, kept=["lr"])
    assert plan.params["lr"] == starts[3].checkpoint.hyperparameters["lr"]


def test_a_run_has_as_many_epochs_as_were_asked_for(history, starts):
    listed = Parameter("epochs", "categorical", choices=(6, 8))
    space = replace(history.space, parameters=(*history.space.parameters, listed))
    curves = {n: replace(c, config={**c.config, "epochs": 6}) for n, c in history.curves.items()}
    learned = learn_history(replace(history, space=space, curves=curves), (), seed=0)
    (plan,) = plan_runs(learned, starts[:1], epochs=5)
    assert (plan.epochs, plan.params["epochs"]) == (5, 5), "also where the list has no such number"


def test_one_seed_gives_one_plan(learned, starts):
    one, two = (plan_runs(learned, starts[::19], epochs=2, seed=3) for _ in range(2))
    assert [(p.start.label, p.params, p.point) for p in one] == [(p.start.label, p.params, p.point) for p in two]
    assert one[0].probability is None


def test_more_epochs_than_any_run_had_are_said_to_be(learned, starts):
    last = next(s for s in starts if s.checkpoint.epoch == 5)
    assert plan_runs(learned, [last], epochs=2)[0].beyond == 7
    assert plan_runs(learned, starts[:1], epochs=1)[0].beyond is None


def test_what_cannot_be_planned_is_refused(learned, starts, zoo):
    with pytest.raises(UsageError, match="needs a start"):
        plan_runs(learned, [], epochs=2)
    with pytest.raises(UsageError, match="needs a start and at least one epoch"):
        plan_runs(learned, starts[:1], epochs=0)
    few = [c for c in zoo[1] if c.run_id < 5]
    with pytest.raises(EmptyCatalogue, match="at least 8"):
        learn_history(history_of(few, space=infer_space([c.hyperparameters for c in zoo[1]])))
