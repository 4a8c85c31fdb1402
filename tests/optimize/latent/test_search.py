from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from epsopt.optimize import ENGINES, Objective, Target, nearest, search
from epsopt.optimize.acquisition.confidence_bounds import TargetScorer
from epsopt.optimize.latent.region_sampling import sample_region
from epsopt.optimize.latent.search import known_latents, learned_latents, spread_answers
from epsopt.optimize.latent.trust_region import TrustRegion, trust_region
from epsopt.optimize.pareto import non_dominated
from epsopt.zoo.errors import UsageError

from ...sweeps import sweep  # noqa: TID252

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))


def test_every_engine_is_known() -> None:
    assert set(ENGINES) == {"gradient", "optuna", "botorch"}


def test_projection_moves_only_points_outside_and_only_to_the_surface() -> None:
    g = torch.Generator().manual_seed(0)
    region = TrustRegion(torch.randn(20, 5, generator=g), 1.2)
    z = 2 * torch.randn(200, 5, generator=g)
    inside = region.contains(z)
    assert 0 < int(inside.sum()) < 200
    projected = region.project(z)
    assert region.contains(projected).all()
    torch.testing.assert_close(projected[inside], z[inside])
    torch.testing.assert_close(
        region.distance(projected[~inside]), torch.full((int((~inside).sum()),), 1.2), rtol=1e-3, atol=1e-3
    )


def test_the_radius_is_the_reach_to_another_run() -> None:
    latents = torch.tensor([[0.0], [0.1], [3.0], [3.1]])
    assert trust_region(latents, np.array([0, 0, 1, 1])).radius == pytest.approx(2.9, abs=0.11)


@pytest.mark.parametrize("engine", sweep(["gradient", "optuna", "botorch"], quick=2))
class TestEveryEngine:
    """The conformance suite: what any engine must do."""

    def test_answers_stay_near_real_checkpoints_and_say_everything(self, engine, zoo, fitted) -> None:
        result = search(fitted[0], zoo[1], OBJECTIVES, [Target("coverage", 0.9)], engine=engine, limit=5)
        latents, known = known_latents(fitted[0], zoo[1])
        region = trust_region(latents, np.array([c.run_id for c in known]))
        assert 1 <= len(result.answers) <= 5
        assert result.targets_met
        by_path = {c.path: c for c in zoo[1]}
        for answer in result.answers:
            assert answer.nearest[0].distance <= region.radius * 1.001
            assert [n.distance for n in answer.nearest] == sorted(n.distance for n in answer.nearest)
            assert len(answer.nearest) == 3
            for name in ("coverage", "structure"):
                assert answer.low[name] <= answer.point[name] <= answer.high[name]
            for neighbour in answer.nearest:
                assert neighbour.metrics == by_path[neighbour.path].metrics
                assert neighbour.hyperparameters == by_path[neighbour.path].hyperparameters
            assert answer.probability is not None
            assert answer.probability >= 0.5

    def test_every_answer_is_the_end_of_a_way_inside_the_region(self, engine, zoo, fitted) -> None:
        found = search(fitted[0], zoo[1], OBJECTIVES, [Target("coverage", 0.9)], engine=engine, limit=5).answers
        latents, known = learned_latents(fitted[0], zoo[1])
        region = trust_region(latents, np.array([c.run_id for c in known]))
        assert found
        for answer in found:
            assert torch.equal(answer.way[-1], answer.z)
            offset = (answer.way[:, None] - region.centres[None]).abs()  # from every centre: the nearest may be another
            near = (offset <= region.reach + 1e-3).all(dim=2) & (offset.norm(dim=2) <= region.radius + 1e-3)
            assert bool(near.any(dim=1).all())

    def test_one_seed_gives_one_result(self, engine, zoo, fitted) -> None:
        one, two = (search(fitted[0], zoo[1], OBJECTIVES, engine=engine, seed=4) for _ in range(2))
        torch.testing.assert_close(torch.stack([a.z for a in one.answers]), torch.stack([a.z for a in two.answers]))

    def test_a_target_that_nothing_reaches_is_admitted(self, engine, zoo, fitted) -> None:
        result = search(
            fitted[0], zoo[1], OBJECTIVES, [Target("coverage", 0.97), Target("structure", 0.97)], engine=engine
        )
        assert not result.targets_met
        assert not result.measured_meeting_targets
        assert result.answers

    def test_one_objective_is_enough(self, engine, zoo, fitted) -> None:
        result = search(fitted[0], zoo[1], OBJECTIVES[1:], engine=engine, limit=3)
        assert max(a.point["structure"] for a in result.answers) > 0.9

    def test_a_minimised_objective_is_pushed_down(self, engine, zoo, fitted) -> None:
        goal = (Objective("coverage", maximize=True), Objective("structure", maximize=False))
        result = search(fitted[0], zoo[1], goal, [Target("structure", 0.3)], engine=engine)
        assert result.targets_met
        assert max(a.point["structure"] for a in result.answers) <= 0.35


def test_gradient_search_is_at_least_as_good_as_the_best_real_checkpoint(zoo, fitted) -> None:
    scorer = TargetScorer(fitted[0], OBJECTIVES, ())
    latents, _ = known_latents(fitted[0], zoo[1])
    with torch.no_grad():
        known = scorer.lower_bound(*scorer.posterior_moments(latents))
    found = search(fitted[0], zoo[1], OBJECTIVES, limit=70)
    with torch.no_grad():
        moments = scorer.posterior_moments(torch.stack([a.z for a in found.answers]))
        bounds, hopes = scorer.lower_bound(*moments), scorer.upper_bound(*moments)
    for row in known:  # no real checkpoint is surely better than any answer
        assert not ((row >= hopes - 1e-9).all(axis=1) & (row > hopes + 1e-9).any(axis=1)).any()
    # and those of the front, which come first, are dominated by none in their lower bounds
    best = non_dominated(np.concatenate([known, bounds]), [True, True]).indices
    assert {len(known) + i for i in range(2)} <= set(best.tolist())


def test_when_measured_checkpoints_meet_the_targets_one_stands_beside_an_answer(zoo, fitted) -> None:
    for value in (0.5, 0.9, 0.98):
        result = search(fitted[0], zoo[1], OBJECTIVES, [Target("coverage", value)], limit=2)
        real = [c for c in zoo[1] if (c.metrics["coverage"] or 0) >= value]
        assert {c.path for c in result.measured_meeting_targets} == {c.path for c in real}
        if real:
            assert any((a.nearest[0].metrics["coverage"] or 0) >= value for a in result.answers)


@pytest.mark.parametrize(
    "targets", [[], [Target("coverage", 0.5)], [Target("coverage", 0.999), Target("structure", 0.99)]]
)
def test_no_two_answers_stand_beside_one_checkpoint_and_they_differ(zoo, fitted, targets) -> None:
    checkpoints = zoo[1]
    result = search(fitted[0], checkpoints, OBJECTIVES, targets, limit=8)
    beside = [a.nearest[0].sha256 for a in result.answers]
    assert len(set(beside)) == len(beside) <= 8
    points = [tuple(a.point.values()) for a in result.answers]
    assert len(set(points)) == len(points)


def test_points_that_are_predicted_to_measure_the_same_are_one_answer():
    table = np.array([[0.9, 0.1], [0.9, 0.1002], [0.5, 0.5], [0.1, 0.9]])
    scorer = SimpleNamespace(objectives=(Objective("a", True), Objective("b", True)))
    chosen = spread_answers(table, table + 0.2, np.array([0.9, 0.8, 0.7, 0.6]), np.arange(4), scorer, 4)
    assert sorted(chosen) in ([0, 2, 3], [1, 2, 3])


def test_without_targets_answers_are_spread_over_the_front(zoo, fitted) -> None:
    _, checkpoints = zoo
    coverage = [a.point["coverage"] for a in search(fitted[0], checkpoints, OBJECTIVES, limit=5).answers]
    assert len(coverage) == 5
    assert max(coverage) - min(coverage) > 0.5


def test_a_point_meets_the_targets_with_one_probability_wherever_it_is_asked_for(zoo, fitted) -> None:
    _, checkpoints = zoo
    targets = [Target("coverage", 0.6), Target("structure", 0.3)]
    answers = search(fitted[0], checkpoints, OBJECTIVES, targets).answers
    points = sample_region(fitted[0], checkpoints, OBJECTIVES, targets, n=20).points
    scorer = TargetScorer(fitted[0], tuple(OBJECTIVES), tuple(targets))
    for point in (*answers, *points):
        assert point.probability == pytest.approx(float(scorer.probability(point.z[None])), abs=1e-6)


def test_sampling_finds_what_a_search_finds(zoo, fitted) -> None:
    _, checkpoints = zoo
    targets = [Target("coverage", 0.9), Target("structure", 0.6)]
    best = max(a.probability for a in search(fitted[0], checkpoints, OBJECTIVES, targets).answers)
    assert sample_region(fitted[0], checkpoints, OBJECTIVES, targets, n=5, probability=0.01).best >= best - 1e-6


def test_nearest_finds_itself_first_and_can_name_each_run_once(zoo, fitted) -> None:
    latents, known = known_latents(fitted[0], zoo[1])
    rows = nearest(latents[10:14], latents, known, 6, one_per_run=True)
    for i, row in enumerate(rows, start=10):
        assert (row[0].path, row[0].distance) == (known[i].path, 0.0)
        assert len({n.run for n in row}) == 6


def test_unknown_engines_objectives_and_foreign_catalogues_are_refused(zoo, fitted) -> None:
    with pytest.raises(UsageError, match="gradient, botorch, optuna"):
        search(fitted[0], zoo[1], OBJECTIVES, engine="magic")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'speed'"):
        search(fitted[0], zoo[1], [Objective("speed", maximize=True)])
    with pytest.raises(UsageError, match="no objective"):
        search(fitted[0], zoo[1], [])
    with pytest.raises(UsageError, match="epsopt fit"):
        search(fitted[0], [], OBJECTIVES)
    with pytest.raises(UsageError, match="at least 1"):
        search(fitted[0], zoo[1], OBJECTIVES, limit=0)


def test_a_target_at_the_end_of_a_share_is_neither_missed_at_the_worst_nor_met_before_the_best(zoo, fitted) -> None:
    assert search(fitted[0], zoo[1], OBJECTIVES, [Target("coverage", 0.0)]).answers[0].probability == 1.0
    scorer = TargetScorer(fitted[0], OBJECTIVES, (Target("coverage", 1.0),))
    assert float(scorer.thresholds[0]) == fitted[0].to_scale("coverage", 1.0)


def test_the_probability_of_several_targets_is_the_product_of_those_of_each(zoo, fitted) -> None:
    targets = (Target("coverage", 0.5), Target("structure", 0.6))
    one, other, both = (TargetScorer(fitted[0], OBJECTIVES, some) for some in (targets[:1], targets[1:], targets))
    moments = both.posterior_moments(fitted[0].memory.latents)
    torch.testing.assert_close(
        both.log_probability(*moments), one.log_probability(*moments) + other.log_probability(*moments)
    )


def test_a_measured_checkpoint_that_the_map_has_not_seen_still_counts(zoo, fitted) -> None:
    from dataclasses import replace

    new = replace(zoo[1][0], sha256="new", path="/zoo/new.pt", metrics={"coverage": 0.99, "structure": 0.99})
    result = search(fitted[0], [*zoo[1], new], OBJECTIVES, [Target("coverage", 0.95), Target("structure", 0.95)])
    assert [c.path for c in result.measured_meeting_targets] == ["/zoo/new.pt"]
