"""Five bombs: a few kilobytes that cost whoever believes them gigabytes, or never end.

All of them are valid checkpoints, and all pass torch.load(weights_only=True) as far as memory lasts.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

WEIGHTS = {"w": torch.arange(64.0).reshape(8, 8)}


def deflated(path: Path) -> None:
    """390 KB of compressed zeros that become a tensor of 400 MB."""
    few, many, block = 70_000, 100_000_000, bytes(4_000_000)
    small = path.with_suffix(".small")
    torch.save({"model": {"w": torch.zeros(few)}}, small)
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for record in source.infolist():
            if record.filename.endswith("/data/0"):
                with target.open(record.filename, "w", force_zip64=True) as out:
                    for _ in range(4 * many // len(block)):
                        out.write(block)
                continue
            data = source.read(record)
            if record.filename.endswith("/data.pkl"):
                assert data.count(struct.pack("<i", few)) == 2  # the storage's length and the tensor's
                data = data.replace(struct.pack("<i", few), struct.pack("<i", many))
            target.writestr(record.filename, data)
    small.unlink()


def stride_zero(path: Path) -> None:
    """One number, seen as a million times a million."""
    torch.save({"model": {"w": torch.ones(1).expand(1_000_000, 1_000_000)}}, path)


def shared_keys(path: Path) -> None:
    """Two thousand names for one storage of 40 KB: 2e7 numbers."""
    one = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    torch.save({"model": {f"w{i}": one.view(100, 100) for i in range(2_000)}}, path)


def contains_itself(path: Path) -> None:
    """A configuration that is its own entry."""
    loop: dict[str, object] = {"lr": 0.1}
    loop["self"] = loop
    torch.save({"model": WEIGHTS, "config": loop}, path)


def nested(path: Path) -> None:
    """Forty lists, each of which holds the next one twice: 2**40 ways through."""
    nest: list[object] = []
    for _ in range(40):
        nest = [nest, nest]
    torch.save({"model": WEIGHTS, "config": {"nest": nest}}, path)


# Each with a part of the reason for which it is refused.
BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "deflated.pt": (deflated, "is compressed, which torch.save never does"),
    "stride-zero.pt": (stride_zero, "claims 4,000,000,000,000 bytes, its storage has 4"),
    "shared-keys.pt": (shared_keys, "its tensors claim 80,000,000 bytes"),
    "contains-itself.pt": (contains_itself, "contains itself"),
    "nested.pt": (nested, "unfold into 2,199,023,255,555"),
}


def write_bombs(folder: Path) -> None:
    """Write the five, 800 KB together."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (write, _) in BOMBS.items():
        write(folder / name)
