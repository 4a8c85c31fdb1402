"""What it buys to run each checkpoint on a few inputs: the map with and without anchor embeddings, on new runs.

    python benchmarks/family_probes.py fit [FAMILY ...] [--anchors 64 256]     # minutes a family
    python benchmarks/family_probes.py table                                   # what is kept so far

Zoos and splits are those of benchmarks/families.py, whose results stand beside. With probes, `epsopt ingest` runs each
checkpoint on 64 or 256 inputs, and the map sees the answers as well (`epsopt fit --probes`). Its baseline with probes
is LightGBM on the statistics of the weights and the answers' principal components. Anchors are training inputs, which
no metric is measured on (probe_hooks.py). Constants are those of the map; nothing was chosen here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import families
import numpy as np
import torch
import zoos
from baselines import statistics_tables
from held_out import title
from numpy.typing import NDArray
from probe_hooks import hook
from scores import interval_score

from epsopt.surrogate import fit
from epsopt.surrogate.baselines import boosted, median_baseline
from epsopt.surrogate.map_format import FORMAT
from epsopt.zoo import Catalogue, ingest

ANCHORS = (64, 256)
COMPONENTS = 24
HERE = Path(__file__).resolve().parent

Array = NDArray[np.float64]


def load(name: str, anchors: int) -> zoos.Zoo:
    """Give a family's zoo with anchor embeddings."""
    families.make(name)
    folder = families.OUT / f"{name}-{families.SEED}"
    with Catalogue(f"sqlite:///{folder}-probes-{anchors}.db") as catalogue:
        report = ingest(catalogue, folder, embed=hook(name, anchors), jobs=1)
        if report.failed:
            print(f"{len(report.failed)} files of {folder} could not be read: {report.failed[0]}", file=sys.stderr)
        return families.kept_metrics(zoos.as_arrays(catalogue, name, families.SEED))


def predictions(name: str, split: int, anchors: int) -> dict[str, Any]:
    """What the map and its baseline predict with probes, as JSON values."""
    inside, outside = families.parts(load(name, anchors), split)
    surrogate, _ = fit(inside.train, probes=True, seed=split)
    predicted = surrogate.predict(
        surrogate.encode(outside.train.fingerprints, outside.train.embeddings, outside.train.hyperparameters)
    )
    return {
        "truth": outside.train.metrics.tolist(),
        "probes": predicted.point.tolist(),
        "low": predicted.low.tolist(),
        "high": predicted.high.tolist(),
        "median": median_baseline(inside.train, outside.train).tolist(),
        "trees": trees(inside, outside).tolist(),
    }


def trees(inside: zoos.Zoo, outside: zoos.Zoo) -> Array:
    """LightGBM on the statistics of the weights and on principal components of the answers."""
    from sklearn.decomposition import PCA

    assert inside.train.embeddings is not None
    assert outside.train.embeddings is not None
    seen, new = (np.nan_to_num(z.train.embeddings.reshape(len(z), -1)) for z in (inside, outside))
    components = PCA(min(COMPONENTS, *seen.shape), random_state=0).fit(seen)
    statistics = statistics_tables(inside.train, outside.train, ("VALUES",))
    x, x_new = (
        np.hstack([s, components.transform(e)]) for s, e in zip(statistics, (seen, new), strict=True)
    )  # fmt: skip
    out = median_baseline(inside.train, outside.train)
    for j, column in enumerate(inside.train.metrics.T):
        known = np.isfinite(column)
        out[:, j] = boosted(x[known], column[known], 0).predict(x_new, num_threads=1)
    return out


def results(name: str, split: int, anchors: int, *, make_it: bool = False) -> dict[str, Any] | None:
    """One split's predictions as they are kept."""
    file = families.OUT / "results" / f"{name}-{split}-{FORMAT}-probes-{anchors}.json"
    if not file.exists():
        if not make_it:
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(predictions(name, split, anchors))
        file.write_text(content)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def table() -> None:
    """Print the errors of all families whose results are kept, and ratios to those without probes."""
    print("mean absolute error on held-out runs, mean of the splits; baseline: the best one without probes;")
    print("trees: LightGBM on statistics and answers; inside: share within intervals of 90 % of the map with probes")
    head = "".join(f"{t:>{w}}" for t, w in zip(("baseline", "map"), (10, 9), strict=True))
    head += "".join(f"{f'{kind} {n}':>12}" for n in ANCHORS for kind in ("map", "trees", "inside"))
    ratios: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for group, names in (("development", families.DEVELOPMENT), ("reported", families.REPORTED)):
        print(f"\n{group:34}{head}")
        for name in names:
            plain = [families.results(name, split) for split in range(families.SPLITS)]
            probed = {n: [results(name, split, n) for split in range(families.SPLITS)] for n in ANCHORS}
            if any(r is None for r in plain) or any(r is None for r in probed[ANCHORS[0]]):
                continue
            for one, *others in zip(plain, *probed.values(), strict=True):
                if any(o is not None and repr(o["truth"]) != repr(one["truth"]) for o in others):
                    raise SystemExit(
                        f"{name}: the splits with and without probes are of other runs: delete its results"
                    )
            print(name)
            for j, metric in enumerate(plain[0]["metrics"]):  # type: ignore[index]
                _row(group, metric, plain, probed, j, ratios)
        for n in ANCHORS:
            if some := ratios.get((group, n)):
                best, weights, boosters = np.array(some).T
                print(
                    f"{n} anchors, {len(best)} metrics: the map's error is {best.mean():.3f} of the best baseline's in "
                    f"the mean, at most .8 on {(best <= 0.8).sum()}, at most 1.02 on {(best <= 1.02).sum()}; "
                    f"{weights.mean():.3f} of the map's without probes; {boosters.mean():.3f} of the trees'"
                )


def _row(
    group: str, metric: str, plain: list[Any], probed: dict[int, list[Any]], j: int,
    ratios: dict[tuple[str, int], list[tuple[float, float, float]]],
) -> None:  # fmt: skip
    best = min(np.mean([families.error(r, k, j) for r in plain]) for k in families.BASELINES)
    weights = np.mean([families.error(r, "map", j) for r in plain])
    line = f"  {metric[:30]:32}{best:10.4f}{weights:9.4f}"
    for n, found in probed.items():
        if any(r is None for r in found):
            line += f"{'-':>12}" * 3
            continue
        ours, boosters = (np.mean([families.error(r, k, j) for r in found]) for k in ("probes", "trees"))
        columns = [[np.array(r[k], dtype=float)[:, j] for k in ("truth", "low", "high", "median")] for r in found]
        inside = np.mean([interval_score(*c).coverage for c in columns])
        line += f"{ours:12.4f}{boosters:12.4f}{inside:12.1%}"
        ratios.setdefault((group, n), []).append((ours / best, ours / weights, ours / boosters))
    print(line)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "table"])
    parser.add_argument("family", nargs="*", help=f"default: all of {', '.join(families.FAMILIES)}")
    parser.add_argument("--anchors", nargs="+", type=int, choices=ANCHORS, default=list(ANCHORS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.what == "table":
        title(["benchmarks/family_probes.py", "table"])
        table()
        return
    os.chdir(HERE)  # where the hooks are imported from
    for name in options.family or families.FAMILIES:
        for split in range(families.SPLITS):
            families.results(name, split, make_it=True)
            for anchors in options.anchors:
                results(name, split, anchors, make_it=True)
        print(f"{name}: fitted", file=sys.stderr)


if __name__ == "__main__":
    main()
