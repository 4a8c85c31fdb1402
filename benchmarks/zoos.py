"""The zoos that benchmarks learn from: made by one command, kept in benchmarks/out/zoos/, resumable.

    python benchmarks/zoos.py ternary|bases|digits --seed S [--jobs 2] [--out FOLDER]

ternary   64 runs x 20 checkpoints of one base; the base is a run of its own with a single checkpoint
bases     4 bases x 12 runs x 10 checkpoints, each base with its runs in a sub-folder: several lineages
digits    64 runs x 10 checkpoints of small classifiers of mixed architectures (benchmarks/digits.py)

The runs lie in NAME-SEED/, their catalogue beside it in NAME-SEED.db. `load` gives a zoo as arrays and makes first
what is missing. Figures are reported on seeds that nothing was tuned on: 100 reports, 200 is for development.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits import sweep as sweep_digits
from numpy.typing import NDArray

from epsopt.demo.base import base_path, ensure_base
from epsopt.demo.sweep import plan_runs, sweep
from epsopt.studies.surrogate_store import training_set
from epsopt.surrogate import TrainingSet
from epsopt.zoo import Catalogue, ingest

OUT = Path(__file__).resolve().parent / "out" / "zoos"
TERNARY_RUNS, TERNARY_EPOCHS = 64, 20
BASES, BASE_RUNS, BASE_EPOCHS = 4, 12, 10
DIGITS_RUNS = 64
NAMES = ("ternary", "bases", "digits")
_HOOKS = {"ternary": "epsopt.demo.hooks:embed", "bases": "epsopt.demo.hooks:embed", "digits": "digits:embed"}


@dataclass(frozen=True, eq=False)
class Zoo:
    """A training set with what the baselines need beside it; rows by run name, then epoch.

    Attributes:
        name: which zoo.
        seed: of its hyperparameters and training.
        train: ``n`` checkpoints as the surrogate takes them.
        epochs: ``(n,)`` int64; 0 for a base.
        hyperparameters: one dictionary per row, the run's; an inactive hyperparameter is absent.
        run_names: one per row, the run's folder below the zoo's.
        paths: one per row, the checkpoint file.
    """

    name: str
    seed: int
    train: TrainingSet
    epochs: NDArray[np.int64]
    hyperparameters: tuple[dict[str, Any], ...]
    run_names: tuple[str, ...]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.train)

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> Zoo:
        """Return the given rows as a zoo of their own."""
        index = np.asarray(rows, dtype=np.int64)
        return Zoo(
            name=self.name,
            seed=self.seed,
            train=self.train.take(index),
            epochs=self.epochs[index],
            hyperparameters=tuple(self.hyperparameters[i] for i in index),
            run_names=tuple(self.run_names[i] for i in index),
            paths=tuple(self.paths[i] for i in index),
        )


def make(name: str, seed: int, out: Path = OUT, jobs: int = 2) -> None:
    """Train what is missing of a zoo; a finished zoo is left as it is."""
    folder = out / f"{name}-{seed}"
    if name == "ternary":
        _make_ternary(folder, TERNARY_RUNS, TERNARY_EPOCHS, seed, base_seed=0, jobs=jobs)
    elif name == "bases":
        for k in range(BASES):
            number = seed * BASES + k
            _make_ternary(folder / f"base_{k}", BASE_RUNS, BASE_EPOCHS, number, base_seed=number, jobs=jobs)
    else:
        sweep_digits(folder, DIGITS_RUNS, seed, jobs)


def load(name: str, seed: int, out: Path = OUT, jobs: int = 2) -> Zoo:
    """Give a zoo as arrays; trains and ingests first what is missing.

    Args:
        name: ternary, bases or digits.
        seed: of the zoo.
        out: where zoos lie, each with its catalogue beside it.
        jobs: processes for training and ingest.

    Returns:
        The zoo, embeddings of the anchors included ("with probes").

    Raises:
        ValueError: there is no zoo of this name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no zoo {name!r}: expected one of {', '.join(NAMES)}")
    make(name, seed, out, jobs)
    folder = out / f"{name}-{seed}"
    here = str(Path(__file__).resolve().parent)
    if here not in sys.path:  # the reading processes import the hook of digits.py from where this process could
        sys.path.append(here)
    with Catalogue(f"sqlite:///{folder}.db") as catalogue:
        report = ingest(catalogue, folder, embed=_HOOKS[name], jobs=jobs)
        if report.failed:
            print(f"{len(report.failed)} files of {folder} could not be read: {report.failed[0]}", file=sys.stderr)
        return as_arrays(catalogue, name, seed)


def as_arrays(catalogue: Catalogue, name: str, seed: int) -> Zoo:
    """Give a catalogue as arrays, without a look at its files."""
    train = training_set(catalogue)
    found = {c.sha256: c for c in catalogue.checkpoints()}
    rows = [found[key] for key in train.keys]
    return Zoo(
        name=name,
        seed=seed,
        train=train,
        epochs=np.array([c.epoch or 0 for c in rows], dtype=np.int64),
        hyperparameters=tuple(c.hyperparameters for c in rows),
        run_names=tuple(c.run for c in rows),
        paths=tuple(Path(c.path) for c in rows),
    )


def seeds_split(zoo: Zoo) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the ternary zoo as the seeds did (epsilon_vae.md): 825 checkpoints of 48 runs, 77 of later runs.

    Runs are numbered in the order in which they were trained; the last 16 are held out. Of each side's checkpoints
    evenly many are left out along runs and epochs. The base belongs to no side. (In the seeds 752 of the 825 come
    from one run; here all runs count the same.)

    Returns:
        Training rows and held-out rows, ascending.

    Raises:
        ValueError: the zoo is too small for this split.
    """
    numbers = np.array([_run_number(name) for name in zoo.run_names])
    early, late = np.flatnonzero((numbers >= 0) & (numbers < 48)), np.flatnonzero(numbers >= 48)
    if len(early) < 825 or len(late) < 77:
        raise ValueError(
            f"{zoo.name}-{zoo.seed} has {len(early)} checkpoints of its first 48 runs and {len(late)} of later ones: "
            "the seeds' split needs 825 and 77"
        )
    return _evenly(early, 825), _evenly(late, 77)


def _evenly(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def _run_number(name: str) -> int:
    match = re.fullmatch(r"run_(\d+)", name)
    return int(match[1]) if match else -1


def _make_ternary(folder: Path, runs: int, epochs: int, seed: int, *, base_seed: int, jobs: int) -> None:
    plans = plan_runs(folder, runs, seed, epochs)
    if all(plan.last().exists() for plan in plans):
        return
    torch.set_num_threads(1)
    ensure_base(base_path(folder), seed=base_seed)
    failed = sweep(plans, jobs)
    if failed:  # such a run keeps the checkpoints that it has, and the zoo goes on without the rest
        print(f"{failed} runs of {folder} diverged", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a zoo for the benchmarks.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    zoo = load(options.name, options.seed, options.out, options.jobs)
    train = zoo.train
    embeddings = None if train.embeddings is None else train.embeddings.shape[1:]
    print(
        f"{options.out / f'{zoo.name}-{zoo.seed}'}: {len(zoo)} checkpoints of {train.n_runs} runs, "
        f"{len(np.unique(train.lineages))} lineages, embeddings {embeddings}"
    )
    for j, metric in enumerate(train.metric_names):
        quantiles = np.nanquantile(train.metrics[:, j], [0.0, 0.25, 0.5, 0.75, 1.0])
        print(f"{metric:20}" + "".join(f"{q:9.3f}" for q in quantiles))


if __name__ == "__main__":
    main()
