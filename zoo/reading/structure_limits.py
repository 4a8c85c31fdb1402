"""The budget of a checkpoint's structure: what a few bytes of pickle may unfold into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.reading.tensors import EXPANSION


def check_tree(path: Path, tree: Any, entries: int) -> None:
    """Refuse a structure that contains itself, or whose shared parts unfold into far more than the file holds.

    Whoever walks the structure afterwards comes to an end: 40 lists that each hold the next one twice are two
    hundred bytes, and 2**40 values to a reader who follows them.

    Args:
        path: of the file, for the error.
        tree: nested dictionaries, lists, tuples and sets; everything else is one value.
        entries: values that any file may unfold into; beyond them EXPANSION times what it holds.

    Raises:
        UnreadableCheckpoint: says which of the two.
    """
    unfolded: dict[int, int] = {}  # finished containers: values that a walk through them meets
    open_ones: set[int] = set()
    held = 0
    stack: list[tuple[Any, bool]] = [(tree, False)]
    while stack:
        value, finished = stack.pop()
        parts = _parts(value)
        if parts is None or id(value) in unfolded:
            continue
        if finished:
            open_ones.discard(id(value))
            # A sum of Python integers: it cannot overflow, and one bit is added per level of sharing.
            unfolded[id(value)] = 1 + sum(unfolded.get(id(p), 1) for p in parts)
        elif id(value) in open_ones:
            raise UnreadableCheckpoint(path, "a dictionary or list in it contains itself")
        else:
            held += 1 + len(parts)
            open_ones.add(id(value))
            stack.append((value, True))
            stack.extend((p, False) for p in parts if _parts(p) is not None)
    total = unfolded.get(id(tree), 1)
    if total > entries + EXPANSION * held:
        raise UnreadableCheckpoint(
            path, f"its {held:,} values unfold into {_rounded(total)}, by lists that share parts"
        )


def _parts(value: Any) -> list[Any] | None:
    """Return what a container holds, keys included; None for a plain value."""
    if isinstance(value, Mapping):
        return [*value.values(), *(k for k in value if isinstance(k, tuple))]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return None


def _rounded(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"more than 10^{len(str(number)) - 1}"
