"""What commands that merge weights show: coefficients, files, and whether metrics are predicted or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.zoo.decoding.recombination import Recombination


def free_files(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return files below a folder, none of which is there yet: said before anything is computed.

    Raises:
        UsageError: one is there, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder to save checkpoints in")
    taken = [f for f in files if f.exists() or f.is_symlink()]
    if taken:
        raise UsageError(f"{taken[0]} is there already: name another folder, nothing is written over")
    return list(files)


def recombination_json(recombination: Recombination, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return parents, coefficients and groups as JSON values."""
    return {
        "groups": list(recombination.groups),
        "parents": [
            {
                "checkpoint": labels.get(p.sha256),
                "path": p.path,
                "sha256": p.sha256,
                "coefficients": [row[i] for row in recombination.coefficients],
            }
            for i, p in enumerate(recombination.parents)
        ],
    }
