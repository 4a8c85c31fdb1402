"""What a layout finds in one checkpoint, and beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from epsopt.zoo.reading.plain_values import Plain


RECOMBINED = "recombined"
"""Hyperparameter that tells a decoded checkpoint from one that was trained."""


@dataclass(frozen=True)
class ParsedCheckpoint:
    """One checkpoint, interpreted.

    Attributes:
        weights: tensors by name, in state-dict order, prefixes of wrappers stripped; possibly only described
            (meta).
        hyperparameters: flattened with dots.
        metrics: flattened with dots; None where the value is NaN or infinite.
        epoch: epoch or step, None when nothing says it.
        base: the file that the run says it started from, as it says it.
        step: optimiser steps, None when nothing says it.
        layout: the layout that knows this file's keys.
        weights_key: the keys that lead to the weights in the file, joined with dots; empty for the top level.
        notes: sentences about what the file says and was not taken.
        best: the path, as the file says it, of the checkpoint that its run calls the best so far.
    """

    weights: dict[str, torch.Tensor]
    hyperparameters: dict[str, Plain]
    metrics: dict[str, float | None]
    epoch: int | None
    base: str | None
    step: int | None = None
    layout: str = "plain"
    weights_key: str = ""
    notes: tuple[str, ...] = ()
    best: str | None = None


@dataclass(frozen=True)
class Position:
    """Where in its run a checkpoint stands: what side files are matched by.

    Attributes:
        key: what the answer calls it.
        path: of the checkpoint, as text.
        epoch: epoch (or step, where there is no epoch), None when unknown.
        step: optimiser steps, None when unknown.
        layout: the layout that knows the checkpoint's keys: some loggers count steps in a way of their own.
        best: whether the run called this checkpoint the best at its end; None where nothing says which was.
        rival: why the log may not speak of this checkpoint, one of several models of its moment; empty where the user
            names another one; None where the log speaks of it.
    """

    key: str
    path: str
    epoch: int | None
    step: int | None
    layout: str = "plain"
    best: bool | None = None
    rival: str | None = None


@dataclass(frozen=True)
class Row:
    """Metrics that were logged together.

    Attributes:
        epoch: None where the log does not say it.
        step: None where the log does not say it.
        metrics: None where the value is NaN or infinite.
        checkpoint: name of the checkpoint's file or folder, where the log says it.
    """

    epoch: int | None
    step: int | None
    metrics: dict[str, float | None]
    checkpoint: str | None = None


@dataclass(frozen=True)
class AfterTraining:
    """What is known of the model with which training ended: the last checkpoint, or the best one, loaded then.

    Attributes:
        metrics: None where the value is NaN or infinite.
        checkpoint: name of the folder or file of the checkpoint that the model is; None where nothing says which.
        file: that says it; None where it was measured on the way, so that the log tells it of the checkpoint, too.
    """

    metrics: dict[str, float | None]
    checkpoint: str | None
    file: str | None


@dataclass
class RunMetadata:
    """What the side files of one layout tell about a run.

    Attributes:
        hyperparameters: flattened with dots.
        rows: the metrics' history, oldest first.
        final: metrics that belong to the run's end and say no epoch or step.
        ended: the epoch of that end, where something beside the rows says it.
        after: of the model with which training ended: the run's only checkpoint without epoch and step (as it was
            saved at the end), or else the one that is named.
        own: metrics that a file of a checkpoint's name says, by the checkpoint's path without its suffix, or that one
            in its folder says (``best/metrics.json``), by the folder.
        ordered: (file, rows) for rows that say no epoch or step, oldest first.
        logs: the rows of each file, where the layout tells them apart.
        pooled: what was logged at one step was put into one row, so its epoch may be that of another call.
        starts: the number that the log counts its first row by.
        failures: sentences about files that could not be read, as (path, reason).
    """

    hyperparameters: dict[str, Plain] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    final: dict[str, float | None] = field(default_factory=dict)
    ended: int | None = None
    after: AfterTraining | None = None
    own: dict[str, dict[str, float | None]] = field(default_factory=dict)
    ordered: list[tuple[str, list[Row]]] = field(default_factory=list)
    logs: dict[str, list[Row]] = field(default_factory=dict)
    pooled: bool = False
    starts: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def known_metrics(
    layout: str, own: Mapping[str, float | None], side_file_metrics: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Put together what a checkpoint and the files beside it say: the checkpoint counts.

    Lightning's keep only what a callback monitored, as the callback knew it when it saved; there the log counts.
    """
    return {**own, **side_file_metrics} if layout == "lightning" else {**side_file_metrics, **own}


def match_rows(metadata: RunMetadata, positions: Sequence[Position]) -> dict[str, dict[str, float | None]]:
    """Match the rows to checkpoints; return the metrics of those that have any, by key (``matching`` has the rules)."""
    from epsopt.zoo.layouts.matching import matched  # which needs the types above

    return matched(metadata, positions)
