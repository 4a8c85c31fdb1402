"""Where hyperparameters lead: a distribution over the z that a run ends at, and through the map over its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from botorch.models import SingleTaskGP
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.gp import fit_process, leave_one_out
from epsopt.optimize.space import Space
from epsopt.surrogate.metric_gp import conformal_factor
from epsopt.surrogate.surrogate import Surrogate

_COMPONENTS = 6
_EXPLAINED = 0.95
_SAMPLES = 256


class FinishedRun(Protocol):
    """What the forecast needs of a past run."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Hyperparameters."""

    @property
    def z(self) -> Tensor:
        """``(latent,)`` of the last checkpoint."""

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Measured metrics of the last checkpoint."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """``h``: hyperparameters -> components of the final z, and ``g`` after it.

    Attributes:
        model: BoTorch model; input ``(..., q, width)`` encoded configurations, output ``(..., q, components)``.
        centre: ``(latent,)`` mean final z.
        directions: ``(components, latent)``, scaled to unit variance of the components.
        surrogate: the map (``g``).
        space: encodes configurations.
        bias: ``(m,)`` mean of measured minus predicted, leave-one-out, on the model's scale.
        spread: ``(m,)`` standard deviation that the samples lack to cover the leave-one-out residuals on average.
        stretch: ``(m,)`` what their distance from the median is multiplied by so that 90 % intervals cover 90 % of the
            past runs, each left out of ``h`` in turn (``g`` has seen all of them, its own error comes on top); at
            least 1.
    """

    model: SingleTaskGP
    centre: Tensor
    directions: Tensor
    surrogate: Surrogate
    space: Space
    bias: Tensor
    spread: Tensor
    stretch: Tensor

    def metrics(self, components: Tensor) -> Tensor:
        """``g``: ``(..., components)`` -> ``(..., m)`` on the model's scale, bias corrected."""
        return self.surrogate.posterior_mean(components @ self.directions + self.centre) + self.bias

    def predict(
        self, config: Mapping[str, Any], level: float, seed: int
    ) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Predict the final metrics of a run.

        Args:
            config: its hyperparameters.
            level: coverage of the interval.
            seed: of the samples.

        Returns:
            ``(samples, m)`` samples, and the interval's lower ends, medians and upper ends ``(m,)``, in the metrics'
            own units.
        """
        x = torch.from_numpy(self.space.encode([config]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            posterior = self.model.posterior(x, observation_noise=True)
            noise = torch.randn(_SAMPLES, len(self.directions), generator=generator, dtype=torch.float64)
            components = posterior.mean + posterior.variance.sqrt() * noise
            scaled = self.metrics(components)
            scaled = scaled + self.spread * torch.randn(scaled.shape, generator=generator, dtype=torch.float64)
            centre = scaled.median(dim=0).values
            # The past runs that spread and stretch come from are known to g; this run is not, and g errs on it as it
            # did on the runs that were held out of it.
            _, unseen = self.surrogate.posterior_moments(posterior.mean @ self.directions + self.centre)
            error = unseen * torch.randn(scaled.shape, generator=generator, dtype=torch.float64)
            samples = self.surrogate.draws_to_metrics(centre + self.stretch * (scaled - centre) + error)
        low, middle, high = (np.quantile(samples.numpy(), q, axis=0) for q in ((1 - level) / 2, 0.5, (1 + level) / 2))
        return samples, low, middle, high


def fit_forecast(surrogate: Surrogate, space: Space, runs: Sequence[FinishedRun], seed: int) -> Forecast:
    """Fit ``h`` to past runs.

    Args:
        surrogate: the map that encoded the runs' last checkpoints.
        space: encodes their configurations; inactive conditional parameters are masked.
        runs: at least a handful.
        seed: of the fit's restarts.

    Returns:
        The forecast; bias, spread and stretch come from residuals of the chain ``g(h(x))`` with each run left out of
        ``h``. ``g`` has seen them all: its error on runs that it has not is added when a run is predicted.
    """
    x = torch.from_numpy(space.encode([r.config for r in runs]))
    z = torch.stack([r.z for r in runs]).double()
    centre = z.mean(dim=0)
    _, singular, right = torch.linalg.svd(z - centre, full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum().clamp(min=1e-12)
    k = min(_COMPONENTS, int((share < _EXPLAINED).sum()) + 1, len(singular))
    scale = (singular[:k] / len(z) ** 0.5).clamp(min=1e-6)
    directions = right[:k] * scale[:, None]
    components = (z - centre) @ (right[:k] / scale[:, None]).T
    model = fit_process(x, components, seed)
    mean, variance = leave_one_out(model, x, components)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(64, len(x), k, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        samples = surrogate.posterior_mean((mean + variance.sqrt() * noise) @ directions + centre)
    predicted, deviation = samples.mean(dim=0), samples.std(dim=0)
    measured = torch.tensor(
        [
            [
                surrogate.to_scale(n, v) if (v := r.metrics.get(n)) is not None else np.nan
                for n in surrogate.metric_names
            ]
            for r in runs
        ],
        dtype=torch.float64,
    )
    residual = measured - predicted
    bias = residual.nanmean(dim=0).nan_to_num(0.0)
    missing = (residual - bias).square().nanmean(dim=0) - deviation.square().mean(dim=0)
    spread = missing.nan_to_num(0.0).clamp(min=1e-6).sqrt()
    standard = ((residual - bias).abs() / (deviation.square() + spread.square()).sqrt()).numpy()
    factors = [
        conformal_factor(column[known], np.ones(int(known.sum())), 0.9) / 1.6449
        for column, known in ((c, np.isfinite(c)) for c in standard.T)
    ]
    stretch = torch.tensor([max(f, 1.0) if np.isfinite(f) else 1.0 for f in factors], dtype=torch.float64)
    return Forecast(model, centre, directions, surrogate, space, bias, spread, stretch)
