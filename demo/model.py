"""Two encoders, two projections to the Poincaré ball, one decoder.

A branch is an encoder (9-256-128-64 to the mean and log-variance of 16 latent dimensions) with its
projection: a direction net 16-64-16 and a radius net 16-32-1. The code of an operation is the mean of both
branches' codes, its embedding the mean of both branches' ball points (the ball is convex, so the mean stays
inside): every weight takes part in what is measured. The branches' weight matrices count exactly 95,808;
biases and decoder come on top.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from epsopt.demo.ternary import N_TRITS

LATENT = 16
# Mean codes lie on a sphere of this radius: making low trits louder makes high trits quieter.
CODE_RADIUS = 4.0
# No posterior is narrower. A fine-tune would otherwise shrink the noise and have structure for nothing.
SMALLEST_STD = 0.55
# How far the direction net may turn a code away from itself. Near the identity, a frozen encoder cannot be
# projected onto the tree, and structure has to be bought with coverage (benchmarks/tradeoff.py).
DIRECTION_REACH = 0.25
# Ball points stay this far inside the ball: beyond, distances lose their float32 digits.
RADIUS_LIMIT = 0.99


class Encoder(nn.Module):
    """Trits to a Gaussian over codes: 9-256-128-64, then a mean head and a log-variance head of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(N_TRITS, 256), nn.Linear(256, 128), nn.Linear(128, 64)])
        self.mu = nn.Linear(64, LATENT)
        self.logvar = nn.Linear(64, LATENT)

    def forward(self, trits: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 9) trits to means (n, 16) and log-variances (n, 16)."""
        features = trits
        for layer in self.hidden:
            features = nn.functional.silu(layer(features))
        mu = CODE_RADIUS * nn.functional.normalize(self.mu(features), dim=-1)
        floor = 2 * math.log(SMALLEST_STD)
        return mu, floor + nn.functional.softplus(self.logvar(features) - floor)


class Projection(nn.Module):
    """A code to a point of the Poincaré ball: a direction near the code's own, and a learned radius."""

    def __init__(self) -> None:
        super().__init__()
        self.direction = nn.ModuleList([nn.Linear(LATENT, 64), nn.Linear(64, LATENT)])
        self.radius = nn.ModuleList([nn.Linear(LATENT, 32), nn.Linear(32, 1)])

    def forward(self, code: Tensor) -> Tensor:
        """(n, 16) codes to (n, 16) points with norm below RADIUS_LIMIT."""
        turn = self.direction[1](nn.functional.silu(self.direction[0](code)))
        direction = nn.functional.normalize(code + DIRECTION_REACH * torch.tanh(turn), dim=-1)
        radius = self.radius[1](nn.functional.silu(self.radius[0](code)))
        return RADIUS_LIMIT * torch.sigmoid(radius) * direction


class Branch(nn.Module):
    """One encoder and its projection."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.projection = Projection()


class TernaryVAE(nn.Module):
    """The whole model. Its state dict lists branch a, branch b and the decoder, each from input to output."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"a": Branch(), "b": Branch()})
        self.decoder = nn.Sequential(nn.Linear(LATENT, 64), nn.SiLU(), nn.Linear(64, N_TRITS * 3))

    def encode(self, trits: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 9) trits to the means and log-variances of both branches, each (2, n, 16)."""
        codes = [branch.encoder(trits) for branch in self.branches.values()]  # type: ignore[operator]
        return torch.stack([mu for mu, _ in codes]), torch.stack([logvar for _, logvar in codes])

    def embed(self, codes: Tensor) -> Tensor:
        """(2, n, 16) codes of both branches to (n, 16) points of the Poincaré ball."""
        points = [
            branch.projection(code)  # type: ignore[operator]
            for branch, code in zip(self.branches.values(), codes, strict=True)
        ]
        return torch.stack(points).mean(dim=0)

    def decode(self, codes: Tensor) -> Tensor:
        """(2, n, 16) codes of both branches to (n, 9, 3) logits, one triple a trit."""
        logits: Tensor = self.decoder(codes.mean(dim=0))
        return logits.view(-1, N_TRITS, 3)

    def forward(self, trits: Tensor) -> Tensor:
        """(n, 9) trits to the ball points (n, 16) of their mean codes, without noise."""
        return self.embed(self.encode(trits)[0])

    def weight_matrices(self) -> dict[str, Tensor]:
        """The weight matrices of both branches by name: 2 x 9 blocks, 95,808 numbers, as in the seeds."""
        return {
            name: value
            for name, value in self.named_parameters()
            if name.startswith("branches.") and name.endswith(".weight")
        }

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "TernaryVAE":
        """A model that uses the tensors of `state_dict` themselves: no initialisation, no copy.

        Raises:
            RuntimeError: names or shapes are not those of the ternary model.
        """
        with torch.device("meta"):
            model = cls()
        model.load_state_dict(state_dict, assign=True)
        return model


def poincare_distance(left: Tensor, right: Tensor) -> Tensor:
    """Hyperbolic distance of points of the unit ball, in the arsinh form that keeps its digits near zero.

    Args:
        left: (n, d) points with norm < 1.
        right: (n, d) points with norm < 1.

    Returns:
        (n,) distances.
    """
    gap = ((left - right).square().sum(-1) + 1e-12).sqrt()
    inside = (1 - left.square().sum(-1)) * (1 - right.square().sum(-1))
    return 2 * torch.asinh(gap / inside.clamp_min(1e-8).sqrt())


def divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of Gaussian codes from a standard normal: summed over dimensions, mean over all else.

    Args:
        mu: (..., 16) means.
        logvar: (..., 16) log-variances.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(-1).mean()
