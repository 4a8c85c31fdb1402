"""Fingerprints: what is kept of a checkpoint's weights, tens of kilobytes whatever the model's size.

A fingerprint is a table with one row per *block* (a floating-point tensor of the state dict) and a fixed number
of columns, plus one linear sketch of the whole weight vector. The columns are, in this order:

``SHAPE``      log-sizes of the block;
``VALUES``     moments, quantiles, row and column norms and leading singular values of the block
               (Unterthiner et al. 2020, "Predicting Neural Network Accuracy from Weights", extended);
``DELTA``      the same of the block minus the lineage's reference, and its cosine with it;
``PRODUCT``    the product of the chain of consecutive weight matrices that ends in the block, seen from the chain's
               input: no permutation of hidden units changes it (the best single view of what a network does);
``RESPONSE``   what the chain, run as a network with a generic activation, answers to 64 fixed probe inputs (in the
               spirit of ProbeGen, Kahana et al. 2025): the values of up to 16 outputs, of wider layers quantiles over
               the units. A layer with a bias has them once, in the bias's row.

Everything is streamed: one tensor is looked at at a time, and of the earlier ones only (rows x 80) products are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.errors import CatalogueError
from epsopt.zoo.fingerprints.block_statistics import DELTA, STATISTICS, ScratchMemory, delta, statistics
from epsopt.zoo.fingerprints.order_statistics import order_statistics
from epsopt.zoo.fingerprints.tiled_matmul import times

FORMAT = 2
"""Raised with every change of the columns, so that an old fingerprint is never compared with a new one."""

SKETCH = 2048
_WIDTH = 16  # chain inputs and (at most) outputs that PRODUCT keeps
_PROBES = 64  # 16 predicted much worse (docs/decisions)
_LARGEST = 1e9  # larger weights count as this: their squares must stay within float32
_SIGN_PERIOD = 65_521  # prime, so that it never lines up with a power-of-two row length
_KEPT_INPUTS = 1 << 13  # inputs of a chain up to which its probes are kept for the next: 3 MB
_LONG = 32  # weights of a bucket from which on BLAS adds them up faster
_SIGNED = 1 << 16  # weights that are given their signs at a time

_N_SHAPE = 4
_N_PRODUCT = _WIDTH * _WIDTH
_N_RESPONSE = _WIDTH * _PROBES

SECTIONS: dict[str, slice] = {}
_start = 0
for _name, _size in (
    ("SHAPE", _N_SHAPE),
    ("VALUES", STATISTICS),
    ("DELTA", DELTA),
    ("PRODUCT", _N_PRODUCT),
    ("RESPONSE", _N_RESPONSE),
):
    SECTIONS[_name] = slice(_start, _start + _size)
    _start += _size
FEATURES = _start
"""Number of columns of :attr:`Fingerprint.features`."""
_MAPS = slice(SECTIONS["PRODUCT"].start, FEATURES)  # kept in half precision: they are squashed, and many

Array = NDArray[np.float32]


_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of one checkpoint's weights.

    Attributes:
        names: tensor names, one per block, in state-dict order.
        shapes: tensor shapes, one per block.
        features: ``(blocks, FEATURES)`` float32, finite.
        sketch: ``(SKETCH,)`` float32; linear in the weights, so distances between checkpoints of one signature are
            distances between their sketches (a count sketch: Charikar et al. 2002), and the sketch of a weighted sum
            of checkpoints is the weighted sum of their sketches.
        n_parameters: number of floating-point values in the checkpoint.
        nan_weights: number of those that are NaN. Infinite ones do not count: masks of attention hold them.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    features: Array
    sketch: Array
    n_parameters: int
    nan_weights: int = 0

    @property
    def refusal(self) -> str | None:
        """Why nothing can be said of these weights: some are NaN; None: none is."""
        if not self.nan_weights:
            return None
        return f"{self.nan_weights:,} of its {self.n_parameters:,} weights are NaN"

    @property
    def signature(self) -> str:
        """Digest of names and shapes, in any order: checkpoints of one signature can be compared tensor by tensor."""
        return self.signature_of(self.names, self.shapes)

    @staticmethod
    def signature_of(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> str:
        """Return the signature of tensors with these names and shapes.

        Args:
            names: of the tensors, in any order.
            shapes: of the same tensors.
        """
        listing = json.dumps(sorted(zip(names, shapes, strict=True)), separators=(",", ":"))
        return hashlib.sha256(listing.encode()).hexdigest()[:16]

    @property
    def tensor_kinds(self) -> frozenset[str]:
        """Kinds of tensors: names without their numbers, and how many dimensions they have, ``layers.#.weight (2)``."""
        pairs = zip(self.names, self.shapes, strict=True)
        return frozenset(f"{_DIGITS.sub('#', name)} ({len(shape)})" for name, shape in pairs)

    def to_bytes(self) -> bytes:
        """Return the fingerprint as bytes: a JSON header and compressed arrays; no pickle."""
        header = json.dumps(
            {
                "format": FORMAT,
                "names": self.names,
                "shapes": self.shapes,
                "n_parameters": self.n_parameters,
                **({"nan_weights": self.nan_weights} if self.nan_weights else {}),
            }
        ).encode()
        statistics, maps = self.features[:, : _MAPS.start], self.features[:, _MAPS]
        body = statistics.astype("<f4").tobytes() + maps.astype("<f2").tobytes() + self.sketch.astype("<f4").tobytes()
        return struct.pack("<I", len(header)) + header + _compress(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> Fingerprint:
        """Read what :meth:`to_bytes` wrote.

        Args:
            data: the bytes, of this format version.

        Returns:
            The fingerprint, equal to the one that was written.

        Raises:
            CatalogueError: the bytes are damaged or of another format version.
        """
        try:
            (length,) = struct.unpack_from("<I", data)
            header = json.loads(data[4 : 4 + length])
            _check_format(header["format"])
            body = zlib.decompress(data[4 + length :])
            names = tuple(header["names"])
            n = len(names)
            first, second = 4 * n * _MAPS.start, 4 * n * _MAPS.start + 2 * n * (FEATURES - _MAPS.start)
            statistics = np.frombuffer(body[:first], dtype="<f4").reshape(n, _MAPS.start)
            maps = np.frombuffer(body[first:second], dtype="<f2").reshape(n, FEATURES - _MAPS.start)
            return cls(
                names=names,
                shapes=tuple(tuple(s) for s in header["shapes"]),
                features=np.concatenate([statistics, maps.astype(np.float32)], axis=1),
                sketch=np.frombuffer(body[second:], dtype="<f4").reshape(SKETCH).astype(np.float32),
                n_parameters=int(header["n_parameters"]),
                nan_weights=int(header.get("nan_weights", 0)),
            )
        except (struct.error, ValueError, KeyError, TypeError, zlib.error) as error:
            raise CatalogueError(
                f"a fingerprint in the catalogue is damaged ({error}): ingest the runs again into a new catalogue"
            ) from error


def fingerprint(
    tensors: Iterable[tuple[str, torch.Tensor]],
    reference: Callable[[str], torch.Tensor | None] | None = None,
) -> Fingerprint:
    """Fingerprint a checkpoint, streaming over its tensors.

    Args:
        tensors: ``(name, tensor)`` pairs in state-dict order; tensors that hold no floating-point values are skipped.
            NaN and infinite weights count as zero (a diverged run still gets a fingerprint).
        reference: returns the same tensor of the lineage's reference checkpoint, or ``None`` where it has none.
            Without it the checkpoint is its own reference: its ``DELTA`` columns are zero.

    Returns:
        The fingerprint; finite whatever the weights.
    """
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    rows: list[Array] = []
    sketch = np.zeros(SKETCH, dtype=np.float64)
    chain = _Chain()
    workspace = ScratchMemory()
    n_parameters = nan_weights = 0
    for name, tensor in tensors:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        values = _float32(tensor)
        try:
            described, squares = statistics(_matrix(values), _LARGEST**2)
        except OverflowError:
            nan_weights += int(np.count_nonzero(np.isnan(values)))
            values = _clipped(values)
            described, squares = statistics(_matrix(values))
        names.append(name)
        shapes.append(tuple(tensor.shape))
        n_parameters += values.size
        sketch += _sketch(name, values.reshape(-1))
        row = np.zeros(FEATURES, dtype=np.float32)
        matrix = _matrix(values)
        row[SECTIONS["SHAPE"]] = [
            np.log1p(values.size),
            values.ndim,
            np.log1p(len(matrix)),
            np.log1p(matrix.shape[1]),
        ]
        row[SECTIONS["VALUES"]] = described
        base = reference(name) if reference is not None else None
        if base is not None and base.shape == tensor.shape:
            former = _matrix(_float32(base))
            try:
                row[SECTIONS["DELTA"]] = delta(matrix, squares, former, workspace, _LARGEST**2)
            except OverflowError:
                row[SECTIONS["DELTA"]] = delta(matrix, squares, _clipped(former), workspace)
        maps = chain.add(name, values)
        if maps is not None:
            row[SECTIONS["PRODUCT"]], row[SECTIONS["RESPONSE"]] = maps
            if values.ndim == 1:  # the answer with the bias replaces the one without
                rows[-1][SECTIONS["RESPONSE"]] = 0.0
        row = np.nan_to_num(row, posinf=1e6, neginf=-1e6)
        row[_MAPS] = row[_MAPS].astype(np.float16)
        rows.append(row)
    features = np.stack(rows) if rows else np.zeros((0, FEATURES), dtype=np.float32)
    return Fingerprint(tuple(names), tuple(shapes), features, sketch.astype(np.float32), n_parameters, nan_weights)


def _compress(body: bytes) -> bytes:
    # Zeros and repeats are all that can be saved: a search for more takes twice the time for 5 % of the size.
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return packer.compress(body) + packer.flush()


def sketch_distance(a: Array, b: Array) -> float:
    """Relative distance of two checkpoints of one signature, from their sketches.

    Args:
        a: ``(SKETCH,)`` sketch of the first; finite, as every sketch is.
        b: ``(SKETCH,)`` sketch of the second.

    Returns:
        ``|a - b| / max(|a|, |b|)``: about 1.4 for independent initialisations, far below 1 for fine-tunes of one base.
    """
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)), 1e-12)
    return float(np.linalg.norm(a - b)) / scale


def _check_format(found: object) -> None:
    if found != FORMAT:
        raise CatalogueError(
            f"a fingerprint in the catalogue has format {found}, expected {FORMAT}: "
            "ingest the runs again into a new catalogue"
        )


def _float32(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().to(torch.float32).numpy()
    return values


def _matrix(values: Array) -> Array:
    return values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)


def _finite(tensor: torch.Tensor) -> Array:
    values = _float32(tensor)
    flat = values.reshape(-1)
    if float(np.dot(flat, flat)) <= _LARGEST**2:  # one pass tells that none is larger, and none not a number
        return values
    return _clipped(values)


def _clipped(values: Array) -> Array:
    if float(values.min()) >= -_LARGEST and float(values.max()) <= _LARGEST:
        return values
    return np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), -_LARGEST, _LARGEST)


def _squash(x: NDArray[Any]) -> NDArray[Any]:
    """Signed logarithm, linear near zero: keeps features of weights of any scale comparable."""
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)))


@lru_cache(maxsize=1)
def _signs() -> Array:
    """Return the period of random signs, and as much of it again as one look may need."""
    signs = np.random.default_rng(20_250_101).choice(np.array([-1.0, 1.0], dtype=np.float32), _SIGN_PERIOD)
    return np.resize(signs, 2 * _SIGN_PERIOD + _SIGNED)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _sketch(name: str, flat: Array) -> NDArray[np.float64]:
    """Add each weight, with a random sign, to one of SKETCH buckets; linear, and norm-preserving in expectation."""
    seed = _digest(name)
    signs, first = _signs(), -seed % _SIGN_PERIOD
    out = np.zeros(SKETCH, dtype=np.float64)
    step = _SIGN_PERIOD * SKETCH
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        length = -(-part.size // SKETCH)  # weights per bucket, rounded up; the last bucket may have fewer
        full = part.size // length
        together = max(1, _SIGNED // length)  # buckets that are looked at together, while they are in the cache
        for bucket in range(0, full, together):
            n, at = min(together, full - bucket), bucket * length
            sign = (first + at) % _SIGN_PERIOD
            weights, signed = part[at : at + n * length], signs[sign : sign + n * length]
            if length < _LONG:
                out[bucket : bucket + n] += (weights * signed).reshape(n, length).sum(axis=1)
            else:  # products of a row and a column: BLAS takes a third of the time of multiplying, then adding up
                out[bucket : bucket + n] += (weights.reshape(n, 1, -1) @ signed.reshape(n, -1, 1))[:, 0, 0]
        rest = part[full * length :]
        if rest.size:
            sign = (first + full * length) % _SIGN_PERIOD
            out[full] += float((rest * signs[sign : sign + rest.size]).sum())
    return np.roll(out, seed % SKETCH)


@dataclass(frozen=True, eq=False)
class _Output:
    """One matrix as the chain sees it.

    Attributes:
        path: its module's path.
        source: place of the matrix that it is fed by; -1: fresh probes.
        crossed: whether `source` lies in another module, so that no activation is assumed between them.
        inputs: how many inputs it has.
        product: ``(units, 16)`` product of the chain up to here.
        state: ``(units, 64)`` answers to the probes, before any activation.
    """

    path: list[str]
    source: int
    crossed: bool
    inputs: int
    product: Array
    state: Array


class _Chain:
    """Follows consecutive weight matrices through a state dict and multiplies them up.

    Who feeds whom is not in a state dict; it is guessed from names and sizes, from the innermost module outwards. A
    matrix that takes as many inputs as a differently named earlier sibling (``mu`` and ``logvar``, ``q`` and ``k``) is
    fed like it; otherwise by the nearest earlier matrix with as many outputs (of parallel ones, the first); and when
    there is none, by fresh probes. A bias belongs to its own module's matrix. A wrong guess is still a fixed function
    of the weights, the same for every checkpoint of an architecture.
    """

    def __init__(self) -> None:
        self._outputs: list[_Output] = []

    def add(self, name: str, values: Array) -> tuple[Array, Array] | None:
        path = name.split(".")[:-1]
        if values.ndim == 1:
            return self._bias(path, values)
        if values.ndim < 2:
            return None
        # A convolution acts on a constant input as the sum over its kernel does.
        matrix = values if values.ndim == 2 else values.reshape(*values.shape[:2], -1).sum(axis=2)
        inputs = matrix.shape[1]
        source, crossed = self._fed_by(path, inputs)
        if source < 0:
            product, state = _inputs(inputs)
        else:
            before = self._outputs[source]
            product = before.product
            state = _normalise(before.state) if crossed else _activate(before.state)
        answered = times(matrix, np.concatenate([product, state], axis=1))
        product, state = answered[:, :_WIDTH], answered[:, _WIDTH:]
        scale = max(float(np.sqrt(np.mean(product * product))), 1e-12)
        if scale > 1e3:  # an exploding chain says so in its norm columns; here it must only stay finite
            product = product * (1e3 / scale)
        self._outputs.append(_Output(path, source, crossed, inputs, product, state))
        return _summary(product), _summary(state)

    def _bias(self, path: list[str], bias: Array) -> tuple[Array, Array] | None:
        if not self._outputs or self._outputs[-1].path != path or len(self._outputs[-1].product) != len(bias):
            return None
        last = self._outputs[-1]
        state = last.state + bias[:, None]
        # The same product through units that are open at zero input: W2 diag(act'(b1)) W1.
        self._outputs[-1] = replace(last, state=state)
        return _summary(last.product * _slope(bias)[:, None]), _summary(state)

    def _fed_by(self, path: list[str], inputs: int) -> tuple[int, bool]:
        """Place of the matrix that feeds one at `path` (-1: none), and whether another module lies between."""
        for depth in range(len(path) - 1, -1, -1):
            inside = [i for i, o in enumerate(self._outputs) if o.path[:depth] == path[:depth] and len(o.path) > depth]
            for i in inside:
                other = self._outputs[i]
                enters = other.source < 0 or other.source not in _under(self._outputs, other.path[: depth + 1])
                if other.inputs == inputs and enters and _stem(other.path[depth]) != _stem(path[depth]):
                    return other.source, other.crossed
            fitting = [i for i in inside if len(self._outputs[i].product) == inputs]
            if fitting:
                nearest = self._outputs[fitting[-1]]
                alike = [i for i in fitting if self._outputs[i].source == nearest.source
                         and self._outputs[i].inputs == nearest.inputs
                         and self._outputs[i].path[:-1] == nearest.path[:-1]]  # fmt: skip
                return (alike[0] if nearest.source >= 0 else fitting[-1]), depth < len(path) - 1
        return -1, False


def _under(outputs: list[_Output], prefix: list[str]) -> set[int]:
    return {i for i, o in enumerate(outputs) if o.path[: len(prefix)] == prefix}


def _stem(name: str) -> str:
    """A module's name without its number: ``fc1`` and ``fc2`` follow each other, ``mu`` and ``logvar`` do not."""
    return name.rstrip("0123456789")


def _inputs(width: int) -> tuple[Array, Array]:
    return _kept_inputs(width) if width <= _KEPT_INPUTS else _kept_inputs.__wrapped__(width)


@lru_cache(maxsize=4)
def _kept_inputs(width: int) -> tuple[Array, Array]:
    """Basis (width, 16) for products and probe inputs (width, 64) for responses, of a chain of `width` inputs."""
    rng = np.random.default_rng(width)
    basis = np.zeros((width, _WIDTH), dtype=np.float32)
    if width <= _WIDTH:
        basis[:, :width] = np.eye(width, dtype=np.float32)
    else:
        basis = rng.standard_normal((width, _WIDTH), dtype=np.float32) / np.float32(np.sqrt(_WIDTH))
    probes = rng.standard_normal((width, _PROBES), dtype=np.float32)
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


def _summary(columns: Array) -> Array:
    """(units, k) -> 16 k numbers: the values where units are few (outputs), else quantiles over the hidden units."""
    units, k = columns.shape
    out = np.zeros((_WIDTH, k), dtype=np.float32)
    if units <= _WIDTH:
        out[:units] = columns
    else:
        places = np.rint(np.linspace(0, units - 1, _WIDTH)).astype(np.int64)
        out[:] = order_statistics(np.ascontiguousarray(columns.T), places).T
    return _squash(out).reshape(-1).astype(np.float32)
