"""The chain of weight matrices of a network: products, and what it answers to fixed probes as a generic network.

Who feeds whom is guessed (``wiring.py``). Convolutions, BatchNorm (folded into the matrix before it), embeddings, fused
projections, attention, gates and residual streams count as what they do in a network's own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.fingerprints.order_statistics import order_statistics
from epsopt.zoo.fingerprints.tiled_matmul import times
from epsopt.zoo.fingerprints.wiring import (
    Matrix,
    Path,
    Wiring,
    is_fused,
    is_gain,
    is_table,
    is_transposed,
    may_be_table,
    module_of,
)

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 16
"""Inputs and (at most) outputs of a chain that its product keeps."""
PROBES = 64
"""Probe inputs; 16 predicted much worse (docs/decisions)."""

_KEPT_INPUTS = 1 << 13  # inputs of a chain up to which its probes are kept for the next: 3 MB
_EPSILON = 1e-5  # of BatchNorm, PyTorch's default
_PARTS = ("q", "k", "v")

_NORM = ("weight", "bias", "running_mean", "running_var")
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Output:
    """What one matrix answers.

    Attributes:
        matrix: as far as wiring goes.
        module: the path of the module that holds it.
        product: ``(units, 16)`` product of the chain up to here.
        state: ``(units, 64)`` answers to the probes, before any activation.
        stream: the product and the answers of the residual stream that its own are added to; None: there is none.
    """

    matrix: Matrix
    module: Path
    product: Array
    state: Array
    stream: tuple[Array, Array] | None = None

    @property
    def handed_on(self) -> tuple[Array, Array]:
        """Product and answers with those of the residual stream."""
        if self.stream is None:
            return self.product, self.state
        return self.product + self.stream[0], self.state + self.stream[1]


class WeightChain:
    """Follows weight matrices through a network, each from what feeds it, and multiplies them up.

    A bias belongs to its own module's matrix, running statistics to the nearest earlier matrix with as many outputs. A
    wrong guess of what feeds a matrix is still a fixed function of the weights, the same for every checkpoint of an
    architecture. What a matrix reads of a residual stream is the whole of it; what is kept of a matrix is its own part.
    """

    def __init__(self) -> None:
        self._outputs: list[_Output] = []
        self._wiring = Wiring()
        self._norms: dict[Path, dict[str, Array]] = {}

    def add(self, name: str, values: Array | Tensor) -> tuple[Array, Array] | None:
        """Add the next tensor.

        Args:
            name: of the tensor in the state dict.
            values: of the tensor, finite; of two dimensions and more they may lie on another device.

        Returns:
            The block's ``PRODUCT`` and ``RESPONSE`` columns, ``(256,)`` and ``(1024,)``; ``None`` where it has none.
        """
        path = module_of(name)
        if values.ndim == 1 and isinstance(values, np.ndarray):
            last, known = name.rpartition(".")[2], self._known(path)
            if is_gain(name) and not known:
                self._wiring.add_norm(path)
            if last in _NORM and not known:
                return self._norm(path, last, values)
            return self._bias(path, values)
        if values.ndim < 2:
            return None
        table = values.ndim == 2 and is_table(name)
        if table or (values.ndim == 2 and is_transposed(path)):
            values = _transposed(values)
        # A convolution acts on a constant input as the sum over its kernel does.
        matrix = values if values.ndim == 2 else values.reshape(*values.shape[:2], -1).sum(-1)
        if values.ndim == 2 and may_be_table(name):
            as_table = self._answer(_transposed(values), (), -1, crossed=True)
            self._wiring.add_as_table(as_table.matrix.units)
            self._outputs.append(as_table)
        source, crossed = (-1, True) if table else self._wiring.fed_by(path, matrix.shape[1])
        answered = self._answer(matrix, path, source, crossed=crossed)
        answered = replace(answered, matrix=answered.matrix._replace(table=table))
        found = _split(answered)
        if len(found) == 1 and (joined := self._wiring.joins(answered.matrix)) is not None:
            place, width = joined
            stream = self._outputs[place].handed_on if place >= 0 else _inputs(width)
            found = [replace(answered, matrix=answered.matrix._replace(joins=True), stream=stream)]
        for output in found:
            self._wiring.add(output.matrix)
        self._outputs += found
        return _summaries(answered.product, answered.state, len(found))

    def _answer(self, matrix: Array | Tensor, path: Path, source: int, *, crossed: bool) -> _Output:
        """What a matrix answers to what feeds it."""
        inputs = matrix.shape[1]
        if source < 0:
            product, state = _inputs(inputs)
        else:
            product, state = self._outputs[source].handed_on
            if crossed:
                state = _normalise(state)
            else:
                state = _activate(state)
                if (gated := self._wiring.gated_by(source)) is not None:
                    state = state * self._outputs[gated].state
            if len(state) < inputs:  # grouped attention: every value is read by several heads
                product, state = (np.tile(x, (inputs // len(x), 1)) for x in (product, state))
        answered = _times(matrix, np.concatenate([product, state], axis=1))
        product, state = answered[:, :WIDTH], answered[:, WIDTH:]
        scale = max(float(np.sqrt(np.mean(product * product))), 1e-12)
        if scale > 1e3:  # an exploding chain says so in its norm columns; here it must only stay finite
            product = product * (1e3 / scale)
        return _Output(Matrix(path, source, crossed, inputs, len(product)), path, product, state)

    def _known(self, path: Path) -> bool:
        return bool(self._outputs) and self._outputs[-1].module == path

    def _bias(self, path: Path, bias: Array) -> tuple[Array, Array] | None:
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

    def _norm(self, path: Path, last: str, values: Array) -> tuple[Array, Array] | None:
        """Fold a BatchNorm into the nearest earlier matrix with as many outputs, once its variance is known."""
        held = self._norms.setdefault(path, {})
        held[last] = values
        if last != "running_var" or "running_mean" not in held:
            return None
        place = self._wiring.nearest.get(len(values))
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


def _times(matrix: Array | Tensor, right: Array) -> Array:
    if isinstance(matrix, np.ndarray):
        return times(matrix, right)
    from epsopt.zoo.fingerprints.large_matrix import large_times  # with torch, for which not everybody waits

    return large_times(matrix, right)


def _split(output: _Output) -> list[_Output]:
    """Queries, keys and values of a fused projection as three outputs; any other matrix as it is."""
    if not is_fused(output.module) or output.matrix.units != 3 * output.matrix.inputs:
        return [output]
    return [
        replace(
            output, matrix=output.matrix._replace(path=(*output.module[:-1], part), units=len(state)),
            product=product, state=state,
        )
        for part, product, state in zip(_PARTS, np.split(output.product, 3), np.split(output.state, 3), strict=True)
    ]  # fmt: skip


def _transposed(matrix: Array | Tensor) -> Array | Tensor:
    return np.ascontiguousarray(matrix.T) if isinstance(matrix, np.ndarray) else matrix.T


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
