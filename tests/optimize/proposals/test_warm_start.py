"""Guided initialisation: forecasts are learned from segments of runs, and starts that lead further come first."""

from __future__ import annotations

import numpy as np
import pytest

from epsopt.optimize import Objective, Target, infer_space
from epsopt.optimize.forecast.continuation_model import Start, learn_continuation
from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.proposals.warm_start import plan_runs
from epsopt.zoo.errors import EmptyCatalogue, UsageError

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))


@pytest.fixture(scope="module")
def learned(zoo, fitted):
    surrogate, checkpoints = fitted[0], zoo[1]
    space = infer_space([c.hyperparameters for c in checkpoints])
    return learn_continuation(surrogate, checkpoints, space)


@pytest.fixture(scope="module")
def starts(zoo, fitted):
    latents, known = known_latents(fitted[0], zoo[1])
    return [
        Start(f"{c.run}:{c.epoch}", z, dict(c.metrics), measured=True, kind="checkpoint", checkpoint=c)
        for c, z in zip(known, latents, strict=True)
    ]


def test_forecasts_are_better_than_saying_that_nothing_changes(learned):
    assert (learned.error < 0.7 * learned.carried).all()
    assert learned.n_segments == 14 * 10  # every pair of five checkpoints, in order


def test_longer_training_with_a_strong_configuration_leads_further(learned, starts, zoo):
    begin = next(s for s in starts if s.checkpoint.epoch == 1 and 0.3 < s.metrics["structure"] < 0.6)
    strong = max(zoo[1], key=lambda c: c.hyperparameters["lr"]).hyperparameters
    place = learned.surrogate.metric_names.index("structure")
    near, far = (learned.forecast([begin], [strong], n)[0, 0, place] for n in (1, 4))
    assert far > near


def test_plans_carry_a_valid_configuration_and_ordered_intervals(learned, starts, zoo):
    plans = plan_runs(learned, starts[::7], zoo[1], OBJECTIVES, [Target("coverage", 0.9)], epochs=2)
    assert len(plans) == len({p.start.label for p in plans}) == 10
    for plan in plans:
        assert learned.space.contains(plan.params)
        assert 0.0 <= plan.probability <= 1.0
        assert 0.0 <= plan.joins_front <= 1.0
        assert all(plan.low[n] <= plan.point[n] <= plan.high[n] for n in plan.point)


def test_a_target_decides_where_to_start(learned, starts, zoo):
    """Coverage only falls with training, so a run that must keep it cannot start where it is lost."""
    plans = plan_runs(learned, starts, zoo[1], OBJECTIVES, [Target("coverage", 0.9)], epochs=1)
    first, last = plans[:10], plans[-10:]
    assert min(p.start.metrics["coverage"] for p in first) > 0.8
    assert np.mean([p.probability for p in first]) > np.mean([p.probability for p in last])


def test_one_seed_gives_one_plan(learned, starts, zoo):
    one, two = (plan_runs(learned, starts[::9], zoo[1], OBJECTIVES, epochs=2, seed=3) for _ in range(2))
    assert [(p.start.label, p.params, p.point) for p in one] == [(p.start.label, p.params, p.point) for p in two]
    assert one[0].probability is None


def test_what_cannot_be_planned_is_refused(learned, starts, zoo, fitted):
    with pytest.raises(UsageError, match="needs a start"):
        plan_runs(learned, [], zoo[1], OBJECTIVES, epochs=2)
    with pytest.raises(UsageError, match="the map was not trained on 'unheard'"):
        plan_runs(learned, starts[:1], zoo[1], [*OBJECTIVES, Objective("unheard", maximize=True)], epochs=2)
    few = [c for c in zoo[1] if c.run_id < 5]
    with pytest.raises(EmptyCatalogue, match="at least 8"):
        learn_continuation(fitted[0], few, learned.space)
