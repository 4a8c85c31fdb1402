"""Is the demo's trade-off real? Trains three regimes and 60 random runs; exit status 1 if it is not.

    python benchmarks/tradeoff.py [--jobs 2]

A few minutes on one core the first time. The runs stay in benchmarks/out/tradeoff, where a second call (or
one after an interruption) finds them.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from epsopt.demo.base import base_path, ensure_base
from epsopt.demo.files import checkpoint_path, load
from epsopt.demo.run import Plan
from epsopt.demo.space import SPACE, Value
from epsopt.demo.sweep import plan_runs, sweep

OUT = Path(__file__).parent / "out" / "tradeoff"
RUNS = 60
SEED = 1
EPOCHS = 10
HIGH_COVERAGE = 0.95
# The table of the seeds (sideways_vae.md, "The Problem"): what a faster encoder wins and loses.
REGIMES: dict[str, dict[str, Value]] = {
    "frozen encoder": {"encoder": "frozen"},
    "tiny learning rate": {"encoder": "full", "encoder_lr_scale": 0.02, "recon_weight": 1e-3},
    "aggressive unfreeze": {"encoder": "full", "encoder_lr_scale": 1.0, "recon_weight": 1e-4},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    jobs = parser.parse_args().jobs
    torch.set_num_threads(1)
    ensure_base(base_path(OUT))
    regimes = {name: _regime(name, values) for name, values in REGIMES.items()}
    runs = plan_runs(OUT, RUNS, SEED, EPOCHS)
    if sweep([*regimes.values(), *runs], jobs):
        return 1
    ok = _tell_regimes(regimes)
    return 0 if _tell_front(runs) and ok else 1


def _regime(name: str, values: Mapping[str, Value]) -> Plan:
    hyperparameters = {parameter.name: parameter.default for parameter in SPACE} | values
    return Plan(OUT / name.replace(" ", "_"), base_path(OUT), hyperparameters, epochs=EPOCHS)


def _tell_regimes(regimes: Mapping[str, Plan]) -> bool:
    base = load(base_path(OUT))["metrics"]
    print(f"base: coverage {base['coverage']:.4f}, dist_corr {base['dist_corr']:.3f}")
    print(f"{'regime':<21}{'coverage':>9}{'dist_corr':>10}{'rad_hier':>10}")
    found = {name: load(plan.last())["metrics"] for name, plan in regimes.items()}
    for name, metrics in found.items():
        print(f"{name:<21}{metrics['coverage']:>9.3f}{metrics['dist_corr']:>10.3f}{metrics['rad_hier']:>10.3f}")
    frozen, tiny, aggressive = found.values()
    return bool(
        frozen["coverage"] > 0.999
        and aggressive["coverage"] < 0.05
        and frozen["coverage"] > tiny["coverage"] > aggressive["coverage"]
        and frozen["dist_corr"] < tiny["dist_corr"] < aggressive["dist_corr"]
    )


def _tell_front(runs: list[Plan]) -> bool:
    final = np.array([_values(plan.last()) for plan in runs])
    every = np.array([_values(checkpoint_path(p.out, epoch)) for p in runs for epoch in range(1, EPOCHS + 1)])
    front = _front(every)
    bar = float(np.quantile(final[:, 1], 0.9))
    both = int(((final[:, 0] >= HIGH_COVERAGE) & (final[:, 1] >= bar)).sum())
    safe = final[final[:, 0] >= HIGH_COVERAGE, 1].max()
    low, high = (final[:, 0] < 0.1).mean(), (final[:, 0] > 0.9).mean()
    print(f"\n{RUNS} random runs (seed {SEED}), {len(every)} checkpoints")
    print(f"final coverage: {high:.0%} of runs above .9, {1 - high - low:.0%} between, {low:.0%} below .1")
    print(f"top 10 % of dist_corr begins at {bar:.3f}; best at coverage >= {HIGH_COVERAGE}: {safe:.3f}")
    print(f"runs with the best of both: {both}")
    print(f"front of coverage and dist_corr over all checkpoints: {len(front)} points")
    for coverage, dist_corr in front:
        print(f"  {coverage:.4f} {dist_corr:.3f}")
    return both == 0 and len(front) >= 5


def _values(path: Path) -> tuple[float, float]:
    metrics = load(path)["metrics"]
    return metrics["coverage"], metrics["dist_corr"]


def _front(values: np.ndarray) -> np.ndarray:
    """The non-dominated rows of (n, 2), both maximised, by falling coverage."""
    unique = np.unique(values, axis=0)
    order = unique[np.lexsort((-unique[:, 1], -unique[:, 0]))]
    best = np.maximum.accumulate(np.concatenate([[-np.inf], order[:-1, 1]]))
    return order[order[:, 1] > best]


if __name__ == "__main__":
    sys.exit(main())
