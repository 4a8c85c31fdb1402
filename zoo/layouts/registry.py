"""All layouts, the most particular first, and the questions that are put to them in turn."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from epsopt.zoo.layouts import (
    dvclive,
    hugging_face,
    hydra,
    lightning,
    mlflow,
    plain,
    ray,
    sharded,
    speechbrain,
    tensorboard,
    wandb,
)
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout, Undecided
from epsopt.zoo.layouts.merge_record import RECORD, parents_of_record
from epsopt.zoo.layouts.parsed import RECOMBINED, ParsedCheckpoint

if TYPE_CHECKING:
    from epsopt.zoo.reading.tensors import OpenCheckpoint

LAYOUTS: tuple[Layout, ...] = (
    mlflow.LAYOUT,
    wandb.LAYOUT,
    ray.LAYOUT,
    speechbrain.LAYOUT,
    hugging_face.LAYOUT,
    lightning.LAYOUT,
    dvclive.LAYOUT,
    hydra.LAYOUT,
    sharded.LAYOUT,
    plain.LAYOUT,
    tensorboard.LAYOUT,
)
BY_NAME = {layout.name: layout for layout in LAYOUTS}
TRACKERS = frozenset(layout.name for layout in LAYOUTS if layout.tracks)


def place(file: Path, folders: Folders) -> tuple[str, Path]:
    """Return the name of the layout that recognises where a file lies, and the folder of its run."""
    for layout in LAYOUTS:
        run = layout.run_of(file, folders)
        if run is not None:
            return layout.name, run
    return plain.LAYOUT.name, file.parent


def left_alone(file: Path, folders: Folders) -> bool:
    """Tell whether any layout knows that a file, named like a checkpoint, is none."""
    return any(layout.ignores(file, folders) for layout in LAYOUTS)


def refused(file: Path, folders: Folders) -> tuple[Path, str] | None:
    """Return the checkpoint that a file is a part of, and why it is not read, where a layout knows that."""
    return next((r for layout in LAYOUTS if (r := layout.refuses(file, folders)) is not None), None)


def sources(run: Path, held: Sequence[Path], folders: Folders) -> list[tuple[str, list[Path]]]:
    """Return the layouts that have something to say about a run, each with its files; every file is asked of one."""
    taken: set[Path] = set()
    found = []
    for layout in LAYOUTS:
        files = [file for file in dict.fromkeys(layout.side_files(run, held, folders)) if file not in taken]
        if files:
            taken.update(files)
            found.append((layout.name, files))
    return found


def undecided(
    run: Path, held: Sequence[Path], folders: Folders, answered: Collection[str]
) -> list[tuple[str, Undecided]]:
    """Return logs that may be those of a run, by the layouts that have no side files of it (`answered` have some)."""
    asked = (layout for layout in LAYOUTS if layout.name not in answered)
    return [(layout.name, u) for layout in asked if (u := layout.undecided(run, held, folders)) is not None]


def lifecycles(run: Path, folders: Folders) -> list[tuple[str, Path]]:
    """Return the layouts that know whether a run was deleted, each with the file that says it."""
    return [(layout.name, f) for layout in LAYOUTS if (f := layout.lifecycle(run, folders)) is not None]


def interpret(checkpoint: OpenCheckpoint) -> ParsedCheckpoint:
    """Return what a checkpoint says, by the first layout that recognises it.

    A merge is no moment of a training: the number in its name is neither an epoch nor a step.

    Raises:
        UnreadableCheckpoint: none does: there are no weights in it.
    """
    reading = next((r for layout in LAYOUTS if (r := layout.interpret(checkpoint)) is not None), None)
    reading = plain.interpret(checkpoint) if reading is None else reading
    about = checkpoint.tree if checkpoint.metadata is None else checkpoint.metadata
    if not isinstance(about, Mapping) or RECORD not in about:
        return reading
    hyperparameters = {**reading.hyperparameters, RECOMBINED: parents_of_record(about[RECORD])}
    return replace(reading, hyperparameters=hyperparameters, epoch=None, step=None)


def shown(names: Iterable[str]) -> str:
    """Name the layouts of a run together, as ``hydra + lightning``; plain is not worth saying beside a framework."""
    found = set(names)
    frameworks = {layout.name for layout in LAYOUTS if not layout.combines} - {plain.LAYOUT.name}
    if found & frameworks:
        found.discard(plain.LAYOUT.name)
    elif not found - {layout.name for layout in LAYOUTS if layout.combines}:
        found.add(plain.LAYOUT.name)
    return " + ".join(sorted(found))
