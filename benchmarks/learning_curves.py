"""How the map's error falls with the number of runs that it learns from, beside LightGBM on statistics of the weights.

    python benchmarks/learning_curves.py make     # two zoos of 84 runs; about five minutes each, one core
    python benchmarks/learning_curves.py fit      # each number of runs, three times; resumable
    python benchmarks/learning_curves.py table    # what is kept so far

The zoos are of two of the REPORTED families of `families.py`: nothing was chosen on them. The same twenty runs are held
out of all fits of a split; the map and LightGBM learn from the first 8, 12, 20, 40 and 64 of the others, in one order.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

import families
import numpy as np
import torch
import zoos

from epsopt.surrogate import fit
from epsopt.surrogate.baselines import median_baseline, statistics_baseline
from epsopt.surrogate.map_format import FORMAT

FAMILIES = ("encoder", "vit")
RUNS, HELD_OUT = 84, 20
SIZES = (8, 12, 20, 40, 64)
SPLITS = 3
HOME = families.OUT / "curves"


def zoo_of(name: str) -> zoos.Zoo:
    """Give a family's long zoo; trains first what is missing."""
    return families.load(name, runs=RUNS, out=HOME)


def result(name: str, split: int, size: int, zoo: zoos.Zoo | None = None) -> dict[str, Any] | None:
    """Errors of one fit by metric, as they are kept; with a zoo they are made where they are missing."""
    file = HOME / "results" / f"{name}-{split}-{size}-{FORMAT}.json"
    if not file.exists():
        if zoo is None:
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(errors(zoo, split, size)))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def errors(zoo: zoos.Zoo, split: int, size: int) -> dict[str, Any]:
    """Mean absolute error of everybody on the held-out runs."""
    runs = np.random.default_rng([split, 7]).permutation(np.unique(zoo.train.runs))
    held, used = runs[:HELD_OUT], runs[HELD_OUT : HELD_OUT + size]
    inside, outside = (zoo.take(np.flatnonzero(np.isin(zoo.train.runs, some))) for some in (used, held))
    surrogate, _ = fit(inside.train, seed=split)
    truth = outside.train.metrics
    guesses = {
        "map": families.answer(surrogate, outside).point,
        "median": median_baseline(inside.train, outside.train),
        "statistics": statistics_baseline(inside.train, outside.train),
    }
    return {
        "metrics": list(zoo.train.metric_names),
        **{kind: np.nanmean(np.abs(guess - truth), axis=0).tolist() for kind, guess in guesses.items()},
    }


def table() -> None:
    """Print what is kept."""
    print(f"mean absolute error on {HELD_OUT} held-out runs, mean of the splits, by number of runs learned from")
    for name in FAMILIES:
        found = {n: [r for s in range(SPLITS) if (r := result(name, s, n)) is not None] for n in SIZES}
        sizes = [n for n in SIZES if found[n]]
        if not sizes:
            print(f"\n{name}: not measured")
            continue
        splits = ", ".join(str(len(found[n])) for n in sizes)
        print(f"\n{name}: splits {splits}\n{'runs':30}" + "".join(f"{n:>9}" for n in sizes))
        for j, metric in enumerate(found[sizes[0]][0]["metrics"]):
            print(metric)
            for kind in ("median", "statistics", "map"):
                means = [float(np.mean([r[kind][j] for r in found[n]])) for n in sizes]
                cells = "".join(f"{m:9.4f}" for m in means)
                print(f"  {'statistics + LightGBM' if kind == 'statistics' else kind:28}{cells}")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "fit", "table"])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.what == "table":
        print("$ python benchmarks/learning_curves.py table")
        table()
        return
    for split in range(SPLITS):  # all sizes of one split first: a table of part of it is a table
        for name in FAMILIES:
            zoo = zoo_of(name)
            for size in SIZES if options.what == "fit" else ():
                result(name, split, size, zoo)
                print(f"{name}, split {split}, {size} runs: fitted", file=sys.stderr)


if __name__ == "__main__":
    main()
