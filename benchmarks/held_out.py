"""What the benchmarks on real weights share: a zoo's catalogue, a map that has never seen some of its runs, a memory.

No command of its own. Everything slow is kept in benchmarks/out/weights, so that a second call goes on where the first
one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from zoos import OUT as ZOOS
from zoos import load

from epsopt.studies.surrogate_store import training_set
from epsopt.surrogate import Surrogate, fit
from epsopt.zoo import Catalogue

OUT = Path(__file__).resolve().parent / "out" / "weights"
HELD_OUT = 16
HOOK = "epsopt.demo.hooks:evaluate"
BOUNDS = {"coverage": (0.0, 1.0)}


def catalogue_of(name: str, seed: int, zoos: Path = ZOOS) -> Catalogue:
    """Open the catalogue of a zoo, which is made first if it is not there."""
    if not (zoos / f"{name}-{seed}.db").exists():
        load(name, seed, zoos)
    return Catalogue(f"sqlite:///{zoos / f'{name}-{seed}.db'}")


def map_without_runs(catalogue: Catalogue, key: str, held: int = HELD_OUT, seed: int = 0) -> tuple[Surrogate, set[int]]:
    """Fit a map to all but `held` random runs (never the base); give it and the ids of the runs it has not seen."""
    train = training_set(catalogue)
    names = {c.run_id: c.run for c in catalogue.checkpoints()}
    runs = [r for r in np.unique(train.runs).tolist() if names[r] != "base"]
    left_out = {int(r) for r in np.random.default_rng(seed).permutation(runs)[:held]}
    part = train.take(np.flatnonzero(~np.isin(train.runs, list(left_out))))
    file = OUT / f"map-{key}-{held}-{seed}-{part.digest}"
    if not file.with_suffix(".json").exists():
        OUT.mkdir(parents=True, exist_ok=True)
        data, meta = fit(part, bounds=BOUNDS)[0].to_bytes()
        file.with_suffix(".bin").write_bytes(data)
        file.with_suffix(".json").write_text(json.dumps(meta))
    meta = json.loads(file.with_suffix(".json").read_text())
    return Surrogate.from_bytes(file.with_suffix(".bin").read_bytes(), meta), left_out


class Memory:
    """Results by key, each written as soon as it is there."""

    def __init__(self, name: str) -> None:
        OUT.mkdir(parents=True, exist_ok=True)
        self._file = OUT / f"{name}.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.known: dict[str, Any] = dict(json.loads(line) for line in lines)

    def __call__(self, key: str, make: Callable[[], object]) -> object:
        """Return what is known under a key; make it first if nothing is."""
        if key not in self.known:
            self.known[key] = make()
            with self._file.open("a") as file:
                file.write(json.dumps([key, self.known[key]]) + "\n")
        return self.known[key]


def keep_for_picture(name: str, data: object) -> None:
    """Keep what docs/make_weight_images.py draws."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.picture.json").write_text(json.dumps(data))


def title(argv: list[str]) -> None:
    """Print the command line as the first line of the results."""
    print("$ python " + " ".join(argv))
