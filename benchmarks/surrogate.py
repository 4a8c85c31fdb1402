"""How well the map predicts runs it has never seen, beside every baseline: `make bench-surrogate`.

    python benchmarks/surrogate.py [--zoos ternary bases digits seeds] [--seed 100] [--ablations]

Five folds, whole runs held out; `seeds` is the seeds' protocol on the ternary zoo (825 training and 77 validation
checkpoints, later runs held out). The zoos are trained first (benchmarks/zoos.py; kept, resumable). The seeds' own
models take hours: they are shown for the splits that `python benchmarks/seeds_vae.py` has finished. Nothing was tuned
on seed 100; development was on seed 200. A star marks what needs measurements of the held-out run itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import psutil
from baselines import BASELINES, folds_of, held_out, median
from numpy.typing import NDArray
from scores import collapse_auroc, interval_score, metric_score
from seeds_vae import AUTHORS_EPOCHS, EPOCHS, MODELS, load_predictions
from zoos import Zoo, load, seeds_split

from epsopt.surrogate import TrainingConfig, Validation, fit
from epsopt.surrogate.validation import HeldOutPredictions

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
NEEDS_MEASUREMENTS = (
    "previous checkpoint of the run"  # the one baseline that looks at measurements of the held-out run itself
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoos", nargs="+", default=["ternary", "bases", "digits", "seeds"],
                        choices=["ternary", "bases", "digits", "seeds"])  # fmt: skip
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--ablations", action="store_true", help="variants of the map instead of the baselines")
    parser.add_argument(
        "--map-only", action="store_true", help="no baselines but the seeds'; for its time on an idle machine"
    )
    options = parser.parse_args()
    print(f"$ python benchmarks/surrogate.py {' '.join(sys.argv[1:])}".rstrip())
    for name in options.zoos:
        print()
        if name == "seeds":
            _seeds_protocol(load("ternary", options.seed))
        elif options.ablations:
            _ablations(load(name, options.seed))
        else:
            _five_folds(load(name, options.seed), map_only=options.map_only)
    return 0


def _five_folds(zoo: Zoo, *, map_only: bool) -> None:
    folds = folds_of(zoo)
    _head(
        f"{zoo.name}, seed {zoo.seed}: {len(zoo)} checkpoints of {zoo.train.n_runs} runs, five folds of whole runs", zoo
    )
    constant = held_out(zoo, median, folds)
    everything = np.arange(len(zoo))
    for title, predictor in BASELINES.items() if not map_only else ():
        _row(title, zoo, everything, held_out(zoo, predictor, folds), constant)
    seeds: dict[str, tuple[float, Rows]] = {}  # title to processor seconds of five folds and a final network; its rows
    for kind, epochs in product(MODELS, (EPOCHS, AUTHORS_EPOCHS)):
        found = [f for k in range(len(folds)) if (f := load_predictions(zoo, kind, f"fold{k}", epochs)) is not None]
        if found:
            title = f"seeds' {kind} VAE, {epochs} epochs"
            ran = np.mean([f.cpu_seconds for f in found])
            if len(found) < len(folds):
                title += f", {len(found)} of {len(folds)} folds"
            rows = np.concatenate([f.rows for f in found])
            seeds[title] = (len(folds) + 1) * float(ran), rows
            _row(title, zoo, rows, np.concatenate([f.metrics for f in found]), constant[rows])
            print(f"    a network: {ran:.0f} s of processor time, one thread")
    for probes in (False, True):
        started, before = time.monotonic(), _processor_seconds()
        surrogate, validation = fit(zoo.train, probes=probes)
        took, ran = time.monotonic() - started, _processor_seconds() - before
        predicted = _predicted(validation)
        _row(f"epsopt, {'with probes' if probes else 'weights only'}", zoo, everything, predicted.point, constant)
        _intervals(zoo, everything, predicted.low, predicted.high, constant)
        for title, (_, rows) in seeds.items():
            if len(rows) < len(zoo):  # a fair comparison has the same checkpoints
                _row(f"    on those of {title}"[:44], zoo, rows, predicted.point[rows], constant[rows])
        if not probes and validation.embedding_r2 is not None:
            r2, cosine = validation.embedding_r2, validation.embedding_cosine
            print(f"    embeddings: R2 {r2:.3f} over the mean, cosine {cosine:.3f}")
        started = time.monotonic()
        surrogate.predict(surrogate.encode(zoo.train.fingerprints, zoo.train.embeddings, zoo.train.hyperparameters))
        each = 1000.0 * (time.monotonic() - started) / len(zoo)
        print(
            f"    five folds, calibration and the final map: {took:.0f} s, {ran:.0f} s of processor time; "
            f"a prediction: {each:.2f} ms of a batch"
        )
        for title, (theirs, _) in seeds.items() if not probes else ():
            print(f"    {title}: {theirs:.0f} s for as many networks, {theirs / ran:.0f} times ours")


def _processor_seconds() -> float:
    """Of this process, of those that it started and of those of them that have ended."""
    here = psutil.Process()
    times = [here.cpu_times(), *(p.cpu_times() for p in here.children(recursive=True))]
    return float(sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system)


def _seeds_protocol(zoo: Zoo) -> None:
    train, test = seeds_split(zoo)
    sizes = f"{len(train)} checkpoints to learn from, {len(test)} of later runs to predict"
    _head(f"the seeds' protocol on {zoo.name}, seed {zoo.seed}: {sizes}", zoo)
    split = [(train, test)]
    constant = median(zoo.take(train), zoo.take(test))
    for title, predictor in BASELINES.items():
        _row(title, zoo, test, held_out(zoo, predictor, split)[test], constant)
    for kind in MODELS:
        found = load_predictions(zoo, kind, "seeds")
        if found is not None:
            order = np.argsort(found.rows)
            _row(f"seeds' {kind} VAE, {found.epochs} epochs", zoo, test, found.metrics[order], constant)
    inside, outside = zoo.train.take(train), zoo.train.take(test)
    for probes in (False, True):
        surrogate, _ = fit(inside, probes=probes)
        predicted = surrogate.predict(
            surrogate.encode(outside.fingerprints, outside.embeddings, outside.hyperparameters)
        )
        _row(f"epsopt, {'with probes' if probes else 'weights only'}", zoo, test, predicted.point, constant)
        _intervals(zoo, test, predicted.low, predicted.high, constant)


def _ablations(zoo: Zoo) -> None:
    _head(f"{zoo.name}, seed {zoo.seed}: variants of the map, weights only", zoo)
    constant, everything = held_out(zoo, median, folds_of(zoo)), np.arange(len(zoo))
    recipe = TrainingConfig()
    plain = replace(zoo, train=replace(zoo.train, embeddings=None))
    variants: dict[str, tuple[Zoo, TrainingConfig]] = {
        "as shipped": (zoo, recipe),
        "encoder not trained further on the metrics": (zoo, replace(recipe, finetune=False)),
        "no embeddings to learn from": (plain, recipe),
        "embeddings weigh 1 instead of .1": (zoo, replace(recipe, embeddings=1.0)),
        "KL weight .01 instead of .0001": (zoo, replace(recipe, kl=0.01)),
    }
    for title, (data, how) in variants.items():
        _, validation = fit(data.train, recipe=how)
        _row(title, zoo, everything, _predicted(validation).point, constant)


def _predicted(validation: Validation) -> HeldOutPredictions:
    assert validation.held_out is not None  # only a validation that was kept and read again lacks them
    return validation.held_out


def _head(title: str, zoo: Zoo) -> None:
    print(title)
    print("mean absolute error / skill over the train median / Kendall's tau; AUROC of coverage < .5")
    print(" " * 44 + "".join(f"{name:>24}" for name in zoo.train.metric_names))


def _row(title: str, zoo: Zoo, rows: Rows, predicted: Array, constant: Array) -> None:
    cells = []
    for j in range(predicted.shape[1]):
        score = metric_score(zoo.train.metrics[rows, j], predicted[:, j], constant[:, j])
        cells.append(f"{score.mae:10.4f} /{score.skill:5.2f} /{score.tau:5.2f}")
    text = f"{title + (' *' if title == NEEDS_MEASUREMENTS else ''):44}" + "".join(f"{c:>24}" for c in cells)
    if "coverage" in zoo.train.metric_names:
        j = zoo.train.metric_names.index("coverage")
        text += f"   AUROC {collapse_auroc(zoo.train.metrics[rows, j], predicted[:, j]):.3f}"
    print(text, flush=True)


def _intervals(zoo: Zoo, rows: Rows, low: Array, high: Array, constant: Array) -> None:
    of: Callable[[int], str] = lambda j: (  # noqa: E731
        f"{(s := interval_score(zoo.train.metrics[rows, j], low[:, j], high[:, j], constant[:, j])).coverage:.1%} at "
        f"{s.relative_width:.2f}"
    )
    cells = "".join(f"{of(j):>24}" for j in range(low.shape[1]))
    print(f"{'    90 % intervals cover, at x median width':44}{cells}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
