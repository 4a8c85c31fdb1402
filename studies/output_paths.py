"""Where decoded checkpoints are saved: a new folder among the runs, in files like their parents'."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError
from epsopt.zoo.files import claimed_folder
from epsopt.zoo.files import new_folder as numbered_folder
from epsopt.zoo.layouts.hugging_face import MODELS, whole_name

_SAME = ({".safetensors"}, {".ckpt"}, {".pth"}, {".zip"})
"""Suffixes that a checkpoint has if all of its parents have it; others are .pt."""


def decoded_file(folder: Path, name: str, form: str | None, parents: Sequence[Checkpoint]) -> Path:
    """Return the file of one decoded checkpoint, in a folder of its own, where its parents' library looks for it.

    Args:
        folder: that all of a command are saved in.
        name: of the checkpoint's own folder.
        form: suffix of the file without its dot, as asked for; None: as the parents have it.
        parents: what it is made of. A model of transformers or an adapter of peft is called as these call it.
    """
    names = {whole_name(Path(p.path)) for p in parents}
    if form in (None, "safetensors") and names and all(n in MODELS for n in names):
        kind = "adapter_model" if all(n.startswith("adapter_model") for n in names) else "model"
        return folder / name / f"{kind}.safetensors"
    if form is not None:
        return folder / name / f"model.{form}"
    suffixes = {Path(p.path).suffix for p in parents}
    return folder / name / f"model{suffixes.pop() if suffixes in _SAME else '.pt'}"


def free_name(runs: Path, name: str) -> Path:
    """Return the first folder ``NAME_001``, ``NAME_002``, ... in a runs folder that is not there yet; none is made.

    Raises:
        UsageError: the runs lie behind a URL, where nothing is written.
    """
    _require_local(runs)
    number = 1
    while os.path.lexists(runs / f"{name}_{number:03d}"):
        number += 1
    return runs / f"{name}_{number:03d}"


def new_folder(runs: Path, name: str) -> Path:
    """Make the first folder ``NAME_001``, ``NAME_002``, ... in a runs folder that is not there yet, and return it.

    Two commands at once never get the same one.

    Raises:
        UsageError: the runs lie behind a URL, where nothing is written.
        EpsoptError: it cannot be made.
    """
    _require_local(runs)
    return numbered_folder(runs, name)


@contextlib.contextmanager
def save_folder(save: Path | None, runs: Path, name: str, known: Sequence[Checkpoint] = ()) -> Iterator[Path]:
    """Hold the folder that a command saves checkpoints in, for as long as it computes them.

    Args:
        save: as the user named it; None makes ``NAME_001``, ``NAME_002``, ... among the runs.
        runs: the folder of the runs.
        name: of a folder among them.
        known: the catalogue's checkpoints: nothing is saved into the folder of a run.

    Yields:
        The folder; it is removed again if nothing was saved in it.

    Raises:
        UsageError: it is a run's, another command holds it, or the runs lie behind a URL.
        EpsoptError: it cannot be made.
    """
    if save is None:
        folder = new_folder(runs, name)
        try:
            yield folder
        finally:
            remove_if_empty(folder)
        return
    place = save.resolve()
    run = next((c.run for c in known if Path(c.path).parent == place), None)
    if run is not None:
        raise UsageError(f"{save} holds checkpoints of the run {run}: name another folder, nothing is added to runs")
    with claimed_folder(save):
        yield save


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that was made for checkpoints that did not come."""
    with contextlib.suppress(OSError):  # there is something in it
        folder.rmdir()


def _require_local(runs: Path) -> None:
    from epsopt.zoo.reading.remote import RemotePath

    if isinstance(runs, RemotePath):
        raise UsageError(f"the runs lie behind a URL ({runs}): say with --save where checkpoints are written")
