"""Write the three small intact checkpoints that every mutant is made from: python -m tests.hostile.make_seeds

They are committed, because what torch.save writes differs from version to version and a mutant must not: the tests read
the very same bytes everywhere. Run this only to add a format, then renew the manifest.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

SEEDS = Path(__file__).parent / "seeds"


def main() -> None:
    g = torch.Generator().manual_seed(0)
    weights = {"0.weight": torch.randn(8, 6, generator=g), "0.bias": torch.randn(8, generator=g)}
    about = {"config": {"lr": 0.1, "optimizer": {"name": "adam"}}, "metrics": {"coverage": 0.5}, "epoch": 3}
    SEEDS.mkdir(exist_ok=True)
    for name, zipped in (("zip.pt", True), ("legacy.pt", False)):
        with (SEEDS / name).open("wb") as file:
            torch.save({"model_state_dict": weights, **about}, file, _use_new_zipfile_serialization=zipped)
    said = {"config": '{"lr": 0.1}', "metrics": '{"coverage": 0.5}', "epoch": "3"}
    save_file(weights, SEEDS / "plain.safetensors", metadata=said)


if __name__ == "__main__":
    main()
