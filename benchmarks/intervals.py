"""Coverage and width of 90 % intervals when a metric is measured at every checkpoint, every other one, or the last.

    python benchmarks/intervals.py [--end-to-end [--seeds 6] [--first-seed 300]]

Synthetic residuals go through the same functions as those of a fit: the residuals of a run's checkpoints share a part,
as checkpoints of one run do, and new runs are drawn from the same distribution. A width is half an interval's, in
standard deviations of the residuals; the exact one of a normal is 1.64. Beside stands split conformal prediction with
one independent residual a run: the ceil(0.9 (n + 1))-th smallest of n.

With --end-to-end a map is fitted to 40 synthetic runs whose score is measured at their ends only, and predicts the ends
of 120 new runs: the share of measurements inside, and half the width beside what 40 independent residuals give, the
37th smallest of 40 errors on those same ends (mean over choices of 40). Seeds up to 299 are for development.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from diverged import network
from numpy.typing import NDArray

from epsopt.surrogate import TrainingConfig, TrainingSet, fit
from epsopt.surrogate.metric_gp import conformal_factor, run_weights
from epsopt.zoo.fingerprints.fingerprint import fingerprint

LEVEL = 0.9
PER_RUN = 20
SHARED = 0.8  # of the variance: what the checkpoints of one run have in common
REPEATS = 2000
E2E_RUNS, E2E_NEW, E2E_EPOCHS = 40, 120, 4

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


def zoo(seed: int, first: int, count: int) -> TrainingSet:
    """``count`` runs of 6-16-4 networks that move from one base; a noisy score of how far, at the end only."""
    rng = np.random.default_rng([seed, first])
    base, direction = network(10_000 * seed), network(10_000 * seed + 1)
    prints, scores = [], []
    for run, strength in enumerate(rng.random(count)):
        own = network(10_000 * seed + 2 + first + run)
        for epoch in range(1, E2E_EPOCHS + 1):
            far = float(strength) * epoch / E2E_EPOCHS
            weights = {k: base[k] + far * direction[k] + 0.05 * own[k] for k in base}
            prints.append(fingerprint(weights.items(), base.get))
            scores.append(3.0 - (1.0 - far) ** 2 + 0.1 * rng.normal() if epoch == E2E_EPOCHS else np.nan)
    runs = first + np.repeat(np.arange(count), E2E_EPOCHS)
    keys = tuple(f"{seed}-{first + i}" for i in range(len(runs)))
    return TrainingSet(keys, tuple(prints), runs, np.ones_like(runs), ("quality",), np.array(scores)[:, None])


def end_to_end(seed: int) -> tuple[float, float, float]:
    """Share of new ends inside their intervals, mean half width, and that of 40 independent residuals."""
    surrogate = fit(zoo(seed, 0, E2E_RUNS), seed=seed, recipe=TrainingConfig(steps=120))[0]
    new = zoo(seed, E2E_RUNS, E2E_NEW)
    ends = np.flatnonzero(np.isfinite(new.metrics[:, 0]))
    predicted = surrogate.predict(surrogate.encode([new.fingerprints[i] for i in ends]), LEVEL)
    truth = new.metrics[ends, 0]
    inside = (truth >= predicted.low[:, 0]) & (truth <= predicted.high[:, 0])
    errors = np.abs(truth - predicted.point[:, 0])
    width = float((predicted.high - predicted.low)[:, 0].mean()) / 2.0
    rng, place = np.random.default_rng(seed), math.ceil(LEVEL * (E2E_RUNS + 1)) - 1
    independent = [np.sort(rng.choice(errors, E2E_RUNS, replace=False))[place] for _ in range(REPEATS)]
    return float(inside.mean()), width, float(np.mean(independent))


def _print_end_to_end(seed: str, covered: float, width: float, independent: float) -> None:
    print(f"{seed:<6}{covered:>8.3f}{width:>12.3f}{independent:>13.3f}{width / independent:>8.2f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Coverage and width of 90 % intervals.")
    parser.add_argument("--end-to-end", action="store_true", help="Fit maps instead of drawing residuals.")
    parser.add_argument("--seeds", type=int, default=6, help="Number of seeds of --end-to-end.")
    parser.add_argument("--first-seed", type=int, default=300, help="The first of them; the others follow it.")
    options = parser.parse_args()
    if options.end_to_end:
        print(f"{'seed':<6}{'covered':>8}{'half width':>12}{'independent':>13}{'ratio':>8}")
        rows = []
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            rows.append(end_to_end(seed))
            _print_end_to_end(str(seed), *rows[-1])
        _print_end_to_end("mean", *map(float, np.mean(rows, axis=0)))
        return
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
