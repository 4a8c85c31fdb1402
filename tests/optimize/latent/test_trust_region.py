"""The trust region: the same whatever the size of the zoo, in memory that grows as the zoo does."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from epsopt.optimize.latent.trust_region import TrustRegion, trust_region
from epsopt.surrogate import nearest as module
from epsopt.surrogate.nearest import distances, nearest_rows, within_reach


def by_definition(latents: torch.Tensor, runs: np.ndarray) -> tuple[float, torch.Tensor]:
    """Radius and reach from the whole table of distances."""
    same = torch.from_numpy(runs[:, None] == runs[None, :])
    if bool(same.all()):
        same = torch.eye(len(latents), dtype=torch.bool)
    nearest, which = torch.where(same, torch.inf, distances(latents, latents)).min(dim=1)
    radius = float(nearest.median())
    near = nearest <= radius
    return radius, (latents[near] - latents[which[near]]).square().mean(dim=0).sqrt()


@pytest.mark.parametrize("n_runs", [1, 7])
def test_blocks_give_the_region_that_the_whole_table_of_distances_gives(n_runs: int) -> None:
    latents = torch.randn(203, 5, generator=torch.Generator().manual_seed(0))
    runs = np.arange(203) % n_runs
    with mock.patch.object(module, "_BLOCK", 1000):  # 4 rows at a time
        found = trust_region(latents, runs)
    radius, reach = by_definition(latents, runs)
    assert found.radius == radius
    assert found.reach is not None
    torch.testing.assert_close(found.reach, reach, rtol=0.0, atol=0.0)


def test_memory_grows_as_the_zoo_does_and_not_as_its_square() -> None:
    largest = []
    for n in (2_000, 8_000):
        sizes: list[int] = []

        def counted(a: torch.Tensor, b: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(len(a) * len(b))
            return distances(a, b)

        latents = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
        with mock.patch.object(module, "_BLOCK", 100_000), mock.patch.object(module, "distances", counted):
            found = trust_region(latents, np.arange(n) // 10)
            found.distance(latents)
            found.project(latents)
        largest.append(max(sizes))
        assert sum(sizes) == 3 * n * n, "every pair was looked at"
    assert max(largest) <= 100_000


def test_checkpoints_of_one_run_are_no_neighbours_of_each_other_and_a_run_alone_has_none() -> None:
    z = torch.tensor([[0.0], [1.0], [10.0]])
    groups = np.array([0, 0, 1])
    distance, place = nearest_rows(z, z, (groups, groups))
    assert distance.tolist() == [10.0, 9.0, 9.0]
    assert place[:2].tolist() == [2, 2]
    alone, _ = nearest_rows(z[:2], z[:2], (groups[:2], groups[:2]))
    assert torch.isinf(alone).all()
    assert trust_region(z[:1], groups[:1]).radius == 1.0


def test_what_a_fold_counts_as_near_is_what_lies_in_the_trust_region_of_its_checkpoints() -> None:
    generator = torch.Generator().manual_seed(0)
    known, points = torch.randn(40, 3, generator=generator), 3.0 * torch.randn(200, 3, generator=generator)
    runs = np.arange(40) // 4
    near = within_reach(known, runs, points)
    assert 0 < near.sum() < len(near)
    np.testing.assert_array_equal(near, trust_region(known, runs).contains(points).numpy())
    assert within_reach(known[:1], runs[:1], points).all(), "a single checkpoint says nothing of distances"


def test_the_distance_to_the_region_is_differentiable_across_blocks() -> None:
    centres = torch.zeros(10, 3)
    z = torch.ones(30, 3, requires_grad=True)
    with mock.patch.object(module, "_BLOCK", 40):
        TrustRegion(centres, 1.0).distance(z).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.full((30, 3), 3.0**-0.5))
