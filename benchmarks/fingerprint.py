"""What a fingerprint costs on a big checkpoint: memory of the process that reads it, and seconds per billion weights.

    python benchmarks/fingerprint.py [--gigabytes 2] [--out FOLDER]
    python benchmarks/fingerprint.py --sharded [--billions 1] [--out FOLDER]

Two checkpoints of a language model's shape (float32, one base and one fine-tune of it) are written first and ingested
in one reading process; its peak is what the system says (VmHWM), start-up of torch included. Then the compute alone:
fingerprint() on tensors that are in memory, with and without a reference to take deltas from, in seconds of processor
on one thread, as in a reading process.

With --sharded the two are of Llama's shape, in bfloat16, each a folder of safetensors files with an index, as
transformers saves them. Beside the reader's peak stand its processor seconds and those of plainly reading the same
files: all bytes through SHA-256, which tells one content from another, and every tensor as float32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import torch
from safetensors import safe_open
from safetensors.torch import save_file
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


def write_shards(folder: Path, billions: float, seed: int) -> int:
    """Write a base (seed 0) or a fine-tune of it, a layer or two a file; return the number of weights."""
    width, inner, vocabulary = 2_048, 5_632, 32_000  # TinyLlama
    layer = {
        **{f"self_attn.{n}_proj.weight": (width if n in "qo" else 256, width) for n in "qkvo"},
        **{f"mlp.{n}_proj.weight": (inner, width) for n in ("gate", "up")},
        "mlp.down_proj.weight": (width, inner),
        **{f"{n}_layernorm.weight": (width,) for n in ("input", "post_attention")},
    }
    ends = {"model.embed_tokens.weight": (vocabulary, width), "lm_head.weight": (vocabulary, width)}
    size = sum(math.prod(s) for s in layer.values())
    layers = max(1, round((billions * 1e9 - sum(math.prod(s) for s in ends.values())) / size))
    parts = [ends, *({f"model.layers.{i}.{n}": s for n, s in layer.items()} for i in range(layers))]
    folder.mkdir(parents=True)
    placed, at = {}, 0
    for part, of_part in enumerate(parts, 1):
        tensors = {}
        for name, shape in of_part.items():
            at += 1
            value = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(at))
            if seed:
                value += 0.002 * torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + at))
            tensors[name] = value.to(torch.bfloat16)
        file = f"model-{part:05d}-of-{len(parts):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(tensors, file))
    about = {"metadata": {"total_size": 0}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(about))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": seed + 1, "epoch": 1.0, "log_history": []}))
    return sum(math.prod(s) for part in parts for s in part.values())


def plain_read(folder: Path) -> float:
    """Return the processor seconds of hashing all files and turning every tensor into float32, one after another."""
    started = time.process_time()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as content:
            hashlib.file_digest(content, "sha256")
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                tensors.get_tensor(name).float()
    return time.process_time() - started


def sharded(billions: float, scratch: Path) -> None:
    """Print what a base and a fine-tune in several files cost."""
    for seed, what in ((0, "base"), (1, "fine-tune")):
        folder = scratch / "run" / f"checkpoint-{seed + 1}"
        n = write_shards(folder, billions, seed)
        plain = plain_read(folder)
        before = processor_seconds(shared_pool(1).processes())
        with Catalogue(f"sqlite:///{scratch}/epsopt.db") as catalogue:
            report = ingest(catalogue, folder, jobs=1)
        if report.added != 1:
            raise SystemExit(f"the {what} was not read: {report}")
        (worker,) = shared_pool(1).processes()
        spent = processor_seconds([worker]) - before
        files = len(list(folder.glob("*.safetensors")))
        print(
            f"{what}, {n / 1e9:.2f} billion weights in {files} bfloat16 files: reader's peak {peak(worker)} MB, "
            f"{spent:.0f} s of processor, plainly read {plain:.0f} s",
            flush=True,
        )


def processor_seconds(processes: Iterable[int]) -> float:
    """Return what processes have spent so far."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


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
    parser.add_argument("--sharded", action="store_true", help="bfloat16, in several safetensors files")
    parser.add_argument("--billions", type=float, default=1.0, help="weights of one of these")
    options = parser.parse_args()
    if options.sharded:
        with tempfile.TemporaryDirectory(dir=options.out) as scratch:
            sharded(options.billions, Path(scratch))
        return
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
