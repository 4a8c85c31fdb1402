"""What `epsopt merge` is compared with (benchmarks/merging_peers.py): other ways to spend evaluations. No command.

Each may measure as many merges as epsopt does, of the same parents, and knows what these were measured to be. Where the
method's authors recommend a setting it is theirs; where they search one, so does the method here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize import Objective, non_dominated
from epsopt.optimize.merge.simplex_merge import simplex_grid
from epsopt.optimize.objectives import Objectives, measured_table
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import Parent, recombination
from epsopt.zoo.errors import EpsoptError

Floats = NDArray[np.float64]
BLOCKS = 4  # that the block-wise search gives coefficients of their own
DENSITIES = (0.5, 0.8)  # of differences that TIES and its like keep


@dataclass(frozen=True)
class Task:
    """What is to be merged.

    Attributes:
        parents: the checkpoints that epsopt chose.
        ends: the last checkpoint of each run of their lineage, for soups.
        base: what all of them began as; None: they are epochs of one run, and begin nowhere.
        tensors: names of their tensors, in order.
        objectives: what counts.
        trained: ``(n, objectives)`` what all checkpoints measured.
        measure: metrics of a recombination.
        budget: merges that may be measured.
    """

    parents: Sequence[Checkpoint]
    ends: Sequence[Checkpoint]
    base: Parent | None
    tensors: Sequence[str]
    objectives: Sequence[Objective]
    trained: Floats
    measure: Callable[[Any], Any]
    budget: int

    def values(self, coefficients: Floats, groups: Sequence[str] = (), **how: Any) -> Floats:
        """``(groups, parents)`` coefficients of the parents to ``(objectives,)`` values."""
        return self.values_of(self.parents, coefficients, groups, **how)

    def values_of(
        self, parents: Sequence[Checkpoint], coefficients: Floats, groups: Sequence[str] = (), **how: Any
    ) -> Floats:
        """The same, of any checkpoints; NaN where mergekit cannot make them (a density too near to 1 for DELLA)."""
        made_of = recombination(parents, np.atleast_2d(coefficients).tolist(), groups, **how)
        try:
            measured = self.measure(made_of)
        except EpsoptError:
            measured = {}
        return np.asarray(measured_table([measured], self.objectives)[0])

    @property
    def costs(self) -> Floats:
        """``(parents, objectives)`` what the parents measured, lower better, in standard deviations of all."""
        return self.to_costs(measured_table([p.metrics for p in self.parents], self.objectives))

    def to_costs(self, values: Floats) -> Floats:
        """Values to costs: lower better, in standard deviations of what all checkpoints measured."""
        return np.asarray(-Objectives(self.objectives).signs * values / self.trained.std(axis=0))


Method = Callable[[Task, np.random.Generator], Iterator[Floats]]


def at_random(task: Task, rng: np.random.Generator) -> Iterator[Floats]:
    """Random merges of the parents."""
    for row in rng.dirichlet(np.ones(len(task.parents)), size=task.budget):
        yield task.values(row)


def linear_grid(task: Task, rng: np.random.Generator) -> Iterator[Floats]:  # noqa: ARG001
    """Weighted means on a grid over the simplex."""
    for row in _inner_grid(len(task.parents), task.budget):
        yield task.values(row)


def slerp_grid(task: Task, rng: np.random.Generator) -> Iterator[Floats]:  # noqa: ARG001
    """Spherical interpolation of each pair of parents."""
    pairs = list(combinations(task.parents, 2))
    for t in np.arange(1, task.budget // len(pairs) + 1) / (task.budget // len(pairs) + 1):
        for pair in pairs:
            yield task.values_of(pair, np.array([1.0 - t, t]), operator="slerp")


def on_grid(operator: str) -> Method:
    """An operator of mergekit that adds up sparse differences from the base, on a grid of weights and densities."""

    def method(task: Task, rng: np.random.Generator) -> Iterator[Floats]:  # noqa: ARG001
        for row in _inner_grid(len(task.parents), task.budget // len(DENSITIES)):
            for density in DENSITIES:
                yield task.values(row, operator=operator, base=task.base, density=density)

    return method


def uniform_soup(task: Task, rng: np.random.Generator) -> Iterator[Floats]:  # noqa: ARG001
    """The mean of the ends of all runs (Wortsman et al. 2022)."""
    yield task.values_of(task.ends, np.full(len(task.ends), 1.0 / len(task.ends)))


def greedy_soup(task: Task, rng: np.random.Generator) -> Iterator[Floats]:  # noqa: ARG001
    """For three weights of the objectives, the next best end joins if it helps (Wortsman et al. 2022)."""
    costs = task.to_costs(measured_table([c.metrics for c in task.ends], task.objectives))
    for weights in _trade_offs(3, len(task.objectives)):
        order = np.argsort(costs @ weights, kind="stable")
        soup, best = [task.ends[order[0]]], float((costs @ weights)[order[0]])
        for i in order[1 : 1 + task.budget // 3]:
            tried = [*soup, task.ends[i]]
            values = task.values_of(tried, np.full(len(tried), 1.0 / len(tried)))
            yield values
            cost = float(task.to_costs(values) @ weights)
            if cost < best:
                soup, best = tried, cost


def quadratic_surrogate(task: Task, rng: np.random.Generator) -> Iterator[Floats]:
    """MAP (Li et al. 2025): a quadratic fitted to random merges; then merges of the front that it predicts."""
    parents, first = len(task.parents), 2 * task.budget // 3
    tried = rng.dirichlet(np.ones(parents), size=first)
    found = []
    for row in tried:
        found.append(task.values(row))
        yield found[-1]
    corners = measured_table([p.metrics for p in task.parents], task.objectives)
    x, y = np.vstack([np.eye(parents), tried]), np.vstack([corners, found])
    fine = np.isfinite(y).all(axis=1)
    solution = np.linalg.lstsq(_quadratic(x[fine]), y[fine], rcond=None)[0]
    candidates = rng.dirichlet(np.ones(parents), size=4096)
    predicted = _quadratic(candidates) @ solution
    front = non_dominated(predicted, Objectives(task.objectives).maximize).indices
    order = front[np.argsort(predicted[front, 0], kind="stable")]
    left = task.budget - first
    for i in order[np.linspace(0, len(order) - 1, min(left, len(order))).round().astype(int)]:
        yield task.values(candidates[i])


def cma_es(task: Task, rng: np.random.Generator) -> Iterator[Floats]:
    """CMA-ES on the weights of the parents, as mergekit-evolve does, for three weighted sums of the objectives."""
    from cmaes import CMA

    parents = len(task.parents)
    for weights in _trade_offs(3, len(task.objectives)):
        search = CMA(
            mean=np.full(parents, 1.0 / parents), sigma=0.3, bounds=np.array([[0.0, 1.0]] * parents),
            seed=int(rng.integers(2**31)), population_size=5,
        )  # fmt: skip
        for _ in range(task.budget // 3 // search.population_size):
            asked = []
            for _ in range(search.population_size):
                weight = search.ask()
                values = task.values((weight + 1e-9) / (weight + 1e-9).sum())
                yield values
                cost = float(task.to_costs(values) @ weights)
                asked.append((weight, cost if np.isfinite(cost) else 1e6))
            search.tell(asked)


def block_wise(task: Task, rng: np.random.Generator) -> Iterator[Floats]:
    """Coefficients of their own for each quarter of the network's depth, chosen by qEHVI (as BAMBO, 2025)."""
    parents = len(task.parents)
    parts = [part.tolist() for part in np.array_split(np.array(task.tensors, dtype=object), BLOCKS)]
    groups = [name for part in parts[:-1] for name in part]
    rows_of = [i for i, part in enumerate(parts[:-1]) for _ in part] + [BLOCKS - 1]

    def values(coefficients: Floats) -> Floats:
        return task.values(coefficients[rows_of], groups)

    corners = measured_table([p.metrics for p in task.parents], task.objectives)
    x = [np.tile(row, (BLOCKS, 1)) for row in np.eye(parents)]
    y = list(corners)
    for i in range(task.budget):
        if i < task.budget // 3:
            coefficients = rng.dirichlet(np.ones(parents), size=BLOCKS)
        else:
            coefficients = _most_improving(np.stack(x), np.stack(y), task, rng)
        x.append(coefficients)
        y.append(values(coefficients))
        yield y[-1]


METHODS: dict[str, Method] = {
    "random merges": at_random,
    "linear, grid": linear_grid,
    "slerp, grid": slerp_grid,
    "TIES, grid": on_grid("ties"),
    "DARE, grid": on_grid("dare"),
    "DELLA, grid": on_grid("della"),
    "uniform soup": uniform_soup,
    "greedy soup": greedy_soup,
    "MAP": quadratic_surrogate,
    "CMA-ES": cma_es,
    "block-wise qEHVI": block_wise,
}
OF_MERGEKIT = {"slerp, grid", "TIES, grid", "DARE, grid", "DELLA, grid"}
FROM_BASE = {"TIES, grid", "DARE, grid", "DELLA, grid"}
SEEDLESS = {"linear, grid", "slerp, grid", "TIES, grid", "DARE, grid", "DELLA, grid", "uniform soup", "greedy soup"}


def _inner_grid(parents: int, most: int) -> Floats:
    """The finest grid over the simplex with at most so many points besides the corners."""
    least = next(n for n in range(most + parents, 0, -1) if len(simplex_grid(parents, n)) - parents <= most)
    grid = simplex_grid(parents, least)
    return np.asarray(grid[grid.max(axis=1) < 1.0])


def _trade_offs(count: int, objectives: int) -> Floats:
    """Weights of objectives: between the first and the others, evenly."""
    first = np.arange(1, count + 1) / (count + 1)
    rest = np.repeat((1.0 - first)[:, None] / (objectives - 1), objectives - 1, axis=1)
    return np.column_stack([first, rest])


def _quadratic(x: Floats) -> Floats:
    """``(n, parents)`` coefficients that sum to one to all their products, which are a quadratic's terms."""
    return np.asarray(np.column_stack([x[:, i] * x[:, j] for i in range(x.shape[1]) for j in range(i + 1)]))


def _most_improving(x: Floats, y: Floats, task: Task, rng: np.random.Generator) -> Floats:
    """The coefficients of largest expected hypervolume improvement, by BoTorch's own defaults."""
    import torch
    from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
    from gpytorch.mlls import ExactMarginalLogLikelihood

    fine = np.isfinite(y).all(axis=1)
    inputs = torch.from_numpy(x[fine, :, :-1].reshape(fine.sum(), -1))
    costs = torch.from_numpy(-task.to_costs(y[fine]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(int(rng.integers(2**31)))
        model = SingleTaskGP(inputs, costs)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        known = torch.from_numpy(-task.to_costs(task.trained))
        corner = known.min(dim=0).values
        acquisition = qLogExpectedHypervolumeImprovement(
            model, corner, FastNondominatedPartitioning(corner, torch.vstack([known, costs]))
        )
        even = rng.dirichlet(np.ones(x.shape[2]), size=(768, x.shape[1]))
        step = rng.normal(0.0, 0.1, size=(256, *x.shape[1:]))
        near = np.abs(x[rng.choice(np.flatnonzero(fine), size=256)] + step)
        pool = np.concatenate([even, near / near.sum(axis=2, keepdims=True)])
        with torch.no_grad():
            scores = acquisition(torch.from_numpy(pool[:, :, :-1].reshape(len(pool), 1, -1)))
    return np.asarray(pool[int(scores.argmax())])
