"""What a layout finds in one checkpoint, and beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from epsopt.zoo.reading.values import Plain


@dataclass(frozen=True)
class Reading:
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
    """

    weights: dict[str, torch.Tensor]
    hyperparameters: dict[str, Plain]
    metrics: dict[str, float | None]
    epoch: int | None
    base: str | None
    step: int | None = None
    layout: str = "plain"
    weights_key: str = ""


@dataclass(frozen=True)
class Position:
    """Where in its run a checkpoint stands: what side files are matched by.

    Attributes:
        key: what the answer calls it.
        path: of the checkpoint, as text.
        epoch: epoch (or step, where there is no epoch), None when unknown.
        step: optimiser steps, None when unknown.
    """

    key: str
    path: str
    epoch: int | None
    step: int | None


@dataclass(frozen=True)
class Row:
    """Metrics that were logged together; epoch and step are None where the log does not say them."""

    epoch: int | None
    step: int | None
    metrics: dict[str, float | None]


@dataclass
class Told:
    """What the side files of one layout tell about a run.

    Attributes:
        hyperparameters: flattened with dots.
        rows: the metrics' history, oldest first.
        final: metrics that belong to the run's end and say no epoch or step.
        troubles: sentences about files that could not be read, as (path, reason).
    """

    hyperparameters: dict[str, Plain] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    final: dict[str, float | None] = field(default_factory=dict)
    troubles: list[tuple[str, str]] = field(default_factory=list)


def joined(told: Told, positions: Sequence[Position]) -> dict[str, dict[str, float | None]]:
    """Match the rows to checkpoints, by epoch or else by step; return the metrics of those that have any, by key.

    Where a log has steps alone they are those of the optimiser if any checkpoint stands at one of them. If none does,
    they count epochs; but not if checkpoints say both and the log runs far beyond their epochs.

    Nothing is interpolated: a metric that was not logged at a checkpoint's epoch or step is not measured on it. Of
    several rows the last one that is not later than the checkpoint counts.
    """
    by_epoch: dict[int, list[Row]] = {}
    by_step: dict[int, list[Row]] = {}
    for row in told.rows:
        if row.epoch is not None:
            by_epoch.setdefault(row.epoch, []).append(row)
        if row.step is not None:
            by_step.setdefault(row.step, []).append(row)
    counted = any(p.step in by_step for p in positions if p.step is not None)
    last_epoch = max((p.epoch for p in positions if p.epoch is not None), default=-1)
    beyond = max(by_step, default=0) > last_epoch + 1
    out = {}
    for position in positions:
        if position.epoch is not None and position.epoch in by_epoch:
            found = _not_later(by_epoch[position.epoch], position.step)
        elif counted:
            found = by_step.get(position.step, []) if position.step is not None else []
        elif position.epoch is not None and not (beyond and position.step is not None):
            found = by_step.get(position.epoch, [])
        else:
            found = []
        metrics: dict[str, float | None] = {}
        for row in found:
            metrics.update(row.metrics)
        if metrics:
            out[position.key] = metrics
    last = max(positions, key=lambda p: (-1 if p.epoch is None else p.epoch, p.path), default=None)
    if told.final and last is not None:
        out[last.key] = {**told.final, **out.get(last.key, {})}
    return out


def _not_later(rows: list[Row], step: int | None) -> list[Row]:
    """Leave out what was logged after a step; if that is all there is, the step counts something else."""
    return [r for r in rows if step is None or r.step is None or r.step <= step] or rows
