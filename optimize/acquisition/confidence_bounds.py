"""What a candidate z is worth: lower bounds of its objectives and the probability that it meets the targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.objectives import Objective, Objectives, Target
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.errors import UsageError

Z90 = 1.645
"""Standard deviations that a lower bound lies below the mean: the lower end of the 90 % intervals."""


@dataclass(frozen=True, eq=False)
class TargetScorer:
    """Scores points of the latent space for a set of objectives and targets.

    Everything is on the surrogate's model scale and turned so that larger is better, unless said otherwise.

    Attributes:
        surrogate: the fitted map.
        objectives: the metrics that count; all of them known to the surrogate.
        targets: each names one of the objectives.
    """

    surrogate: Surrogate
    objectives: tuple[Objective, ...]
    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        known = self.surrogate.metric_names
        for objective in self.objectives:
            if objective.name not in known:
                raise UsageError(
                    f"the map was not trained on {objective.name!r}, it knows {', '.join(known)}: run 'epsopt fit'"
                )
        names = [o.name for o in self.objectives]
        for target in self.targets:
            if target.name not in names:
                raise UsageError(f"target {target.name!r} is none of the objectives {', '.join(names)}")

    @property
    def columns(self) -> list[int]:
        """Column of each objective in the surrogate's metrics."""
        return [self.surrogate.metric_names.index(o.name) for o in self.objectives]

    @property
    def signs(self) -> Tensor:
        """``(objectives,)`` +1 to maximise, -1 to minimise."""
        return torch.from_numpy(Objectives(self.objectives).signs)

    @property
    def thresholds(self) -> Tensor:
        """``(objectives,)`` targets; minus infinity for an objective without one."""
        values = {t.name: t.value for t in self.targets}
        return torch.tensor(
            [self._threshold(o, values[o.name]) if o.name in values else -np.inf for o in self.objectives],
            dtype=torch.float64,
        )

    def _threshold(self, objective: Objective, value: float) -> float:
        bounds = self.surrogate.transforms[self.surrogate.metric_names.index(objective.name)].bounds
        if bounds is not None and value == bounds[0 if objective.maximize else 1]:
            return -np.inf  # cannot be missed
        return (1.0 if objective.maximize else -1.0) * self.surrogate.to_scale(objective.name, value)

    def posterior_moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``(b, latent)`` -> means and standard deviations, each ``(b, objectives)``; differentiable."""
        mean, deviation = self.surrogate.posterior_moments(z)
        return mean[:, self.columns] * self.signs, deviation[:, self.columns]

    def log_probability(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """``(b, objectives)`` moments -> ``(b,)`` log-probability that all targets are met; 0 without targets.

        The product of the probabilities of single targets: errors of different metrics are taken as independent. A
        Gaussian copula of held-out residuals did not predict better (docs/decisions).
        """
        have = torch.isfinite(self.thresholds)
        if not bool(have.any()):
            return mean.new_zeros(len(mean))
        standard = (mean[:, have] - self.thresholds[have]) / deviation[:, have]
        log_probabilities: Tensor = torch.special.log_ndtr(standard)
        return log_probabilities.sum(dim=1)

    def probability(self, z: Tensor) -> Tensor:
        """``(b, latent)`` -> ``(b,)`` probability that all targets are met at each point; 1 without targets."""
        with torch.no_grad():
            return self.log_probability(*self.posterior_moments(z)).exp()

    def lower_bound(self, mean: Tensor, deviation: Tensor) -> NDArray[np.float64]:
        """``(b, objectives)`` moments -> lower confidence bounds in the metrics' own units.

        For a minimised objective the bound is the upper one. Bounded metrics stay within their bounds.
        """
        return self._in_units(mean - Z90 * deviation)

    def upper_bound(self, mean: Tensor, deviation: Tensor) -> NDArray[np.float64]:
        """``(b, objectives)`` moments -> the other ends of the same intervals: as good as it may well be."""
        return self._in_units(mean + Z90 * deviation)

    def _in_units(self, values: Tensor) -> NDArray[np.float64]:
        bound = values * self.signs
        full = torch.zeros(len(bound), len(self.surrogate.metric_names), dtype=torch.float64)
        full[:, self.columns] = bound
        return np.asarray(self.surrogate.to_metrics(full)[:, self.columns].detach().numpy())
