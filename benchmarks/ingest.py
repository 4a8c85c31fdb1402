"""How many checkpoints a second `ingest` takes in: safe reading, fingerprint and database included.

    python benchmarks/ingest.py [FOLDER] [--jobs 2] [--files 400]

Without a folder, demo-like checkpoints (about 100,000 weights, 20 runs of one base) are made first.
Prints the rate with and without the start-up of the reading processes, and beside it what plain
torch.load(weights_only=True) and the fingerprint cost in one process: the price of safety.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.fingerprints import fingerprint
from epsopt.zoo.ingestion import ingest
from epsopt.zoo.lineage import LineageBook
from epsopt.zoo.reading.pool import shared_pool
from epsopt.zoo.reading.reader import read_files
from epsopt.zoo.scan import scan

LAYERS = [(256, 9), (128, 256), (64, 128), (16, 64), (16, 64)] * 2 + [
    (64, 16),
    (16, 64),
    (32, 16),
    (1, 32),
] * 2
DECODER = [(32, 16), (64, 32), (27, 64)]


def state_dict(generator: torch.Generator) -> dict[str, torch.Tensor]:
    out = {}
    for i, (outputs, inputs) in enumerate(LAYERS + DECODER):
        out[f"layers.{i}.weight"] = 0.1 * torch.randn(outputs, inputs, generator=generator)
        out[f"layers.{i}.bias"] = torch.zeros(outputs)
    return out


def make(folder: Path, files: int) -> None:
    generator = torch.Generator().manual_seed(0)
    base = state_dict(generator)
    for i in range(files):
        noise = state_dict(generator)
        run = folder / f"run_{i // 20:03d}"
        run.mkdir(parents=True, exist_ok=True)
        content = {
            "model_state_dict": {n: base[n] + 0.1 * noise[n] for n in base},
            "metrics": {"coverage": i / files, "dist_corr": 0.5, "rad_hier": -0.5},
            "config": {"lr": 1e-3, "seed": i // 20},
            "epoch": i % 20,
        }
        torch.save(content, run / f"epoch_{i % 20:03d}.pt")


def plain(paths: list[Path]) -> float:
    """Return the seconds that loading and fingerprinting take without any protection, in one process."""
    torch.set_num_threads(1)
    reference: dict[str, torch.Tensor] = {}
    started = time.perf_counter()
    for path in paths:
        content = torch.load(path, weights_only=True)
        weights = content.get("model_state_dict", content)
        fingerprint(weights.items(), reference.get if reference else None)
        reference = reference or weights
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--files", type=int, default=400, help="how many to make when no folder is given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "runs"
        if options.folder is None:
            make(folder, options.files)
        for start in ("cold", "warm"):
            with Catalogue(f"sqlite:///{scratch}/{start}.db") as catalogue:
                report = ingest(catalogue, folder, jobs=options.jobs)
            rate = report.added / report.seconds
            print(f"{start} start: {report.added} checkpoints in {report.seconds:.1f} s, {rate:.0f}/s")
        files = scan(folder).files
        sample = [f.path for f in files if f.path.suffix != ".safetensors"][:100]
        if sample:
            seconds = plain(sample)
            pool = shared_pool(1)
            read_files(pool, [(sample[0], 0)], LineageBook(), lambda *_: True)  # starts the child
            with Catalogue(f"sqlite:///{scratch}/one.db") as catalogue:
                report = ingest(catalogue, sample, jobs=1)
            protected = report.added / report.seconds
            print(f"one process: {len(sample) / seconds:.0f}/s unprotected, {protected:.0f}/s ingested")


if __name__ == "__main__":
    main()
