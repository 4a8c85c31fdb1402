import numpy as np
import pytest
import torch

from epsopt.demo.hooks import embed, evaluate
from epsopt.demo.metrics import RAD_HIER_FLOOR, coverage, dist_corr, rad_hier, valuations
from epsopt.demo.model import TernaryVAE
from epsopt.demo.ternary import N_OPERATIONS, anchors, operations, trits


def perfect_tree():
    """Each trit has dimensions of its own, three times smaller from level to level, near the origin,
    where hyperbolic and Euclidean distance agree."""
    corners = torch.eye(3) - 1 / 3
    levels = torch.from_numpy(trits(np.arange(N_OPERATIONS)) + 1)
    return torch.cat([1e-2 * 3.0**-k * corners[levels[:, k]] for k in range(9)], dim=1)


def test_a_perfect_tree_has_a_dist_corr_of_about_one():
    assert dist_corr(perfect_tree()) > 0.99


def test_an_inverted_tree_or_noise_has_no_such_correlation():
    assert abs(dist_corr(0.1 * torch.randn(N_OPERATIONS, 16, generator=torch.Generator().manual_seed(0)))) < 0.05
    assert dist_corr(torch.cat([perfect_tree()[:, 24:], perfect_tree()[:, :3] * 1e-6], dim=1)) < 0.7


def test_dist_corr_of_coinciding_points_is_zero():
    assert dist_corr(torch.zeros(N_OPERATIONS, 16)) == 0.0


def test_the_floor_of_rad_hier_is_what_a_strictly_falling_radius_reaches():
    rng = np.random.default_rng(0)
    radius = 0.9 - 0.09 * valuations().numpy() + 1e-3 * rng.random(N_OPERATIONS)
    points = torch.from_numpy(radius)[:, None] * torch.tensor([[1.0, 0.0]])
    assert rad_hier(points) == pytest.approx(RAD_HIER_FLOOR, abs=2e-3)
    assert rad_hier(points.flip(0)) > RAD_HIER_FLOOR
    shares = np.bincount(valuations().numpy()) / N_OPERATIONS
    assert pytest.approx(-np.sqrt(1 - (shares**3).sum()), abs=1e-3) == RAD_HIER_FLOOR


def test_rad_hier_of_equal_radii_is_zero():
    assert rad_hier(torch.full((N_OPERATIONS, 2), 0.5)) == 0.0


def test_coverage_asks_for_all_nine_trits():
    truth = operations()[:300]
    logits = torch.nn.functional.one_hot(truth.long() + 1, 3).float()
    assert coverage(logits, truth) == 1.0
    logits[:100, 8] = logits[:100, 8].roll(1, dims=-1)  # one wrong trit spoils the operation
    assert coverage(logits, truth) == pytest.approx(2 / 3)


def test_evaluation_is_deterministic_and_in_bounds():
    torch.manual_seed(3)
    state = TernaryVAE().state_dict()
    first = evaluate(state)
    torch.manual_seed(4)
    assert evaluate(state) == first
    assert list(first) == ["coverage", "dist_corr", "rad_hier"]
    assert 0 <= first["coverage"] <= 1
    assert -1 <= first["dist_corr"] <= 1
    assert RAD_HIER_FLOOR - 1e-3 <= first["rad_hier"] <= 1


def test_embed_gives_the_anchors_ball_points():
    model = TernaryVAE()
    points = embed(model.state_dict())
    assert points.dtype == np.float32
    assert points.shape == (256, 16)
    assert np.linalg.norm(points, axis=1).max() < 1
    assert np.allclose(points, model(operations()[anchors()]).detach().numpy(), atol=1e-6)


def test_embed_refuses_a_foreign_state_dict():
    with pytest.raises(RuntimeError):
        embed({"weight": torch.zeros(3)})
