"""The seeds' own models on raw weights, as their documents describe them: the hybrid VAE and its forerunner.

    python benchmarks/seeds_vae.py --zoo ternary --seed 100 [--splits all] [--models hybrid metrics] [--epochs 40]

hybrid    95,808 raw weights -> z (64) -> 256 x 16 anchor embeddings and three metrics (epsilon_vae.md).
metrics   blocks of raw weights with attention -> z (32) -> three metrics (sideways_vae.md, "Basic Sideways VAE");
          without its weight decoder, which the document calls optional and which predicts no metric.

The documents leave hidden widths and the training of the hybrid open. Those are what its authors published elsewhere
(github.com/Ai-Whisperers/ultrametric-antigen-AI, scripts/epsilon_vae/train_epsilon_vae_hybrid.py; its settings only,
the code here is our own): widths 512, 512, 256, layer normalisation, GELU, dropout .1, AdamW at 1e-4 falling along a
cosine, batches of 32, embeddings 1, metrics .1, KL .001. That script trains 200 epochs by default; 40 are
the default here, `--epochs 200` is theirs. The forerunner's loss is its document's, KL .1. Two things differ: the mean
of z predicts, not a sample, and the last epoch counts, not the one that is best on the held-out runs.

Slow: minutes a fold on two cores. Each fold's predictions are kept in benchmarks/out/seeds/, so that a call goes on
where the last one stopped; `load_predictions` gives them to a table.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import Rows, folds_of
from numpy.typing import NDArray
from torch import Tensor, nn
from zoos import NAMES, OUT, Zoo, load, seeds_split

CACHE = OUT.parent / "seeds"
MODELS = ("hybrid", "metrics")
EPOCHS = 40
AUTHORS_EPOCHS = 200  # what their script trains by default
BATCH = 32
Array = NDArray[np.float32]
Heads = tuple[Tensor, Tensor, Tensor | None, Tensor]  # mu, logvar, embeddings, metrics


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about the held-out checkpoints of one split.

    Attributes:
        rows: ``(n,)`` rows of the zoo.
        metrics: ``(n, m)``.
        embeddings: ``(n, anchors, dim)``, None for the metrics-only model.
        seconds: wall-clock seconds of training.
        cpu_seconds: processor seconds of training, all threads.
        epochs: passes over the training part.
    """

    rows: Rows
    metrics: Array
    embeddings: Array | None
    seconds: float
    cpu_seconds: float
    epochs: int


def raw_weights(zoo: Zoo) -> dict[str, Tensor]:
    """The weight matrices of encoders and projections by name, each (n, ...): 95,808 numbers a checkpoint.

    Raises:
        ValueError: architectures are mixed, or no tensor is named so; these models take one architecture only.
    """
    collected: dict[str, Tensor] = {}
    for i, path in enumerate(zoo.paths):
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
        chosen = {n: t for n, t in state.items() if t.ndim == 2 and (".encoder." in n or ".projection." in n)}
        if not collected:
            collected = {n: torch.empty((len(zoo), *t.shape)) for n, t in chosen.items()}
        if not chosen or {n: t.shape for n, t in chosen.items()} != {n: t.shape[1:] for n, t in collected.items()}:
            raise ValueError(f"{path} has other weight matrices than the zoo's first checkpoint: expected one family")
        for name, tensor in chosen.items():
            collected[name][i] = tensor
    return collected


class Hybrid(nn.Module):
    """All weights as one vector -> z -> embeddings of the anchors and metrics."""

    def __init__(self, n_weights: int, anchors: tuple[int, int], n_metrics: int, latent: int = 64) -> None:
        super().__init__()
        self.latent = latent
        self.anchors = anchors
        self.encoder = _mlp([n_weights, 512, 512, 256], 2 * latent, dropout=0.1)
        self.embeddings = _mlp([latent, 256, 512, 512], math.prod(anchors), dropout=0.1)
        self.metrics = _mlp([latent, 128, 64], n_metrics)

    def forward(self, blocks: Sequence[Tensor]) -> Heads:
        """Blocks, each (n, ...), to means and log-variances (n, latent), embeddings and metrics."""
        mu, logvar = self.encoder(torch.cat([b.flatten(1) for b in blocks], dim=1)).chunk(2, dim=1)
        z = _sample(mu, logvar) if self.training else mu
        return mu, logvar, self.embeddings(z).unflatten(1, self.anchors), self.metrics(z)

    def loss(self, heads: Heads, embeddings: Tensor, metrics: Tensor) -> Tensor:
        """Squared errors of embeddings and metrics, and the KL divergence."""
        mu, logvar, guess, metric_guess = heads
        assert guess is not None
        fit = nn.functional.mse_loss(guess, embeddings) + 0.1 * nn.functional.mse_loss(metric_guess, metrics)
        return fit + 0.001 * _divergence(mu, logvar)


class MetricsOnly(nn.Module):
    """Each weight matrix as a token of 64, attention with four heads, the mean over tokens -> z -> metrics."""

    def __init__(self, sizes: Sequence[int], n_metrics: int, latent: int = 32, width: int = 64) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.to_latent = nn.Linear(width, 2 * latent)
        layers = [nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, n_metrics)]
        self.metrics = nn.Sequential(*layers)

    def forward(self, blocks: Sequence[Tensor]) -> Heads:
        """Blocks, each (n, ...), to means and log-variances (n, latent) and metrics."""
        tokens = torch.stack([f(b.flatten(1)) for f, b in zip(self.blocks, blocks, strict=True)], dim=1)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        mu, logvar = self.to_latent(attended.mean(dim=1)).chunk(2, dim=1)
        return mu, logvar, None, self.metrics(_sample(mu, logvar) if self.training else mu)

    def loss(self, heads: Heads, _: Tensor, metrics: Tensor) -> Tensor:
        """Squared error of the metrics and the KL divergence."""
        return nn.functional.mse_loss(heads[3], metrics) + 0.1 * _divergence(heads[0], heads[1])


def train_and_predict(
    kind: str, zoo: Zoo, weights: Mapping[str, Tensor], inside: Rows, outside: Rows, epochs: int, seed: int = 0
) -> Predictions:
    """Train one of the models on some rows of a zoo and predict others.

    Args:
        kind: "hybrid" or "metrics".
        zoo: whose metrics and embeddings are learned; training rows that lack one are left out.
        weights: of :func:`raw_weights`.
        inside: training rows.
        outside: rows to predict.
        epochs: passes over the training rows.
        seed: of initialisation, order, dropout and noise.
    """
    if zoo.train.embeddings is None:
        raise ValueError(f"{zoo.name}-{zoo.seed} has no embeddings: the hybrid model learns from them")
    embeddings = torch.from_numpy(zoo.train.embeddings)
    metrics = torch.from_numpy(zoo.train.metrics).float()
    whole = torch.isfinite(embeddings).all(dim=2).all(dim=1) & torch.isfinite(metrics).all(dim=1)
    rows = torch.from_numpy(inside)[whole[torch.from_numpy(inside)]]
    blocks = list(weights.values())
    sizes = [math.prod(b.shape[1:]) for b in blocks]
    started, cpu = time.monotonic(), time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Hybrid | MetricsOnly
        if kind == "hybrid":
            model = Hybrid(sum(sizes), (embeddings.shape[1], embeddings.shape[2]), metrics.shape[1])
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                model.parameters(), 1e-4, weight_decay=0.01, fused=True
            )
        else:
            model = MetricsOnly(sizes, metrics.shape[1])
            optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for epoch in range(1, epochs + 1):
            total = 0.0
            for batch in torch.split(rows[torch.randperm(len(rows))], BATCH):
                loss = model.loss(model([b[batch] for b in blocks]), embeddings[batch], metrics[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += loss.item() * len(batch)
            schedule.step()
            if epoch in (1, epochs) or epoch % 10 == 0:
                took = time.monotonic() - started
                print(f"{kind}: epoch {epoch}, loss {total / len(rows):.5f}, {took:.0f} s", file=sys.stderr, flush=True)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    model.eval()
    with torch.no_grad():
        parts = [model([b[batch] for b in blocks]) for batch in torch.split(torch.from_numpy(outside), BATCH)]
    guesses = [p[2] for p in parts if p[2] is not None]
    return Predictions(
        rows=outside,
        metrics=torch.cat([p[3] for p in parts]).numpy(),
        embeddings=torch.cat(guesses).numpy() if guesses else None,
        seconds=seconds,
        cpu_seconds=cpu,
        epochs=epochs,
    )


def splits_of(zoo: Zoo) -> dict[str, tuple[Rows, Rows]]:
    """The (training rows, held-out rows) of the five folds, and for the ternary zoo of the seeds' own split."""
    splits = {f"fold{k}": fold for k, fold in enumerate(folds_of(zoo))}
    return {**splits, "seeds": seeds_split(zoo)} if zoo.name == "ternary" else splits


def load_predictions(zoo: Zoo, kind: str, split: str, epochs: int = EPOCHS, cache: Path = CACHE) -> Predictions | None:
    """Read what an earlier call of this script kept; None when there is nothing, or it is about other checkpoints."""
    path = _path(zoo, kind, split, epochs, cache)
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        if str(kept["digest"]) != zoo.train.digest or not np.array_equal(kept["rows"], splits_of(zoo)[split][1]):
            return None
        return Predictions(
            rows=kept["rows"],
            metrics=kept["metrics"],
            embeddings=kept.get("embeddings"),
            seconds=float(kept["seconds"]),
            cpu_seconds=float(kept["cpu_seconds"]),
            epochs=epochs,
        )


def keep_predictions(zoo: Zoo, kind: str, split: str, found: Predictions, cache: Path = CACHE) -> None:
    """Keep predictions for :func:`load_predictions`, whole or not at all."""
    path = _path(zoo, kind, split, found.epochs, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    arrays: dict[str, Any] = {
        "digest": np.array(zoo.train.digest),
        "rows": found.rows,
        "metrics": found.metrics,
        "seconds": np.array(found.seconds),
        "cpu_seconds": np.array(found.cpu_seconds),
        **({} if found.embeddings is None else {"embeddings": found.embeddings}),
    }
    np.savez(unfinished, **arrays)
    unfinished.replace(path)


def _path(zoo: Zoo, kind: str, split: str, epochs: int, cache: Path) -> Path:
    return cache / f"{zoo.name}-{zoo.seed}" / f"{kind}-{epochs}-{split}.npz"


def _mlp(widths: Sequence[int], out: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with layer normalisation and GELU between, dropout after all hidden layers but the last."""
    layers: list[nn.Module] = []
    for i, (n, m) in enumerate(pairwise(widths)):
        layers += [nn.Linear(n, m), nn.LayerNorm(m), nn.GELU()]
        if dropout and i < len(widths) - 2:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-1], out))


def _sample(mu: Tensor, logvar: Tensor) -> Tensor:
    return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)


def _divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence from a standard normal, mean over dimensions too, as in the seeds' formula."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the seeds' models and keep their held-out predictions.")
    parser.add_argument("--zoo", choices=[n for n in NAMES if n != "digits"], default="ternary")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--splits", nargs="+", default=["all"], metavar="SPLIT", help="all, or of: fold0 … fold4 seeds")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=OUT, help="where the zoos lie")
    options = parser.parse_args()
    zoo = load(options.zoo, options.seed, options.out)
    splits = splits_of(zoo)
    wanted = list(splits) if options.splits == ["all"] else options.splits
    unknown = sorted(set(wanted) - set(splits))
    if unknown:
        parser.error(f"there is no split {unknown[0]!r}: expected all, or some of {', '.join(splits)}")
    weights: dict[str, Tensor] = {}
    for kind in options.models:
        for split in wanted:
            found = load_predictions(zoo, kind, split, options.epochs)
            if found is None:
                weights = weights or raw_weights(zoo)
                found = train_and_predict(kind, zoo, weights, *splits[split], options.epochs)
                keep_predictions(zoo, kind, split, found)
            error = np.nanmean(np.abs(found.metrics - zoo.train.metrics[found.rows]), axis=0)
            shown = ", ".join(f"{n} {e:.3f}" for n, e in zip(zoo.train.metric_names, error, strict=True))
            took = f"{found.epochs} epochs, {found.seconds:.0f} s ({found.cpu_seconds:.0f} s of processor time)"
            print(f"{kind} {split}: mean absolute error {shown}; {took}", flush=True)


if __name__ == "__main__":
    main()
