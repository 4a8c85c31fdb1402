"""What the parts of the map are worth: variants of the surrogate on the same held-out runs.

    python benchmarks/surrogate.py [--runs 40] [--seed 1]

Trains a zoo of real demo runs first (kept in benchmarks/out/, so a second call starts where the first stopped).
Five folds, whole runs held out. The figures in docs/decisions.md come from here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from epsopt.studies.maps import training_set
from epsopt.surrogate import Recipe, TrainingSet, fit, run_folds
from epsopt.surrogate.baselines import median_baseline, statistics_baseline
from epsopt.surrogate.fitting import TrainedNetwork, train_all
from epsopt.surrogate.head import Fold, choose, held_out
from epsopt.surrogate.transforms import likely_bounds
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.ingestion import ingest

OUT = Path(__file__).parent / "out"


def zoo(runs: int, seed: int) -> TrainingSet:
    folder = OUT / f"zoo-{runs}-{seed}"
    sweep = ["--out", str(folder), "--runs", str(runs), "--jobs", "2", "--seed", str(seed)]
    subprocess.run([sys.executable, "-m", "epsopt.demo.sweep", *sweep], check=True, stderr=subprocess.DEVNULL)
    with Catalogue(f"sqlite:///{folder}.db") as catalogue:
        ingest(catalogue, folder, embed="epsopt.demo.hooks:embed")
        return training_set(catalogue)


def metrics_of(network: TrainedNetwork, scaled: np.ndarray) -> np.ndarray:
    columns = [t.backward(torch.from_numpy(scaled[:, j])).numpy() for j, t in enumerate(network.transforms)]
    return np.stack(columns, axis=1)


def errors(train: TrainingSet, recipe: Recipe, seed: int, **shape: int) -> dict[str, np.ndarray]:
    """Mean absolute errors of the network's own head and of the Gaussian processes on its z, on held-out runs."""
    rows = run_folds(train.runs, 5, seed)
    inside = [train.take(np.setdiff1d(np.arange(len(train)), r)) for r in rows]
    scales = {name: likely_bounds(train.metrics[:, j]) for j, name in enumerate(train.metric_names)}
    bounded = {name: limits for name, limits in scales.items() if limits is not None}  # as `fit` does
    folds, parts = [], []
    for kept, out, network in zip(
        inside, map(train.take, rows), train_all(inside, bounded, recipe, seed, **shape), strict=True
    ):
        z_held = network.encode(out)
        with torch.no_grad():
            own = network.network.decode_metrics(z_held).double().numpy()
        z_train = network.encode(kept).double().numpy()
        folds.append(Fold(z_train, network.scaled(kept), z_held.double().numpy(), network.scaled(out), out.runs))
        parts.append((network, out, own))
    held = [[held_out(fold, j) for fold in folds] for j in range(len(train.metric_names))]
    collected: dict[str, list[np.ndarray]] = {"network head": [], "Gaussian processes on z": []}
    for k, (network, outside, own) in enumerate(parts):
        # Chosen on the other folds, as in `fit`.
        places = [choose([h for i, h in enumerate(per) if i != k])[0] for per in held]
        scaled = np.stack([held[j][k].mean[place] for j, place in enumerate(places)], axis=1)
        for name, values in (("network head", own), ("Gaussian processes on z", scaled)):
            collected[name].append(np.abs(metrics_of(network, values) - outside.metrics))
    return {name: np.concatenate(values).mean(axis=0) for name, values in collected.items()}


def baselines(train: TrainingSet, seed: int) -> dict[str, np.ndarray]:
    collected: dict[str, list[np.ndarray]] = {"train median": [], "statistics + LightGBM": []}
    for rows in run_folds(train.runs, 5, seed):
        inside, outside = train.take(np.setdiff1d(np.arange(len(train)), rows)), train.take(rows)
        collected["train median"].append(np.abs(median_baseline(inside, outside) - outside.metrics))
        collected["statistics + LightGBM"].append(np.abs(statistics_baseline(inside, outside) - outside.metrics))
    return {name: np.concatenate(values).mean(axis=0) for name, values in collected.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"$ python benchmarks/surrogate.py --runs {options.runs} --seed {options.seed}")
    train = zoo(options.runs, options.seed)
    print(f"{len(train)} checkpoints of {train.n_runs} runs; mean absolute errors, whole runs held out, five folds")
    print(f"{'':56}" + "".join(f"{name:>12}" for name in train.metric_names))

    def show(name: str, values: np.ndarray) -> None:
        print(f"{name:56}" + "".join(f"{v:12.4f}" for v in values), flush=True)

    for name, values in baselines(train, 0).items():
        show(name, values)
    recipe = Recipe()
    for variant, settings, shape, data in (
        ("as shipped", recipe, {}, train),
        ("no attention", recipe, {"layers": 0}, train),
        ("no embeddings to learn from", recipe, {}, replace(train, embeddings=None)),
        ("embeddings weigh 1 instead of .1", replace(recipe, embeddings=1.0), {}, train),
        ("300 steps instead of 450", replace(recipe, steps=300), {}, train),
        ("token noise .1 instead of .3", replace(recipe, noise=0.1), {}, train),
        ("KL weight .03 instead of .003", replace(recipe, kl=0.03), {}, train),
    ):
        for head, values in errors(data, settings, 0, **shape).items():
            show(f"{variant}, {head}", values)
    _, validation = fit(train)
    print(f"fit: {validation.seconds:.0f} s")
    for metric in validation.metrics:
        print(
            f"{metric.name}: skill {metric.skill:.2f}, {validation.level:.0%} intervals cover {metric.coverage:.1%} "
            f"at {metric.width / metric.median_width:.2f} of the width of the median's"
        )
    print(f"embeddings: R2 {validation.embedding_r2:.2f}, cosine {validation.embedding_cosine:.3f}")


if __name__ == "__main__":
    main()
