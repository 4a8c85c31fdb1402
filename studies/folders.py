"""Where decoded checkpoints are saved: a new folder among the runs, in files like their parents'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from epsopt.zoo.errors import UsageError
from epsopt.zoo.records import Checkpoint


def suffix_for(form: str | None, parents: Sequence[Checkpoint]) -> str:
    """Return the suffix of saved files: as asked, else like the parents'."""
    if form is not None:
        return f".{form}"
    return ".safetensors" if all(Path(p.path).suffix == ".safetensors" for p in parents) else ".pt"


def new_folder(runs: Path, name: str) -> Path:
    """Return the first folder ``NAME_001``, ``NAME_002``, ... in a runs folder that is not there yet.

    Raises:
        UsageError: the runs lie behind a URL, where nothing is written.
    """
    from epsopt.zoo.reading.remote import RemotePath

    if isinstance(runs, RemotePath):
        raise UsageError(f"the runs lie behind a URL ({runs}): say with --save where checkpoints are written")
    number = 1
    while (runs / f"{name}_{number:03d}").exists():
        number += 1
    return runs / f"{name}_{number:03d}"
