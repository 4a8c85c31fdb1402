"""How well latent distance agrees with the distance between real embeddings, against other distances.

    python benchmarks/similarity.py [--zoo ternary] [--seed 100] [--folds 5]

Between checkpoints of runs that the map has never seen, over pairs of different runs. The maps are those of
benchmarks/forecast.py; folds that are not fitted yet are left out, and the output says so. Embeddings are compared as
they are, and by the pattern of distances between anchors, which no rotation changes. "nearest" is the share of the five
nearest checkpoints that are among the five nearest by real embeddings.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from forecast import map_of_fold
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist, squareform
from scipy.stats import spearmanr
from zoos import Zoo, load

from epsopt.optimize.space_inference import infer_space
from epsopt.surrogate import Surrogate, run_folds
from epsopt.surrogate.nearest import distances

Array = NDArray[np.float64]
PER_RUN = 5  # checkpoints, evenly
NEAREST = 5
REAL = ("points", "distances between anchors")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", default="ternary", choices=["ternary", "bases"])
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    zoo = load(options.zoo, options.seed)
    parts = run_folds(zoo.train.runs, options.folds, 0)
    maps = [map_of_fold(zoo, k, len(parts)) for k in range(len(parts))]
    found = [_fold(zoo, surrogate, rows) for surrogate, rows in zip(maps, parts, strict=True) if surrogate is not None]
    if not found:
        print("no fold is fitted yet: run benchmarks/forecast.py first", file=sys.stderr)
        return 1
    print(f"$ python benchmarks/similarity.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"{zoo.name}, seed {zoo.seed}: {len(found)} of {len(parts)} folds of whole runs held out of the map")
    print(f"Spearman's correlation with the distance between real embeddings; share of the {NEAREST} nearest")
    print(f"{'':36}" + "".join(f"{name:>28}{'nearest':>10}" for name in REAL))
    for name in found[0]:
        rows = np.mean([f[name] for f in found], axis=0)
        print(f"{name:36}" + "".join(f"{a:28.3f}{b:10.0%}" for a, b in rows))
    return 0


def _fold(zoo: Zoo, surrogate: Surrogate, held: NDArray[np.int64]) -> dict[str, Array]:
    rows = np.concatenate([_some(held[zoo.train.runs[held] == run]) for run in np.unique(zoo.train.runs[held])])
    part = zoo.train.take(rows)
    assert part.embeddings is not None
    runs = part.runs
    points = part.embeddings.astype(np.float64).reshape(len(rows), -1)
    patterns = np.stack([pdist(e) for e in part.embeddings.astype(np.float64)])
    real = [cdist(points, points), cdist(patterns, patterns)]
    sketches = torch.from_numpy(np.stack([f.sketch for f in part.fingerprints]).astype(np.float64))
    space = infer_space([zoo.hyperparameters[i] for i in range(len(zoo))])
    encoded = space.encode([zoo.hyperparameters[i] for i in rows])
    candidates = {
        "latent": distances(*[surrogate.encode(part.fingerprints)] * 2).double().numpy(),
        "raw weights (sketched)": distances(sketches, sketches).numpy(),
        "hyperparameters": squareform(pdist(encoded)),
        "hyperparameters + epoch": squareform(pdist(np.column_stack([encoded, zoo.epochs[rows] / zoo.epochs.max()]))),
        "measured metrics (needs evaluation)": squareform(pdist(part.metrics / np.nanstd(zoo.train.metrics, axis=0))),
    }
    return {name: np.array([_agreement(d, r, runs) for r in real]) for name, d in candidates.items()}


def _some(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.unique(np.linspace(0, len(rows) - 1, PER_RUN).round().astype(int))]


def _agreement(distance: Array, real: Array, runs: NDArray[np.int64]) -> tuple[float, float]:
    other = runs[:, None] != runs[None, :]
    left, right = np.triu_indices(len(runs), 1)
    pairs = other[left, right]
    correlation = float(spearmanr(distance[left, right][pairs], real[left, right][pairs]).statistic)
    near, truth = (np.argsort(np.where(other, d, np.inf), axis=1, kind="stable")[:, :NEAREST] for d in (distance, real))
    shared = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(near, truth, strict=True)]
    return correlation, float(np.mean(shared)) / NEAREST


if __name__ == "__main__":
    sys.exit(main())
