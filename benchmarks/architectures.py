"""What a map says of architectures that it has never seen: refused, or intervals that still hold.

    python benchmarks/architectures.py [--zoo digits] [--seed 100] [--folds 4] [--out FOLDER]

The zoo of zoos.py holds small classifiers of some fifty architectures, fully connected and convolutional. A map is
fitted on some of them and asked about checkpoints of the others, in five ways: a quarter of the architectures is left
out (four times); all of one kind is left out (twice); and all runs that the map learns from are of four architectures
only. Every third checkpoint of a run is taken. "refused" are checkpoints of which the map predicts nothing and says
why. Of the others "inside" is the share of measurements within their 90 % intervals, over all metrics, and "width" the
intervals' mean width beside that of intervals calibrated on known architectures, whose share is in the last column.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from zoos import OUT, Zoo, load

from epsopt.surrogate import Surrogate, TrainingConfig, fit

LEVEL = 0.9
EVERY = 3
FEW = 4


def asked(surrogate: Surrogate, zoo: Zoo) -> tuple[float, float, float, float]:
    """Share refused; of the others the share inside, relative width, and share inside if nothing were widened."""
    train = zoo.train
    refused = np.array([surrogate.refusal(f.signature, LEVEL, f.tensor_kinds) is not None for f in train.fingerprints])
    if refused.all():
        return 1.0, float("nan"), float("nan"), float("nan")
    rows = np.flatnonzero(~refused)
    z = surrogate.encode([train.fingerprints[i] for i in rows])
    truth = train.metrics[rows]
    wide = surrogate.predict(z, LEVEL, unseen=np.ones(len(rows), dtype=bool))
    plain = surrogate.predict(z, LEVEL)
    known = np.isfinite(truth)
    inside = [((truth >= p.low) & (truth <= p.high))[known].mean() for p in (wide, plain)]
    width = np.mean((wide.high - wide.low).mean(axis=0) / (plain.high - plain.low).mean(axis=0))
    return float(refused.mean()), float(inside[0]), float(width), float(inside[1])


def splits(zoo: Zoo, folds: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """What is learned from, with its name: a mask over the zoo's rows; the others are asked about."""
    signatures = np.array([f.signature for f in zoo.train.fingerprints])
    names = np.random.default_rng(0).permutation(np.unique(signatures))
    convolutional = np.array([any(len(shape) == 4 for shape in f.shapes) for f in zoo.train.fingerprints])
    out = [(f"part {k + 1} of {folds} left out", ~np.isin(signatures, names[k::folds])) for k in range(folds)]
    out += [("convolutional left out", ~convolutional), ("fully connected left out", convolutional)]
    runs = {name: len(np.unique(zoo.train.runs[signatures == name])) for name in names}
    most = sorted(names, key=lambda name: -runs[name])[:FEW]
    return [*out, (f"{FEW} architectures known", np.isin(signatures, most))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a map says of architectures that it has never seen.")
    parser.add_argument("--zoo", choices=("digits",), default="digits")
    parser.add_argument("--seed", type=int, default=100, help="Of the zoo; 200 is for development.")
    parser.add_argument("--folds", type=int, default=4, help="Parts that the architectures are left out in.")
    parser.add_argument("--out", type=Path, default=OUT, help="Where zoos lie.")
    options = parser.parse_args()
    zoo = load(options.zoo, options.seed, options.out)
    zoo = zoo.take(np.flatnonzero(zoo.epochs % EVERY == 1))
    count = len({f.signature for f in zoo.train.fingerprints})
    print(f"{options.zoo}-{options.seed}: {len(zoo)} checkpoints of {zoo.train.n_runs} runs, {count} architectures")
    print(f"{'':<26}{'runs':>5}{'asked':>7}{'refused':>9}{'inside':>8}{'width':>7}{'not widened':>13}")
    for name, mask in splits(zoo, options.folds):
        learned, others = zoo.take(np.flatnonzero(mask)), zoo.take(np.flatnonzero(~mask))
        surrogate = fit(learned.train, seed=options.seed, recipe=TrainingConfig(steps=120))[0]
        refused, inside, width, plain = asked(surrogate, others)
        print(
            f"{name:<26}{learned.train.n_runs:>5}{len(others):>7}{refused:>9.0%}{inside:>8.3f}{width:>7.2f}{plain:>13.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
