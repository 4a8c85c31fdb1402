from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.optimize import Curve, History, Objective, Start, Target, infer_space, propose
from epsopt.optimize.forecast.catalogue_curves import past_curves
from epsopt.optimize.gp import leave_one_out
from epsopt.optimize.proposals import proposals as module
from epsopt.optimize.schedule.run_acquisition import Candidate
from epsopt.optimize.space import Parameter, Space
from epsopt.zoo.errors import EmptyCatalogue, UsageError

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))
MODES = Space((Parameter("mode", "categorical", choices=("a", "b", "c")),))


@pytest.fixture(scope="module")
def checkpoints(zoo):
    return zoo[1]


def history_of(checkpoints, objectives=OBJECTIVES, metrics=(), space=None, **how) -> History:
    space = space or infer_space([c.hyperparameters for c in checkpoints])
    every = [*objectives, *(Objective(name, maximize=True) for name in metrics)]
    curves = past_curves(checkpoints, space, every)
    names = {c.run_id: c.run for c in checkpoints}
    table = np.array([[np.nan if (v := c.metrics[o.name]) is None else v for o in objectives] for c in checkpoints])
    return History(
        space, tuple(objectives), tuple(metrics), {names[i]: c for i, c in curves.items()}, (), table, {}, **how
    )  # fmt: skip


@pytest.fixture(scope="module")
def past(checkpoints) -> History:
    return history_of(checkpoints)


def test_proposals_are_valid_new_different_and_explained(past) -> None:
    proposals = propose(past, [Target("coverage", 0.5)], n=4)
    assert len({tuple(sorted(p.params.items())) for p in proposals}) == 4
    for p in proposals:
        assert past.space.contains(p.params)
        assert all(p.params != {k: c.config[k] for k in p.params} for c in past.curves.values())
        assert 0.0 <= p.joins_front <= 1.0
        assert p.probability is not None
        assert p.gain >= 0.0
        assert p.nearest_runs[0][0].startswith("run_")
        assert p.reason
        for name in ("coverage", "structure"):
            assert p.low[name] <= p.point[name] <= p.high[name]


def test_one_seed_proposes_the_same(past) -> None:
    one, two = (propose(past, n=2, seed=3) for _ in range(2))
    assert [p.params for p in one] == [p.params for p in two]


def test_a_run_joins_the_front_of_all_measured_checkpoints_merged_ones_included(past) -> None:
    best = np.vstack([past.measured, [1.0 for _ in OBJECTIVES], [np.nan for _ in OBJECTIVES]])
    alone, beside = (propose(h, n=1) for h in (past, replace(past, measured=best)))
    assert alone[0].joins_front > 0.05
    assert beside[0].joins_front < 0.5 * alone[0].joins_front, "a merged checkpoint is better than every run"
    assert beside[0].gain <= alone[0].gain


def test_a_target_draws_proposals_to_where_it_is_met_and_out_of_reach_to_where_it_is_most_nearly(past) -> None:
    (near,) = propose(past, [Target("structure", 0.9)], n=1)
    (far,) = propose(past, [Target("structure", 50.0)], n=1)
    assert near.point["structure"] > 0.7
    assert near.probability > 0.2
    assert far.probability < 0.01
    assert far.point["structure"] > 0.6


def test_metrics_that_nobody_pushes_are_predicted_too(checkpoints) -> None:
    both = history_of(checkpoints, OBJECTIVES[1:], ("coverage",))
    (proposal,) = propose(both, n=1)
    assert set(proposal.point) == {"structure", "coverage"}
    assert proposal.point["structure"] > 0.6
    assert proposal.low["coverage"] <= proposal.point["coverage"] < 0.6, "the one costs the other"


def test_leave_one_out_is_what_leaving_each_run_out_gives() -> None:
    from botorch.models import SingleTaskGP

    g = torch.Generator().manual_seed(0)
    x = torch.rand(9, 3, generator=g, dtype=torch.float64)
    y = torch.randn(9, 2, generator=g, dtype=torch.float64)
    model = SingleTaskGP(x, y, outcome_transform=None).eval()
    mean, variance = leave_one_out(model, x, y)
    for i in range(9):
        rest = [k for k in range(9) if k != i]
        other = SingleTaskGP(x[rest], y[rest], outcome_transform=None)
        other.load_state_dict(model.state_dict())
        posterior = other.eval().posterior(x[i : i + 1], observation_noise=True)
        torch.testing.assert_close(mean[i], posterior.mean[0].detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(variance[i], posterior.variance[0].detach(), atol=1e-5, rtol=1e-4)


def test_too_little_to_learn_from_or_to_choose_from_is_said(past, checkpoints) -> None:
    with pytest.raises(EmptyCatalogue, match="at least 8"):
        propose(history_of(checkpoints[:25]))
    with pytest.raises(EmptyCatalogue, match="7 of the catalogue's runs"):
        propose(replace(past, cut_off=list(past.curves)[:7]))
    with pytest.raises(UsageError, match="at least 1"):
        propose(past, n=0)
    with pytest.raises(UsageError, match="none of the objectives"):
        propose(past, [Target("loss", 0.1)])
    with pytest.raises(UsageError, match="only 1 configuration"):
        propose(history_of(checkpoints, space=MODES), n=2)


def test_checkpoints_without_some_metric_are_still_learned_from(checkpoints) -> None:
    broken = [replace(c, metrics={**c.metrics, "coverage": None}) if c.run_id == 0 else c for c in checkpoints]
    (proposal,) = propose(history_of(broken), n=1)
    assert np.isfinite(list(proposal.point.values())).all()


def test_an_objective_that_no_run_has_measured_is_said_and_runs_that_are_not_of_the_space_are_left_out(
    past, checkpoints
) -> None:
    odd = Curve({"lr": "auto", "mode": "a"}, np.array([5.0]), np.array([[0.5, 0.5]]))
    assert propose(replace(past, curves={"odd": odd, **past.curves}), n=1)
    unmeasured = [replace(c, metrics={**c.metrics, "structure": None}) for c in checkpoints]
    with pytest.raises(EmptyCatalogue, match="measured structure"):
        propose(history_of(unmeasured), n=1)


def test_what_is_queued_is_not_proposed_again(checkpoints) -> None:
    past = history_of(checkpoints, space=Space((Parameter("mode", "categorical", choices=tuple("abcde")),)))
    avoid = [{"mode": "c"}, {"mode": "d"}]
    (proposal,) = propose(past, n=1, avoid=avoid, pending=[Candidate(avoid[0], None, 5.0)])
    assert proposal.params == {"mode": "e"}
    assert proposal.init_from is None
    with pytest.raises(UsageError, match="only 1 configuration"):
        propose(past, n=2, avoid=avoid)


def starts_of(checkpoints, past) -> list[Start]:
    return [
        Start(c.path, np.array([c.metrics[n] for n in ("coverage", "structure")]), label=f"{c.run}:{c.epoch}")
        for c in checkpoints
    ]


def test_half_of_the_runs_may_start_from_checkpoints_each_from_another_one(checkpoints, past) -> None:
    starts = starts_of([c for c in checkpoints if c.epoch in (2, 3)][:8], past)
    proposals = propose(past, n=4, starts=starts)
    assert [p.init_from is None for p in proposals] == [True, True, False, False]
    reused = [p.init_from for p in proposals if p.init_from is not None]
    assert len(set(reused)) == 2
    assert set(reused) <= {s.key for s in starts}
    assert all(past.space.contains(p.params) for p in proposals)
    assert all(p.reason.startswith("starts from run_") for p in proposals[2:])


def test_a_start_keeps_what_its_weights_fix(checkpoints, past) -> None:
    starts = [replace(s, fixed={"mode": "b"}) for s in starts_of(checkpoints[2:4], past)]
    assert {p.params["mode"] for p in propose(past, n=4, starts=starts) if p.init_from is not None} == {"b"}


@pytest.mark.slow
def test_where_the_space_holds_nothing_new_more_runs_start_from_checkpoints_until_nothing_is_left(checkpoints) -> None:
    past = history_of(checkpoints, space=MODES)
    starts = starts_of([c for c in checkpoints if c.epoch == 3][:2], past)
    tried: list[tuple[str, dict]] = []
    while True:
        found = propose(past, n=4, starts=starts, tried=tried, fewer=True)
        assert [p.params for p in found if p.init_from is None] == [{"mode": "c"}]
        new = [(p.init_from, p.params) for p in found if p.init_from]
        if not new:
            break
        assert not [b for b in new if b in tried]
        tried += new
    assert len(tried) == 6, "both checkpoints, with each configuration"
    with pytest.raises(UsageError, match="found only 1 configurations of the search space and branches of checkpoints"):
        propose(past, n=2, starts=starts, tried=tried)
    with pytest.raises(UsageError, match="found only 0 configurations"):
        propose(past, n=2, starts=starts, tried=tried, fewer=True, avoid=[{"mode": "c"}])


def test_a_batch_is_no_handful_of_variations_of_one_run(past, monkeypatch) -> None:
    chosen = list(past.curves.values())[2].config
    near = [{**chosen, "lr": chosen["lr"] * (1.0 + 0.01 * i)} for i in range(1, 30)]
    far = past.space.sample(6, np.random.default_rng(0))
    monkeypatch.setattr(module, "draw_configs", lambda *_: ([*near, *far], []))
    proposals = propose(past, n=6)
    space = past.space
    away = np.linalg.norm(space.encode([p.params for p in proposals]) - space.encode([chosen]), axis=1)
    assert (away < 0.05).sum() <= 2
