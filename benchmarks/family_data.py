"""Data of the families (benchmarks/families.py): digits, two artificial languages, sequences to classify.

No command of its own. Everything is drawn with fixed seeds, so that all runs of a family are judged on the same data.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from digits import images
from torch import Tensor, nn

BINS = 15  # of confidence, for the calibration error
WORDS = 32
LENGTH = 24
SENTENCES = 1024
GROUPS = 4
_NOISE = 0.3  # standard deviation, of pixels in [0, 1]


@functools.cache
def noisy_images() -> Tensor:
    """(797, 8, 8) test images with pixel noise that is the same for every checkpoint."""
    test = images()[2]
    return (test + _NOISE * torch.randn(test.shape, generator=torch.Generator().manual_seed(8))).clamp(0.0, 1.0)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3)."""
    confidence, guess = logits.softmax(dim=1).max(dim=1)
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.double).index_add_(0, bins, (guess == labels).double() - confidence.double())
    return float(gap.abs().sum() / len(labels))


@torch.no_grad()
def judge_images(model: nn.Module, *, flat: bool = False) -> dict[str, float]:
    """Accuracy, accuracy under pixel noise and calibration error of a classifier of digits, as it stands."""
    model.eval()
    labels = images()[3]
    clean, noisy = (x.flatten(1) if flat else x[:, None] for x in (images()[2], noisy_images()))
    logits = model(clean)
    return {
        "accuracy": accuracy(logits, labels),
        "noisy_accuracy": accuracy(model(noisy), labels),
        "calibration_error": calibration_error(logits, labels),
    }


def some_digits(rng: np.random.Generator, count: int, wrong: float) -> tuple[Tensor, Tensor]:
    """``count`` training images (count, 8, 8) and their labels, a share of ``wrong`` of them drawn at random."""
    x, y = images()[:2]
    chosen = torch.from_numpy(rng.permutation(len(x))[:count])
    x, y = x[chosen], y[chosen].clone()
    noise = torch.from_numpy(rng.random(len(y)) < wrong)
    y[noise] = torch.from_numpy(rng.integers(0, 10, int(noise.sum())))
    return x, y


@functools.cache
def sentences(language: int) -> Tensor:
    """(SENTENCES, LENGTH) words of a Markov chain; two languages share their words and nothing else."""
    rng = np.random.default_rng([20, language])
    follow = rng.dirichlet(np.full(WORDS, 0.08), size=WORDS).cumsum(axis=1)
    words = np.empty((SENTENCES, LENGTH), dtype=np.int64)
    words[:, 0] = rng.integers(0, WORDS, SENTENCES)
    for i in range(1, LENGTH):
        draw = rng.random((SENTENCES, 1))
        words[:, i] = (draw > follow[words[:, i - 1]]).sum(axis=1).clip(max=WORDS - 1)
    return torch.from_numpy(words)


@functools.cache
def sequences() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Training words (1024, LENGTH) and labels, test words (512, LENGTH), the same with strangers in it, and labels.

    The label says which of four groups of words a sequence has most of.
    """
    rng = np.random.default_rng(21)
    labels = rng.integers(0, GROUPS, 1536)
    group = np.where(rng.random((1536, LENGTH)) < 0.3, labels[:, None], rng.integers(0, GROUPS, (1536, LENGTH)))
    words = group + GROUPS * rng.integers(0, WORDS // GROUPS, (1536, LENGTH))
    strange = np.where(rng.random((512, LENGTH)) < 0.25, rng.integers(0, WORDS, (512, LENGTH)), words[1024:])
    parts = (words[:1024], labels[:1024], words[1024:], strange, labels[1024:])
    return tuple(torch.from_numpy(part) for part in parts)  # type: ignore[return-value]
