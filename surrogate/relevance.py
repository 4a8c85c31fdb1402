"""How much each view of a checkpoint tells about each metric, learned so that whole runs left out are predicted well.

A Gaussian process whose squared distance is a weighted sum over views (automatic relevance determination, Neal 1996,
on views instead of single inputs). The weights maximise the predictive density of every run from all *other* runs,
which an exact Gaussian process gives in closed form (leave-one-out, Sundararajan and Keerthi 2001, here for the block
of a run: Ginsbourger and Schärer 2023): half of it is that of each row by itself, half that of a run's rows together.
The marginal likelihood would reward predicting an epoch from its neighbours in the same run: on unseen runs its error
was up to 1.7 times as large (docs/decisions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS = 320
"""Checkpoints that one evaluation of the density looks at."""

STEPS = 40
"""Of the ascent that learns which views matter to a metric."""

JOINTLY = 0.5
"""Share of the density of a run's rows together in what processes are learned by; figures in docs/decisions."""

_MOST_VIEWS = 32  # of more, those are taken whose distances agree best with the metric's
_RATE = 0.2
_PRIOR = 0.05
_JITTER = 1e-5


@dataclass(frozen=True, eq=False)
class Relevance:
    """What was learned, on standardised metrics.

    Attributes:
        weights: ``(m, views)`` non-negative; zero for views that were not looked at.
        amplitude: ``(m,)`` signal variance.
        noise: ``(m,)`` noise variance.
    """

    weights: Tensor
    amplitude: Tensor
    noise: Tensor


class RunSampler:
    """Draws as many checkpoints from every run, so that the runs' blocks can be inverted together.

    Args:
        runs: ``(n,)`` run of each row.
        usable: ``(n,)`` bool; rows that may be drawn.
        rows: about how many to draw.
        rng: what to draw with.
    """

    def __init__(self, runs: NDArray[np.int64], usable: NDArray[np.bool_], rows: int, rng: np.random.Generator) -> None:
        places = np.flatnonzero(usable)
        self._rng = rng
        self._runs = [places[runs[places] == run] for run in np.unique(runs[places])]
        longest = max((len(some) for some in self._runs), default=1)
        self.per_run = int(np.clip(rows // max(len(self._runs), 1), 1, min(8, longest)))
        self.n_runs = min(len(self._runs), rows // self.per_run)

    def draw(self) -> NDArray[np.int64]:
        """``(runs, rows per run)`` places; a run with fewer rows repeats some."""
        chosen = self._rng.permutation(len(self._runs))[: self.n_runs]
        return np.stack([self._pick(self._runs[i]) for i in chosen])

    def _pick(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._rng.choice(places, self.per_run, replace=len(places) < self.per_run)


def matern(distance: Tensor) -> Tensor:
    """Matérn 5/2 at a scaled distance."""
    r = distance * 5.0**0.5
    out: Tensor = (1.0 + r + r.square() / 3.0) * torch.exp(-r)
    return out


def held_out_loss(covariance: Tensor, y: Tensor, runs: int, jointly: float = 0.0) -> Tensor:
    """Negative log density of each row given all rows of *other* runs, averaged; smaller is better.

    Args:
        covariance: ``(runs * q, runs * q)``, noise included; the rows of a run are adjacent.
        y: ``(runs * q,)`` with mean zero.
        runs: how many runs.
        jointly: share of the density of a run's rows together, which is that of each row given the other runs *and*
            the rows before it: it tells how a run's own past binds its future, which the rows one by one do not.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    each = len(y) // runs
    index = torch.arange(runs)
    blocks = inverse.reshape(runs, each, runs, each)[index, :, index, :]
    within = torch.linalg.inv(blocks)
    residual = (within @ (inverse @ y).reshape(runs, each, 1)).squeeze(2)
    variance = torch.diagonal(within, dim1=1, dim2=2)
    loss: Tensor = 0.5 * (residual.square() / variance + variance.log()).mean()
    if jointly:
        fits = (residual[:, None] @ blocks @ residual[:, :, None]).reshape(-1)
        together = 0.5 * (fits - torch.logdet(blocks)).mean() / each
        loss = (1.0 - jointly) * loss + jointly * together
    return loss


def learn_relevance(views: Sequence[Tensor], y: Tensor, runs: NDArray[np.int64], rng: np.random.Generator) -> Relevance:
    """Learn the weights of views.

    Args:
        views: each ``(n, components)`` with total variance one.
        y: ``(n, m)`` standardised metrics; NaN where not measured.
        runs: ``(n,)``.
        rng: draws the rows that are looked at.

    Returns:
        The weights; with fewer than two runs that measured a metric, its views all weigh the same.
    """
    n_metrics = y.shape[1]
    weights = torch.zeros(n_metrics, len(views), dtype=torch.float64)
    amplitude, noise = torch.ones(n_metrics).double(), torch.full((n_metrics,), 0.05).double()
    for j in range(n_metrics):
        usable = np.asarray(torch.isfinite(y[:, j]))
        sampler = RunSampler(runs, usable, ROWS, rng)
        if sampler.n_runs < 2:
            weights[j] = 1.0 / len(views)
            continue
        rows = torch.from_numpy(sampler.draw().reshape(-1))
        target = y[rows, j].double()
        squared = torch.stack([torch.cdist(v[rows].double(), v[rows].double()).square() for v in views])
        kept = _screen(squared, target)
        log = _ascend(squared[kept], target, sampler.n_runs)
        weights[j, kept], amplitude[j], noise[j] = log[:-2].exp(), log[-2].exp(), log[-1].exp()
    return Relevance(weights, amplitude, noise)


def _ascend(squared: Tensor, y: Tensor, runs: int) -> Tensor:
    """Logarithms of the views' weights, the amplitude and the noise."""
    start = torch.full((len(squared) + 2,), -float(np.log(len(squared))), dtype=torch.float64)
    start[-2], start[-1] = 0.0, -3.0
    log = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([log], lr=_RATE)
    eye = torch.eye(len(y), dtype=torch.float64)
    for _ in range(STEPS):
        distance = (torch.einsum("v,vab->ab", log[:-2].exp(), squared) + 1e-9).sqrt()
        covariance = log[-2].exp() * matern(distance) + (log[-1].exp() + _JITTER) * eye
        loss = held_out_loss(covariance, y, runs, JOINTLY)
        # In nats per zoo, as the prior is: few checkpoints move the weights little.
        loss = len(y) * loss + _PRIOR * (log - start)[:-1].square().sum() + 0.02 * log[:-2].exp().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            log.clamp_(-12.0, 6.0)
    return log.detach()


def _screen(squared: Tensor, y: Tensor) -> Tensor:
    """Places of at most ``_MOST_VIEWS`` views, by the correlation of their distances with the metric's."""
    if len(squared) <= _MOST_VIEWS:
        return torch.arange(len(squared))
    target = (y[:, None] - y[None, :]).abs()
    target = target - target.mean()
    flat = squared.sqrt() - squared.sqrt().mean(dim=(1, 2), keepdim=True)
    score = (flat * target).sum(dim=(1, 2)) / flat.square().sum(dim=(1, 2)).sqrt().clamp(min=1e-12)
    return score.topk(_MOST_VIEWS).indices.sort().values
