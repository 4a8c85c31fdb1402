import pytest
import torch

from epsopt.demo.model import CODE_RADIUS, SMALLEST_STD, TernaryVAE, poincare_distance
from epsopt.demo.ternary import operations

BRANCH = [(256, 9), (128, 256), (64, 128), (16, 64), (16, 64), (64, 16), (16, 64), (32, 16), (1, 32)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TernaryVAE()


def test_weight_matrices_have_the_shapes_of_the_seeds_and_count_95808(model):
    shapes = [tuple(value.shape) for value in model.weight_matrices().values()]
    assert shapes == BRANCH * 2
    assert sum(value.numel() for value in model.weight_matrices().values()) == 95_808


def test_a_branch_lies_together_in_the_state_dict(model):
    owners = [name.split(".")[1] if name.startswith("branches") else "decoder" for name in model.state_dict()]
    assert owners == sorted(owners)
    assert set(owners) == {"a", "b", "decoder"}


def test_every_weight_matrix_of_the_branches_moves_codes_or_embeddings(model):
    trits = operations()[:64]
    mu, logvar = model.encode(trits)
    codes = mu + torch.exp(0.5 * logvar)
    (model.embed(codes).sum() + model.decode(codes).square().sum()).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.weight_matrices().values())


def test_codes_keep_their_radius_and_their_least_spread(model):
    mu, logvar = model.encode(operations()[:100])
    assert torch.allclose(mu.norm(dim=-1), torch.tensor(CODE_RADIUS), atol=1e-4)
    assert (torch.exp(0.5 * logvar) >= SMALLEST_STD).all()


def test_embeddings_lie_inside_the_ball_even_for_wild_codes(model):
    points = model.embed(1e4 * torch.randn(2, 500, 16))
    assert points.shape == (500, 16)
    assert points.norm(dim=-1).max() < 1


def test_poincare_distance_agrees_with_the_textbook_formula():
    torch.manual_seed(1)
    left, right = (torch.nn.functional.normalize(torch.randn(2, 50, 3), dim=-1) * torch.rand(2, 50, 1)).double()
    gap = (left - right).square().sum(-1)
    textbook = torch.acosh(1 + 2 * gap / ((1 - left.square().sum(-1)) * (1 - right.square().sum(-1))))
    assert torch.allclose(poincare_distance(left, right), textbook, atol=1e-5)


def test_poincare_distance_has_a_finite_gradient_where_points_coincide():
    left = torch.zeros(4, 3, requires_grad=True)
    poincare_distance(left, torch.zeros(4, 3)).sum().backward()
    assert torch.isfinite(left.grad).all()


def test_a_model_from_a_state_dict_is_the_same_model(model):
    twin = TernaryVAE.from_state_dict(model.state_dict())
    assert torch.equal(twin(operations()[:50]), model(operations()[:50]))


def test_a_foreign_state_dict_is_refused(model):
    with pytest.raises(RuntimeError, match="decoder"):
        TernaryVAE.from_state_dict({k: v for k, v in model.state_dict().items() if "decoder" not in k})
