"""How well the next checkpoints of a run are predicted, on the map and in metrics, beside forecasts that know less.

    python benchmarks/temporal.py fit [FAMILY ...]       # one map a family, a quarter of its runs held out; resumable
    python benchmarks/temporal.py table [FAMILY ...]     # of the families whose maps are kept

The families, and which of them are for development, are those of benchmarks/families.py. Whole runs are held out of
everything: the map that encodes them, the temporal model and its calibration. Of each held-out run its first
checkpoint alone, its first quarter and its first half are given, and all later ones are predicted.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import defaultdict

import numpy as np
import torch
from families import DEVELOPMENT, FAMILIES, HELD_OUT, OUT, load
from numpy.typing import NDArray
from zoos import Zoo

from epsopt.optimize.forecast.temporal_model import DISTANCES, FORECASTS, PATH_FORECASTS, fit_temporal_model
from epsopt.optimize.latent.trajectory import RunPath
from epsopt.optimize.space_inference import infer_space
from epsopt.surrogate import Surrogate, fit

KEPT = OUT.parent / "temporal"
GIVEN = (0.0, 0.25, 0.5)  # shares of a run
SPLIT = 0

Array = NDArray[np.float64]


def held_out_runs(zoo: Zoo) -> NDArray[np.int64]:
    """Runs that nothing learns from."""
    runs = np.random.default_rng(SPLIT).permutation(np.unique(zoo.train.runs))
    return np.asarray(runs[: max(round(HELD_OUT * len(runs)), 3)])


def map_of(name: str, zoo: Zoo, *, make_it: bool = False) -> Surrogate | None:
    """Return the map of the other runs, fitted at most once."""
    file = KEPT / f"{name}-{SPLIT}.safetensors"
    if not file.exists():
        if not make_it:
            return None
        inside = np.flatnonzero(~np.isin(zoo.train.runs, held_out_runs(zoo)))
        data, meta = fit(zoo.train.take(inside), seed=SPLIT)[0].to_bytes()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".json").write_text(json.dumps(meta), encoding="utf-8")
        file.write_bytes(data)
    return Surrogate.from_bytes(file.read_bytes(), json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))


def paths_of(zoo: Zoo, surrogate: Surrogate) -> list[tuple[int, RunPath]]:
    """Runs as paths over a map."""
    z = surrogate.encode(zoo.train.fingerprints)
    out = []
    for run in np.unique(zoo.train.runs).tolist():
        rows = np.flatnonzero(zoo.train.runs == run)
        rows = rows[np.argsort(zoo.epochs[rows], kind="stable")]
        rows = rows[np.append(np.diff(zoo.epochs[rows]) > 0, True)]
        epochs = zoo.epochs[rows].astype(np.float64)
        out.append((run, RunPath(zoo.run_names[rows[0]], zoo.hyperparameters[rows[0]], epochs, z[rows],
                                 zoo.train.metrics[rows])))  # fmt: skip
    return out


def report(name: str, zoo: Zoo, surrogate: Surrogate) -> list[float]:
    """Print one family's table; give the answers' errors as shares of the best other forecast's."""
    held = set(held_out_runs(zoo).tolist())
    every = paths_of(zoo, surrogate)
    past, new = ([p for run, p in every if (run in held) is wanted and len(p) > 1] for wanted in (False, True))
    space = infer_space([p.config for p in past])
    model = fit_temporal_model(surrogate, space, past)
    errors: dict[tuple[str, int], list[Array]] = defaultdict(list)
    inside: dict[int, list[Array]] = defaultdict(list)
    gaps: dict[int, list[Array]] = defaultdict(list)
    for path in (p for p in new if space.accepts(p.config)):
        for share in GIVEN:
            so_far = path.first(max(round(share * len(path)), 1))
            rest = path.epochs[len(so_far) :]
            if not len(rest):
                continue
            found = model.predict(so_far, rest.tolist())
            single, places = model.single_forecasts(so_far, rest.tolist())
            truth = path.metrics[len(so_far) :]
            z = path.z[len(so_far) :]
            at = np.abs(np.log((rest - so_far.epochs[-1]) / model.total)[:, None] - np.log(DISTANCES)).argmin(axis=1)
            for h, d in enumerate(at.tolist()):
                for i, forecast in enumerate(FORECASTS):
                    errors[forecast, d].append(np.abs(single[h, i] - truth[h]))
                errors["answer", d].append(np.abs(found.point[h] - truth[h]))
                errors["median", d].append(np.abs(np.nanmedian(zoo.train.metrics, axis=0) - truth[h]))
                inside[d].append((found.low[h] <= truth[h]) & (truth[h] <= found.high[h]))
                both = torch.cat([places[h], found.z[h][None]]).double()
                gaps[d].append(torch.linalg.norm(both - z[h].double(), dim=1).numpy())
    print(f"\n{name}: {len(past)} runs learned from, {len(new)} held out")
    print(f"{'':24}" + "".join(f"{f'{x:.0%} ahead':>12}" for x in DISTANCES))
    ratios = []
    for j, metric in enumerate(surrogate.metric_names):
        print(metric)
        for forecast in ("median", *FORECASTS, "answer"):
            print(
                f"  {forecast:22}" + "".join(f"{_number(errors[forecast, d], j, 4):>12}" for d in range(len(DISTANCES)))
            )
        shares = "".join(f"{_mean(inside[d], j):12.0%}" if inside[d] else f"{'-':>12}" for d in range(len(DISTANCES)))
        print(f"  {'inside 90 %':22}{shares}")
        for d in range(len(DISTANCES)):
            if errors["answer", d]:
                best = min(_mean(errors[f, d], j) for f in FORECASTS[:3])
                ratios.append(_mean(errors["answer", d], j) / best)
    print("distance in z")
    for i, forecast in enumerate((*PATH_FORECASTS, "answer")):
        print(f"  {forecast:22}" + "".join(f"{_number(gaps[d], i, 3):>12}" for d in range(len(DISTANCES))))
    return ratios


def _mean(values: list[Array], column: int) -> float:
    return float(np.nanmean([v[column] for v in values])) if values else float("nan")


def _number(values: list[Array], column: int, digits: int) -> str:
    return f"{_mean(values, column):.{digits}f}" if values else "-"


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "table"])
    parser.add_argument("family", nargs="*", help=f"default: all of {', '.join(FAMILIES)}")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.what == "table":
        print(f"$ python benchmarks/temporal.py {' '.join(sys.argv[1:])}".rstrip())
        print("mean absolute error on held-out runs, by share of a run ahead")
    ratios: dict[str, list[float]] = {"development": [], "reported": []}
    for name in options.family or FAMILIES:
        if options.what == "table" and not (KEPT / f"{name}-{SPLIT}.safetensors").exists():
            continue
        zoo = load(name)
        surrogate = map_of(name, zoo, make_it=options.what == "fit")
        if surrogate is not None and options.what == "table":
            ratios["development" if name in DEVELOPMENT else "reported"] += report(name, zoo, surrogate)
    for title, values in ratios.items():
        if values:
            print(
                f"\n{title}: the answer's error to that of the best of carry-forward, line and curves, "
                f"median {np.median(values):.2f}, worst {max(values):.2f}, at most 1.02 on "
                f"{np.mean(np.array(values) <= 1.02):.0%} of {len(values)}"
            )


if __name__ == "__main__":
    main()
