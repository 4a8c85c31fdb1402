"""Training one Epsilon-VAE: the views' relevance first, then z and its heads together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from epsopt.surrogate.network import EpsilonVAE, NetworkShape, load_network
from epsopt.surrogate.relevance import JOINTLY, Relevance, RunSampler, held_out_loss, learn_relevance, matern
from epsopt.surrogate.side_by_side import completed, one_thread
from epsopt.zoo.ray_cluster import RayCluster

STEPS = 240
"""Of the optimiser in a fit, where nothing else is said."""

_METRIC_EVERY = 3  # steps from one look at the metrics' held-out density to the next: it costs most of the time
_JITTER = 1e-5
_SMALLEST_INVERSE = 1e-3
_LONG = 2.0  # typical lengths


@dataclass(frozen=True)
class TrainingConfig:
    """How an :class:`EpsilonVAE` is trained; the defaults were chosen on other zoos than are reported on.

    Attributes:
        steps: optimiser steps.
        batch: checkpoints per step (the metrics' density looks at more, see ``relevance.ROWS``).
        learning_rate: peak of the heads' one-cycle schedule; the encoder's is relative to its own weights.
        encoder_rate: relative step of the encoder's weights.
        weight_decay: of the heads.
        kl: weight of the KL divergence (the seeds' beta).
        embeddings: weight of the embedding head's loss.
        weights: weight of the recombination head's loss.
        finetune: whether the metrics' held-out density also trains the encoder.
    """

    steps: int = field(default_factory=lambda: STEPS)
    batch: int = 64
    learning_rate: float = 4e-3
    encoder_rate: float = 0.02
    weight_decay: float = 0.05
    kl: float = 1e-4
    embeddings: float = 0.1
    weights: float = 0.1
    finetune: bool = True


@dataclass(frozen=True, eq=False)
class Examples:
    """Tensors of one training set, on the model's scales.

    Attributes:
        tokens: ``(n, columns)``.
        slices: which columns belong to which view.
        metrics: ``(n, m)``; NaN where not measured.
        embeddings: ``(n, anchors, dim)`` with NaN rows where there is none, or ``None``.
        sketches: ``(n, sketch)`` of the weights minus the lineage's mean, each lineage scaled to unit mean square.
        runs: ``(n,)`` int64.
        lineages: ``(n,)`` int64.
        usual: rows that z is learned from, all but those of diverged checkpoints.
    """

    tokens: Tensor
    slices: tuple[slice, ...]
    metrics: Tensor
    embeddings: Tensor | None
    sketches: Tensor
    runs: Tensor
    lineages: Tensor
    usual: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device) -> Examples:
        """Return the same examples on a device."""
        return Examples(
            self.tokens.to(device),
            self.slices,
            self.metrics.to(device),
            None if self.embeddings is None else self.embeddings.to(device),
            self.sketches.to(device),
            self.runs.to(device),
            self.lineages.to(device),
            self.usual.to(device),
        )


def train_many(
    jobs: Sequence[tuple[NetworkShape, Examples]],
    recipe: TrainingConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    cluster: RayCluster | None = None,
) -> list[EpsilonVAE]:
    """Train networks side by side, one process a core.

    Not on a GPU: steps are so small that starting them takes longer than computing them (benchmarks/gpu.py).

    Args:
        jobs: shape and examples of each network.
        recipe: how to train them.
        seed: of each; the result does not depend on how many cores there are.
        progress: called as ``progress(done, total)``.
        cluster: whose processors train them, in place of this machine.

    Returns:
        The trained networks, in the order given, on the CPU and in evaluation mode.
    """
    # Processes: batches are too small for a second thread to help. Each gets tokens, not fingerprints, a few MB.
    states = completed(_trained, [(shape, examples, recipe, seed) for shape, examples in jobs], cluster)
    networks: dict[int, EpsilonVAE] = {}
    for done, (i, state) in enumerate(states, 1):
        networks[i] = load_network(jobs[i][0], state)
        if progress is not None:
            progress(done, len(jobs))
    return [networks[i] for i in range(len(jobs))]


def _trained(shape: NetworkShape, examples: Examples, recipe: TrainingConfig, seed: int) -> dict[str, Tensor]:
    with one_thread(), torch.random.fork_rng():
        torch.manual_seed(seed)
        network = EpsilonVAE(shape)
        train_network(network, examples, recipe, seed)
    return network.state_dict()


def train_network(
    network: EpsilonVAE, examples: Examples, recipe: TrainingConfig, seed: int, *, trained: bool = False
) -> None:
    """Train a network in place.

    Args:
        network: what to train.
        examples: what to train it on; batches draw runs evenly, so that a long run does not outweigh a short one.
        recipe: how.
        seed: of batches and of the latent's sampling.
        trained: go on from the weights that it has, instead of learning the views' relevance and starting z anew.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    runs = examples.runs.cpu().numpy()
    if not trained:
        views = [examples.tokens[:, s].cpu() for s in examples.slices]
        start_from(network, examples, learn_relevance(views, examples.metrics.cpu(), runs, rng))
    optimizer = _optimizer(network, recipe)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(recipe.steps, 2), pct_start=0.15)
    usual = examples.usual.cpu().numpy()
    share = _row_weights(runs[usual])
    size = min(recipe.batch, len(usual))
    density = _HeldOutDensity(examples, runs, rng)
    network.train()
    for step in range(recipe.steps):
        rows = torch.from_numpy(usual[rng.choice(len(usual), size=size, replace=False, p=share)]).to(
            examples.runs.device
        )
        loss = _loss(network, examples, rows, recipe)
        if recipe.finetune and step % _METRIC_EVERY == 0:
            loss = loss + _METRIC_EVERY * density(network)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def start_from(network: EpsilonVAE, examples: Examples, relevance: Relevance) -> None:
    """Start z as the leading components of the tokens, each view weighed by its relevance to all metrics together.

    Distances in z then are what the metrics' Gaussian processes see, as far as so many dimensions can hold it.
    """
    device = examples.tokens.device
    columns = torch.zeros(examples.tokens.shape[1], len(relevance.weights), dtype=torch.float64)
    for view, place in enumerate(examples.slices):
        columns[place] = relevance.weights[:, view]
    tokens, centre = _shortened(examples.tokens[examples.usual].cpu().double())
    # Each metric's weighed tokens have the same total variance: none outshouts another.
    spread = (tokens.square().mean(dim=0)[:, None] * columns).sum(dim=0).clamp(min=1e-12)
    gain = (columns / spread).sum(dim=1).sqrt()
    weighed = tokens * gain
    _, _, directions = torch.linalg.svd(weighed, full_matrices=False)
    latent = network.shape.latent
    directions = directions[:latent]
    z = weighed @ directions.T
    scale = 1.0 / z.square().mean().sqrt().clamp(min=1e-12)
    network.relevance.copy_(gain.float())
    network.to_mean.weight.zero_()
    network.to_mean.weight[: len(directions)] = (directions * scale).float().to(device)
    network.to_mean.bias.copy_(-(network.to_mean.weight @ (centre.float().to(device) * network.relevance)))
    for j, own in enumerate(columns.T):
        # The linear map from z to the metric's own weighed tokens; its diagonal is how fast the metric varies.
        back = torch.linalg.pinv(directions) * (own.sqrt() / gain.clamp(min=1e-12))[:, None] / scale
        lengths = torch.full((latent,), _SMALLEST_INVERSE, dtype=torch.float64)
        lengths[: len(directions)] = back.square().sum(dim=0).sqrt().clamp(min=_SMALLEST_INVERSE)
        network.log_inverse_lengths[j] = lengths.log().float().to(device)
    network.log_amplitude.copy_(relevance.amplitude.log().float())
    network.log_noise.copy_(relevance.noise.log().float())


def _shortened(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """``(n, columns)`` -> the same around their centre, no row longer than twice the typical one; and the centre.

    A diverged checkpoint lies far out in a direction of its own: each would take one of z's dimensions for itself.
    """
    middle = tokens.median(dim=0).values
    away = tokens - middle
    length = away.norm(dim=1, keepdim=True)
    limit = _LONG * length.median()
    away = away * torch.where(length > limit, limit / length.clamp(min=1e-12), 1.0) if limit > 0.0 else away
    mean = away.mean(dim=0)
    return away - mean, middle + mean


def _optimizer(network: EpsilonVAE, recipe: TrainingConfig) -> torch.optim.Optimizer:
    size = float(network.to_mean.weight.detach().square().mean().sqrt())
    heads = [*network.recombination.parameters()]
    if network.embedding_head is not None:
        heads += [*network.embedding_head.parameters()]
    return torch.optim.AdamW(
        [
            {"params": [network.to_mean.weight], "lr": recipe.encoder_rate * size, "weight_decay": 0.0},
            {"params": [network.log_inverse_lengths, network.log_amplitude, network.log_noise],
             "lr": 0.05, "weight_decay": 0.0},
            {"params": [network.to_mean.bias, *network.to_log_variance.parameters()], "lr": 1e-3, "weight_decay": 0.0},
            {"params": heads, "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        ]
    )  # fmt: skip


class _HeldOutDensity:
    """The metrics' part of the loss: how unlikely each run is, given z and metrics of all other runs."""

    def __init__(self, examples: Examples, runs: NDArray[np.int64], rng: np.random.Generator) -> None:
        self._examples = examples
        known = torch.isfinite(examples.metrics).cpu().numpy()
        from_runs = [RunSampler(runs, known[:, j], _DENSITY_ROWS, rng) for j in range(known.shape[1])]
        self._samplers = {j: s for j, s in enumerate(from_runs) if s.n_runs >= 2}

    def __call__(self, network: EpsilonVAE) -> Tensor:
        total = torch.zeros((), device=self._examples.tokens.device)
        for j, sampler in self._samplers.items():
            rows = torch.from_numpy(sampler.draw().reshape(-1)).to(self._examples.tokens.device)
            z, _ = network.encode(self._examples.tokens[rows])
            scaled = (z * network.inverse_lengths[j]).double()
            norms = scaled.square().sum(dim=1)
            squared = (norms[:, None] + norms[None, :] - 2.0 * scaled @ scaled.T).clamp(min=0.0)
            eye = torch.eye(len(rows), dtype=torch.float64, device=z.device)
            noise = network.log_noise[j].double().exp() + _JITTER
            covariance = network.log_amplitude[j].double().exp() * matern((squared + 1e-9).sqrt()) + noise * eye
            y = self._examples.metrics[rows, j].double()
            total = total + held_out_loss(covariance, y, sampler.n_runs, JOINTLY).float()
        return total


_DENSITY_ROWS = 208


def _row_weights(runs: NDArray[np.int64]) -> NDArray[np.float64]:
    # Between "every checkpoint counts the same" and "every run counts the same": the square root of the run's size.
    _, inverse, counts = np.unique(runs, return_inverse=True, return_counts=True)
    weight = 1.0 / np.sqrt(counts[inverse])
    return np.asarray(weight / weight.sum())


def _loss(network: EpsilonVAE, examples: Examples, rows: Tensor, recipe: TrainingConfig) -> Tensor:
    mean, log_variance = network.encode(examples.tokens[rows])
    z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    loss = recipe.kl * (-0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)).mean()
    if examples.embeddings is not None and network.embedding_head is not None:
        loss = loss + recipe.embeddings * _masked_error(network.decode_embeddings(z), examples.embeddings[rows])
    # Other runs of the lineage only: a neighbour epoch of the same run would make the task trivial.
    runs, lineages, sketches = examples.runs[rows], examples.lineages[rows], examples.sketches[rows]
    allowed = (runs[:, None] != runs[None, :]) & (lineages[:, None] == lineages[None, :])
    usable = allowed.any(dim=1)
    if bool(usable.any()):
        coefficients = network.recombination(z[usable], mean, allowed[usable])
        error = (coefficients @ sketches - sketches[usable]).square().sum(1)
        loss = loss + recipe.weights * error.mean()
    return loss


def _masked_error(predicted: Tensor, target: Tensor) -> Tensor:
    # Multiplying by the mask instead of indexing with it: a quarter of a step's time on a CPU.
    known = torch.isfinite(target)
    error = (predicted - torch.where(known, target, 0.0)).square() * known
    return error.sum() / known.sum().clamp(min=1)
