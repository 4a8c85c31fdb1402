"""Ingest on Ray beside ingest without: the same catalogue, row for row, also when readers are killed on the way.

    python benchmarks/ray_ingest.py [--checkpoints 10000] [--jobs 2] [--kills 10] [--address local]

Small checkpoints (four tensors, 20 to a run; every fourth run from an initialisation of its own, one file in 500
damaged) are made once. They are read by child processes of this machine, on a Ray cluster, and on one of whose readers
``--kills`` are killed (SIGKILL; of a local Ray only) at even distances. Every table of each catalogue is compared with
that of the first, row by row, identifiers and fingerprints included. Resumable: what was read is in ``OUT/ray.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file
from sqlalchemy import select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.tables import metadata
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.ray_cluster import LOCAL
from epsopt.zoo.reading.ray_pool import ray_readers

OUT = Path(__file__).parent / "out" / "ray"
EPOCHS = 20
SHAPES = {"a.weight": (32, 16), "a.bias": (32,), "b.weight": (8, 32), "b.bias": (8,)}
WAYS = ("here", "ray", "ray, killed")


def weights(generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def make(folder: Path, checkpoints: int) -> None:
    """Write the checkpoints that are not there yet."""
    generator = torch.Generator().manual_seed(0)
    base = weights(generator)
    for run in range(-(-checkpoints // EPOCHS)):
        start = weights(generator) if run % 4 == 0 else base
        direction = weights(generator)
        out = folder / f"run_{run:04d}"
        out.mkdir(parents=True, exist_ok=True)
        for epoch in range(1, min(EPOCHS, checkpoints - run * EPOCHS) + 1):
            file = out / f"epoch_{epoch:03d}.safetensors"
            if file.exists():
                continue
            about = {"metrics": {"coverage": epoch / EPOCHS}, "config": {"lr": run / 1000}, "epoch": epoch}
            held = {name: start[name] + 0.01 * epoch * direction[name] for name in start}
            save_file(held, file, {name: json.dumps(value) for name, value in about.items()})
            if (run * EPOCHS + epoch) % 500 == 0:
                file.write_bytes(file.read_bytes()[:-100])


def read(way: str, url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ingest in one of the ways; say what came of it."""
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if len(killed) < options.kills and done > (len(killed) + 1) * total / (options.kills + 1):
            ours = psutil.Process().children(recursive=True)
            readers = [p for p in ours if p.is_running() and "ray::RayReader" in " ".join(p.cmdline())]
            readers[len(killed) % len(readers)].kill()
            killed.append(done)

    progress: Callable[[int, int], None] | None = kill if way == "ray, killed" else None
    with Catalogue(url) as catalogue:
        if way == "here":
            report = ingest(catalogue, folder, jobs=options.jobs)
        else:
            with ray_readers(options.address, options.jobs) as readers:
                report = ingest(catalogue, folder, jobs=options.jobs, readers=readers, progress=progress)
    return {
        "way": way, "found": report.found, "added": report.added, "failed": len(report.failed), "killed": len(killed),
        "seconds": report.seconds,
    }  # fmt: skip


def compared(one: str, other: str) -> dict[str, int]:
    """Count the rows of all tables of two catalogues, and those that only one of them has."""
    rows = differ = 0
    with Catalogue.existing(one) as first, Catalogue.existing(other) as second:
        for table in metadata.sorted_tables:
            held = []
            for catalogue in (first, second):
                with catalogue.reading() as connection:
                    held.append({tuple(row) for row in connection.execute(select(table))})
            rows += len(held[1])
            differ += len(held[0] ^ held[1])
    return {"rows": rows, "differ": differ}


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Read in the ways in which was not read yet."""
    folder = options.out / f"runs-{options.checkpoints}"
    make(folder, options.checkpoints)
    log = options.out / "ray.jsonl"
    found = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    done = [d for d in found if d["checkpoints"] == options.checkpoints]
    for way in WAYS:
        file = options.out / f"{way.replace(', ', '-')}-{options.checkpoints}.db"
        first = options.out / f"here-{options.checkpoints}.db"
        if any(d["way"] == way for d in done):
            continue
        file.unlink(missing_ok=True)
        made = {"checkpoints": options.checkpoints, **read(way, f"sqlite:///{file}", folder, options)}
        done.append({**made, **compared(f"sqlite:///{first}", f"sqlite:///{file}")})
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(done[-1]) + "\n")
    return done


def table(done: list[dict[str, Any]], options: argparse.Namespace) -> int:
    """Print what was found; return how many rows differ."""
    heads = ("added", "damaged", "readers killed", "rows", "rows that differ", "seconds")
    print(f"{options.checkpoints:,} checkpoints, {options.jobs} readers:")
    print(f"{'':14}" + "".join(f"{head:>18}" for head in heads))
    for d in done:
        values = (d["added"], d["failed"], d["killed"], d["rows"], d["differ"])
        print(f"{d['way']:14}" + "".join(f"{value:18,}" for value in values) + f"{d['seconds']:18.0f}")
    return sum(d["differ"] for d in done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--address", default=LOCAL)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    raise SystemExit(bool(table(run(options), options)))


if __name__ == "__main__":
    main()
