"""Hyperparameters and epoch of checkpoints as numbers, for trees that look at them beside the weights.

Weights do not say all that decides a metric: of two networks with like statistics, the one that was trained on twice as
many images is the better one on the test set. What a run was started with is known before it is trained.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.catalogue.types import Checkpoint

EPOCH = "(epoch)"
"""Name of the epoch among a checkpoint's hyperparameters."""

Hyperparameters = Mapping[str, Any]
Floats = NDArray[np.float64]

_MOST_CATEGORIES = 12  # of one hyperparameter: the most frequent
_FEWEST_RUNS = 2  # that share a category; what each run has for itself, a name or a folder, explains nothing
_RATIO = 10.0
_CLIP = 6.0  # deviations
_MOST = 1e100  # as a number: the square of a larger one is none
_ROUNDING = 1e-9  # of a column's size: what is less does not vary
_SEED = re.compile(r"(^|[._-])seed$", re.IGNORECASE)


def with_epoch(hyperparameters: Hyperparameters, epoch: float | None) -> dict[str, Any] | None:
    """Put a checkpoint's epoch beside its run's hyperparameters.

    Args:
        hyperparameters: of the run, flattened with dots.
        epoch: of the checkpoint.

    Returns:
        Both in one dictionary; None where no hyperparameter is known.
    """
    if not hyperparameters:
        return None
    return {**hyperparameters, EPOCH: epoch}


def hyperparameters_of(checkpoints: Iterable[Checkpoint]) -> list[dict[str, Any] | None]:
    """Give what is known of how checkpoints came about, with :func:`with_epoch`.

    Args:
        checkpoints: of a catalogue.
    """
    return [with_epoch(c.hyperparameters, c.epoch) for c in checkpoints]


def hyperparameters_digest(known: Sequence[Hyperparameters | None]) -> bytes:
    """Tell the hyperparameters of some checkpoints from others; empty where none are known."""
    if not any(known):
        return b""
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).digest()


@dataclass(frozen=True)
class HyperparameterTable:
    """Columns that hyperparameters and epoch are laid out in.

    Attributes:
        numbers: names of those that are numbers, one column each.
        categories: name and value of those that are not, one column each, 1 where it has that value.
    """

    numbers: tuple[str, ...] = ()
    categories: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, known: Sequence[Hyperparameters | None], runs: NDArray[np.int64]) -> HyperparameterTable:
        """Choose the columns in which runs differ.

        Seeds are left out, and so are words that each run has for itself.

        Args:
            known: of ``n`` checkpoints, from :func:`with_epoch`.
            runs: ``(n,)`` run of each.
        """
        first = {int(run): row for run, row in zip(runs, known, strict=True) if row is not None}
        names = sorted({name for row in first.values() for name in row if name != EPOCH and not _SEED.search(name)})
        numbers, categories = [], []
        for name in names:
            values = [row.get(name) for row in first.values()]
            if all(_number(v) is not None for v in values if v is not None):
                if len({_number(v) for v in values}) > 1:
                    numbers.append(name)
                continue
            shared = [c for c in Counter(map(_word, values)).most_common(_MOST_CATEGORIES) if c[1] >= _FEWEST_RUNS]
            categories += [(name, word) for word, runs_of_it in shared if runs_of_it < len(values)]
        if len({_number(row.get(EPOCH)) for row in known if row is not None}) > 1:
            numbers.append(EPOCH)
        return cls(tuple(numbers), tuple(categories))

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.numbers) + len(self.categories)

    def tells(self, known: Sequence[Hyperparameters | None]) -> NDArray[np.bool_]:
        """``(n,)`` whether at least half of the hyperparameters in these columns are known of a checkpoint."""
        names = ({*self.numbers} | {name for name, _ in self.categories}) - {EPOCH}
        return np.array([row is not None and 2 * len(names & row.keys()) >= len(names) for row in known], dtype=bool)

    def __call__(self, known: Sequence[Hyperparameters | None]) -> Floats:
        """Lay out ``n`` checkpoints: ``(n, width)``; NaN where a number is unknown, and where nothing is known."""
        table = np.full((len(known), self.width), np.nan)
        for row, given in zip(table, known, strict=True):
            if given is not None:
                numbers = (_number(given.get(name)) for name in self.numbers)
                row[: len(self.numbers)] = [np.nan if n is None else n for n in numbers]
                row[len(self.numbers) :] = [_word(given.get(name)) == word for name, word in self.categories]
        return table


@dataclass(frozen=True)
class ColumnScale:
    """How columns of hyperparameters are put on one scale, for what compares checkpoints by distance.

    Attributes:
        logarithmic: whether a column is compared by ratios: all of it is positive, the largest ten times the smallest.
        mean: of each column on that scale.
        deviation: the same; 0 for a column that never varies.
    """

    logarithmic: tuple[bool, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @classmethod
    def of(cls, table: Floats) -> ColumnScale:
        """Learn the scale of ``(n, width)`` columns, from :class:`HyperparameterTable`."""
        logarithmic, means, deviations = [], [], []
        for column in table.T:
            known = np.clip(column[np.isfinite(column)], -_MOST, _MOST)
            by_ratio = len(known) > 0 and bool(0.0 < _RATIO * known.min() <= known.max())
            known = np.log(known) if by_ratio else known
            mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
            logarithmic.append(by_ratio)
            means.append(mean)
            deviations.append(deviation if deviation > _ROUNDING * (1.0 + abs(mean)) else 0.0)
        return cls(tuple(logarithmic), tuple(means), tuple(deviations))

    def __call__(self, table: Floats) -> Floats:
        """Scale ``(n, width)`` columns: mean 0, deviation 1, far-out values pulled in; 0 where a number is unknown."""
        ratios = np.where(
            self.logarithmic, np.log(np.maximum(table, np.finfo(float).tiny)), np.clip(table, -_MOST, _MOST)
        )
        deviation = np.array(self.deviation)
        scaled = (ratios - np.array(self.mean)) / np.where(deviation > 0.0, deviation, np.inf)
        return np.asarray(np.nan_to_num(np.clip(scaled, -_CLIP, _CLIP)))


def _number(value: Any) -> float | None:
    """A value as a finite number: text that is one counts, so do yes and no; None: it is none."""
    if isinstance(value, str | int | float | bool | np.number):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    return None


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
