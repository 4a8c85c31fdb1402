"""Who feeds whom among the weight matrices of a network, guessed from their names and sizes.

A state dict does not say it. Names tell embeddings, the parts of attention, gates and shortcuts; norms and widths tell
residual blocks. Any other matrix is fed by the nearest earlier one with as many outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Modules, and parameters, that hold queries, keys and values in one matrix.
_FUSED = re.compile(r"in_proj|qkv(_proj)?|(attn_|to_)qkv|c_attn|wqkv|query_key_value", re.IGNORECASE)
_TRANSPOSED = re.compile(r"c_attn|c_proj|c_fc|q_attn")  # Conv1D of transformers keeps (inputs, outputs)
_VALUE = re.compile(r"(v|values?)(_proj|_lin)?|wv|to_v", re.IGNORECASE)
_QUERY_OR_KEY = re.compile(r"(q|k|query|queries|keys?)(_proj|_lin)?|w[qk]|to_[qk]", re.IGNORECASE)
_TABLE = re.compile(
    r"wte|wpe|embed_(tokens|positions)|\w*(tok|token|word|type|pos|position)s?_?emb(ed(ding)?s?)?(_table)?",
    re.IGNORECASE,
)
_MAYBE_TABLE = re.compile(r"shared|(\w+_)?emb(ed(ding)?s?|edder)?", re.IGNORECASE)
_GATE, _GATED = re.compile(r"gate(_proj)?|wi_0|w1"), re.compile(r"up(_proj)?|wi_1|w3")
_SHORTCUT = re.compile(r"downsample|shortcut|skip|identity|(conv|proj)_shortcut|skip_connection|res_(conv|proj)")
_GAINS = frozenset({"weight", "gamma", "scale", "g"})  # of a norm, of one dimension

Path = tuple[str, ...]


class Matrix(NamedTuple):
    """A matrix as far as wiring goes.

    Attributes:
        path: of its module; of a part of a fused projection that of a module of its own.
        source: place of the matrix that feeds it; -1: fresh probes.
        crossed: whether no activation lies between: another module does.
        inputs: how many it has.
        units: how many outputs it has.
        joins: whether its answers are added to a residual stream.
        table: whether it is a table of embeddings.
    """

    path: Path
    source: int
    crossed: bool
    inputs: int
    units: int
    joins: bool = False
    table: bool = False


class Wiring:
    """Where the matrices of a network are, so that the one that feeds another is found among thousands.

    A matrix that takes as many inputs as a differently named earlier sibling (``mu`` and ``logvar``, ``q`` and ``k``)
    is fed like it; otherwise by the nearest earlier matrix with as many outputs (of parallel ones, the first), from the
    innermost module outwards; and when there is none, by fresh probes. What follows attention's values is fed by them.

    A numbered module with named parts, such as ``layers.3``, is a residual block if it holds a norm or attention: what
    leads back to as many outputs as came in is added to what came in. So is what a shortcut leads around.

    Attributes:
        nearest: by number of units, the place of the last matrix that has as many.
    """

    def __init__(self) -> None:
        self.nearest: dict[int, int] = {}
        self._all: list[Matrix] = []
        self._feeding: set[int] = set()
        # Of matrices inside a module with as many inputs, that are fed from outside their own part of it: by the name
        # of that part, without its number, the first.
        self._entering: dict[tuple[Path, int], dict[str, int]] = {}
        self._last: dict[tuple[Path, int], int] = {}  # inside a module, with as many units
        self._alike: dict[tuple[Path, int, int, int], int] = {}  # module, units, source, inputs: the first
        self._values: dict[Path, int] = {}  # by attention, the last
        self._residual: set[Path] = set()
        self._streams: set[tuple[Path, int]] = set()  # modules, and widths of residual streams inside
        self._tables: dict[tuple[Path, int], int] = {}  # of embeddings in one module, of one width: the last
        self._as_table: dict[int, int] = {}  # by place of what may be a table, the place of the same as one
        self._gates: dict[tuple[Path, int, int], int] = {}  # module, units, source
        self._gated: dict[int, int] = {}
        self._begun: dict[tuple[int, Path], tuple[int, int]] = {}  # by place and block: what fed the first inside

    def add(self, matrix: Matrix) -> None:
        """Add the next matrix."""
        place, path = len(self._all), matrix.path
        own = path[-1] if path else ""
        from_path = self._all[matrix.source].path if matrix.source >= 0 else None
        self._all.append(matrix)
        if matrix.source >= 0:
            self._feeding.add(matrix.source)
        for depth in range(len(path)):
            if from_path is None or from_path[: depth + 1] != path[: depth + 1]:
                parts = self._entering.setdefault((path[:depth], matrix.inputs), {})
                parts.setdefault(_stem(path[depth]), place)
            self._last[path[:depth], matrix.units] = place
            if matrix.joins:
                self._streams.add((path[:depth], matrix.units))
        self._alike.setdefault((path[:-1], matrix.units, matrix.source, matrix.inputs), place)
        self.nearest[matrix.units] = place
        if _VALUE.fullmatch(own):
            self._values[path[:-1]] = place
            self._residual.update(_blocks(path))
        elif _GATE.fullmatch(own):
            self._gates[path[:-1], matrix.units, matrix.source] = place
        elif _GATED.fullmatch(own) and (gate := self._gates.get((path[:-1], matrix.units, matrix.source))) is not None:
            self._gated[gate] = place
        if matrix.table:
            self._tables[path[:-1], matrix.units] = place

    def add_as_table(self, units: int) -> None:
        """Add the next matrix as the table of embeddings that it may be: who reads as many inputs is fed by that."""
        place = len(self._all)
        self._all.append(Matrix((), -1, crossed=True, inputs=0, units=units))  # found by no path
        self._as_table[place + 1] = place

    def add_norm(self, path: Path) -> None:
        """Take note of a norm, whose block is a residual one."""
        self._residual.update(_blocks(path)[:1])

    def gated_by(self, gate: int) -> int | None:
        """Place of what a gate at a place is multiplied by; None: it is no gate."""
        return self._gated.get(gate)

    def fed_by(self, path: Path, inputs: int) -> tuple[int, bool]:
        """Place of the matrix that feeds one at `path` (-1: none), and whether no activation lies between."""
        if (value := self._value_of(path, inputs)) is not None:
            return value, True
        for depth in range(len(path) - 1, -1, -1):
            prefix = path[:depth]
            # What reads a residual stream is fed by the last that was added to it.
            entering = {} if (prefix, inputs) in self._streams else self._entering.get((prefix, inputs), {})
            others = [place for part, place in entering.items() if part != _stem(path[depth])]
            if others:
                like = min(others)
                if like in self._as_table:
                    return self._as_table[like], True
                return self._all[like].source, self._all[like].crossed
            place = self._last.get((prefix, inputs))
            if place is not None:
                return self._through(place, path, depth)
        return -1, False

    def _through(self, place: int, path: Path, depth: int) -> tuple[int, bool]:
        """The first of the matrices that are parallel to one, and whether no activation follows them."""
        nearest = self._all[place]
        if nearest.joins or nearest.table:
            return place, True
        alike = self._alike[nearest.path[:-1], nearest.units, nearest.source, nearest.inputs]
        inside = any(nearest.path[: len(b)] == b for b in _blocks(path) if b in self._residual)
        return (alike if nearest.source >= 0 else place), depth < len(path) - 1 and not inside

    def joins(self, matrix: Matrix) -> tuple[int, int] | None:
        """Place of what the answers of the next matrix are added to (-1: fresh probes), and how wide that is.

        None: they are added to nothing.
        """
        path, units = matrix.path, matrix.units
        if matrix.table:  # tokens and positions
            place = self._tables.get((path[:-1], units))
            return None if place is None else (place, units)
        block = next((b for b in _blocks(path) if b in self._residual), None)
        if block is None:
            return None
        begun, width = self._beginning(matrix, block)
        inside = begun != matrix.source
        shortcut = _is_shortcut(path, block)
        if inside and not shortcut and (self._all[begun].units if begun >= 0 else width) == units:
            return begun, units
        if inside or shortcut:
            other = self._last.get((block, units))
            if other is not None and shortcut != _is_shortcut(self._all[other].path, block):
                return other, units
        return None

    def _beginning(self, matrix: Matrix, block: Path) -> tuple[int, int]:
        """Place of what feeds the first matrix that leads to the next one inside a block, and how wide that is."""
        passed = list[int]()
        found = None
        while found is None:
            source = matrix.source
            if source < 0 or self._all[source].joins or self._all[source].path[: len(block)] != block:
                found = source, matrix.inputs
            elif (source, block) in self._begun:
                found = self._begun[source, block]
            else:
                passed.append(source)
                matrix = self._all[source]
        self._begun.update(((place, block), found) for place in passed)
        return found

    def _value_of(self, path: Path, inputs: int) -> int | None:
        """Place of the values of the attention that `path` is the output of; None: it is no such output."""
        if not path or _QUERY_OR_KEY.fullmatch(path[-1]) or _VALUE.fullmatch(path[-1]):
            return None
        above = [path[:depth] for depth in range(len(path) + 1)]
        modules = [*above[1:], *((*prefix, "self") for prefix in above)]
        values = [place for module in modules if (place := self._values.get(module)) is not None]
        # Of grouped attention, several heads read the same values.
        place = max((v for v in values if inputs % self._all[v].units == 0), default=None)
        return None if place in self._feeding else place


def module_of(name: str) -> Path:
    """Path of the module of a tensor; ``attn.in_proj_weight`` counts as the weight of a module ``attn.in_proj``."""
    path = name.split(".")
    if path[-1] in {"in_proj_weight", "in_proj_bias"}:
        return (*path[:-1], "in_proj")
    return tuple(path[:-1])


def is_gain(name: str) -> bool:
    """Whether a tensor of one dimension, of a module without matrices, is a norm's."""
    return name.rpartition(".")[2] in _GAINS


def is_fused(path: Path) -> bool:
    """Whether a module may hold queries, keys and values in one matrix."""
    return bool(path and _FUSED.fullmatch(path[-1]))


def is_transposed(path: Path) -> bool:
    """Whether a module keeps its matrix as (inputs, outputs)."""
    return bool(path and _TRANSPOSED.fullmatch(path[-1]))


def is_table(name: str) -> bool:
    """Whether a matrix is a table of embeddings, (entries, width)."""
    path = module_of(name)
    return bool(path and name.endswith(".weight") and _TABLE.fullmatch(path[-1]))


def may_be_table(name: str) -> bool:
    """Whether a matrix may be a table of embeddings or a layer: who reads it tells."""
    path = module_of(name)
    return bool(path and name.endswith(".weight") and not is_table(name) and _MAYBE_TABLE.fullmatch(path[-1]))


def is_followed(name: str) -> bool:
    """Tell whether a tensor, by its name, is of a kind that the first format did not follow through the network."""
    path = module_of(name)
    return name.endswith("running_var") or is_fused(path) or is_transposed(path) or _is(path, _VALUE)


def may_have_streams(names: Sequence[str], shapes: Iterable[Sequence[int]]) -> bool:
    """Tell whether the wiring of a network may be another one than before residual streams were followed.

    Args:
        names: of its tensors.
        shapes: of its tensors.
    """
    for name, shape in zip(names, shapes, strict=True):
        path = module_of(name)
        if len(shape) == 1 and is_gain(name) and _blocks(path):
            return True
        if len(shape) > 1 and (is_fused(path) or _is(path, _VALUE) or _is(path, _GATED)):
            return True
        if len(shape) == 2 and (is_table(name) or may_be_table(name)):
            return True
    return False


def _is(path: Path, pattern: re.Pattern[str]) -> bool:
    return bool(path and pattern.fullmatch(path[-1]))


def _is_shortcut(path: Path, block: Path) -> bool:
    return any(_SHORTCUT.fullmatch(part) for part in path[len(block) :])


def _blocks(path: Path) -> list[Path]:
    """Paths of the numbered modules with named parts that a module lies in, the innermost first."""
    return [path[:i] for i in range(len(path) - 1, 0, -1) if path[i - 1][-1:].isdigit() and not path[i].isdigit()]


def _stem(name: str) -> str:
    """A module's name without its number: ``fc1`` and ``fc2`` follow each other, ``mu`` and ``logvar`` do not."""
    return name.rstrip("0123456789")
