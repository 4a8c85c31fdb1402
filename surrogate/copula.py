"""How the errors of several metrics hang together: the probability that all of them hold at once.

Each metric has a Gaussian process of its own. Where the map overrates one metric of a checkpoint it tends to overrate
(or underrate) another, so probabilities of single metrics must not be multiplied. The correlations are learned from
residuals on held-out runs by their normal scores (a Gaussian copula; Sklar 1959, Liu et al. 2009) and shrunk to
independence as far as the number of runs leaves them uncertain (Schäfer and Strimmer 2005).
"""

from __future__ import annotations

import numpy as np
import torch
from botorch.utils.probability.mvnxpb import MVNXPB
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from torch import Tensor

Floats = NDArray[np.float64]

_FAR = 5.0  # standard deviations: beyond, what hangs together no longer shows in the probability
_FEWEST = 4  # runs that two metrics must share before anything is said of them


def residual_correlation(residuals: Floats, runs: NDArray[np.int64]) -> Floats:
    """Correlate metrics by their residuals on held-out runs.

    Args:
        residuals: ``(n, m)`` in units of their predicted deviations; NaN where not measured.
        runs: ``(n,)`` run of each row; every run counts the same.

    Returns:
        ``(m, m)`` correlations, positive definite; zero where two metrics were not measured together on four runs.
    """
    m = residuals.shape[1]
    found = np.eye(m)
    noise = np.zeros((m, m))
    for i in range(m):
        for j in range(i):
            both = np.flatnonzero(np.isfinite(residuals[:, [i, j]]).all(axis=1))
            _, which, counts = np.unique(runs[both], return_inverse=True, return_counts=True)
            if len(counts) < _FEWEST:
                continue
            a, b = (norm.ppf(rankdata(residuals[both, k]) / (len(both) + 1)) for k in (i, j))
            weight = 1.0 / counts[which]
            spread = float(np.sqrt((weight @ a**2) * (weight @ b**2)))
            r = float(weight @ (a * b)) / spread if spread > 0.0 else 0.0
            found[i, j] = found[j, i] = r
            noise[i, j] = (1.0 - r**2) ** 2 / (len(counts) - 1)
    below = np.tril_indices(m, -1)
    signal = float(np.square(found[below]).sum())
    kept = 1.0 - min(float(noise[below].sum()) / signal, 1.0) if signal > 0.0 else 0.0
    shrunk = kept * found + (1.0 - kept) * np.eye(m)
    values, vectors = np.linalg.eigh(shrunk)  # metrics measured on different rows may not fit together
    fitting = (vectors * np.maximum(values, 1e-3)) @ vectors.T
    deviation = np.sqrt(np.diag(fitting))
    return np.asarray(fitting / deviation / deviation[:, None])


def log_probability_of_all(standard: Tensor, correlation: Tensor) -> Tensor:
    """Log-probability that correlated normals all stay below their limits.

    Args:
        standard: ``(b, k)`` limits in standard deviations, float64; gradients flow back to it.
        correlation: ``(k, k)``.

    Returns:
        ``(b,)``: exact for one and two, for more by bivariate conditioning (Trinh and Genz 2015).
    """
    single: Tensor = torch.special.log_ndtr(standard)
    apart = single.sum(dim=1)
    k = standard.shape[1]
    if k < 2 or not len(standard) or bool((correlation - torch.eye(k)).abs().max() < 1e-9):
        return apart
    near = standard.clamp(-_FAR, _FAR)
    limits = torch.stack([torch.full_like(near, -torch.inf), near], dim=-1)
    together: Tensor = MVNXPB(correlation.to(near).expand(len(near), k, k).clone(), limits).solve()
    marginals: Tensor = torch.special.log_ndtr(near)
    # No less than zero and no more than the least likely of them (the bounds of any dependence).
    return torch.minimum(apart + (together - marginals.sum(dim=1)), single.min(dim=1).values)
