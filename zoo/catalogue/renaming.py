"""One name for what runs call differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")


def under_new_names(values: Mapping[str, _Value], rename: Mapping[str, str]) -> dict[str, _Value]:
    """Return values under the names that they are to have; one that has its name already is kept over others.

    Args:
        values: by name; None is no value. Left unchanged.
        rename: names that some runs have, to those that they are to have; of several that lead to one name the first
            that has a value counts.
    """
    if not rename:
        return dict(values)
    out = {name: value for name, value in values.items() if name not in rename}
    for old, new in rename.items():
        if old in values and out.get(new) is None:
            out[new] = values[old]
    return out
