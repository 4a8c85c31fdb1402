"""What is expected of a merge that was not measured yet, and which one to measure next."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction, GenericMCObjective
from botorch.acquisition.logei import qLogExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.sampling import SobolQMCNormalSampler
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
from gpytorch.kernels import MaternKernel, PolynomialKernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from linear_operator.utils.errors import NotPSDError
from numpy.typing import NDArray

from epsopt.optimize.objectives import Objective, Objectives
from epsopt.surrogate.ranges import metric_range, positive_floor
from epsopt.surrogate.transforms import MetricTransform, fit_transform

Floats = NDArray[np.float64]
CANDIDATES = 1024
"""Merges that are weighed before each measurement."""

FIT_FAILURES = (ModelFittingError, NotPSDError, ArithmeticError, RuntimeError, ValueError)
"""What fitting a model or asking it may raise, whatever the library: of matrices that have no root, of NaN."""

FIT_STEPS = 40
"""Of L-BFGS, for each fit of the processes."""

_APART = 0.02  # coefficients that differ by less measure nearly the same: only where nothing farther is left
_SAME = 1e-3  # and by less than that are not measured twice
_ROUGH_SAMPLES = 16
_SHORTLIST = 64
_SAMPLES = 128
_INTERVAL = 1.6449  # standard deviations on either side of a 90 % interval


def next_merge(
    tried: Floats,
    table: Floats,
    known: Floats,
    objectives: Sequence[Objective],
    bounds: Mapping[str, tuple[float, float]],
    reference: Floats,
    reach: float,
    seed: int,
    rng: np.random.Generator,
) -> tuple[Floats, dict[str, dict[str, float]] | None] | None:
    """Fit the model to what was measured; return the merge expected to gain most, with its prediction.

    Where no model can be computed from so few measurements, it is the merge that lies farthest from all that were
    measured, and nothing is predicted.

    Args:
        tried: ``(n, groups, parents)`` coefficients of measured merges.
        table: ``(n, objectives)`` what they measured; NaN where nothing.
        known: ``(k, objectives)`` what was measured on other checkpoints, no NaN.
        objectives: the columns.
        bounds: lowest and highest possible values of metrics, by name.
        reference: ``(objectives,)`` reference point of the hypervolumes.
        reach: how far coefficients may leave the simplex.
        seed: of the fit and the acquisition's samples.
        rng: draws the candidates.

    Returns:
        ``(groups, parents)`` coefficients, and ``{"value", "low", "high"}`` by objective; None when there is nothing
        left to try.
    """
    candidates = _candidates(tried, table, objectives, reach, rng)
    x = torch.from_numpy(_free(tried))
    pool = torch.from_numpy(_free(candidates))
    nearest = torch.cdist(pool, x).min(dim=1).values
    pool_of = nearest > _APART
    if not bool(pool_of.any()):
        pool_of = nearest > _SAME
    if not bool(pool_of.any()):
        return None
    candidates, pool = candidates[pool_of.numpy()], pool[pool_of]
    try:
        return expected_most(x, table, known, candidates, pool, objectives, bounds, reference, seed)
    except FIT_FAILURES:
        away = torch.cdist(pool, x).min(dim=1).values
        return candidates[int(away.argmax())], None


def expected_most(
    x: torch.Tensor,
    table: Floats,
    known: Floats,
    candidates: Floats,
    pool: torch.Tensor,
    objectives: Sequence[Objective],
    bounds: Mapping[str, tuple[float, float]],
    reference: Floats,
    seed: int,
) -> tuple[Floats, dict[str, dict[str, float]]]:
    """Return the candidate with the largest expected improvement, and its prediction."""
    transforms = [
        fit_transform(y, metric_range(o.name, y, bounds), positive_floor(o.name, y, bounds))
        for y, o in zip(table.T, objectives, strict=True)
    ]
    model = _fit(x, table, transforms, seed)
    signs = torch.from_numpy(Objectives(objectives).signs)

    def turned(samples: torch.Tensor, X: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG001, N803
        return torch.stack([t.backward_draws(samples[..., j]) for j, t in enumerate(transforms)], dim=-1) * signs

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        outcomes = torch.from_numpy(np.vstack([known, table[np.isfinite(table).all(axis=1)]])) * signs
        corner = torch.from_numpy(reference) * signs
        partitioning = FastNondominatedPartitioning(corner, outcomes) if len(objectives) > 1 else None

        def values(points: torch.Tensor, samples: int) -> torch.Tensor:
            sampler = SobolQMCNormalSampler(torch.Size([samples]), seed=seed)
            if partitioning is None:
                acquisition: AcquisitionFunction = qLogExpectedImprovement(
                    model,
                    outcomes.max(),
                    sampler,
                    GenericMCObjective(lambda s, X=None: turned(s, X)[..., 0]),  # noqa: N803
                )
            else:
                acquisition = qLogExpectedHypervolumeImprovement(
                    model=model,
                    ref_point=corner,
                    partitioning=partitioning,
                    sampler=sampler,
                    objective=GenericMCMultiOutputObjective(turned),
                )
            return torch.cat([acquisition(part.unsqueeze(1)) for part in torch.split(points, 256)])

        # A rough look at all candidates, then a thorough one at the best.
        short = values(pool, _ROUGH_SAMPLES).topk(min(_SHORTLIST, len(pool))).indices
        best = int(short[values(pool[short], _SAMPLES).argmax()])
        posterior = model.posterior(pool[best : best + 1])
        mean, spread = posterior.mean[0], posterior.variance[0].clamp(min=0.0).sqrt()
    predicted = {}
    for j, o in enumerate(objectives):
        ends = [float(transforms[j].backward_draws(mean[j] + k * spread[j])) for k in (0.0, -_INTERVAL, _INTERVAL)]
        predicted[o.name] = {"value": ends[0], "low": ends[1], "high": ends[2]}
    return candidates[best], predicted


def _fit(x: torch.Tensor, table: Floats, transforms: Sequence[MetricTransform], seed: int) -> ModelListGP:
    """One Gaussian process for each objective: quadratic and Matern parts, each with its own weight."""
    models = []
    for j, transform in enumerate(transforms):
        rows = np.isfinite(table[:, j])
        y = torch.from_numpy(transform.forward(table[rows, j]))[:, None]
        width = x.shape[1]
        kernel = ScaleKernel(PolynomialKernel(power=2)) + ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=width))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.simplefilter("ignore")  # of retries that BoTorch recovers from
            single = SingleTaskGP(x[torch.from_numpy(rows)], y, covar_module=kernel, outcome_transform=None)
            single.likelihood.noise = 1e-4  # the same weights measure the same
            single.likelihood.requires_grad_(requires_grad=False)
            # A few dozen steps are as good as convergence, which takes most of a merge's time.
            options = {"options": {"maxiter": FIT_STEPS}}
            begun = {k: v.clone() for k, v in single.state_dict().items()}
            try:
                fit_gpytorch_mll(ExactMarginalLogLikelihood(single.likelihood, single), optimizer_kwargs=options)
            except ModelFittingError:  # of no use to learn from; what one would have guessed before still is
                single.load_state_dict(begun)
                single.eval()
        models.append(single)
    return ModelListGP(*models).eval()


def _candidates(
    tried: Floats, table: Floats, objectives: Sequence[Objective], reach: float, rng: np.random.Generator
) -> Floats:
    """Random merges, even and lopsided, and neighbours of the best so far: ``(n, groups, parents)``."""
    _, groups, parents = tried.shape
    shape = (CANDIDATES // 4, groups)
    even = rng.dirichlet(np.ones(parents), size=shape)
    lopsided = rng.dirichlet(np.full(parents, 0.4), size=shape)
    same = np.repeat(rng.dirichlet(np.ones(parents), size=(CANDIDATES // 4, 1)), groups, axis=1)
    spread = np.concatenate([even, lopsided, same])
    spread = 1.0 / parents + (1.0 + reach) * (spread - 1.0 / parents)
    front = Objectives(objectives).front(table)
    around = tried[rng.choice(front if len(front) else len(tried), size=CANDIDATES // 2)]  # none has all objectives
    step = rng.normal(0.0, 1.0, size=around.shape) * 10.0 ** rng.uniform(-2.0, -0.7, size=(len(around), 1, 1))
    near = around + step - step.mean(axis=2, keepdims=True)
    low = -reach / parents
    near = np.maximum(near, low)
    near = low + (near - low) * (1.0 - parents * low) / (near - low).sum(axis=2, keepdims=True)
    return np.concatenate([spread, near])


def _free(coefficients: Floats) -> Floats:
    """``(n, groups, parents)`` -> ``(n, groups * (parents - 1))``: the last coefficient follows from the others."""
    return np.ascontiguousarray(coefficients[:, :, :-1].reshape(len(coefficients), -1))
