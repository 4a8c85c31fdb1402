"""Columns of numbers and categories as one block of bytes that a browser reads without parsing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from epsopt.figures.axis_scale import AxisScale
from epsopt.zoo.reading.text import visible

_ALIGNED = 8  # bytes: where JavaScript's Float64Array may begin
_LOGARITHMIC = 100.0  # times the smallest value: positive numbers that span more are read on a logarithmic scale


@dataclass(frozen=True, eq=False)
class Column:
    """One value a checkpoint, or a run.

    Attributes:
        key: its identity, such as ``metric:coverage``.
        title: what a person reads; any characters.
        group: heading that it stands under where columns are chosen.
        values: ``(n,)`` float64 or float32 with NaN for what is missing, or int32.
        rows: whether there is one value a checkpoint or one a run.
        categories: names of the values 0, 1, ... of an int32 column, where -1 is missing; none in a column of numbers.
        scale: how its axis is drawn; None: as :attr:`logarithmic` says.
    """

    key: str
    title: str
    group: str
    values: NDArray[Any]
    rows: Literal["checkpoint", "run"] = "checkpoint"
    categories: tuple[str, ...] = ()
    scale: AxisScale | None = None

    @property
    def logarithmic(self) -> bool:
        """Whether it is read on a logarithmic scale: a positive hyperparameter over orders of magnitude."""
        if self.rows != "run" or self.values.dtype.kind != "f":
            return False
        finite = self.values[np.isfinite(self.values)]
        return bool(len(finite) and finite.min() > 0.0 and finite.max() > _LOGARITHMIC * finite.min())


def of_values(
    key: str, title: str, group: str, values: Sequence[Any], rows: Literal["checkpoint", "run"] = "run"
) -> Column:
    """Return hyperparameters, whatever they are, as a column: numbers where all are numbers, else categories.

    Args:
        key: as of :class:`Column`.
        title: as of :class:`Column`.
        group: as of :class:`Column`.
        values: of any kind; None where there is none.
        rows: as of :class:`Column`.
    """
    given = [v for v in values if v is not None]
    if given and all(isinstance(v, int | float) and not isinstance(v, bool) for v in given):
        return Column(key, title, group, np.array([_number(v) for v in values]), rows)
    texts = [None if v is None else visible(v if isinstance(v, str) else repr(v))[:80] for v in values]
    names = tuple(sorted({t for t in texts if t is not None}))
    place = {name: i for i, name in enumerate(names)}
    codes = np.array([-1 if t is None else place[t] for t in texts], dtype=np.int32)
    return Column(key, title, group, codes, rows, names)


def pack(columns: Sequence[Column]) -> tuple[list[dict[str, Any]], bytes]:
    """Put columns one behind the other.

    Args:
        columns: in the order in which people choose from them.

    Returns:
        What describes each as JSON values, with the place of its values, and the values themselves, little-endian.
    """
    listed, parts, offset = [], [], 0
    for column in columns:
        data = np.ascontiguousarray(column.values, dtype=column.values.dtype.newbyteorder("<")).tobytes()
        listed.append(
            {
                "key": column.key,
                "title": visible(column.title),
                "group": column.group,
                "rows": column.rows,
                "type": {"f8": "Float64Array", "f4": "Float32Array", "i4": "Int32Array"}[column.values.dtype.str[1:]],
                "offset": offset,
                "length": len(column.values),
                "categories": list(column.categories) or None,
                "logarithmic": column.logarithmic,
                "scale": described(column.scale),
            }
        )
        padding = -len(data) % _ALIGNED
        parts.append(data + b"\0" * padding)
        offset += len(data) + padding
    return listed, b"".join(parts)


def described(scale: AxisScale | None) -> dict[str, Any] | None:
    """Return an axis' scale as JSON values; None where it is plain.

    Args:
        scale: of the axis.
    """
    if scale is None or scale.bound is None:
        return None
    return {
        "bound": scale.bound,
        "unit": scale.unit,
        "cap": scale.cap,
        "flipped": scale.flipped,
        "words": scale.words,
    }


def _number(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.nan
