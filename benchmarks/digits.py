"""Small classifiers of handwritten digits, of mixed architectures: a zoo that shares nothing with the ternary one.

    python benchmarks/digits.py --out RUNS [--runs 64] [--seed 0] [--jobs 2]

Each run is a fully connected or convolutional network on scikit-learn's 8 x 8 digits (1,797 images) with random
width, depth, activation, initialisation and training, from useless to overfitted to good, so that accuracies spread.
Ten checkpoints a run, under a second each on one core. A training script as a stranger might write it: it imports
nothing of epsopt, and its `embed` is what such a user would offer as a hook.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

EPOCHS = 10
STEPS_PER_EPOCH = 40  # batches, whatever the number of training images: few images are then seen often
TRAINING_IMAGES = 1000  # the other 797 are only ever tested on
ANCHORS = 64
PIXEL_NOISE = 0.3  # standard deviation, of pixels in [0, 1]
BINS = 15  # of confidence, for the calibration error
ACTIVATIONS = (torch.relu, torch.tanh, nn.functional.silu)


class Classifier(nn.Module):
    """Hidden layers of one width, all convolutions or all linear, then a linear head with ten outputs.

    The number of its activation function is a buffer, so that a state dict alone says how to rebuild the network.
    """

    activation: Tensor

    def __init__(self, kind: str, width: int, depth: int, activation: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        convolutional = kind == "cnn"
        inputs = [1 if convolutional else 64] + [width] * (depth - 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(n, width, 3, padding=1) if convolutional else nn.Linear(n, width) for n in inputs
        )
        self.head = nn.Linear(width, 10)
        self.dropout = dropout
        self.register_buffer("activation", torch.tensor(activation))

    def forward(self, images: Tensor) -> Tensor:
        """(n, 8, 8) images to (n, 10) logits."""
        act = ACTIVATIONS[int(self.activation)]
        convolutional = isinstance(self.layers[0], nn.Conv2d)
        x = images[:, None] if convolutional else images.flatten(1)
        for i, layer in enumerate(self.layers):
            x = act(layer(x))
            if convolutional and i == 0:
                x = nn.functional.max_pool2d(x, 2)
        if convolutional:
            x = x.mean(dim=(2, 3))
        logits: Tensor = self.head(nn.functional.dropout(x, self.dropout, self.training))
        return logits

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> Classifier:
        """Rebuild a network from its tensors' names and shapes.

        Raises:
            KeyError, RuntimeError: they are not those of a Classifier.
        """
        first = state_dict["layers.0.weight"]
        depth = sum(name.startswith("layers.") and name.endswith(".weight") for name in state_dict)
        model = cls("cnn" if first.ndim == 4 else "mlp", len(first), depth)
        model.load_state_dict(state_dict)
        return model.eval()


@functools.cache
def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (1000, 8, 8) in [0, 1] and labels (1000,), test images (797, 8, 8) and labels."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))  # the file's order is by writer
    x = torch.from_numpy(pixels[order].reshape(-1, 8, 8) / 16.0).float()
    y = torch.from_numpy(labels[order]).long()
    return x[:TRAINING_IMAGES], y[:TRAINING_IMAGES], x[TRAINING_IMAGES:], y[TRAINING_IMAGES:]


@functools.cache
def _noise() -> Tensor:
    return PIXEL_NOISE * torch.randn(images()[2].shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def embed(state_dict: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """(64, 10) class probabilities for 64 fixed test images, whatever the architecture."""
    logits = Classifier.from_state_dict(state_dict)(images()[2][:ANCHORS])
    probabilities: NDArray[np.float32] = logits.softmax(dim=1).numpy()
    return probabilities


@torch.no_grad()
def measure(model: Classifier) -> dict[str, float]:
    """Test accuracy, expected calibration error, accuracy under pixel noise, and log10 of the number of weights."""
    _, _, x, y = images()
    model.eval()
    confidence, guess = model(x).softmax(dim=1).max(dim=1)
    right = (guess == y).double()
    # Guo et al. 2017, equation 3: |accuracy - confidence| of equally wide bins, weighted by their counts.
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.double).index_add_(0, bins, right - confidence.double())
    noisy = (model(x + _noise()).argmax(dim=1) == y).double()
    return {
        "accuracy": float(right.mean()),
        "calibration_error": float(gap.abs().sum() / len(y)),
        "noisy_accuracy": float(noisy.mean()),
        "log10_parameters": size(model),
    }


def size(model: Classifier) -> float:
    """Log10 of the number of weights."""
    return math.log10(sum(p.numel() for p in model.parameters()))


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """Random hyperparameters; momentum is absent where it has no effect."""

    def log(low: float, high: float) -> float:
        return float(math.exp(rng.uniform(math.log(low), math.log(high))))

    config: dict[str, Any] = {
        "arch": str(rng.choice(["mlp", "cnn"])),
        "depth": int(rng.integers(1, 4)),
        "activation": int(rng.integers(len(ACTIVATIONS))),
        "init_scale": log(0.5, 3.0),
        "optimizer": str(rng.choice(["sgd", "adam"])),
        "batch_size": int(rng.choice([16, 32, 64])),
        "weight_decay": log(1e-6, 2e-2),
        "dropout": float(rng.uniform(0.0, 0.5)),
        "label_noise": float(max(0.0, rng.uniform(-0.4, 0.6))),  # two runs of five have clean labels
        "train_size": round(log(50, TRAINING_IMAGES)),
    }
    config["width"] = round(log(6, 32) if config["arch"] == "cnn" else log(6, 128))
    config["lr"] = log(1e-2, 1.0) if config["optimizer"] == "sgd" else log(5e-4, 3e-2)
    if config["optimizer"] == "sgd":
        config["momentum"] = float(rng.uniform(0.0, 0.95))
    return config


def train(folder: Path, config: Mapping[str, Any]) -> dict[str, float]:
    """Train one run and write `folder`/epoch_001.pt and so on; returns the metrics of the last."""
    metrics: dict[str, float] = {}
    for epoch, (model, metrics) in enumerate(epochs(config, EPOCHS), start=1):
        _save(folder / f"epoch_{epoch:03d}.pt", model, metrics, config, epoch)
    return metrics


def epochs(
    config: Mapping[str, Any], length: int, state_dict: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[Classifier, dict[str, float]]]:
    """Train one run and yield the network and its metrics after each epoch; the same with the same seed.

    Args:
        config: hyperparameters and `seed`.
        length: how many epochs.
        state_dict: weights of the same architecture to go on from; by default they are drawn.

    Raises:
        FloatingPointError: weights are no longer numbers.
        RuntimeError: the given weights are of another architecture.
    """
    seed = int(config["seed"])
    rng = np.random.default_rng(seed)
    chosen = torch.from_numpy(rng.permutation(TRAINING_IMAGES)[: config["train_size"]])
    x, y = images()[0][chosen], images()[1][chosen].clone()
    wrong = torch.from_numpy(rng.random(len(y)) < config["label_noise"])
    y[wrong] = torch.from_numpy(rng.integers(0, 10, int(wrong.sum())))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(*(config[k] for k in ("arch", "width", "depth", "activation", "dropout")))
        randomness = torch.get_rng_state()
    if state_dict is not None:
        model.load_state_dict(state_dict)
        if int(model.activation) != config["activation"]:
            raise RuntimeError(f"the weights are of activation {int(model.activation)}, not {config['activation']}")
    else:
        with torch.no_grad():
            for layer in model.layers:
                layer.weight.mul_(config["init_scale"])  # type: ignore[operator]
    optimizer = _optimizer(model, config)
    for _ in range(length):
        # Whoever takes the epochs may draw random numbers between them: neither side sees the other's.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(randomness)
            model.train()
            for _ in range(STEPS_PER_EPOCH):
                batch = torch.from_numpy(rng.integers(0, len(y), config["batch_size"]))
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
            randomness = torch.get_rng_state()
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise FloatingPointError("weights are no longer numbers: try a smaller learning rate")
        yield model, measure(model)


def _optimizer(model: Classifier, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    if config["optimizer"] == "adam":
        return torch.optim.AdamW(model.parameters(), config["lr"], weight_decay=config["weight_decay"])
    return torch.optim.SGD(
        model.parameters(), config["lr"], momentum=config["momentum"], weight_decay=config["weight_decay"]
    )


def _save(path: Path, model: Classifier, metrics: dict[str, float], config: Mapping[str, Any], epoch: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = {"model_state_dict": model.state_dict(), "metrics": metrics, "config": dict(config), "epoch": epoch}
    torch.save(content, unfinished)
    unfinished.replace(path)


def plan(runs: int, seed: int) -> dict[str, dict[str, Any]]:
    """The sweep's runs by name; a longer sweep extends a shorter one."""
    return {f"run_{i:03d}": {**draw(np.random.default_rng([seed, i])), "seed": seed * 100_000 + i} for i in range(runs)}


def sweep(out: Path, runs: int, seed: int, jobs: int) -> None:
    """Train the runs that are not finished yet, in `jobs` processes of one thread each."""
    waiting = [(out / name, c) for name, c in plan(runs, seed).items() if not _last(out / name).exists()]
    if not waiting:
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for (folder, _), metrics in zip(waiting, pool.map(train, *zip(*waiting, strict=True)), strict=True):
            print(folder.name, *(f"{k} {v:.3f}" for k, v in metrics.items()), file=sys.stderr, flush=True)


def _last(folder: Path) -> Path:
    return folder / f"epoch_{EPOCHS:03d}.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train small digit classifiers with random hyperparameters.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    sweep(options.out, options.runs, options.seed, options.jobs)


if __name__ == "__main__":
    main()
