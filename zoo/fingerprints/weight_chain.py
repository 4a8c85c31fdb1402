"""The chain of weight matrices of a network: products, and what it answers to fixed probes as a generic network.

Who feeds whom is not in a state dict; it is guessed from names and sizes. Convolutions, BatchNorm (folded into the
matrix before it), fused projections of attention and what follows attention's values are recognised by their names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.fingerprints.order_statistics import order_statistics
from epsopt.zoo.fingerprints.tiled_matmul import times

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 16
"""Inputs and (at most) outputs of a chain that its product keeps."""
PROBES = 64
"""Probe inputs; 16 predicted much worse (docs/decisions)."""

_KEPT_INPUTS = 1 << 13  # inputs of a chain up to which its probes are kept for the next: 3 MB
_EPSILON = 1e-5  # of BatchNorm, PyTorch's default
_PARTS = ("q", "k", "v")

# Modules, and parameters, that hold queries, keys and values in one matrix.
_FUSED = re.compile(r"in_proj|qkv(_proj)?|(attn_|to_)qkv|c_attn|wqkv|query_key_value", re.IGNORECASE)
_TRANSPOSED = re.compile(r"c_attn|c_proj|c_fc|q_attn")  # Conv1D of transformers keeps (inputs, outputs)
_VALUE = re.compile(r"(v|values?)(_proj|_lin)?|wv|to_v", re.IGNORECASE)
_QUERY_OR_KEY = re.compile(r"(q|k|query|queries|keys?)(_proj|_lin)?|w[qk]|to_[qk]", re.IGNORECASE)
_NORM = ("weight", "bias", "running_mean", "running_var")

Array = NDArray[np.float32]


def is_followed(name: str) -> bool:
    """Tell whether a tensor, by its name, is of a kind that an earlier format did not follow through the network."""
    path = _module(name)
    own = path[-1] if path else ""
    return name.endswith("running_var") or any(p.fullmatch(own) for p in (_FUSED, _TRANSPOSED, _VALUE))


def _module(name: str) -> list[str]:
    """Path of the module of a tensor; ``attn.in_proj_weight`` counts as the weight of a module ``attn.in_proj``."""
    path = name.split(".")
    if path[-1] in {"in_proj_weight", "in_proj_bias"}:
        return [*path[:-1], "in_proj"]
    return path[:-1]


@dataclass(frozen=True, eq=False)
class _Output:
    """One matrix as the chain sees it.

    Attributes:
        path: its module's path; of a part of a fused projection that of a module of its own.
        module: the path of the module that holds it.
        source: place of the matrix that it is fed by; -1: fresh probes.
        crossed: whether `source` lies in another module, so that no activation is assumed between them.
        inputs: how many inputs it has.
        product: ``(units, 16)`` product of the chain up to here.
        state: ``(units, 64)`` answers to the probes, before any activation.
    """

    path: list[str]
    module: list[str]
    source: int
    crossed: bool
    inputs: int
    product: Array
    state: Array


class WeightChain:
    """Follows consecutive weight matrices through a state dict and multiplies them up.

    Who feeds whom is not in a state dict; it is guessed from names and sizes, from the innermost module outwards. A
    matrix that takes as many inputs as a differently named earlier sibling (``mu`` and ``logvar``, ``q`` and ``k``) is
    fed like it; otherwise by the nearest earlier matrix with as many outputs (of parallel ones, the first); and when
    there is none, by fresh probes. What follows attention's values is fed by them. A bias belongs to its own module's
    matrix, running statistics to the nearest earlier matrix with as many outputs. A wrong guess is still a fixed
    function of the weights, the same for every checkpoint of an architecture.
    """

    def __init__(self) -> None:
        self._outputs: list[_Output] = []
        self._places = _Places()
        self._norms: dict[tuple[str, ...], dict[str, Array]] = {}

    def add(self, name: str, values: Array | Tensor) -> tuple[Array, Array] | None:
        """Add the next tensor.

        Args:
            name: of the tensor in the state dict.
            values: of the tensor, finite; of two dimensions and more they may lie on another device.

        Returns:
            The block's ``PRODUCT`` and ``RESPONSE`` columns, ``(256,)`` and ``(1024,)``; ``None`` where it has none.
        """
        path = _module(name)
        if values.ndim == 1 and isinstance(values, np.ndarray):
            last = name.rpartition(".")[2]
            if last in _NORM and not self._known(path):
                return self._norm(tuple(path), last, values)
            return self._bias(path, values)
        if values.ndim < 2:
            return None
        if values.ndim == 2 and path and _TRANSPOSED.fullmatch(path[-1]):
            values = np.ascontiguousarray(values.T) if isinstance(values, np.ndarray) else values.T
        # A convolution acts on a constant input as the sum over its kernel does.
        matrix = values if values.ndim == 2 else values.reshape(*values.shape[:2], -1).sum(-1)
        inputs = matrix.shape[1]
        source, crossed = self._places.fed_by(path, inputs)
        if source < 0:
            product, state = _inputs(inputs)
        else:
            before = self._outputs[source]
            product = before.product
            state = _normalise(before.state) if crossed else _activate(before.state)
        answered = _times(matrix, np.concatenate([product, state], axis=1))
        product, state = answered[:, :WIDTH], answered[:, WIDTH:]
        scale = max(float(np.sqrt(np.mean(product * product))), 1e-12)
        if scale > 1e3:  # an exploding chain says so in its norm columns; here it must only stay finite
            product = product * (1e3 / scale)
        found = _split(_Output(path, path, source, crossed, inputs, product, state))
        for output in found:
            self._places.add(output)
        self._outputs += found
        return _summaries(product, state, len(found))

    def _known(self, path: list[str]) -> bool:
        return bool(self._outputs) and self._outputs[-1].module == path

    def _bias(self, path: list[str], bias: Array) -> tuple[Array, Array] | None:
        if not self._known(path):
            return None
        parts = sum(1 for _ in takewhile(lambda o: o.module == path, reversed(self._outputs)))
        own = self._outputs[-parts:]
        if sum(len(o.product) for o in own) != len(bias):
            return None
        # The same product through units that are open at zero input: W2 diag(act'(b1)) W1.
        product = np.concatenate([o.product for o in own]) * _slope(bias)[:, None]
        state = np.concatenate([o.state for o in own]) + bias[:, None]
        for i, part in zip(range(-parts, 0), np.split(state, parts), strict=True):
            self._outputs[i] = replace(self._outputs[i], state=part)
        return _summaries(product, state, parts)

    def _norm(self, path: tuple[str, ...], last: str, values: Array) -> tuple[Array, Array] | None:
        """Fold a BatchNorm into the nearest earlier matrix with as many outputs, once its variance is known."""
        held = self._norms.setdefault(path, {})
        held[last] = values
        if last != "running_var" or "running_mean" not in held:
            return None
        place = self._places.nearest.get(len(values))
        del self._norms[path]
        if place is None:
            return None
        deviation = np.sqrt(np.maximum(values, 0.0) + _EPSILON)
        gain: Array = np.asarray(held.get("weight", np.ones_like(values)) / deviation, dtype=np.float32)
        shift: Array = np.asarray(
            held.get("bias", np.zeros_like(values)) - held["running_mean"] * gain, dtype=np.float32
        )
        before = self._outputs[place]
        state = (before.state * gain[:, None] + shift[:, None]).astype(np.float32)
        product = (before.product * gain[:, None]).astype(np.float32)
        self._outputs[place] = replace(before, product=product, state=state)
        return _summary(product * _slope(shift)[:, None]), _summary(state)


class _Places:
    """Where the matrices of a chain are, so that the one that feeds another is found among thousands.

    Attributes:
        nearest: by number of units, the place of the last matrix that has as many.
    """

    def __init__(self) -> None:
        self.nearest: dict[int, int] = {}
        self._all: list[tuple[tuple[str, ...], int, bool, int, int]] = []  # path, source, crossed, inputs, units
        self._feeding: set[int] = set()
        # Of matrices inside a module with as many inputs, that are fed from outside their own part of it: by the name
        # of that part, without its number, the first.
        self._entering: dict[tuple[tuple[str, ...], int], dict[str, int]] = {}
        self._last: dict[tuple[tuple[str, ...], int], int] = {}  # inside a module, with as many units
        self._alike: dict[tuple[tuple[str, ...], int, int, int], int] = {}  # module, units, source, inputs: the first
        self._values: dict[tuple[tuple[str, ...], int], int] = {}  # of attention, units: the last

    def add(self, output: _Output) -> None:
        """Add the next matrix."""
        place, path, units = len(self._all), tuple(output.path), len(output.product)
        from_path = self._all[output.source][0] if output.source >= 0 else None
        self._all.append((path, output.source, output.crossed, output.inputs, units))
        if output.source >= 0:
            self._feeding.add(output.source)
        for depth in range(len(path)):
            if from_path is None or from_path[: depth + 1] != path[: depth + 1]:
                parts = self._entering.setdefault((path[:depth], output.inputs), {})
                parts.setdefault(_stem(path[depth]), place)
            self._last[path[:depth], units] = place
        self._alike.setdefault((path[:-1], units, output.source, output.inputs), place)
        if path and _VALUE.fullmatch(path[-1]):
            self._values[path[:-1], units] = place
        self.nearest[units] = place

    def fed_by(self, path: list[str], inputs: int) -> tuple[int, bool]:
        """Place of the matrix that feeds one at `path` (-1: none), and whether another module lies between."""
        if (value := self._value_of(path, inputs)) is not None:
            return value, True
        for depth in range(len(path) - 1, -1, -1):
            prefix = tuple(path[:depth])
            entering = self._entering.get((prefix, inputs), {})
            others = [place for part, place in entering.items() if part != _stem(path[depth])]
            if others:
                _, source, crossed, _, _ = self._all[min(others)]
                return source, crossed
            nearest = self._last.get((prefix, inputs))
            if nearest is not None:
                own, source, _, its_inputs, units = self._all[nearest]
                alike = self._alike[own[:-1], units, source, its_inputs]
                return (alike if source >= 0 else nearest), depth < len(path) - 1
        return -1, False

    def _value_of(self, path: list[str], inputs: int) -> int | None:
        """Place of the values of the attention that `path` is the output of; None: it is no such output."""
        if not path or _QUERY_OR_KEY.fullmatch(path[-1]) or _VALUE.fullmatch(path[-1]):
            return None
        above = [tuple(path[:depth]) for depth in range(len(path) + 1)]
        units = [*above[1:], *((*prefix, "self") for prefix in above)]
        values = [place for unit in units if (place := self._values.get((unit, inputs))) is not None]
        place = max(values, default=None)
        return None if place in self._feeding else place


def _times(matrix: Array | Tensor, right: Array) -> Array:
    if isinstance(matrix, np.ndarray):
        return times(matrix, right)
    from epsopt.zoo.fingerprints.large_matrix import large_times  # with torch, for which not everybody waits

    return large_times(matrix, right)


def _split(output: _Output) -> list[_Output]:
    """Queries, keys and values of a fused projection as three outputs; any other matrix as it is."""
    path = output.module
    thirds = len(output.product) == 3 * output.inputs
    if not path or not thirds or not _FUSED.fullmatch(path[-1]):
        return [output]
    return [
        replace(output, path=[*path[:-1], part], product=product, state=state)
        for part, product, state in zip(_PARTS, np.split(output.product, 3), np.split(output.state, 3), strict=True)
    ]


def _stem(name: str) -> str:
    """A module's name without its number: ``fc1`` and ``fc2`` follow each other, ``mu`` and ``logvar`` do not."""
    return name.rstrip("0123456789")


def _inputs(width: int) -> tuple[Array, Array]:
    return _kept_inputs(width) if width <= _KEPT_INPUTS else _kept_inputs.__wrapped__(width)


@lru_cache(maxsize=4)
def _kept_inputs(width: int) -> tuple[Array, Array]:
    """Basis (width, 16) for products and probe inputs (width, 64) for responses, of a chain of `width` inputs."""
    rng = np.random.default_rng(width)
    basis = np.zeros((width, WIDTH), dtype=np.float32)
    if width <= WIDTH:
        basis[:, :width] = np.eye(width, dtype=np.float32)
    else:
        basis = rng.standard_normal((width, WIDTH), dtype=np.float32) / np.float32(np.sqrt(WIDTH))
    probes = rng.standard_normal((width, PROBES), dtype=np.float32)
    probes[:, 0] = 0.0  # what the biases alone do
    return basis, probes


def _normalise(x: Array) -> Array:
    """Every probe's answer scaled to unit mean square: what one module hands another is of sane size."""
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=0, keepdims=True) + 1e-12), dtype=np.float32)


def _activate(x: Array) -> Array:
    """SiLU, a stand-in for whichever activation the network has, kept within a sane range."""
    x = np.clip(x, -30.0, 30.0)
    return np.asarray(x / (1.0 + np.exp(-x)), dtype=np.float32)


def _slope(bias: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-4.0 * np.clip(bias, -7.0, 7.0))), dtype=np.float32)


def _summaries(product: Array, state: Array, parts: int) -> tuple[Array, Array]:
    """Columns of a block; of a fused projection a third each of queries, keys and values."""
    if parts == 1:
        return _summary(product), _summary(state)
    places = np.array_split(np.arange(WIDTH), parts)

    def together(columns: Array) -> Array:
        each = [_summary(part).reshape(WIDTH, -1) for part in np.split(columns, parts)]
        some = [
            e[np.rint(np.linspace(0, WIDTH - 1, len(p))).astype(np.int64)] for e, p in zip(each, places, strict=True)
        ]
        return np.concatenate(some).reshape(-1)

    return together(product), together(state)


def _squash(x: NDArray[Any]) -> NDArray[Any]:
    """Signed logarithm, linear near zero: keeps features of weights of any scale comparable."""
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)))


def _summary(columns: Array) -> Array:
    """(units, k) -> 16 k numbers: the values where units are few (outputs), else quantiles over the hidden units."""
    units, k = columns.shape
    out = np.zeros((WIDTH, k), dtype=np.float32)
    if units <= WIDTH:
        out[:units] = columns
    else:
        places = np.rint(np.linspace(0, units - 1, WIDTH)).astype(np.int64)
        out[:] = order_statistics(np.ascontiguousarray(columns.T), places).T
    return _squash(out).reshape(-1).astype(np.float32)
