"""Merges of checkpoints of a few lineages, in weight spaces small enough to know what is best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from epsopt.optimize.merge import lineage_search
from epsopt.optimize.merge.lineage_gp import LineageSpace, fit_lineages
from epsopt.optimize.merge.lineage_search import LineageMerge, choose_lineage_merge
from epsopt.optimize.objectives import Objective
from epsopt.optimize.pareto import hypervolume

Floats = NDArray[np.float64]
OBJECTIVES = (Objective("up", maximize=True), Objective("right", maximize=True))
REFERENCE = np.array([-3.0, -3.0])
# Checkpoints of two lineages, each as seen from its own base, and what is best for either objective.
PLACES = [
    np.array([[1.0, 0.0, 0.3], [0.0, 1.0, 0.3], [0.5, -0.4, 0.0]]),
    np.array([[0.2, 0.1, -0.9], [0.1, 0.3, -0.6]]),
]
BEST = np.array([[0.9, 0.4, 0.0], [0.4, 0.9, 0.0]])


def measure(weights: Floats) -> Floats:
    return np.asarray(1.0 - ((weights - BEST) ** 2).sum(axis=1))


class Toy:
    """Checkpoints, and merges that were measured."""

    def __init__(self) -> None:
        self.space = LineageSpace.of([p @ p.T for p in PLACES], [np.array([0, 1]), np.array([0, 1])])
        self.points = self.space.trained()
        self.values = np.array([measure(w) for places in PLACES for w in places])
        self.misses: list[Floats] = []

    def weights(self, point: Floats) -> Floats:
        lineage = int(point[-1])
        return np.asarray(point[:-1][self.space.lineages == lineage] @ PLACES[lineage])

    def choose(self, seed: int = 0) -> LineageMerge:
        return choose_lineage_merge(
            self.space, self.points, self.values, self.values, OBJECTIVES,
            reference=REFERENCE, misses=self.misses, rng=np.random.default_rng(seed),
        )  # fmt: skip

    def add(self, point: Floats) -> Floats:
        values = measure(self.weights(point))
        self.points = np.vstack([self.points, point])
        self.values = np.vstack([self.values, values])
        return values

    @property
    def volume(self) -> float:
        return hypervolume(self.values, REFERENCE, [True, True])


def test_lineages_share_nothing_and_have_units_of_their_own() -> None:
    space = Toy().space
    assert space.lineages.tolist() == [0, 0, 0, 1, 1]
    assert not space.products[:3, 3:].any()
    for i, columns in enumerate((slice(0, 3), slice(3, 5))):
        away = np.eye(5)[columns] - space.centres[i]
        assert np.einsum("nk,kl,nl->n", away, space.products, away).mean() == pytest.approx(1.0)
    scaled = LineageSpace.of([100.0 * p @ p.T for p in PLACES], [np.array([0, 1]), np.array([0, 1])])
    np.testing.assert_allclose(scaled.products, space.products)


def test_the_process_knows_what_was_measured_and_nothing_of_a_lineage_of_which_nothing_was() -> None:
    toy = Toy()
    own = toy.points[:, -1] == 0.0
    process, transforms = fit_lineages(toy.space, toy.points[own], toy.values[own], toy.values, OBJECTIVES, {})
    found = process.posterior(torch.from_numpy(toy.points[:, None, :]))
    y = np.column_stack([t.forward(toy.values[:, j]) for j, t in enumerate(transforms)])
    assert np.abs(found.mean[own, 0].numpy() - y[own]).max() < 0.1
    assert found.variance[~own].min() > 20.0 * found.variance[own].max()
    elsewhere = found.mean[~own, 0].numpy()
    np.testing.assert_allclose(elsewhere - elsewhere[0], 0.0, atol=1e-9)


def test_fifteen_merges_that_the_search_chooses_widen_the_front_more_than_random_ones() -> None:
    gains: dict[str, list[float]] = {"search": [], "random": []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for how, own in gains.items():
            toy = Toy()
            before = toy.volume
            for step in range(15):
                if how == "random":
                    lineage = int(rng.integers(2))
                    shares = np.zeros(5)
                    columns = toy.space.lineages == lineage
                    shares[columns] = rng.dirichlet(np.ones(columns.sum()))
                    toy.add(np.append(shares, lineage))
                    continue
                merge = toy.choose(100 * seed + step)
                miss = merge.miss(toy.add(merge.point))
                assert miss is not None
                toy.misses.append(miss)
            own.append(toy.volume / before - 1.0)
    assert min(gains["search"]) > max(gains["random"])


def test_merges_that_measured_less_than_predicted_lower_what_is_predicted() -> None:
    toy = Toy()
    first = toy.choose()
    assert first.predicted is not None
    assert first.low is not None
    assert first.high is not None
    toy.misses = [np.array([-2.0, -2.0])] * 6
    x = torch.from_numpy(np.array([[[0.5, 0.5, 0.0, 0.0, 0.0, 0.0]]]))
    process, _ = fit_lineages(toy.space, toy.points, toy.values, toy.values, OBJECTIVES, {})
    plain = process.posterior(x)
    process.correct(*lineage_search.corrections(np.stack(toy.misses)))
    corrected = process.posterior(x)
    assert (corrected.mean < plain.mean - 0.8 * plain.variance.sqrt()).all()
    assert (first.low < first.predicted).all()
    assert (first.predicted < first.high).all()


def test_a_miss_is_counted_in_standard_deviations_and_of_nothing_measured_there_is_none() -> None:
    merge = Toy().choose()
    assert merge.predicted is not None
    assert merge.high is not None
    assert np.abs(merge.miss(merge.predicted)).max() < 1e-6
    np.testing.assert_allclose(merge.miss(merge.high), 1.645, rtol=1e-3)
    assert (merge.miss(merge.high + 100.0) == 4.0).all(), "one that is far off does not rule all"
    assert merge.miss(np.array([np.nan, 1.0])) is None


def test_nothing_is_measured_twice_and_where_no_process_can_be_fitted_any_candidate_is(monkeypatch) -> None:
    toy = Toy()
    seen = []
    for step in range(6):
        merge = toy.choose(step)
        assert all(np.abs(merge.point - point).max() > 1e-3 for point in [*toy.points, *seen])
        seen.append(merge.point)
        toy.add(merge.point)

    def broken(*_: object) -> None:
        raise RuntimeError("probability tensor contains either inf or nan")

    monkeypatch.setattr(lineage_search, "fit_lineages", broken)
    merge = toy.choose()
    assert merge.predicted is None
    assert merge.miss(np.zeros(2)) is None
    assert np.isfinite(merge.point).all()


def test_a_lineage_of_one_checkpoint_is_merged_with_its_base() -> None:
    space = LineageSpace.of([np.array([[4.0]])], [np.array([0])])
    points = np.array([[1.0, 0.0], [0.0, 0.0]])
    values = np.array([[1.0, 0.0], [0.0, 1.0]])
    merge = choose_lineage_merge(
        space, points, values, values, OBJECTIVES, reference=np.zeros(2) - 0.1, rng=np.random.default_rng(0)
    )
    assert merge.point[-1] == 0.0
    assert merge.predicted is not None


@pytest.mark.parametrize("count", [1, 3, 6])
def test_any_number_of_objectives_may_count(count) -> None:
    toy = Toy()
    objectives = [Objective(f"o{i}", maximize=bool(i % 2)) for i in range(count)]
    values = np.column_stack([np.cos((i + 1.0) * toy.values[:, i % 2]) for i in range(count)])
    merge = choose_lineage_merge(
        toy.space, toy.points, values, values, objectives, reference=np.zeros(count), rng=np.random.default_rng(0)
    )
    assert merge.predicted is not None
    assert merge.predicted.shape == (count,)
    assert merge.miss(merge.predicted).shape == (count,)
