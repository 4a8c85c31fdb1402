"""What merges are expected to measure, whatever process foretells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from botorch.models.model import Model
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.objectives import Objective, Objectives
from epsopt.surrogate.transforms import MetricTransform

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MergeOutcomes:
    """What merges are expected to measure, as :class:`epsopt.optimize.acquisition.ehvi.Outcomes`.

    Attributes:
        model: the process, on the scale of `transforms`.
        objectives: its outputs.
        transforms: from an objective's own unit to the process's, one each.
        known: ``(n, m)`` all that was measured anywhere, finite.
    """

    model: Model
    objectives: tuple[Objective, ...]
    transforms: tuple[MetricTransform, ...]
    known: Floats

    @property
    def signs(self) -> Tensor:
        """``(m,)`` +1 to maximise, -1 to minimise."""
        return torch.from_numpy(Objectives(self.objectives).signs)

    @property
    def constraints(self) -> list[Callable[[Tensor], Tensor]]:
        """None."""
        return []

    def untransform(self, outputs: Tensor) -> Tensor:
        """``(..., m)`` on the process's scale to the objectives' own, larger is better."""
        columns = [t.backward_draws(outputs[..., j]) for j, t in enumerate(self.transforms)]
        return torch.stack(columns, dim=-1) * self.signs

    def measured(self) -> Floats:
        """``(n, m)`` all that was measured, larger is better."""
        return np.asarray(self.known * self.signs.numpy())
