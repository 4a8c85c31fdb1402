"""What a fingerprint costs on a big checkpoint: memory of the process that reads it, and seconds per billion weights.

    python benchmarks/fingerprint.py [--gigabytes 2] [--out FOLDER]

Two checkpoints of a language model's shape (float32, one base and one fine-tune of it) are written first and ingested
in one reading process; its peak is what the system says (VmHWM), start-up of torch included. Then the compute alone:
fingerprint() on tensors that are in memory, with and without a reference to take deltas from, in seconds of processor
on one thread, as in a reading process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from threadpoolctl import threadpool_limits

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.fingerprints.fingerprint import fingerprint
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.reading.pool import shared_pool

WIDTH, VOCABULARY = 1_280, 50_257  # GPT-2 large


def shapes(gigabytes: float) -> dict[str, tuple[int, ...]]:
    """As many layers as fit; the largest tensor is the table of tokens, 257 MB."""
    found: dict[str, tuple[int, ...]] = {"tokens.weight": (VOCABULARY, WIDTH)}
    layer = 12 * WIDTH * WIDTH + 13 * WIDTH
    for i in range(max(1, round((gigabytes * 2**30 / 4 - VOCABULARY * WIDTH) / layer))):
        for name, outputs, inputs in (
            ("attention", 3 * WIDTH, WIDTH),
            ("projection", WIDTH, WIDTH),
            ("up", 4 * WIDTH, WIDTH),
            ("down", WIDTH, 4 * WIDTH),
        ):
            found[f"{i}.{name}.weight"], found[f"{i}.{name}.bias"] = (outputs, inputs), (outputs,)
        found[f"{i}.norm.weight"], found[f"{i}.norm.bias"] = (WIDTH,), (WIDTH,)
    return found


def weights(gigabytes: float, seed: int) -> dict[str, torch.Tensor]:
    """A base (seed 0), or a fine-tune of it."""
    out = {}
    for i, (name, shape) in enumerate(shapes(gigabytes).items()):
        out[name] = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(i))
        if seed:
            out[name] += 0.002 * torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + i))
    return out


def peak(process: int) -> int:
    """Return the most memory that a process has held, in MB."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    raise SystemExit("this system does not tell the peak of a process")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--out", type=Path, help="where the checkpoints are written, not the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        for seed, what in ((0, "base"), (1, "fine-tune")):
            path = Path(scratch) / "run" / f"epoch_{seed}.pt"
            path.parent.mkdir(exist_ok=True)
            torch.save({"model": weights(options.gigabytes, seed)}, path)
            with Catalogue(f"sqlite:///{scratch}/epsopt.db") as catalogue:
                report = ingest(catalogue, path, jobs=1)
            if report.added != 1:
                raise SystemExit(f"the {what} was not read: {report}")
            (worker,) = shared_pool(1).processes()
            print(f"{what}, {path.stat().st_size / 2**30:.2f} GiB: reader's peak {peak(worker)} MB", flush=True)
    fine, base = weights(options.gigabytes, 1), weights(options.gigabytes, 0)
    with threadpool_limits(1):
        for what, lookup in (("alone", None), ("against its base", base.get)):
            taken = []
            for _ in range(3):
                started = time.process_time()
                kept = fingerprint(fine.items(), lookup)
                taken.append((time.process_time() - started) * 1e9 / kept.n_parameters)
            print(
                f"compute, one thread, {what}: {median(taken):.1f} s per billion weights "
                f"(median of {', '.join(f'{t:.1f}' for t in taken)})",
                flush=True,
            )


if __name__ == "__main__":
    main()
