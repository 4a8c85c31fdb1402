"""Where a GPU pays: reading large checkpoints, the parts of a fit, a refinement and a search, beside the processor.

    python benchmarks/gpu.py --source sqlite:///ZOO.db [--billions 1] [--checkpoints 1000] [--out FOLDER]

ZOO.db is any catalogue of real runs, from which a larger one is made (`scale_catalogue.py`). Four to five minutes on a
machine with sixteen processors. What the product runs on a GPU is measured as it ships, by `fit` and by a reader with
`Limits(gpu=True)`; what it does not is measured by the same code on tensors that lie there. Seconds are wall-clock
seconds with nothing else running; starting the GPU is in them where a process has to. Without a GPU it says so and
ends.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import torch
from fingerprint import peak, write_shards
from held_out import title
from scale_catalogue import make, real_zoo

from epsopt.studies.surrogate_store import training_set
from epsopt.surrogate import cross_validation, fitting, training
from epsopt.surrogate.dataset import TrainingSet, run_folds
from epsopt.surrogate.nearest import nearest_rows
from epsopt.surrogate.network import EpsilonVAE
from epsopt.surrogate.trained import TrainedNetwork, train_all
from epsopt.surrogate.training import TrainingConfig, train_network
from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.fingerprints.fingerprint import SECTIONS
from epsopt.zoo.reading.pool import shared_pool
from epsopt.zoo.reading.source import Limits

T = TypeVar("T")
_REFINEMENT = 80  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="database of real runs")
    parser.add_argument("--billions", type=float, default=1.0, help="weights of the checkpoints that are read")
    parser.add_argument("--checkpoints", type=int, default=1_000, help="that the map is fitted to")
    parser.add_argument("--out", type=Path, help="where checkpoints are written, not the temporary folder")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    title(["benchmarks/gpu.py", "--source", "sqlite:///encoder-20.db", "--billions", f"{options.billions:g}"])
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU: PyTorch sees none")
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} processors, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        read(Path(scratch), options.billions)
        make(Path(scratch) / "large.db", real_zoo(options.source), options.checkpoints, 18)
        with Catalogue(f"sqlite:///{scratch}/large.db") as catalogue:
            train = training_set(catalogue)
    fit(train)
    search()


def read(scratch: Path, billions: float) -> None:
    """A base and a fine-tune of it, in bfloat16 shards: ingested with one reader, with and without a GPU."""
    print(f"\nreading a base and a fine-tune of {billions:g} billion weights, one reader")
    for seed in (0, 1):
        write_shards(scratch / "run" / f"checkpoint-{seed + 1}", billions, seed)
    kept = {}
    for what, limits in (("processor", Limits()), ("GPU", Limits(gpu=True))):
        with Catalogue(f"sqlite:///{scratch}/{what}.db") as catalogue:
            taken = []
            for folder in sorted((scratch / "run").iterdir()):
                report, seconds = timed(partial(ingest, catalogue, folder, jobs=1, limits=limits))
                if report.added != 1:
                    raise SystemExit(f"it was not read: {report}")
                taken.append(seconds)
            (worker,) = shared_pool(1, limits).processes()
            ids = [c.id for c in sorted(catalogue.checkpoints(), key=lambda c: c.path)]
            kept[what] = catalogue.fingerprints(ids)
        print(f"{what:>10}: base {taken[0]:.1f} s, fine-tune {taken[1]:.1f} s, reader's peak {peak(worker)} MB")
    for name, section in SECTIONS.items():
        apart = max(np.abs(a.features[:, section] - b.features[:, section]).max()
                    for a, b in zip(*kept.values(), strict=True))  # fmt: skip
        print(f"  {name}: columns differ by at most {apart:.1e}")
    sketches = [np.stack([f.sketch for f in some]) for some in kept.values()]
    print(f"  sketches differ by {np.linalg.norm(sketches[0] - sketches[1]) / np.linalg.norm(sketches[0]):.1e} of it")


def fit(train: TrainingSet) -> None:
    """A fit as it ships, its parts on a GPU and on the processor, and a refinement's training."""
    print(f"\nfitting {len(train)} checkpoints of {train.n_runs} runs, {len(train.metric_names)} metrics")
    _, seconds = timed(lambda: cross_validation.in_order(abs, [(1,)] * 16))
    print(f"starting the processes that work side by side (in no figure below): {seconds:.1f} s")
    folds: list[cross_validation.Fold] = []
    plain = cross_validation.predict_held_out

    def noted(given: list[cross_validation.Fold], *rest: object) -> object:
        folds.extend(given)
        return plain(given, *rest)  # type: ignore[arg-type]

    with patch.object(fitting, "predict_held_out", noted):
        (on_gpu, _), with_gpu = timed(lambda: fitting.fit(train))
    with patch.object(torch.cuda, "is_available", lambda: False):
        (here, _), without = timed(lambda: fitting.fit(train))
        held, on_processor = timed(lambda: plain(folds, len(train.metric_names)))
    found, there = timed(lambda: plain(folds, len(train.metric_names)))
    line("a whole fit", without, with_gpu)
    line("  of it: the head's settings on held-out runs", on_processor, there)
    apart = max(np.abs(a.mean - b.mean).max() for p, q in zip(held, found, strict=True)
                for a, b in zip(p, q, strict=True))  # fmt: skip
    print(f"  their predictions differ by at most {apart:.1e}")
    z = here.memory.latents[:256]
    print(
        f"  the fits' predictions differ by at most {np.abs(here.predict(z).point - on_gpu.predict(z).point).max():.1e}"
    )
    parts = [train.take(np.setdiff1d(np.arange(len(train)), rows)) for rows in run_folds(train.runs, 5, 0)]
    trained = train_all([*parts, train], {}, TrainingConfig(steps=1), 0)
    jobs = [(t.shape, t.examples) for t in trained]
    _, side_by_side = timed(lambda: training.train_many(jobs, TrainingConfig(), 0))
    _, one_by_one = timed(lambda: [steps(known, "cuda", TrainingConfig().steps) for known in trained])
    line("not on the GPU: the six networks of a fit", side_by_side, one_by_one)
    for device in ("cpu", "cuda"):
        steps(trained[-1], device, 1)
    refined = [timed(partial(steps, trained[-1], d, _REFINEMENT, trained=True))[1] for d in ("cpu", "cuda")]
    line("not on the GPU: the training of a refinement", *refined)


def steps(known: TrainedNetwork, device: str, n: int, *, trained: bool = False) -> None:
    """Train a network on a device, from its start or from where it is."""
    network = EpsilonVAE(known.shape)
    if trained:
        network.load_state_dict(known.network.state_dict())
    network.to(device).requires_grad_(requires_grad=True)
    recipe = replace(TrainingConfig(), steps=n)
    train_network(network, known.examples.to(torch.device(device)), recipe, 0, trained=trained)


def search() -> None:
    """What a search does in each step: 96 starts, 800 measured rows, as many places as a trust region has."""
    print("\nnot on the GPU: a step of a search (starting CUDA in a new process takes longer than all 40 together)")
    taken = {}
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        rows, z, places = (torch.randn(n, 67, generator=generator, dtype=torch.float64) for n in (800, 96, 4_000))
        covariance = torch.exp(-torch.cdist(rows, rows)) + 0.1 * torch.eye(800, dtype=torch.float64)
        factor, rows, start, places = (t.to(device) for t in (torch.linalg.cholesky(covariance), rows, z, places))

        def step(factor: torch.Tensor = factor, rows: torch.Tensor = rows, start: torch.Tensor = start) -> None:
            point = start.clone().requires_grad_()
            half = torch.linalg.solve_triangular(factor, torch.exp(-torch.cdist(point, rows)).T, upper=False)
            half.square().sum().backward()

        def project(start: torch.Tensor = start, places: torch.Tensor = places) -> None:
            nearest_rows(start.float(), places.float())

        taken[device] = [repeated(step), repeated(project)]
    for what, before, after in zip(("moments and gradient", "nearest places"), *taken.values(), strict=True):
        line(what, before, after, digits=4)


def repeated(work: Callable[[], object], times: int = 40) -> float:
    """Seconds of a call, over many, the first left out."""
    work()
    return timed(lambda: [work() for _ in range(times)])[1] / times


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what a call returned and its seconds; a GPU has finished."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    found = work()
    torch.cuda.synchronize()
    return found, time.perf_counter() - started


def line(what: str, processor: float, gpu: float, digits: int = 1) -> None:
    """Print seconds on both, and how much faster the GPU is."""
    print(f"{what}: processor {processor:.{digits}f} s, GPU {gpu:.{digits}f} s ({processor / gpu:.2g} times as fast)")


if __name__ == "__main__":
    main()
