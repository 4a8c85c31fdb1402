"""What a candidate's checkpoints are expected to add to the measured front, whatever model foretells them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.monte_carlo import qExpectedImprovement
from botorch.acquisition.multi_objective.monte_carlo import qExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.models.model import Model
from botorch.sampling import SobolQMCNormalSampler
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.objectives import Objective
from epsopt.optimize.outliers import reference_point
from epsopt.optimize.pareto import non_dominated

SAMPLES = 64
"""Of the outcomes of a candidate; the same for all candidates."""

_FAR = 5.0  # standard deviations
_EXACT_UP_TO = 4  # objectives
Floats = NDArray[np.float64]


class Outcomes(Protocol):
    """A model of what checkpoints measure, with what it takes to compare outcomes."""

    @property
    def model(self) -> Model:
        """BoTorch model, one output per objective and constraint."""

    @property
    def objectives(self) -> Sequence[Objective]:
        """In the order of the outputs."""

    @property
    def signs(self) -> Tensor:
        """``(m,)`` +1 to maximise, -1 to minimise."""

    @property
    def constraints(self) -> list[Callable[[Tensor], Tensor]]:
        """Functions of ``(..., outputs)``, met at zero or below."""

    def untransform(self, outputs: Tensor) -> Tensor:
        """Map ``(..., outputs)`` to ``(..., m)`` objectives in their own units, larger is better."""

    def measured(self) -> Floats:
        """``(k, m)`` what was measured and is feasible, larger is better."""


def improvement_over_front(
    outcomes: Outcomes, reference: Floats | None, pending: Tensor | None, seed: int
) -> AcquisitionFunction:
    """Return the expected hypervolume improvement of ``(n, q, width)`` inputs, the ``q`` of each jointly.

    Args:
        outcomes: the model, and the front that was measured.
        reference: ``(m,)`` the objectives' values that are just not good enough, in their own units; by default a
            tenth of their range beyond the worst measured that is no outlier.
        pending: ``(p, width)`` inputs that are under way.
        seed: of the Monte-Carlo samples.
    """
    measured, n = outcomes.measured(), len(outcomes.objectives)
    if reference is not None:
        corner = np.asarray(reference) * outcomes.signs.numpy()
    elif len(measured):
        corner = reference_point(measured)
    else:  # nothing feasible yet: whatever is, is worth finding
        worst = torch.zeros(outcomes.model.num_outputs, dtype=torch.float64)
        worst[:n] = -_FAR * outcomes.signs
        corner = outcomes.untransform(worst).numpy()
    common = {
        "model": outcomes.model,
        "sampler": SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed),
        "constraints": outcomes.constraints or None,
        "X_pending": pending,
    }
    with warnings.catch_warnings():
        # BoTorch recommends the logarithm, for the sake of gradients; candidates are compared here, not climbed.
        warnings.simplefilter("ignore")
        if 1 < n <= _EXACT_UP_TO:
            front = measured[non_dominated(measured, [True] * n).indices] if len(measured) else measured
            return qExpectedHypervolumeImprovement(
                ref_point=corner.tolist(),
                partitioning=FastNondominatedPartitioning(torch.from_numpy(corner), torch.from_numpy(front)),
                objective=GenericMCMultiOutputObjective(lambda samples, X=None: outcomes.untransform(samples)),  # noqa: ARG005, N803
                **common,
            )
        # Hypervolumes of many objectives are too costly: a random scalarisation stands for them (ParEGO, Knowles 2006).
        spread = np.maximum(measured.max(axis=0) - corner, 1e-9) if len(measured) else np.ones(n)
        weights = np.random.default_rng(seed).dirichlet(np.ones(n)) if n > 1 else np.ones(1)

        def scalar(gains: Tensor) -> Tensor:
            parts = (gains - torch.from_numpy(corner)) / torch.from_numpy(spread) * torch.from_numpy(weights)
            return parts.min(dim=-1).values + 0.05 * parts.sum(dim=-1)

        best = float(scalar(torch.from_numpy(measured)).max()) if len(measured) else 0.0
        return qExpectedImprovement(
            best_f=best,
            objective=GenericMCObjective(lambda samples, X=None: scalar(outcomes.untransform(samples))),  # noqa: ARG005, N803
            **common,
        )
