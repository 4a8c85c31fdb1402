"""How well the map predicts new runs of models that people train, beside what needs no map.

    python benchmarks/families.py make [FAMILY ...]      # train the zoos; minutes each, one core
    python benchmarks/families.py fit [FAMILY ...]       # three splits of each; minutes a family
    python benchmarks/families.py table                  # what is kept so far

Every zoo is made by the library that such models are trained with, small enough for minutes on one core, and lies in
benchmarks/out/families with its catalogue; a second call goes on where the first one stopped. Of each zoo a quarter of
the runs is held out whole, three times; everybody learns from the other runs alone and predicts the held-out
checkpoints. Errors are mean absolute errors. Results are kept by the map's format, so that a table of another version
can be printed as long as its results lie there.

The split, stated before anything was run: whatever is chosen (constants, grids, rules) is chosen on DEVELOPMENT;
REPORTED families are measured with what was chosen there. The policies (ppo) came later, when all was chosen; they need
`pip install stable-baselines3`, which is not part of the development environment. Later still came six further kinds of
networks (other_families.py), three of which may serve to choose and three of which are only reported; that was stated
before they were made. Last came two deep networks (deep_families.py), one of each sort.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import deep_families
import family_trainers as trainers
import numpy as np
import other_families
import psutil
import torch
import transformer_families
import zoos
from baselines import hyperparameters, statistics_and_hyperparameters
from numpy.typing import NDArray
from scores import interval_score

from epsopt.surrogate import fit
from epsopt.surrogate.baselines import median_baseline, statistics_baseline
from epsopt.surrogate.map_format import FORMAT
from epsopt.zoo import Catalogue, ingest

OUT = Path(__file__).resolve().parent / "out" / "families"
SPLITS = 3
HELD_OUT = 0.25  # of the runs
SEED = 20

# name: trainer of a run, trainer of the base that all runs begin with, runs
Family = tuple[Callable[..., None], Callable[[Path], None] | None, int]
DEVELOPMENT: dict[str, Family] = {
    "mlp-finetune": (trainers.mlp_finetune, trainers.mlp_base, 32),
    "cnn-lightning": (trainers.cnn_lightning, None, 28),
    "resnet-bn": (trainers.resnet_bn, None, 24),
    "lora": (trainers.lora, trainers.llama_base, 20),
    "ternary-relu": (trainers.ternary_relu, trainers.ternary_base, 24),
}
REPORTED: dict[str, Family | None] = {
    "encoder": (trainers.encoder, None, 24),
    "llama": (trainers.llama, trainers.llama_base, 20),
    "vit": (trainers.vit, None, 24),
    "gpt2": (trainers.gpt2, None, 20),
    "ppo": (trainers.ppo, None, 24),
    "ppo-noisy": (trainers.ppo_noisy, None, 24),
    "ppo-finetune": (trainers.ppo_finetune, trainers.ppo_base, 24),
    "digits": None,  # benchmarks/digits.py: mixed architectures
}
FURTHER_DEVELOPMENT: dict[str, Family] = {
    "lstm": (other_families.lstm, None, 24),
    "vae": (other_families.vae, None, 24),
    "forecaster": (other_families.forecaster, None, 24),
}
FURTHER_REPORTED: dict[str, Family] = {
    "unet": (other_families.unet, None, 24),
    "gnn": (other_families.gnn, None, 24),
    "implicit": (other_families.implicit, None, 24),
}
DEEP_DEVELOPMENT: dict[str, Family] = {"deep-llama": (deep_families.deep_llama, deep_families.deep_llama_base, 20)}
TRANSFORMERS: dict[str, Family] = {
    "neox": (transformer_families.neox, None, 20),
    "bert": (transformer_families.bert, None, 24),
}
DEEP_REPORTED: dict[str, Family] = {"deep-encoder": (deep_families.deep_encoder, None, 24)}
GROUPS: dict[str, Mapping[str, Family | None]] = {
    "development": DEVELOPMENT,
    "reported": REPORTED,
    "further kinds, development": FURTHER_DEVELOPMENT,
    "further kinds, reported": FURTHER_REPORTED,
    "transformers, development": TRANSFORMERS,
    "deep networks, development": DEEP_DEVELOPMENT,
    "deep networks, reported": DEEP_REPORTED,
}
FAMILIES: dict[str, Family | None] = {name: family for group in GROUPS.values() for name, family in group.items()}

Array = NDArray[np.float64]


def make(name: str, runs: int | None = None, out: Path = OUT) -> None:
    """Train what is missing of a family's zoo; by default it has the family's own number of runs."""
    family = FAMILIES[name]
    if family is None:
        zoos.make(name, SEED, out)
        return
    train, base, usual = family
    runs = runs or usual
    folder, home = out / f"{name}-{SEED}", out / f"{name}-{SEED}-base"
    home.mkdir(parents=True, exist_ok=True)
    if base is not None and not (home / "done").exists():
        base(home)
        (home / "done").touch()
    started, before = time.monotonic(), time.process_time()
    for i in range(runs):
        if (home / f"run_{i:03d}").exists():
            continue
        rng = np.random.default_rng([SEED, i])
        torch.manual_seed(int(rng.integers(2**31)))
        train(folder / f"run_{i:03d}", rng, home)
        (home / f"run_{i:03d}").touch()
    spent = time.process_time() - before
    print(f"{name}: {time.monotonic() - started:.0f} s, {spent:.0f} s of processor time", file=sys.stderr)


def load(name: str, runs: int | None = None, out: Path = OUT) -> zoos.Zoo:
    """Give a family's zoo as arrays; trains and ingests first what is missing."""
    if FAMILIES[name] is None:
        return kept_metrics(zoos.load(name, SEED, out))
    make(name, runs, out)
    folder = out / f"{name}-{SEED}"
    with Catalogue(f"sqlite:///{folder}.db") as catalogue:
        report = ingest(catalogue, folder, jobs=1)
        if report.failed:
            print(f"{len(report.failed)} files of {folder} could not be read: {report.failed[0]}", file=sys.stderr)
        return kept_metrics(zoos.as_arrays(catalogue, name, SEED))


def kept_metrics(zoo: zoos.Zoo) -> zoos.Zoo:
    """Leave out what is logged about training itself: it is no metric of a checkpoint that anybody searches for."""
    names = enumerate(zoo.train.metric_names)
    judged = [j for j, n in names if n not in _NOT_JUDGED and not n.startswith(_TRAINING) and not n.endswith(_TIMES)]
    train = replace(
        zoo.train, metric_names=tuple(zoo.train.metric_names[j] for j in judged), metrics=zoo.train.metrics[:, judged]
    )
    return replace(zoo, train=train)


_NEEDS = dict.fromkeys(("ppo", "ppo-noisy", "ppo-finetune"), "stable_baselines3")
_TRAINING = ("train", "time/")
_TIMES = ("_runtime", "_per_second")
_NOT_JUDGED = {"loss", "grad_norm", "eval_loss", "log10_parameters"}


def predictions(name: str, split: int) -> dict[str, Any]:
    """What everybody predicts of the held-out runs of one split, as JSON values."""
    inside, outside = parts(load(name), split)
    before = _processor_seconds()
    surrogate, _ = fit(inside.train, seed=split)
    spent = _processor_seconds() - before
    predicted, of_weights = answer(surrogate, outside), answer_of_weights(surrogate, outside)
    return {
        "runs": [int(inside.train.n_runs), int(outside.train.n_runs)],
        "checkpoints": [len(inside), len(outside)],
        "metrics": list(inside.train.metric_names),
        "run": outside.train.runs.tolist(),
        "truth": outside.train.metrics.tolist(),
        "map": predicted.point.tolist(),
        "low": predicted.low.tolist(),
        "high": predicted.high.tolist(),
        "weights": of_weights.point.tolist(),
        "weights_low": of_weights.low.tolist(),
        "weights_high": of_weights.high.tolist(),
        "median": median_baseline(inside.train, outside.train).tolist(),
        "statistics": statistics_baseline(inside.train, outside.train).tolist(),
        "hyperparameters": hyperparameters(inside, outside).tolist(),
        "both": statistics_and_hyperparameters(inside, outside).tolist(),
        "seconds": spent,
    }


def parts(zoo: zoos.Zoo, split: int) -> tuple[zoos.Zoo, zoos.Zoo]:
    """The runs that a split learns from, and those that it holds out."""
    runs = np.random.default_rng(split).permutation(np.unique(zoo.train.runs))
    held = np.isin(zoo.train.runs, runs[: max(round(HELD_OUT * len(runs)), 3)])
    return zoo.take(np.flatnonzero(~held)), zoo.take(np.flatnonzero(held))


def answer(surrogate: Any, outside: zoos.Zoo) -> Any:
    """What `epsopt predict` answers of files beside which their run's hyperparameters lie."""
    return surrogate.predict(
        surrogate.encode(outside.train.fingerprints, hyperparameters=outside.train.hyperparameters)
    )


def answer_of_weights(surrogate: Any, outside: zoos.Zoo) -> Any:
    """What `epsopt predict` answers of weights alone."""
    prints = outside.train.fingerprints
    z = surrogate.encode(prints)
    return surrogate.predict(z, weights_alone=surrogate.weights_alone(prints, z))


def results(name: str, split: int, version: int = FORMAT, *, make_it: bool = False) -> dict[str, Any] | None:
    """One split's predictions as they are kept."""
    file = OUT / "results" / f"{name}-{split}-{version}.json"
    if not file.exists():
        if not make_it:
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(predictions(name, split))
        file.write_text(content)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _processor_seconds() -> float:
    """Of this process and of the workers that it started."""
    here = psutil.Process()
    times = [p.cpu_times() for p in (here, *here.children(recursive=True))]
    return float(sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system)


def table(version: int) -> None:
    """Print all families of which results are kept."""
    print("mean absolute error on held-out runs, mean of the splits; weights: the map's where runs' configurations are")
    print("unknown; ratio: the map's to the best of median, statistics + LightGBM, hyperparameters + epoch;")
    print("beside it: the map's to LightGBM on statistics, hyperparameters and epoch together")
    print("intervals: share of held-out checkpoints inside at a level of 90 %, the same in the worst tenth of runs,")
    print("mean width as a share of the interval around the median that covers 90 % of these very measurements")
    head = " " * 28 + "".join(f"{t:>{w}}" for t, w in zip(_TITLES, _WIDTHS, strict=True))
    for title, names in GROUPS.items():
        print(f"\n{title}\n{head}")
        rows: list[Row] = []
        for name in names:
            found = [r for split in range(SPLITS) if (r := results(name, split, version)) is not None]
            if not found:
                print(f"{name}: not measured")
                continue
            sizes = f"{found[0]['runs'][0]} + {found[0]['runs'][1]} runs, {sum(found[0]['checkpoints'])} checkpoints"
            print(f"{name}: {sizes}, {len(found)} of {SPLITS} splits")
            rows += [_row(metric, found, j) for j, metric in enumerate(found[0]["metrics"])]
        if rows:
            ratios, to_both, of_weights, inside, alone = (np.array(column) for column in zip(*rows, strict=True))
            print(
                f"{len(rows)} metrics: ratio at most .8 on {(ratios <= 0.8).sum()}, "
                f"at most 1.02 on {(ratios <= 1.02).sum()}, mean {ratios.mean():.3f}, worst {ratios.max():.2f}; "
                f"to LightGBM on both: mean {to_both.mean():.3f}"
            )
            print(
                f"of weights alone: mean ratio {of_weights.mean():.3f}, worst {of_weights.max():.2f}; "
                f"intervals hold {alone.mean():.1%} in place of {inside.mean():.1%}"
            )


Row = tuple[float, float, float, float, float]
_TITLES = ("map", "weights", "median", "stat.+LGB", "hyperp.", "both+LGB", "ratio", "both", "inside", "worst", "width")
_WIDTHS = (9, 9, 9, 10, 9, 9, 7, 7, 8, 7, 7)


def _row(metric: str, found: list[dict[str, Any]], j: int) -> Row:
    """Print one metric's line; return what the summary takes of it."""
    errors = {kind: float(np.mean([error(r, kind, j) for r in found])) for kind in KINDS}
    inside, alone, widths, per_run = [], [], [], []
    for r in found:
        truth, low, high, median, low_alone, high_alone = (
            np.array(r[k], dtype=float)[:, j] for k in ("truth", "low", "high", "median", "weights_low", "weights_high")
        )
        score = interval_score(truth, low, high, median)
        inside.append(score.coverage)
        alone.append(interval_score(truth, low_alone, high_alone, median).coverage)
        widths.append(score.relative_width)
        known, runs = np.isfinite(truth), np.array(r["run"])
        covered = (truth >= low) & (truth <= high)
        per_run += [float(covered[known & (runs == run)].mean()) for run in np.unique(runs[known])]
    worst = np.sort(per_run)[: max(round(len(per_run) / 10), 1)].mean()
    best = min(errors[k] for k in BASELINES)
    figures = "".join(f"{errors[k]:{w}.4f}" for k, w in zip(KINDS, _WIDTHS, strict=False))
    print(
        f"  {metric[:25]:26}{figures}{errors['map'] / best:7.2f}{errors['map'] / errors['both']:7.2f}"
        f"{np.mean(inside):8.1%}{worst:7.0%}{np.mean(widths):7.2f}",
        flush=True,
    )
    of_weights = errors["weights"] / best
    return (
        errors["map"] / best,
        errors["map"] / errors["both"],
        of_weights,
        float(np.mean(inside)),
        float(np.mean(alone)),
    )


KINDS = ("map", "weights", "median", "statistics", "hyperparameters", "both")
BASELINES = ("median", "statistics", "hyperparameters")


def error(result: dict[str, Any], kind: str, j: int) -> float:
    truth, guess = (np.array(result[k], dtype=float)[:, j] for k in ("truth", kind))
    return float(np.nanmean(np.abs(guess - truth)))


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "fit", "table"])
    parser.add_argument("family", nargs="*", help=f"default: all of {', '.join(FAMILIES)}")
    parser.add_argument("--version", type=int, default=FORMAT, help="format of the maps whose results are printed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if unknown := set(options.family) - set(FAMILIES):
        parser.error(f"there is no family {', '.join(sorted(unknown))}: expected some of {', '.join(FAMILIES)}")
    if options.what == "table":
        print(f"$ python benchmarks/families.py {' '.join(sys.argv[1:])}".rstrip())
        table(options.version)
        return
    for name in options.family or FAMILIES:
        if (package := _NEEDS.get(name)) is not None and find_spec(package) is None:
            print(f"{name}: left out, since {package} is not installed", file=sys.stderr)
            continue
        if options.what == "make":
            load(name)
            continue
        for split in range(SPLITS):
            results(name, split, make_it=True)
        print(f"{name}: fitted", file=sys.stderr)


if __name__ == "__main__":
    main()
