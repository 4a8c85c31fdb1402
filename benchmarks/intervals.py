"""Coverage and width of 90 % intervals when a metric is measured at every checkpoint, every other one, or the last.

    python benchmarks/intervals.py

Synthetic residuals go through the same functions as those of a fit: the residuals of a run's checkpoints share a part,
as checkpoints of one run do, and new runs are drawn from the same distribution. A width is half an interval's, in
standard deviations of the residuals; the exact one of a normal is 1.64. Beside stands split conformal prediction with
one independent residual a run: the ceil(0.9 (n + 1))-th smallest of n.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from epsopt.surrogate.metric_gp import conformal_factor, run_weights

LEVEL = 0.9
PER_RUN = 20
SHARED = 0.8  # of the variance: what the checkpoints of one run have in common
REPEATS = 2000

Floats = NDArray[np.float64]


def residuals(rng: np.random.Generator, runs: int, heavy: bool) -> Floats:
    """``(runs, checkpoints)`` residuals of unit variance: normal, or Student's t with 5 degrees of freedom."""
    shape = [(runs, 1), (runs, PER_RUN)]
    own, each = (rng.standard_t(5, s) / math.sqrt(5 / 3) if heavy else rng.normal(size=s) for s in shape)
    return np.asarray(math.sqrt(SHARED) * own + math.sqrt(1.0 - SHARED) * each)


def measured_at(when: str, runs: int) -> NDArray[np.bool_]:
    """``(runs, checkpoints)`` where the metric was measured."""
    epochs = np.tile(np.arange(PER_RUN), (runs, 1))
    rules = {"every checkpoint": epochs >= 0, "every other": epochs % 2 == 1, "end only": epochs == PER_RUN - 1}
    return np.asarray(rules[when])


def row(when: str, runs: int, heavy: bool) -> tuple[float, float, float]:
    """Coverage of new runs' measured checkpoints, mean width, and the mean width that independent residuals give."""
    rng = np.random.default_rng(0)
    inside, widths, independent = [], [], []
    measured = measured_at(when, runs)
    names = np.repeat(np.arange(runs), PER_RUN)
    for _ in range(REPEATS):
        drawn = residuals(rng, runs + 1, heavy)
        scores, new = np.abs(drawn[:runs]), np.abs(drawn[runs])
        width = conformal_factor(scores[measured], run_weights(names, measured.ravel())[measured.ravel()], LEVEL)
        inside.append((new[measured[0]] <= width).mean())
        widths.append(width)
        place = min(math.ceil(LEVEL * (runs + 1)), runs) - 1
        independent.append(np.sort(scores[:, -1])[place])
    return float(np.mean(inside)), float(np.mean(widths)), float(np.mean(independent))


def main() -> None:
    """Print the table."""
    print(f"{'residuals':<12}{'runs':>5}  {'measured at':<18}{'covered':>8}{'width':>8}{'independent':>13}{'ratio':>8}")
    for heavy in (False, True):
        for runs in (10, 20, 40, 100):
            for when in ("every checkpoint", "every other", "end only"):
                covered, width, independent = row(when, runs, heavy)
                kind = "Student's t" if heavy else "normal"
                print(
                    f"{kind:<12}{runs:>5}  {when:<18}{covered:>8.3f}{width:>8.2f}{independent:>13.2f}"
                    f"{width / independent:>8.2f}"
                )


if __name__ == "__main__":
    main()
