"""What a checkpoint is worth: coverage, dist_corr and rad_hier.

Structure is measured on *sampled* codes, with noise that is the same for every checkpoint: the embeddings
must show the tree through the posterior's own spread. The same state dict always gives the same figures.
"""

import functools

import torch
from scipy.stats import spearmanr
from torch import Tensor

from epsopt.demo.model import LATENT, TernaryVAE, poincare_distance
from epsopt.demo.ternary import N_OPERATIONS, fixed_pairs, operations, valuation

# Spearman's correlation of the valuations with any strictly decreasing radius: ties hold it above -1.
# sqrt(1 - sum of cubed shares) with shares 2/3, 2/9, ... of the valuations.
RAD_HIER_FLOOR = -0.832
# Coverage is asked for with some margin: codes are decoded with this share of the posterior's noise on them.
COVERAGE_NOISE = 0.5
_NOISE_SEED = 16


@functools.cache
def fixed_noise() -> Tensor:
    """(2, 19683, 16) standard normal noise, the same for every checkpoint."""
    return torch.randn(2, N_OPERATIONS, LATENT, generator=torch.Generator().manual_seed(_NOISE_SEED))


@functools.cache
def valuations() -> Tensor:
    """(19683,) valuation of every operation."""
    return torch.from_numpy(valuation(torch.arange(N_OPERATIONS).numpy()))


def coverage(logits: Tensor, trits: Tensor) -> float:
    """Share of operations whose nine trits all decode right, 0 to 1.

    Args:
        logits: (n, 9, 3), one triple a trit.
        trits: (n, 9) in {-1, 0, 1}.
    """
    right = logits.argmax(dim=-1) == trits.long() + 1
    return float(right.all(dim=-1).double().mean())


def dist_corr(points: Tensor) -> float:
    """Correlation of Poincaré and 3-adic distance over the fixed pairs, -1 to 1; 0 if all points coincide.

    Args:
        points: (19683, d) ball points of every operation.
    """
    left, right, target = fixed_pairs()
    distance = poincare_distance(points[left].double(), points[right].double())
    return _pearson(distance, target)


def rad_hier(points: Tensor) -> float:
    """Spearman correlation of valuation and radius; lower is better, -0.832 the floor; 0 if radii are equal.

    Args:
        points: (19683, d) ball points of every operation.
    """
    radius = points.norm(dim=-1)
    if float(radius.max()) == float(radius.min()):
        return 0.0
    return float(spearmanr(valuations().numpy(), radius.numpy()).statistic)


def _pearson(left: Tensor, right: Tensor) -> float:
    spread = left.std() * right.std()
    if float(spread) < 1e-12:
        return 0.0
    covariance = ((left - left.mean()) * (right - right.mean())).sum() / (len(left) - 1)
    return float(covariance / spread)


@torch.no_grad()
def measure(model: TernaryVAE) -> dict[str, float]:
    """All three metrics over all operations; about 0.1 s on one core. Leaves the model as it is."""
    trits = operations()
    mu, logvar = model.encode(trits)
    noise = fixed_noise() * torch.exp(0.5 * logvar)
    points = model.embed(mu + noise)
    return {
        "coverage": coverage(model.decode(mu + COVERAGE_NOISE * noise), trits),
        "dist_corr": dist_corr(points),
        "rad_hier": rad_hier(points),
    }
