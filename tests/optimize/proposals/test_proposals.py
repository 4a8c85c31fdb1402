from __future__ import annotations

import numpy as np
import pytest
import torch

from epsopt.optimize import Objective, PastRun, Target, infer_space, propose
from epsopt.optimize.forecast.hyperparameter_model import fit_forecast
from epsopt.optimize.gp import leave_one_out
from epsopt.optimize.proposals.checkpoint_restart import Branch, predict_branch
from epsopt.optimize.space import Parameter, Space
from epsopt.zoo.errors import EmptyCatalogue, UsageError

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))


@pytest.fixture(scope="module")
def past(zoo, fitted) -> list[PastRun]:
    return [
        PastRun(c.run, c.hyperparameters, fitted[0].memory.latents[i], c.metrics)
        for i, c in enumerate(zoo[1])
        if c.epoch == 5
    ]


def test_proposals_are_valid_new_different_and_explained(past, fitted) -> None:
    space = infer_space([r.config for r in past])
    proposals = propose(fitted[0], space, past, OBJECTIVES, [Target("coverage", 0.5)], n=4)
    assert len({tuple(sorted(p.params.items())) for p in proposals}) == 4
    for p in proposals:
        assert space.contains(p.params)
        assert all(p.params != {k: r.config[k] for k in p.params} for r in past)
        assert 0.0 <= p.joins_front <= 1.0
        assert p.probability is not None
        assert p.nearest_runs[0][0].startswith("run_")
        assert p.reason
        for name in ("coverage", "structure"):
            assert p.low[name] <= p.point[name] <= p.high[name]


def test_one_seed_proposes_the_same(past, fitted) -> None:
    space = infer_space([r.config for r in past])
    one, two = (propose(fitted[0], space, past, OBJECTIVES, n=2, seed=3) for _ in range(2))
    assert [p.params for p in one] == [p.params for p in two]


def test_a_run_joins_the_front_of_all_measured_checkpoints_not_only_of_the_last_ones(past, fitted) -> None:
    space = infer_space([r.config for r in past])
    best = np.array([[1.0 if o.maximize else 0.0 for o in OBJECTIVES], [np.nan] * len(OBJECTIVES)])
    alone, beside = (propose(fitted[0], space, past, OBJECTIVES, n=1, measured=m) for m in (None, best))
    assert alone[0].joins_front > 0.05
    assert beside[0].joins_front < alone[0].joins_front, "an early or merged checkpoint is better than every end"


def test_the_forecast_follows_what_the_hyperparameters_do(past, fitted) -> None:
    space = infer_space([r.config for r in past])
    forecast = fit_forecast(fitted[0], space, past, seed=0)
    column = fitted[0].metric_names.index("structure")
    weak = forecast.predict({"lr": 1.5e-4, "mode": "a"}, 0.9, 0)[2][column]
    strong = forecast.predict({"lr": 8e-3, "mode": "a"}, 0.9, 0)[2][column]
    assert strong > weak + 0.3


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


def test_too_little_to_learn_from_or_to_choose_from_is_said(past, fitted) -> None:
    space = infer_space([r.config for r in past])
    with pytest.raises(EmptyCatalogue, match="at least 8"):
        propose(fitted[0], space, past[:5], OBJECTIVES)
    with pytest.raises(UsageError, match="at least 1"):
        propose(fitted[0], space, past, OBJECTIVES, n=0)
    tiny = Space((Parameter("mode", "categorical", choices=("a", "b", "c")),))
    with pytest.raises(UsageError, match="only 1 configuration"):
        propose(fitted[0], tiny, past, OBJECTIVES, n=2)


def test_runs_without_some_metric_are_still_learned_from(past, fitted) -> None:
    broken = [PastRun(past[0].name, past[0].config, past[0].z, {"coverage": None, "structure": 0.5}), *past[1:]]
    space = infer_space([r.config for r in past])
    (proposal,) = propose(fitted[0], space, broken, OBJECTIVES, n=1)
    assert np.isfinite(list(proposal.point.values())).all()


def test_one_objective_is_enough(past, fitted) -> None:
    space = infer_space([r.config for r in past])
    (proposal,) = propose(fitted[0], space, past, OBJECTIVES[1:], n=1)
    assert proposal.point["structure"] > 0.6


def test_runs_whose_values_are_no_numbers_or_an_objective_that_no_run_ends_with_are_said(past, fitted) -> None:
    space = infer_space([r.config for r in past])
    odd = [PastRun("odd", {"lr": "auto", "mode": "a"}, past[0].z, past[0].metrics), *past]
    assert propose(fitted[0], space, odd, OBJECTIVES, n=1)
    unmeasured = [PastRun(r.name, r.config, r.z, {"coverage": r.metrics["coverage"]}) for r in past]
    with pytest.raises(EmptyCatalogue, match="measured structure"):
        propose(fitted[0], space, unmeasured, OBJECTIVES, n=1)


def test_what_is_queued_is_not_proposed_again(past, fitted) -> None:
    space = Space((Parameter("mode", "categorical", choices=tuple("abcde")),))
    avoid = [{"mode": "c"}, {"mode": "d"}]
    (proposal,) = propose(fitted[0], space, past, OBJECTIVES, n=1, avoid=avoid, pending=avoid[:1])
    assert proposal.params == {"mode": "e"}
    assert proposal.init_from is None
    with pytest.raises(UsageError, match="only 1 configuration"):
        propose(fitted[0], space, past, OBJECTIVES, n=2, avoid=avoid)


def test_half_of_the_runs_may_start_from_checkpoints_each_from_another_one(zoo, past, fitted) -> None:
    space = infer_space([r.config for r in past])
    starts = [c for c in zoo[1] if c.epoch in (2, 3)][:8]
    proposals = propose(fitted[0], space, past, OBJECTIVES, n=4, starts=starts)
    assert [p.init_from is None for p in proposals] == [True, True, False, False]
    reused = [p.init_from for p in proposals if p.init_from is not None]
    assert len(set(reused)) == 2
    assert set(reused) <= {c.path for c in starts}
    assert all(space.contains(p.params) for p in proposals)


def test_a_run_from_a_checkpoint_is_predicted_between_it_and_where_its_hyperparameters_lead(zoo, past, fitted) -> None:
    space = infer_space([r.config for r in past])
    forecast = fit_forecast(fitted[0], space, past, seed=0)
    column = fitted[0].metric_names.index("structure")
    strong = {"lr": 8e-3, "mode": "a"}
    start = min((c for c in zoo[1] if c.epoch == 1), key=lambda c: c.metrics["structure"])
    z = fitted[0].memory.latents[[c.sha256 for c in zoo[1]].index(start.sha256)]
    _, low, point, high = predict_branch(forecast, Branch(start, z, strong), 0.9, 0)
    alone = forecast.predict(strong, 0.9, 0)
    assert start.metrics["structure"] < point[column] < alone[2][column]
    assert high[column] - low[column] > alone[3][column] - alone[1][column], "not knowing how far it gets widens it"


def test_where_the_space_holds_nothing_new_more_runs_start_from_checkpoints_until_nothing_is_left(
    zoo, past, fitted
) -> None:
    space = Space((Parameter("mode", "categorical", choices=("a", "b", "c")),))
    starts = [c for c in zoo[1] if c.epoch == 3][:2]
    tried: list[tuple[str, dict]] = []
    while True:
        found = propose(fitted[0], space, past, OBJECTIVES, n=4, starts=starts, tried=tried, fewer=True)
        assert [p.params for p in found if p.init_from is None] == [{"mode": "c"}]
        new = [(next(c.sha256 for c in starts if c.path == p.init_from), p.params) for p in found if p.init_from]
        if not new:
            break
        assert not [b for b in new if b in tried]
        tried += new
    assert len(tried) > 2, "both checkpoints, with more than one configuration each"
    with pytest.raises(UsageError, match="found only 1 configurations of the search space and branches of checkpoints"):
        propose(fitted[0], space, past, OBJECTIVES, n=2, starts=starts, tried=tried)
    with pytest.raises(UsageError, match="found only 0 configurations"):
        propose(fitted[0], space, past, OBJECTIVES, n=2, starts=starts, tried=tried, fewer=True, avoid=[{"mode": "c"}])
