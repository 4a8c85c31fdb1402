"""Time of epsopt's Pareto extraction over moocore's own, on sizes up to a million (at most 1.2 times).

Run with: OMP_NUM_THREADS=1 python benchmarks/pareto.py > benchmarks/results/pareto.txt
Both run in turn in one process on one thread; the smallest processor time of the repeats counts. On the input
with NaN, moocore gets the rows without NaN, already picked out: its own time, with nothing for finding them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import moocore
import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.pareto import non_dominated

REPEATS = 25


def inputs(n: int, m: int) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    cloud = rng.random((n, m))
    front = np.abs(rng.normal(size=(n, m)))
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    with_nan = rng.random((n, m))
    with_nan[rng.random((n, m)) < 0.01] = np.nan
    return {"random cloud": cloud, "all on the front": front, "cloud, 1 % NaN": with_nan}


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    versions = f"moocore {moocore.__version__}, numpy {np.__version__}, Python {sys.version.split()[0]}"
    print(f"{versions}, best of {REPEATS}")
    columns = f"{'points':>12}  {'input':<17}{'directions':<12}{'front':>8}"
    print(f"{columns}{'moocore':>11}{'epsopt':>11}{'ratio':>7}")
    worst = 0.0
    for n, m in ((1_000_000, 2), (100_000, 3)):
        for name, values in inputs(n, m).items():
            clean = values[~np.isnan(values).any(axis=1)]
            for word, maximize in (
                ("max", [True] * m),
                ("min", [False] * m),
                ("mixed", [True, False, True][:m]),
            ):
                ours, theirs = [], []
                for _ in range(REPEATS):
                    theirs.append(seconds(partial(moocore.is_nondominated, clean, maximise=maximize)))
                    ours.append(seconds(partial(non_dominated, values, maximize)))
                size = len(non_dominated(values, maximize).indices)
                ratio = min(ours) / min(theirs)
                worst = max(worst, ratio)
                times = f"{1e3 * min(theirs):>8.1f} ms{1e3 * min(ours):>8.1f} ms"
                print(f"{f'{n}x{m}':>12}  {name:<17}{word:<12}{size:>8}{times}{ratio:>7.2f}")
    print(f"worst ratio {worst:.2f}, goal at most 1.20")


if __name__ == "__main__":
    main()
