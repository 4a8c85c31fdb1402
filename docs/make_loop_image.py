"""Draw the picture of docs/evaluation/scheduler.md: hypervolume by training epochs, ours beside the peers.

    python docs/make_loop_image.py [--workload ternary] [--methods random gp epsopt] [--out images/loop.png]

From the lines of benchmarks/results/loop.jsonl: the reported seeds that every one of the methods has finished. Needs
Debian's chromium.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from screenshot import draw

from epsopt.figures import hypervolume

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from loop import REPORTED, RESULTS  # noqa: E402
from loop_table import read, volumes  # noqa: E402
from loop_workloads import WORKLOADS  # noqa: E402

NAMES = {"random": "random search", "tpe": "TPE", "nsga2": "NSGA-II", "gp": "GPSampler", "nehvi": "qLogNEHVI"}
Floats = NDArray[np.float64]


def picture(curves: dict[str, Floats], seeds: Sequence[int], objectives: Sequence[str]) -> go.Figure:
    """Draw the mean over seeds of each method, quartiles as a band.

    Args:
        curves: ``(seeds, epochs)`` by method, ours last.
        seeds: of the curves.
        objectives: their names.
    """
    *_, ours = curves
    return hypervolume(
        {NAMES.get(name, name): values for name, values in curves.items()},
        ours=NAMES.get(ours, ours),
        x="training epochs paid for, of all runs together",
        start=1,
        title=f"Hypervolume of {' and '.join(objectives)}: mean of {len(seeds)} seeds, quartiles as a band",
    )


def _is_ours(name: str) -> bool:
    return name.startswith("epsopt")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw hypervolume by training epochs.")
    parser.add_argument("--workload", choices=list(WORKLOADS), default="ternary")
    parser.add_argument("--methods", nargs="+", default=["random", "gp", "epsopt"])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=HERE / "images" / "loop.png")
    options = parser.parse_args()
    found = {
        (r["method"], r["seed"]): volumes(r)
        for r in read(options.results)
        if (r["workload"], r["epochs"], r["zoo"]) == (options.workload, options.epochs, False) and r["seed"] in REPORTED
    }
    seeds = sorted(s for s in {s for _, s in found} if all((m, s) in found for m in options.methods))
    if not seeds:
        sys.exit(f"{options.results} has no seed that all of {', '.join(options.methods)} have finished")
    methods = sorted(options.methods, key=_is_ours)
    curves = {m: np.stack([found[m, s] for s in seeds]) for m in methods}
    objectives = [o.name for o in WORKLOADS[options.workload].objectives]
    draw(picture(curves, seeds, objectives), options.out, 900, 480)


if __name__ == "__main__":
    main()
