"""Training one Epsilon-VAE on tokens, metrics, embeddings and sketches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from epsopt.surrogate.network import EpsilonVAE, NetworkShape, load_network
from epsopt.surrogate.tokens import Tokens


@dataclass(frozen=True)
class Recipe:
    """How an :class:`EpsilonVAE` is trained; the defaults were chosen on inner folds (docs/decisions.md).

    Attributes:
        steps: optimiser steps.
        batch: checkpoints per step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        noise: standard deviation of the noise added to tokens (in units of their own deviation).
        kl: weight of the KL divergence (the seeds' beta).
        embeddings: weight of the embedding head's loss.
        weights: weight of the recombination head's loss.
    """

    steps: int = 450
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    noise: float = 0.3
    kl: float = 3e-3
    embeddings: float = 0.1
    weights: float = 0.1


@dataclass(frozen=True, eq=False)
class Examples:
    """Tensors of one training set, on the model's scales.

    Attributes:
        tokens: ``n`` checkpoints.
        metrics: ``(n, m)``; NaN where not measured.
        embeddings: ``(n, anchors, dim)`` with NaN rows where there is none, or ``None``.
        sketches: ``(n, sketch)`` of the weights minus the lineage's mean, each lineage scaled to unit mean square.
        runs: ``(n,)`` int64.
        lineages: ``(n,)`` int64.
    """

    tokens: Tokens
    metrics: Tensor
    embeddings: Tensor | None
    sketches: Tensor
    runs: Tensor
    lineages: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device) -> Examples:
        """Return the same examples on a device."""
        return Examples(
            self.tokens.to(device),
            self.metrics.to(device),
            None if self.embeddings is None else self.embeddings.to(device),
            self.sketches.to(device),
            self.runs.to(device),
            self.lineages.to(device),
        )


def train_many(
    jobs: Sequence[tuple[NetworkShape, Examples]],
    recipe: Recipe,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[EpsilonVAE]:
    """Train networks side by side: one process a core, or one after another on a GPU if there is one.

    Args:
        jobs: shape and examples of each network.
        recipe: how to train them.
        seed: of each; the result does not depend on how many cores there are.
        progress: called as ``progress(done, total)``.

    Returns:
        The trained networks, in the order given, on the CPU and in evaluation mode.
    """
    if torch.cuda.is_available():
        states = (_trained(i, shape, examples, recipe, seed, "cuda") for i, (shape, examples) in enumerate(jobs))
    else:
        # Processes, because batches are too small for a second thread to help; loky's, because they do not run the
        # caller's script again. Each gets tokens, not fingerprints: a few MB.
        workers = joblib.Parallel(n_jobs=min(os.cpu_count() or 1, len(jobs)), return_as="generator_unordered")
        states = workers(
            joblib.delayed(_trained)(i, shape, examples, recipe, seed, "cpu")
            for i, (shape, examples) in enumerate(jobs)
        )
    networks: dict[int, EpsilonVAE] = {}
    for done, (i, state) in enumerate(states, 1):
        networks[i] = load_network(jobs[i][0], state)
        if progress is not None:
            progress(done, len(jobs))
    return [networks[i] for i in range(len(jobs))]


def _trained(
    place: int, shape: NetworkShape, examples: Examples, recipe: Recipe, seed: int, device: str
) -> tuple[int, dict[str, Tensor]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = EpsilonVAE(shape).to(device)
            train_network(network, examples.to(torch.device(device)), recipe, seed)
    finally:
        torch.set_num_threads(threads)
    return place, {name: value.cpu() for name, value in network.state_dict().items()}


def train_network(
    network: EpsilonVAE,
    examples: Examples,
    recipe: Recipe,
    seed: int,
) -> None:
    """Train a network in place.

    Args:
        network: what to train.
        examples: what to train it on; batches draw runs evenly, so that a long run does not outweigh a short one.
        recipe: how.
        seed: of batches, dropout, token noise and the latent's sampling.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    decay = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.15
    )
    share = _row_weights(examples.runs.cpu().numpy())
    size = min(recipe.batch, len(examples))
    network.train()
    for _ in range(recipe.steps):
        rows = torch.from_numpy(rng.choice(len(examples), size=size, replace=False, p=share)).to(examples.runs.device)
        loss = _loss(network, examples, rows, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()


def _row_weights(runs: np.ndarray) -> np.ndarray:
    # Between "every checkpoint counts the same" and "every run counts the same": the square root of the run's size.
    _, inverse, counts = np.unique(runs, return_inverse=True, return_counts=True)
    weight = 1.0 / np.sqrt(counts[inverse])
    return np.asarray(weight / weight.sum())


def _loss(network: EpsilonVAE, examples: Examples, rows: Tensor, recipe: Recipe) -> Tensor:
    tokens = examples.tokens.take(rows)
    noise = recipe.noise * torch.randn_like(tokens.values)
    mean, log_variance = network.encode(replace(tokens, values=tokens.values + noise))
    z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    loss = recipe.kl * (-0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)).mean()
    measured = examples.metrics[rows]
    loss = loss + _masked(nn.functional.smooth_l1_loss, network.decode_metrics(z), measured)
    if examples.embeddings is not None and network.embedding_head is not None:
        loss = loss + recipe.embeddings * _masked(
            nn.functional.mse_loss, network.decode_embeddings(z), examples.embeddings[rows]
        )
    # Other runs of the lineage only: a neighbour epoch of the same run would make the task trivial.
    runs, lineages, sketches = examples.runs[rows], examples.lineages[rows], examples.sketches[rows]
    allowed = (runs[:, None] != runs[None, :]) & (lineages[:, None] == lineages[None, :])
    usable = allowed.any(dim=1)
    if bool(usable.any()):
        coefficients = network.recombination(z[usable], mean, allowed[usable])
        error = (coefficients @ sketches - sketches[usable]).square().sum(1)
        loss = loss + recipe.weights * error.mean()
    return loss


def _masked(function: Callable[..., Tensor], predicted: Tensor, target: Tensor) -> Tensor:
    # Multiplying by the mask instead of indexing with it: a quarter of a step's time on a CPU.
    known = torch.isfinite(target)
    error = function(predicted, torch.where(known, target, 0.0), reduction="none") * known
    return error.sum() / known.sum().clamp(min=1)
