"""PyTorch Lightning: ``version_N/{hparams.yaml, metrics.csv, checkpoints/*.ckpt}``; the run is ``version_N``.

A checkpoint is Lightning's if it says ``pytorch-lightning_version``, wherever it lies. Its ``global_step`` counts
finished updates while the CSV logger writes the index of the last one, hence the one that is added to the log's steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.layouts import plain
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.reading import Reading, Told
from epsopt.zoo.layouts.rows import flat, rows_of
from epsopt.zoo.reading.side import Sides
from epsopt.zoo.reading.values import metrics_of

if TYPE_CHECKING:
    from epsopt.zoo.reading.tensors import OpenCheckpoint

VERSION = "pytorch-lightning_version"


def run_of(file: Path, _folders: Folders) -> Path | None:
    """Return the folder above ``checkpoints``."""
    return file.parent.parent if file.suffix.lower() == ".ckpt" and file.parent.name == "checkpoints" else None


def beside(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return what the loggers wrote beside ``checkpoints``."""
    ours = [folder for folder in held if folder.parent == run and folder.name == "checkpoints"]
    if any(name.endswith(".ckpt") for folder in ours for name in folders.names(folder)):
        return folders.those(run, ("hparams.yaml", "metrics.csv"))
    return []


def interpret(checkpoint: OpenCheckpoint) -> Reading | None:
    """Read as a plain checkpoint; the monitored metric is what ModelCheckpoint kept of it."""
    tree = checkpoint.tree
    if checkpoint.metadata is not None or not isinstance(tree, Mapping) or VERSION not in tree:
        return None
    reading = plain.interpret(checkpoint)
    return replace(reading, metrics={**_monitored(checkpoint), **reading.metrics}, layout="lightning")


def _monitored(checkpoint: OpenCheckpoint) -> dict[str, float | None]:
    def scalar(tensor: Any) -> Any:
        checkpoint.check({"a number": tensor})
        return checkpoint.read("a number", tensor).reshape(()).item()

    callbacks = checkpoint.tree.get("callbacks")
    found: dict[str, float | None] = {}
    for name, state in callbacks.items() if isinstance(callbacks, Mapping) else ():
        if str(name).startswith("ModelCheckpoint") and isinstance(state, Mapping):
            monitor, score = state.get("monitor"), state.get("current_score")
            if isinstance(monitor, str) and score is not None:
                found.update(metrics_of({monitor: score}, scalar))
    return found


def tell(sides: Sides) -> Told:
    """Read hparams.yaml and metrics.csv."""
    told = Told(troubles=sides.troubles)
    for file in sides.named("hparams.yaml"):
        told.hyperparameters = flat(sides.yaml(file))
    for file in sides.named("metrics.csv"):
        told.rows = rows_of(sides.table(file), later=1)
    return told


LAYOUT = Layout("lightning", run_of=run_of, beside=beside, interpret=interpret, tell=tell)
