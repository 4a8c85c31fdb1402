"""How many checkpoints a second `ingest` takes in: safe reading, fingerprint and database included.

    python benchmarks/ingest.py [FOLDER] [--jobs 2] [--files 1000]

Without a folder, demo-like checkpoints (about 100,000 weights, 20 to a run, one base) are made first.
Prints the rate with and without the start-up of the reading processes; and then the price of safety: the same files
by plain torch.load(weights_only=True) and the fingerprint in one process, and by ingest with one reading process, in
blocks by turns, so that whatever else the machine does weighs on both. Counted are seconds, and seconds of processor
(of ingest: both of its processes; its database and its scan included).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from threadpoolctl import threadpool_limits

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.fingerprints.fingerprint import fingerprint
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.scan import scan
from epsopt.zoo.reading.pool import shared_pool

LAYERS = [(256, 9), (128, 256), (64, 128), (16, 64), (16, 64)] * 2 + [
    (64, 16),
    (16, 64),
    (32, 16),
    (1, 32),
] * 2
_BLOCK = 100  # files read in one way before the other has its turn
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


def plain(paths: list[Path], reference: dict[str, torch.Tensor]) -> None:
    """Load and fingerprint without any protection."""
    for path in paths:
        content = torch.load(path, weights_only=True)
        weights = content.get("model_state_dict", content)
        fingerprint(weights.items(), reference.get if reference else None)
        if not reference:
            reference.update(weights)


def processor() -> float:
    """Return the seconds of processor that this process and its readers have taken."""
    ticks = 0
    for reader in shared_pool(1).processes():
        fields = Path(f"/proc/{reader}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def price(paths: list[Path], url: str) -> None:
    """Print what a file costs by plain loading and by ingesting, one file at a time, and the ratio."""
    reference: dict[str, torch.Tensor] = {}
    walls: list[tuple[float, float]] = []
    processors: list[tuple[float, float]] = []
    with Catalogue(url) as catalogue:
        ingest(catalogue, paths[:1], jobs=1)  # starts the child
        plain(paths[:1], reference)
        for start in range(1, len(paths), _BLOCK):
            block = paths[start : start + _BLOCK]
            at = [(time.perf_counter(), processor())]
            plain(block, reference)
            at.append((time.perf_counter(), processor()))
            report = ingest(catalogue, block, jobs=1)
            at.append((time.perf_counter(), processor()))
            if report.added + report.aliases != len(block):
                raise SystemExit(f"not all were read: {report}")
            (once, then), (wall, worked), (end, done) = at
            walls.append((wall - once, end - wall))
            processors.append((worked - then, done - worked))
    files = len(paths) - 1
    print(f"{files} files, one at a time, unprotected and ingested:")
    for what, pairs in (("seconds", walls), ("seconds of processor", processors)):
        unprotected, protected = (1000 * sum(side) / files for side in zip(*pairs, strict=True))
        ratio = median(a / b for a, b in pairs)
        print(
            f"  {unprotected:.1f} and {protected:.1f} thousandths of {what} a file: safe reading runs at "
            f"{unprotected / protected:.0%} (median of blocks {ratio:.0%})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--files", type=int, default=1000, help="how many to read, or to make without a folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "runs"
        if options.folder is None:
            make(folder, options.files)
        files = [f.path for f in scan(folder).files if f.path.suffix != ".safetensors"][: options.files]
        for start in ("cold", "warm"):
            with Catalogue(f"sqlite:///{scratch}/{start}.db") as catalogue:
                report = ingest(catalogue, files, jobs=options.jobs)
            rate = report.added / report.seconds
            print(f"{start} start: {report.added} checkpoints in {report.seconds:.1f} s, {rate:.0f}/s")
        with threadpool_limits(1):  # as in a reading process; numpy's own threads too
            price(files, f"sqlite:///{scratch}/one.db")


if __name__ == "__main__":
    main()
