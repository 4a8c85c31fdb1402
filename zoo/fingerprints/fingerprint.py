"""Fingerprints: what is kept of a checkpoint's weights, a kilobyte or two a tensor whatever its size.

A fingerprint is a table with one row per *block* (a floating-point tensor of the state dict) and a fixed number
of columns, plus one linear sketch of the whole weight vector. The columns are, in this order:

``SHAPE``      log-sizes of the block;
``VALUES``     moments, quantiles, row and column norms and leading singular values of the block
               (Unterthiner et al. 2020, "Predicting Neural Network Accuracy from Weights", extended);
``DELTA``      the same of the block minus the lineage's reference, and its cosine with it;
``PRODUCT``    the product of the chain of consecutive weight matrices that ends in the block, seen from the chain's
               input: no permutation of hidden units changes it (the best single view of what a network does);
               ``weight_chain.py``;
``RESPONSE``   what the chain, run as a network with a generic activation, answers to 64 fixed probe inputs (in the
               spirit of ProbeGen, Kahana et al. 2025): the values of up to 16 outputs, of wider layers quantiles over
               the units. A layer with a bias has them once, in the bias's row.

Everything is streamed: one tensor is looked at at a time, and of the earlier ones only (rows x 80) products are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.fingerprints.block_statistics import DELTA, LARGEST, STATISTICS, ScratchMemory, delta, statistics
from epsopt.zoo.fingerprints.formats import DAMAGED, FORMAT, WITHOUT_FOLLOWED, damaged, header_of
from epsopt.zoo.fingerprints.large_matrix import LARGE, LargeMatrix
from epsopt.zoo.fingerprints.sketch import SKETCH, sketch_of
from epsopt.zoo.fingerprints.statistics_buffers import is_statistic
from epsopt.zoo.fingerprints.weight_chain import PROBES, WIDTH, WeightChain, is_followed

_N_SHAPE = 4
_N_PRODUCT = WIDTH * WIDTH
_N_RESPONSE = WIDTH * PROBES

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
        format: version of the columns, :data:`FORMAT` or :data:`WITHOUT_FOLLOWED`.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    features: Array
    sketch: Array
    n_parameters: int
    nan_weights: int = 0
    format: int = FORMAT

    @property
    def refusal(self) -> str | None:
        """Why nothing can be said of these weights: some are NaN; None: none is."""
        if not self.nan_weights:
            return None
        return f"{self.nan_weights:,} of its {self.n_parameters:,} weights are NaN"

    @property
    def is_followed(self) -> bool:
        """Whether it follows parts of the network that an earlier format did not."""
        return self.format > WITHOUT_FOLLOWED and any(map(is_followed, self.names))

    @property
    def signature(self) -> str:
        """Digest of names and shapes, in any order: checkpoints of one signature can be compared tensor by tensor.

        Where an earlier format saw less of a network, its signature is another one: no map takes one for the other.
        """
        return self.signature_of(self.names, self.shapes, self.format)

    @staticmethod
    def signature_of(names: Sequence[str], shapes: Sequence[tuple[int, ...]], version: int = FORMAT) -> str:
        """Return the signature of tensors with these names and shapes.

        Args:
            names: of the tensors, in any order.
            shapes: of the same tensors.
            version: format of the fingerprint.
        """
        listing = json.dumps(sorted(zip(names, shapes, strict=True)), separators=(",", ":"))
        if version > WITHOUT_FOLLOWED and any(map(is_followed, names)):
            listing += f" followed since format {WITHOUT_FOLLOWED + 1}"
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
                "format": self.format,
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
        header, start = header_of(data)
        try:
            body = zlib.decompress(data[start:])
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
                format=int(header["format"]),
            )
        except DAMAGED as error:
            raise damaged(error) from error


def fingerprint(
    tensors: Iterable[tuple[str, torch.Tensor]],
    reference: Callable[[str], torch.Tensor | None] | None = None,
    device: torch.device | None = None,
) -> Fingerprint:
    """Fingerprint a checkpoint, streaming over its tensors.

    Args:
        tensors: ``(name, tensor)`` pairs in state-dict order; tensors that hold no floating-point values are skipped.
            NaN and infinite weights count as zero (a diverged run still gets a fingerprint).
        reference: returns the same tensor of the lineage's reference checkpoint, or ``None`` where it has none.
            Without it the checkpoint is its own reference: its ``DELTA`` columns are zero.
        device: of a GPU, for matrices of :data:`epsopt.zoo.fingerprints.large_matrix.LARGE` values and more, as long as
            it works and has memory for them; None: everything is computed on the processor. Both agree up to rounding.

    Returns:
        The fingerprint; finite whatever the weights.
    """
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    rows: list[Array] = []
    sketch = np.zeros(SKETCH, dtype=np.float64)
    chain = WeightChain()
    workspace = ScratchMemory()
    n_parameters = nan_weights = 0
    for name, tensor in tensors:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        names.append(name)
        shapes.append(tuple(tensor.shape))
        n_parameters += tensor.numel()
        base = reference(name) if reference is not None else None
        base = base if base is not None and base.shape == tensor.shape else None
        found = None
        if device is not None and tensor.ndim > 1 and tensor.numel() >= LARGE:
            with contextlib.suppress(torch.OutOfMemoryError, torch.AcceleratorError):
                found = _look(name, LargeMatrix(tensor, device), base, chain)
        row, part, broken, followed = found or _look(name, _Block(tensor, workspace), base, chain)
        sketch += part
        nan_weights += broken
        if followed and tensor.ndim == 1 and not is_statistic(name):  # the answer with the bias replaces it
            rows[-1][SECTIONS["RESPONSE"]] = 0.0
        row = np.nan_to_num(row, posinf=1e6, neginf=-1e6)
        row[_MAPS] = row[_MAPS].astype(np.float16)
        rows.append(row)
    features = np.stack(rows) if rows else np.zeros((0, FEATURES), dtype=np.float32)
    return Fingerprint(tuple(names), tuple(shapes), features, sketch.astype(np.float32), n_parameters, nan_weights)


def _look(
    name: str, block: _Block | LargeMatrix, base: torch.Tensor | None, chain: WeightChain
) -> tuple[Array, NDArray[np.float64], int, bool]:
    """Return the columns of one tensor, its part of the sketch, its NaN weights, and whether the chain has it."""
    broken, (rows, columns) = 0, block.matrix.shape
    try:
        described, squares = block.statistics(LARGEST**2)
    except OverflowError:
        broken = block.clip()
        described, squares = block.statistics()
    row = np.zeros(FEATURES, dtype=np.float32)
    row[SECTIONS["SHAPE"]] = [np.log1p(rows * columns), block.values.ndim, np.log1p(rows), np.log1p(columns)]
    row[SECTIONS["VALUES"]] = described
    if base is not None:
        row[SECTIONS["DELTA"]] = block.delta(squares, base)
    maps = chain.add(name, block.values)
    if maps is not None:
        row[SECTIONS["PRODUCT"]], row[SECTIONS["RESPONSE"]] = maps
    return row, block.sketch(name), broken, maps is not None


class _Block:
    """A tensor on the processor, with what a fingerprint asks of it; :class:`.large_matrix.LargeMatrix` on a GPU."""

    def __init__(self, tensor: torch.Tensor, workspace: ScratchMemory) -> None:
        self.values, self._workspace = _float32(tensor), workspace

    @property
    def matrix(self) -> Array:
        return _matrix(self.values)

    def statistics(self, most: float = np.inf) -> tuple[Array, float]:
        return statistics(self.matrix, most)

    def clip(self) -> int:
        broken = int(np.count_nonzero(np.isnan(self.values)))
        self.values = _clipped(self.values)
        return broken

    def delta(self, squares: float, base: torch.Tensor) -> Array:
        former = _matrix(_float32(base))
        try:
            return delta(self.matrix, squares, former, self._workspace, LARGEST**2)
        except OverflowError:
            return delta(self.matrix, squares, _clipped(former), self._workspace)

    def sketch(self, name: str) -> NDArray[np.float64]:
        return sketch_of(name, self.values.reshape(-1))


def _compress(body: bytes) -> bytes:
    # Zeros and repeats are all that can be saved: a search for more takes twice the time for 5 % of the size.
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return packer.compress(body) + packer.flush()


def _float32(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().to(torch.float32).numpy()
    return values


def _matrix(values: Array) -> Array:
    return values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)


def _finite(tensor: torch.Tensor) -> Array:
    values = _float32(tensor)
    flat = values.reshape(-1)
    if float(np.dot(flat, flat)) <= LARGEST**2:  # one pass tells that none is larger, and none not a number
        return values
    return _clipped(values)


def _clipped(values: Array) -> Array:
    if float(values.min()) >= -LARGEST and float(values.max()) <= LARGEST:
        return values
    return np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), -LARGEST, LARGEST)
