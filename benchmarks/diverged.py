"""What a map loses on ordinary checkpoints when 5 % of the zoo has diverged.

    python benchmarks/diverged.py [--zoo digits|ternary] [--seeds 3] [--first-seed 0]

Without --zoo, 40 synthetic runs of 5 checkpoints each (6-16-4 networks that move from a base, a loss that follows how
far they moved). 5 % of the checkpoints, or whole runs, diverge: their values become a loss of 1e8, a random one of 1e2
to 1e12, or the largest float; or their weights explode or become NaN as well. With --zoo, the zoo of that name and seed
100 of zoos.py: its first metric without two ends is made to diverge, differently with each seed. Beside stands the same
zoo with the diverged values unmeasured, and the one in which nothing diverged. Errors and widths of 90 % intervals are
those of held-out runs, over the checkpoints that did not diverge in either, as ratios to the zoo in which nothing
diverged; several seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.surrogate import TrainingConfig, TrainingSet, fit
from epsopt.surrogate.ranges import metric_range
from epsopt.zoo.fingerprints.fingerprint import fingerprint

RUNS, EPOCHS = 40, 5
SHARE = 0.05
LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Kind:
    """A way to diverge: whole runs or checkpoints, the loss that is measured, and whether weights explode as well."""

    title: str
    runs: bool
    loss: float | None
    weights: bool


KINDS = (
    Kind("unmeasured", runs=False, loss=float("nan"), weights=False),
    Kind("checkpoints, 1e8", runs=False, loss=1e8, weights=False),
    Kind("checkpoints, 1e2 to 1e12", runs=False, loss=None, weights=False),
    Kind("checkpoints, largest float", runs=False, loss=LARGEST, weights=False),
    Kind("runs, unmeasured", runs=True, loss=float("nan"), weights=False),
    Kind("runs, 1e8", runs=True, loss=1e8, weights=False),
    Kind("runs, 1e8 and weights", runs=True, loss=1e8, weights=True),
)


def network(seed: int) -> dict[str, torch.Tensor]:
    """Random weights of a 6-16-4 network."""
    g = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(16, 6, generator=g) / 6**0.5,
        "a.bias": 0.1 * torch.randn(16, generator=g),
        "b.weight": torch.randn(4, 16, generator=g) / 4.0,
    }


def synthetic(seed: int) -> TrainingSet:
    """A zoo in which nothing diverged."""
    rng = np.random.default_rng(seed)
    base, direction = network(10_000 * seed), network(10_000 * seed + 1)
    prints, losses = [], []
    for run, strength in enumerate(rng.random(RUNS)):
        own = network(10_000 * seed + 2 + run)
        for epoch in range(1, EPOCHS + 1):
            far = float(strength) * epoch / EPOCHS
            weights = {k: base[k] + far * direction[k] + 0.05 * own[k] for k in base}
            prints.append(fingerprint(weights.items(), base.get))
            losses.append(0.3 + (1.0 - far) ** 2 + 0.02 * rng.normal())
    runs = np.repeat(np.arange(RUNS), EPOCHS)
    keys = tuple(map(str, range(len(runs))))
    return TrainingSet(keys, tuple(prints), runs, np.ones_like(runs), ("loss",), np.array(losses)[:, None])


def diverge(train: TrainingSet, kind: Kind, seed: int) -> tuple[TrainingSet, NDArray[np.bool_]]:
    """Let 5 % of a zoo diverge; return it and which checkpoints did."""
    rng = np.random.default_rng(1000 + seed)
    if kind.runs:
        names = np.unique(train.runs)
        bad = np.isin(train.runs, rng.choice(names, max(round(SHARE * len(names)), 1), replace=False))
    else:
        bad = np.zeros(len(train), dtype=bool)
        bad[rng.choice(len(train), round(SHARE * len(train)), replace=False)] = True
    metrics, prints = train.metrics.copy(), list(train.fingerprints)
    metrics[bad, 0] = 10.0 ** rng.uniform(2, 12, size=int(bad.sum())) if kind.loss is None else kind.loss
    for i in np.flatnonzero(bad) if kind.weights else ():
        factor = float(rng.choice([1e3, 1e8, np.nan]))
        exploded = {
            name: factor * torch.randn(shape, generator=torch.Generator().manual_seed(int(i)))
            for name, shape in zip(prints[i].names, prints[i].shapes, strict=True)
        }
        prints[i] = fingerprint(exploded.items())
    return replace(train, metrics=metrics, fingerprints=tuple(prints)), bad


def held_out(train: TrainingSet, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Points and both ends of the intervals of the first metric, each run held out."""
    predictions = fit(train, seed=seed, recipe=TrainingConfig(steps=120))[1].held_out
    assert predictions is not None
    return predictions.point[:, 0], predictions.low[:, 0], predictions.high[:, 0]


def of_zoo(name: str) -> TrainingSet:
    """A zoo of zoos.py, with the first of its metrics that has not two ends."""
    from zoos import load

    train = load(name, 100).train
    for j, metric in enumerate(train.metric_names):
        limits = metric_range(metric, train.metrics[:, j], {})
        if limits is None or not np.isfinite(limits).all():
            return replace(train, metric_names=(metric,), metrics=train.metrics[:, j : j + 1])
    raise ValueError(f"every metric of {name} has two ends")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a map loses when 5 % of the zoo has diverged.")
    parser.add_argument("--zoo", choices=("digits", "ternary"))
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds.")
    parser.add_argument("--first-seed", type=int, default=0, help="Seed of the first zoo; the others follow it.")
    arguments = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float]]] = {kind.title: [] for kind in KINDS}
    real = None if arguments.zoo is None else of_zoo(arguments.zoo)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        train = real or synthetic(seed)
        truth = train.metrics[:, 0]
        point, low, high = held_out(train, seed)
        for kind in KINDS:
            dirty, bad = diverge(train, kind, seed)
            theirs, below, above = held_out(dirty, seed)
            inside = (truth >= below) & (truth <= above)
            rows[kind.title].append(
                (
                    np.abs(theirs - truth)[~bad].mean() / np.abs(point - truth)[~bad].mean(),
                    (above - below)[~bad].mean() / (high - low)[~bad].mean(),
                    inside[~bad].mean(),
                )
            )
    print(f"{'5 % diverged':<30}{'error':>8}{'width':>8}{'covered':>9}   of the others; ratios to none diverged")
    for title, found in rows.items():
        error, width, covered = np.mean(found, axis=0)
        print(f"{title:<30}{error:>8.2f}{width:>8.2f}{covered:>9.3f}")


if __name__ == "__main__":
    main()
