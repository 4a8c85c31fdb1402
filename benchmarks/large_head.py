"""What answers where there are more checkpoints than one Gaussian process holds, on zoos that one process could hold.

    python benchmarks/large_head.py fit [FAMILY ...]    # three maps a split, three splits; resumable
    python benchmarks/large_head.py table

Each map may hold a fifth of a zoo's checkpoints in one process, as a map of 4,000 holds 800. `few`: that process
answers, as before. `near`: the shipped object, processes of the checkpoints near a point, here of a tenth of all (64 of
them, as shipped, are nearly half of such a zoo). `all`: one process of all checkpoints, which a large zoo has no room
for. Errors are of held-out runs, and of checkpoints that the one process has no room for; widths are of 90 % intervals.
Choices were made on the development families; the others are only reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import replace
from typing import Any

import families
import numpy as np

from epsopt.surrogate import cross_validation as folds
from epsopt.surrogate import fit, metric_gp, neighbour_gp

HOME = families.OUT / "heads"
NAMES = ("mlp-finetune", "ternary-relu", "encoder", "vit")
SPLITS = 3
HEADS = ("few", "near", "all")
SUBSAMPLE = 5  # a single process holds a fifth of the checkpoints
NEIGHBOURHOOD = 10  # a tenth of the checkpoints are neighbours

_FROM_ALL_ROWS = folds.from_all_rows


def measure(name: str, split: int, head: str) -> dict[str, Any]:
    """Fit a map and predict held-out runs, and what one process had no room for."""
    inside, outside = families.parts(families.load(name), split)
    n = len(inside.train)
    rows = metric_gp.subsample_runs(inside.train.runs, n // SUBSAMPLE)
    neighbour_gp.NEIGHBOURS = n // NEIGHBOURHOOD
    metric_gp.MAX_ROWS = n if head == "all" else n // SUBSAMPLE
    folds.from_all_rows = (lambda parts, *_: list(parts)) if head == "few" else _FROM_ALL_ROWS
    surrogate, _ = fit(inside.train, seed=split)
    if head == "few":
        surrogate = replace(surrogate, memory=replace(surrogate.memory, prediction_rows=None))
    found, truth = families.answer(surrogate, outside), outside.train.metrics
    left = np.setdiff1d(np.arange(n), rows)
    known = surrogate.predict(surrogate.memory.latents[left]).point
    inside_interval = (truth >= found.low) & (truth <= found.high)
    return {
        "metrics": list(inside.train.metric_names),
        "error": np.nanmean(np.abs(found.point - truth), axis=0).tolist(),
        "known": np.nanmean(np.abs(known - inside.train.metrics[left]), axis=0).tolist(),
        "width": np.nanmean(found.high - found.low, axis=0).tolist(),
        "held": [float(inside_interval[np.isfinite(truth[:, j]), j].mean()) for j in range(truth.shape[1])],
    }


def _file(name: str, split: int, head: str) -> Any:
    return HOME / f"{name}-{split}-{head}.json"


def table() -> None:
    """Print, of each metric, the mean over the splits: of `near` and `all` as ratios to `few`, and coverage."""
    print(f"{'':44}{'new runs: error':^24}{'width':^18}{'held':^18}{'known, left out: error':^30}")
    print(f"{'family':<14}{'metric':<26}" + f"{'few':>10}{'near':>7}{'all':>7}" + f"{'near':>10}{'all':>7}"
          + f"{'few':>8}{'near':>6}{'all':>6}" + f"{'few':>12}{'near':>8}{'all':>8}")  # fmt: skip
    ratios: dict[str, list[float]] = {}
    for name in NAMES:
        files = {h: [_file(name, s, h) for s in range(SPLITS)] for h in HEADS}
        if not all(f.exists() for some in files.values() for f in some):
            continue
        found = {h: [json.loads(f.read_text()) for f in some] for h, some in files.items()}
        for j, metric in enumerate(found["few"][0]["metrics"]):
            mean = {h: {k: float(np.mean([r[k][j] for r in found[h]])) for k in ("error", "width", "held", "known")}
                    for h in HEADS}  # fmt: skip
            few, near, every = (mean[h] for h in HEADS)
            kind = "development" if name in families.DEVELOPMENT else "reported"
            ratios.setdefault(kind, []).append(near["error"] / few["error"])
            print(
                f"{name:<14}{metric:<26}{few['error']:>10.4f}{near['error'] / few['error']:>7.2f}"
                f"{every['error'] / few['error']:>7.2f}{near['width'] / few['width']:>10.2f}"
                f"{every['width'] / few['width']:>7.2f}{few['held']:>8.0%}{near['held']:>6.0%}{every['held']:>6.0%}"
                f"{few['known']:>12.4f}{near['known']:>8.4f}{every['known']:>8.4f}"
            )
    for kind, some in ratios.items():
        spread = np.std(some, ddof=1) / np.sqrt(len(some))
        print(f"\n{kind}: near / few on new runs {np.mean(some):.3f} ± {spread:.3f} (standard error over metrics)")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("fit", "table"))
    parser.add_argument("names", nargs="*", metavar="FAMILY", help="; ".join(NAMES))
    given = parser.parse_args()
    if given.step == "table":
        table()
    else:
        for chosen in given.names or NAMES:
            for split, head in [(s, h) for s in range(SPLITS) for h in HEADS]:
                if not (file := _file(chosen, split, head)).exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(measure(chosen, split, head)))
                    print(f"{chosen}, split {split}, {head}", file=sys.stderr, flush=True)
