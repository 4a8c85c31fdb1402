"""Noisy expected improvement in one objective, noisy expected hypervolume improvement in several: one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import botorch.acquisition.multi_objective.logei as _logei
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.models.model import Model
from botorch.sampling import SobolQMCNormalSampler
from torch import Tensor

# BoTorch 0.18 would compile a C++ kernel when qLogNEHVI is first used: half a minute, a compiler that few machines
# have, and a lock that makes every later process wait for ever if that one is killed meanwhile. Its Python path does
# the same.
_logei._load_attempted = True  # noqa: SLF001


def noisy_improvement(
    model: Model,
    baseline: Tensor,
    objective: Callable[[Tensor], Tensor],
    reference: Sequence[float],
    constraints: Sequence[Callable[[Tensor], Tensor]],
    *,
    samples: int,
    seed: int,
) -> AcquisitionFunction:
    """Build qLogNEI or, for several objectives, qLogNEHVI (Ament et al. 2023, arXiv:2310.20708).

    Args:
        model: what is sampled.
        baseline: ``(n, d)`` inputs whose outcomes count as known.
        objective: ``(..., outputs)`` samples to ``(..., objectives)``, larger is better.
        reference: one value per objective, the reference point of hypervolumes; unused with one objective.
        constraints: functions of samples that are feasible at or below zero.
        samples: Monte-Carlo samples.
        seed: of the samples, and of the pruning of the baseline; the caller's random state is left alone.
    """
    sampler = SobolQMCNormalSampler(torch.Size([samples]), seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(reference) == 1:
            return qLogNoisyExpectedImprovement(
                model=model,
                X_baseline=baseline,
                sampler=sampler,
                objective=GenericMCObjective(lambda drawn, X=None: objective(drawn)[..., 0]),  # noqa: ARG005, N803
                constraints=list(constraints) or None,
                prune_baseline=True,
                cache_root=False,
            )
        return qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=list(reference),
            X_baseline=baseline,
            sampler=sampler,
            objective=GenericMCMultiOutputObjective(lambda drawn, X=None: objective(drawn)),  # noqa: ARG005, N803
            constraints=list(constraints) or None,
            prune_baseline=True,
            cache_root=False,
        )
