"""What answers of a generic network say of held-out runs, as the network is wired: with and without residual streams.

    python benchmarks/wiring.py fit [FAMILY ...]     # 40 seconds of one core each
    python benchmarks/wiring.py table

Fingerprints of families.py's zoos are taken in three ways: as they ship; without residual streams, so that every matrix
is fed by what comes before it alone; and as an earlier version took them, in the alphabet's order besides, where a
safetensors file has no other. One simple head predicts each metric's ranks from all of a network's answers, products
and statistics: forty principal components and kernel ridge regression, its two settings chosen on inner folds. Ten
folds of whole runs; the error is that of the median of all runs' ranks at 1. A map has many settings to choose on few
runs, and its errors vary more than what is compared here. Transformers and the ResNets alone have such streams:
resnet-bn, lora, deep-llama, neox and bert are for development, the others were only reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import families
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GroupKFold

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.fingerprints.fingerprint import SECTIONS
from epsopt.zoo.fingerprints.wiring import Wiring, is_table
from epsopt.zoo.forward_order import alphabetical_order
from epsopt.zoo.layouts.effective_weights import effective_weights
from epsopt.zoo.layouts.open_checkpoint import open_checkpoint
from epsopt.zoo.reading import safetensors_format
from epsopt.zoo.reading.source import Limits

WAYS = ("as it ships", "without streams", "alphabet's order")
DEVELOPMENT = ("resnet-bn", "lora", "deep-llama", "neox", "bert")
REPORTED = ("encoder", "llama", "vit", "gpt2", "deep-encoder")
_SEEN = ("VALUES", "PRODUCT", "RESPONSE")
_FOLDS, _COMPONENTS = 10, 40
_GRID = [(gamma, alpha) for gamma in (0.02, 0.1, 0.5) for alpha in (0.03, 0.3)]

Array = NDArray[np.float64]


@contextmanager
def taken(way: str) -> Iterator[None]:
    """Fingerprint in one of :data:`WAYS`."""
    joins = Wiring.joins

    def tables_alone(wiring: Wiring, matrix: Any) -> Any:
        return joins(wiring, matrix) if is_table(".".join((*matrix.path, "weight"))) else None

    with (
        patch.object(Wiring, "joins", joins if way == WAYS[0] else tables_alone),
        patch.object(
            safetensors_format,
            "forward_order",
            alphabetical_order if way == WAYS[2] else safetensors_format.forward_order,
        ),
    ):
        yield


def columns(name: str, way: str) -> tuple[Array, Array, Array, tuple[str, ...]]:
    """Columns of each checkpoint's fingerprint, ranks of its metrics, its run, and the metrics' names."""
    zoo = families.load(name).train
    paths = {}
    with Catalogue(f"sqlite:///{families.OUT / f'{name}-{families.SEED}'}.db") as catalogue:
        paths = {c.sha256: c.path for c in catalogue.checkpoints()}
    rows = []
    with taken(way):
        for key in zoo.keys:
            with open_checkpoint(Path(paths[key]), Limits()) as checkpoint:
                found = effective_weights(checkpoint, Limits()).fingerprint()
            rows.append(np.concatenate([found.features[:, SECTIONS[part]].ravel() for part in _SEEN]))
    return np.stack(rows), zoo.metrics, zoo.runs, zoo.metric_names


def error(x: Array, y: Array, runs: Array) -> float:
    """Mean absolute error of ranks on held-out runs, the median's at 1."""
    known = np.isfinite(y)
    x, runs = x[known], runs[known]
    ranks = norm.ppf((rankdata(y[known]) - 0.5) / known.sum())
    guesses = np.zeros(len(ranks))
    for inside, outside in GroupKFold(_FOLDS).split(x, groups=runs):
        spread = x[inside].std(axis=0)
        seen = spread > 1e-6
        scaled = np.clip((x[:, seen] - x[inside][:, seen].mean(axis=0)) / spread[seen], -6.0, 6.0)
        fitted = PCA(min(_COMPONENTS, len(inside) - 1), random_state=0).fit(scaled[inside])
        z = fitted.transform(scaled)
        z /= z[inside, 0].std()
        best = min(_GRID, key=lambda settings: _inner(z[inside], ranks[inside], runs[inside], settings))
        guesses[outside] = _predict(z[inside], ranks[inside], z[outside], best)
    return float(np.abs(guesses - ranks).mean() / np.abs(ranks - np.median(ranks)).mean())


def _inner(z: Array, ranks: Array, runs: Array, settings: tuple[float, float]) -> float:
    return sum(
        float(np.abs(_predict(z[a], ranks[a], z[b], settings) - ranks[b]).sum())
        for a, b in GroupKFold(4).split(z, groups=runs)
    )


def _predict(z: Array, ranks: Array, others: Array, settings: tuple[float, float]) -> Array:
    gamma, alpha = settings
    middle = ranks.mean()
    ridge = KernelRidge(alpha=alpha, kernel="rbf", gamma=gamma).fit(z, ranks - middle)
    return np.asarray(ridge.predict(others) + middle)


def fit(name: str) -> None:
    """Keep a family's errors."""
    kept = _kept(name)
    if kept.exists():
        return
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        x, metrics, runs, names = columns(name, way)
        found[way] = {metric: error(x, metrics[:, j], runs) for j, metric in enumerate(names)}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))


def _kept(name: str) -> Path:
    return families.OUT / "results" / f"wiring-{name}.json"


def table() -> None:
    """Print every family's errors, and how those of the other ways compare with what ships."""
    print(f"{'':34}" + "".join(f"{way:>18}" for way in WAYS))
    for group, names in (("development", DEVELOPMENT), ("reported", REPORTED)):
        ratios: list[list[float]] = []
        for name in names:
            if not _kept(name).exists():
                print(f"{name}: not measured")
                continue
            found = json.loads(_kept(name).read_text())
            of_family = []
            for metric in found[WAYS[0]]:
                errors = [found[way][metric] for way in WAYS]
                of_family.append([errors[0] / e for e in errors])
                print(f"{name + ' ' + metric:34}" + "".join(f"{e:18.3f}" for e in errors))
            ratios.append(np.mean(np.log(of_family), axis=0).tolist())
        if ratios:
            means, errors = np.mean(ratios, axis=0), np.std(ratios, axis=0, ddof=1) / np.sqrt(len(ratios))
            cells = "".join(
                f"{np.exp(m):11.3f} ± {np.exp(m) * e:.3f} " for m, e in zip(means[1:], errors[1:], strict=True)
            )
            print(f"{group}: error as it ships to that of the others, mean over families {cells}\n")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "table"])
    parser.add_argument("family", nargs="*")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.what == "table":
        print("$ python benchmarks/wiring.py table\nmean absolute error of ranks on held-out runs, the median's at 1\n")
        table()
        return
    for name in options.family or (*DEVELOPMENT, *REPORTED):
        fit(name)
        print(f"{name}: fitted", file=sys.stderr)


if __name__ == "__main__":
    main()
