"""Which rows a fingerprint keeps, so that its size is bounded however many tensors a network has.

Up to :data:`MOST_ROWS` tensors have a row each. Of more, neighbours of one role (``layers.#.mlp.weight`` of layers 4
and 5) share a row: the role with most tensors gives way first. The product and the answers of a matrix take ten times
the room of its statistics; where those of all matrices would not fit, a few matrices keep them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MOST_ROWS = 256
"""Most rows of a fingerprint."""
MOST_BYTES = 128_000
"""Most bytes of a kept fingerprint, its names aside, which take two or three bytes a tensor."""

_MATRIX = 300  # bytes of a matrix's statistics as they are kept
_VECTOR = 200
_MAPS = 2_800  # bytes of the products and answers of a matrix and its bias
_OTHERS = 11_000  # bytes of the sketch and of names
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class KeptRows:
    """What is kept of tensors with certain names.

    Attributes:
        groups: the tensors of each row, in the order of the state dict.
        names: one per row: its tensor's name, or of several the first and the last.
        answering: rows that keep a product and answers; of a row of several tensors they are the last one's.
        is_bounded: whether anything is left out.
    """

    groups: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    answering: tuple[int, ...]
    is_bounded: bool


@lru_cache(maxsize=256)
def kept_rows(names: Sequence[str], dimensions: Sequence[int]) -> KeptRows:
    """Choose the rows of a fingerprint.

    Args:
        names: tuple of the tensors' names, in the order of the state dict.
        dimensions: tuple with the number of dimensions of each.
    """
    groups = _groups(names, dimensions)
    last = {group[-1] for group in groups}
    units = [unit for unit in _units(names, dimensions) if last.intersection(unit)]
    # A matrix's answers are kept with its bias; each further bias has answers of its own.
    costs = [_MAPS * max(sum(dimensions[i] == 1 for i in unit), 1) for unit in units]
    described = sum(_MATRIX if dimensions[group[0]] > 1 else _VECTOR for group in groups)
    room = max(MOST_BYTES - _OTHERS - described, 0)
    answering = list(range(len(groups)))
    if sum(costs) > room:
        chosen = _chosen([names[unit[0]] for unit in units], room // max(costs))
        kept = {tensor for k in chosen for tensor in units[k]}
        answering = [row for row, group in enumerate(groups) if group[-1] in kept]
    labels = [names[g[0]] if len(g) == 1 else f"{names[g[0]]} ... {names[g[-1]]}" for g in groups]
    return KeptRows(tuple(groups), tuple(labels), tuple(answering), len(answering) < len(names))


def _chosen(names: Sequence[str], most: int) -> list[int]:
    """Choose at most `most` matrices by name: as many of each role, evenly spaced in depth, the last one always.

    What a matrix answers is what all before it hand it, so that the last of a role has most to say.
    """
    if not most:
        return []
    roles = sorted(_by([_DIGITS.sub("#", name) for name in names]), key=lambda role: role[-1])
    if len(roles) > most:
        return [roles[k][-1] for k in _spaced(len(roles), most)]
    each = 1  # of a role
    while sum(min(len(role), each + 1) for role in roles) <= most:
        each += 1
    return sorted(
        role[k] for role in roles for k in (_spaced(len(role), each + 1)[1:] if len(role) > each else range(len(role)))
    )


def _spaced(n: int, most: int) -> list[int]:
    """`most` places, at least two, spaced evenly over ``n``, the first and the last among them."""
    return np.unique(np.rint(np.linspace(0, n - 1, most)).astype(int)).tolist() if most > 1 else [n - 1]


def _by(keys: Sequence[Hashable]) -> list[list[int]]:
    """Places of each key, in the order in which keys come first."""
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return list(found.values())


def _units(names: Sequence[str], dimensions: Sequence[int]) -> list[list[int]]:
    """Give what answers: each matrix with the vectors of its module that follow it, each folded running variance."""
    units: list[list[int]] = []
    last: dict[str, list[int]] = {}  # of a module
    for i, name in enumerate(names):
        module = name.rpartition(".")[0] or name
        if dimensions[i] > 1:
            last[module] = [i]
            units.append(last[module])
        elif module in last:
            last[module].append(i)
        elif name.endswith("running_var"):
            units.append([i])
    return units


def _groups(names: Sequence[str], dimensions: Sequence[int]) -> list[tuple[int, ...]]:
    """Share out tensors over at most :data:`MOST_ROWS` rows."""
    if len(names) <= MOST_ROWS:
        return [(i,) for i in range(len(names))]
    roles = _roles(names, dimensions)
    most = 1  # rows of one role
    while sum(min(len(r), most + 1) for r in roles) <= MOST_ROWS:
        most += 1
    rows = [part for role in roles for part in np.array_split(np.array(role), min(len(role), most))]
    return sorted((tuple(part.tolist()) for part in rows), key=lambda row: row[-1])


def _roles(names: Sequence[str], dimensions: Sequence[int]) -> list[list[int]]:
    """Tensors of each role; as fine as :data:`MOST_ROWS` roles allow."""
    masked = [_DIGITS.sub("#", name) for name in names]
    finest = _by(list(zip(masked, dimensions, strict=True)))
    if len(finest) <= MOST_ROWS:
        return finest
    coarser = _by(list(zip((m.rpartition(".")[2] for m in masked), dimensions, strict=True)))
    return coarser if len(coarser) <= MOST_ROWS else _by(list(dimensions))
