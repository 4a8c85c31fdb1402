"""How well the end of a run is forecast, from its hyperparameters alone and from its first 10, 25 and 50 %.

    python benchmarks/forecast.py [--zoo ternary] [--seed 100] [--folds 5]

Whole runs are held out of everything: of the map that encodes them, of the forecast and its calibration. The maps
are kept in benchmarks/out/forecast/, so that a second call goes on where the first stopped. "h, then g" is the
forecast behind `epsopt propose` (hyperparameters -> final z -> metrics).
The outlook is what `epsopt trajectory` shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from zoos import Zoo, load

from epsopt.optimize.forecast.base_forecasters import BASELINES, BEFORE, EXPERTS
from epsopt.optimize.forecast.run_forecaster import RunForecaster, fit_run_forecaster
from epsopt.optimize.forecast.stacking import STACK
from epsopt.optimize.latent.trajectory import RunPath
from epsopt.optimize.space_inference import infer_space
from epsopt.surrogate import Surrogate, fit, run_folds

OUT = Path(__file__).resolve().parent / "out" / "forecast"
SHARES = (0.0, 0.1, 0.25, 0.5)
INNER_FOLDS = 3  # of the maps' own calibration

Array = NDArray[np.float64]


@dataclass
class Scores:
    """What one forecast said of held-out runs: points, interval ends and the truth, ``(runs, m)`` when stacked."""

    point: list[Array]
    low: list[Array]
    high: list[Array]
    truth: list[Array]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", default="ternary", choices=["ternary", "bases", "digits"])
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fit-only", type=int, default=None, metavar="N", help="fit N missing maps, then stop")
    parser.add_argument("--as-is", action="store_true", help="report on the folds that are fitted already")
    options = parser.parse_args()
    zoo = load(options.zoo, options.seed)
    parts = run_folds(zoo.train.runs, options.folds, 0)
    missing = [] if options.as_is else [k for k in range(len(parts)) if not _file(zoo, k, len(parts)).exists()]
    for k in missing[: options.fit_only]:
        _map(zoo, parts[k], k, len(parts))
    if options.fit_only is not None and options.fit_only < len(missing):
        return 0
    print(f"$ python benchmarks/forecast.py {' '.join(sys.argv[1:])}".rstrip())
    _report(zoo, parts)
    return 0


def _report(zoo: Zoo, parts: list[NDArray[np.int64]]) -> None:
    predictions: dict[tuple[float, str], Scores] = {}
    answered: dict[float, list[str]] = {s: [] for s in SHARES}
    fit_seconds, ask_seconds = [], []
    for k, rows in enumerate(parts):
        surrogate = map_of_fold(zoo, k, len(parts))
        if surrogate is None:
            continue
        held = set(zoo.train.runs[rows].tolist())
        past = [p for run, p in _paths(zoo, surrogate) if run not in held and len(p) > 1]
        new = [p for run, p in _paths(zoo, surrogate) if run in held and len(p) > 1]
        space = infer_space([p.config for p in past])
        past, new = ([p for p in some if space.accepts(p.config)] for some in (past, new))
        started = time.perf_counter()
        outlook = fit_run_forecaster(surrogate, space, past)
        fit_seconds.append(time.perf_counter() - started)
        for path in new:
            truth = path.metrics[-1]
            for share in SHARES:
                so_far = path.first(round(share * len(path)))
                started = time.perf_counter()
                forecast = outlook.forecast(so_far)
                ask_seconds.append(time.perf_counter() - started)
                answered[share] += forecast.answered_by.values()
                _collect(predictions, share, "outlook", forecast.point, forecast.low, forecast.high, truth)
                for name, point in _single(outlook, so_far).items():
                    _collect(predictions, share, name, point, point, point, truth)
                if share == 0.0:
                    middle = np.median([p.metrics[-1] for p in past], axis=0)
                    _collect(predictions, share, "train median", middle, middle, middle, truth)
    if not fit_seconds:
        print("no fold is fitted yet")
        return
    _print(zoo, predictions, answered, f"{len(fit_seconds)} of {len(parts)} folds")
    print(
        f"the outlook is fitted in {np.median(fit_seconds):.1f} s and asked in {1000 * np.median(ask_seconds):.0f} ms "
        "(medians, one thread, a busy machine)"
    )


def _print(
    zoo: Zoo, predictions: dict[tuple[float, str], Scores], answered: dict[float, list[str]], folds: str
) -> None:
    names = zoo.train.metric_names
    n = len(predictions[SHARES[0], "outlook"].truth)
    print(f"{zoo.name}, seed {zoo.seed}: the end of {n} runs, held out whole, {folds}")
    print("mean absolute error ± its standard error over runs; 90 % intervals: share inside, mean width")
    for share in SHARES:
        print()
        print("from hyperparameters alone" if share == 0.0 else f"from the first {share:.0%} of the run")
        print(" " * 24 + "".join(f"{name:>36}" for name in names))
        for title in (
            "train median", "carry-forward", "linear extrapolation", "hyperparameters", "curve", "late average",
            "map", "h, then g", "outlook",
        ):  # fmt: skip
            if (share, title) not in predictions:
                continue
            some = predictions[share, title]
            error = np.abs(np.stack(some.point) - np.stack(some.truth))
            low, high, truth = np.stack(some.low), np.stack(some.high), np.stack(some.truth)
            cells = []
            for j in range(len(names)):
                cell = f"{error[:, j].mean():.4f} ± {error[:, j].std() / len(error) ** 0.5:.4f}"
                if title == "outlook":
                    inside = ((truth[:, j] >= low[:, j]) & (truth[:, j] <= high[:, j])).mean()
                    cell += f"  {inside:4.0%} {(high - low)[:, j].mean():6.3f}"
                cells.append(f"{cell:>36}" if title == "outlook" else f"{cell + ' ' * 13:>36}")
            print(f"{title:24}" + "".join(cells))
        counts = {name: answered[share].count(name) / len(answered[share]) for name in (STACK, *BASELINES)}
        print("answered by: " + ", ".join(f"{name} {part:.0%}" for name, part in counts.items() if part))
    print()


def _collect(
    predictions: dict[tuple[float, str], Scores],
    share: float,
    name: str,
    point: Array,
    low: Array,
    high: Array,
    truth: Array,
) -> None:
    some = predictions.setdefault((share, name), Scores([], [], [], []))
    for values, one in ((some.point, point), (some.low, low), (some.high, high), (some.truth, truth)):
        values.append(one)


def _single(outlook: RunForecaster, path: RunPath) -> dict[str, Array]:
    """What each of the weighed forecasts says by itself."""
    import torch

    table, _ = outlook.predictions(path, outlook.epochs_of(path.config))
    values = outlook.reader.surrogate.to_metrics(torch.from_numpy(table)).numpy()
    return dict(zip(EXPERTS, values, strict=False)) if len(path) else dict(zip(EXPERTS[:BEFORE], values, strict=False))


def _paths(zoo: Zoo, surrogate: Surrogate) -> list[tuple[int, RunPath]]:
    z = surrogate.encode(zoo.train.fingerprints)
    out = []
    for run in np.unique(zoo.train.runs).tolist():
        rows = np.flatnonzero(zoo.train.runs == run)
        rows = rows[np.argsort(zoo.epochs[rows])]
        epochs = zoo.epochs[rows].astype(np.float64)
        path = RunPath(zoo.run_names[rows[0]], zoo.hyperparameters[rows[0]], epochs, z[rows], zoo.train.metrics[rows])
        out.append((run, path))
    return out


def _file(zoo: Zoo, fold: int, folds: int) -> Path:
    return OUT / f"{zoo.name}-{zoo.seed}-{fold}of{folds}.safetensors"


def map_of_fold(zoo: Zoo, fold: int, folds: int) -> Surrogate | None:
    """Return the map that never saw a fold's runs, if it is fitted already."""
    file = _file(zoo, fold, folds)
    if not file.exists():
        return None
    return Surrogate.from_bytes(file.read_bytes(), json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))


def _map(zoo: Zoo, held: NDArray[np.int64], fold: int, folds: int) -> Surrogate:
    """Return the map that never saw a fold's runs, fitted at most once."""
    if (kept := map_of_fold(zoo, fold, folds)) is not None:
        return kept
    inside = zoo.train.take(np.setdiff1d(np.arange(len(zoo)), held))
    surrogate, _ = fit(inside, folds=INNER_FOLDS)
    data, meta = surrogate.to_bytes()
    file = _file(zoo, fold, folds)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".json").write_text(json.dumps(meta), encoding="utf-8")
    file.write_bytes(data)
    return surrogate


if __name__ == "__main__":
    sys.exit(main())
