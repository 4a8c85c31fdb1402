"""Local reconstruction: convex, sparse, and exact where the point is a checkpoint or between two."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epsopt.surrogate.local_reconstruction import reconstruct

from ..sweeps import examples  # noqa: TID252


def points(n, dims, seed):
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 10), st.integers(0, 2**16))
@settings(max_examples=examples(40), deadline=None)
def test_coefficients_are_convex_and_few(k, dims, parents, seed):
    c = reconstruct(points(5, dims, seed), points(k, dims, seed + 1), parents)
    assert c.shape == (5, k)
    assert (c >= 0.0).all()
    assert torch.allclose(c.sum(dim=1), torch.ones(5, dtype=torch.float64))
    assert ((c > 0.0).sum(dim=1) <= parents).all()


def test_a_checkpoint_is_decoded_from_itself_alone():
    latents = points(50, 6, 3)
    c = reconstruct(latents[[7, 30]], latents)
    assert c[0, 7] == pytest.approx(1.0)
    assert c[1, 30] == pytest.approx(1.0)


def test_between_two_checkpoints_both_are_mixed_by_their_distance():
    latents = torch.cat([torch.tensor([[0.0, 0.0], [1.0, 0.0]]), 50.0 + points(20, 2, 1)])
    c = reconstruct(torch.tensor([[0.3, 0.0]]), latents, locality=0.0)
    assert c[0, 0] == pytest.approx(0.7, abs=0.01)
    assert c[0, 1] == pytest.approx(0.3, abs=0.01)


def test_it_solves_what_it_says_it_solves():
    """No other point of the simplex is better: checked against many random ones, and against the vertices."""
    latents, z = points(12, 4, 5), 0.3 * points(6, 4, 6)
    locality = 0.1
    c = reconstruct(z, latents, parents=12, locality=locality)

    def loss(coefficients, point):
        gap = coefficients @ latents.double() - point.double()
        return gap.square().sum(-1) + locality * coefficients @ (latents.double() - point.double()).square().sum(1)

    others = torch.distributions.Dirichlet(torch.full((12,), 0.3, dtype=torch.float64)).sample((4000,))
    others = torch.cat([others, torch.eye(12, dtype=torch.float64)])
    for row, point in zip(c, z, strict=True):
        # Coefficients below a hundredth are dropped: that is the whole difference there may be.
        assert loss(row, point) <= loss(others, point).min() + 0.02


def test_more_locality_means_nearer_parents():
    latents, z = points(60, 5, 8), points(20, 5, 9)
    distance = torch.cdist(z, latents).double()
    reach = [(reconstruct(z, latents, locality=m) * distance).sum(dim=1).mean() for m in (0.0, 0.3, 3.0)]
    assert reach[0] > reach[1] > reach[2]
