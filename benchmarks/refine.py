"""Refining the map with new runs against fitting it anew, as a zoo grows from 60 to 100 % of its runs in four steps.

    python benchmarks/refine.py [--seed 100]

A fifth of the ternary zoo's runs is held out of everything and predicted after each step. Every fit is kept in
benchmarks/out/refine/: a second call goes on where the first stopped. Drift: how far checkpoints known before moved in
the latent space, root mean square, as a share of their spread; for a fit from scratch after the best rotation
(Procrustes), without which the two maps have nothing to do with each other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from zoos import Zoo, load

from epsopt.surrogate import Surrogate, TrainingSet, Validation, fit, run_folds
from epsopt.surrogate.refinement import drift, refine
from epsopt.surrogate.validation import MetricValidation

OUT = Path(__file__).resolve().parent / "out" / "refine"
SHARES = (0.6, 0.7, 0.8, 0.9, 1.0)
FOLDS = 3  # of each fit's own validation: the five of `epsopt fit` would cost it half as much again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--at-most", type=int, default=None, metavar="N", help="make N missing maps, then stop")
    parser.add_argument("--as-is", action="store_true", help="report on the steps that are made already")
    options = parser.parse_args()
    zoo = load("ternary", options.seed)
    rows = run_folds(zoo.train.runs, 5, 0)[0]
    held, rest = zoo.train.take(rows), zoo.train.take(np.setdiff1d(np.arange(len(zoo)), rows))
    order = np.random.default_rng(0).permutation(np.unique(rest.runs))
    maps: dict[tuple[str, float], tuple[Surrogate, Validation, float]] = {}
    budget = options.at_most if options.at_most is not None else 10**6
    for k, share in enumerate(SHARES):
        part = rest.take(np.flatnonzero(np.isin(rest.runs, order[: round(share * len(order))])))
        for kind in ("scratch", "refined"):
            if kind == "refined" and k == 0:
                maps[kind, share] = maps["scratch", share]
                continue
            found = _kept(zoo, kind, share)
            if found is None and options.as_is:
                break
            if found is None:
                if budget == 0:
                    return 0
                budget -= 1
                found = _make(zoo, kind, share, part, maps.get(("refined", SHARES[k - 1])))
            maps[kind, share] = found
    made = [share for share in SHARES if ("refined", share) in maps]
    print(f"$ python benchmarks/refine.py {' '.join(sys.argv[1:])}".rstrip())
    _report(zoo, held, maps, made)
    return 0


def _make(
    zoo: Zoo, kind: str, share: float, part: TrainingSet, before: tuple[Surrogate, Validation, float] | None
) -> tuple[Surrogate, Validation, float]:
    started = time.perf_counter()
    if kind == "scratch" or before is None:
        surrogate, validation = fit(part, folds=FOLDS)
    else:
        surrogate, validation, _ = refine(before[0], before[1], part, trained_on=f"{kind} {share}")
    took = time.perf_counter() - started
    data, meta = surrogate.to_bytes()
    OUT.mkdir(parents=True, exist_ok=True)
    file = _file(zoo, kind, share)
    file.with_suffix(".json").write_text(
        json.dumps([meta, asdict(replace(validation, held_out=None)), took]), encoding="utf-8"
    )
    file.write_bytes(data)
    return surrogate, validation, took


def _kept(zoo: Zoo, kind: str, share: float) -> tuple[Surrogate, Validation, float] | None:
    file = _file(zoo, kind, share)
    if not file.exists():
        return None
    meta, stored, took = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    validation = Validation(**{**stored, "metrics": tuple(MetricValidation(**m) for m in stored["metrics"])})
    return Surrogate.from_bytes(file.read_bytes(), meta), validation, took


def _file(zoo: Zoo, kind: str, share: float) -> Path:
    return OUT / f"{zoo.name}-{zoo.seed}-{kind}-{share:.0%}.safetensors".replace("%", "")


def _report(
    zoo: Zoo,
    held: TrainingSet,
    maps: dict[tuple[str, float], tuple[Surrogate, Validation, float]],
    made: Sequence[float],
) -> None:
    names = zoo.train.metric_names
    print(
        f"ternary, seed {zoo.seed}: {held.n_runs} runs held out; mean absolute error on them, 90 % intervals' coverage"
        f"; {len(made)} of {len(SHARES)} steps"
    )
    print(f"{'runs':>5}  {'':8}" + "".join(f"{name:>20}" for name in names) + f"{'seconds':>10}{'drift':>8}")
    for k, share in enumerate(made):
        for kind in ("scratch", "refined") if k else ("scratch",):
            surrogate, _, took = maps[kind, share]
            error, inside = _errors(surrogate, held)
            cells = "".join(f"{e:13.4f} {c:5.0%} " for e, c in zip(error.mean(axis=0), inside, strict=True))
            moved = "" if k == 0 else f"{_moved(maps[kind, made[k - 1]][0], surrogate, kind):8.3f}"
            runs = len(torch.unique(surrogate.memory.runs))
            print(f"{runs:5}  {kind:8}{cells}{took:10.1f}{moved}")
    for share in made[1:]:
        scratch, refined = (_errors(maps[kind, share][0], held)[0] for kind in ("scratch", "refined"))
        per_run = np.stack([(refined - scratch)[held.runs == run].mean(axis=0) for run in np.unique(held.runs)])
        print(f"refined minus scratch at {share:.0%}, mean over held-out runs ± its standard error: " + ", ".join(
            f"{n} {d:+.4f} ± {s:.4f}"
            for n, d, s in zip(names, per_run.mean(0), per_run.std(0) / len(per_run) ** 0.5, strict=True)
        ))  # fmt: skip
    first, last = maps["scratch", made[0]][0], maps["refined", made[-1]][0]
    print(f"drift from the first map to the last refined one: {drift(first, last):.3f}")
    print("seconds: wall clock on a busy machine, validation included")


def _errors(surrogate: Surrogate, held: TrainingSet) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    stored = surrogate.predict(surrogate.encode(held.fingerprints, held.embeddings, held.hyperparameters))
    inside = (held.metrics >= stored.low) & (held.metrics <= stored.high)
    return np.abs(stored.point - held.metrics), inside.mean(axis=0)


def _moved(before: Surrogate, after: Surrogate, kind: str) -> float:
    if kind == "refined":
        return drift(before, after)
    places = {key: i for i, key in enumerate(after.memory.keys)}
    a = before.memory.latents.double().numpy()
    b = after.memory.latents[[places[key] for key in before.memory.keys]].double().numpy()
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    rotation, _ = orthogonal_procrustes(b, a)
    return float(np.sqrt(np.square(b @ rotation - a).sum() / np.square(a).sum()))


if __name__ == "__main__":
    sys.exit(main())
