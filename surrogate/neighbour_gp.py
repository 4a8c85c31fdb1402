"""What answers where there are more measurements than one Gaussian process holds: at each point, one of the nearest.

The process conditions on the measurements nearest to the point that it is asked for (Vecchia 1988; Datta et al. 2016;
Wu et al. 2022, "Variational nearest neighbor Gaussian process"). With as many rows as all others together have little
to add, it says what a process of all rows says, honours every measurement, and costs the same however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from botorch.models import SingleTaskGP
from torch import Tensor

from epsopt.surrogate.relevance import matern

NEIGHBOURS = 64
"""Measurements that a point is predicted from."""

_TOGETHER = 512  # points that are predicted together: 70 MB


@dataclass(frozen=True, eq=False)
class NeighbourGP:
    """A process that conditions on the measurements nearest to each point.

    Attributes:
        rows: ``(n, latent)`` where something was measured, in units of the length scales.
        residuals: ``(n,)`` what was measured there, less the process's mean before any measurement.
        inverse_lengths: ``(latent,)``.
        variance: signal variance.
        noise: noise variance.
        prior: the process's mean before any measurement.
    """

    rows: Tensor
    residuals: Tensor
    inverse_lengths: Tensor
    variance: float
    noise: float
    prior: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, process: SingleTaskGP, z: Tensor, y: Tensor) -> NeighbourGP:
        """Give a process of few rows all rows.

        Args:
            process: of :func:`epsopt.surrogate.metric_gp.build_model`; its rows do not count.
            z: ``(n, latent)``.
            y: ``(n,)`` measurements; NaN rows are left out.
        """
        known = torch.isfinite(y)
        z, y = z[known].double(), y[known].double()
        inverse_lengths = 1.0 / process.covar_module.base_kernel.lengthscale.reshape(-1)
        return cls(
            z * inverse_lengths, y - process.mean_module(z), inverse_lengths, float(process.covar_module.outputscale),
            float(process.likelihood.noise), process.mean_module,
        )  # fmt: skip

    def posterior_moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``(k, latent)`` float64 to ``(k,)`` predictive means and variances, noise included; differentiable."""
        parts = [self._moments(piece) for piece in torch.split(z, _TOGETHER)]
        means, variances = zip(*parts, strict=True)
        return self.prior(z) + torch.cat(means), torch.cat(variances)

    def _moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        scaled = z * self.inverse_lengths
        with torch.no_grad():
            apart = torch.cdist(scaled.float(), self.rows.float())
            nearest = apart.topk(min(NEIGHBOURS, len(self.rows)), largest=False).indices
            among = self.rows.float()[nearest]
            # In single precision, which takes half of the time; distances without the products that round them.
            apart = torch.cdist(among, among, compute_mode="donot_use_mm_for_euclid_dist")
            between = self.variance * matern(apart).double()
        near = self.rows[nearest]
        across = self.variance * matern(torch.cdist(scaled[:, None], near)).mT
        factor = torch.linalg.cholesky(between + self.noise * torch.eye(near.shape[1], dtype=near.dtype))
        given = torch.cat([across, self.residuals[nearest][..., None]], dim=2)
        solved = torch.linalg.solve_triangular(factor, given, upper=False)
        half = solved[..., 0]
        return (half * solved[..., 1]).sum(dim=1), self.variance + self.noise - half.square().sum(dim=1)
