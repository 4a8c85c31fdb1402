"""Fingerprints: what is kept of a checkpoint's weights, a kilobyte or two a tensor and at most 128 KB.

A fingerprint is a table with one row per *block* (a floating-point tensor of the state dict) and a fixed number
of columns, plus one linear sketch of the whole weight vector. Of a network with many tensors, several of one role share
a row and a few modules alone keep the last two sections (``kept_rows.py``). The columns are, in this order:

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
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.fingerprints.block_statistics import DELTA, LARGEST, STATISTICS, ScratchMemory, delta, statistics
from epsopt.zoo.fingerprints.formats import (
    DAMAGED,
    FORMAT,
    WITHOUT_FOLLOWED,
    WITHOUT_STREAMS,
    damaged,
    header_of,
    is_outdated,
    is_wired_anew,
)
from epsopt.zoo.fingerprints.kept_rows import KeptRows, kept_rows
from epsopt.zoo.fingerprints.large_matrix import LARGE, LargeMatrix
from epsopt.zoo.fingerprints.sketch import SKETCH, sketch_of
from epsopt.zoo.fingerprints.statistics_buffers import is_statistic
from epsopt.zoo.fingerprints.weight_chain import PROBES, WIDTH, WeightChain
from epsopt.zoo.fingerprints.wiring import is_followed

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
_N_STATISTICS = SECTIONS["PRODUCT"].start
_MAPS = slice(_N_STATISTICS, FEATURES)  # kept in half precision: they are squashed, and many
_N_MAPS = FEATURES - _N_STATISTICS

Array = NDArray[np.float32]


_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of one checkpoint's weights.

    Attributes:
        names: names of all tensors, in state-dict order.
        shapes: their shapes.
        statistics: ``(rows, 86)`` float32, finite: the sections ``SHAPE``, ``VALUES`` and ``DELTA``.
        maps: ``(answering, 1280)`` float16, finite: ``PRODUCT`` and ``RESPONSE`` of the rows :attr:`answering`.
        sketch: ``(SKETCH,)`` float32; linear in the weights, so distances between checkpoints of one signature are
            distances between their sketches (a count sketch: Charikar et al. 2002), and the sketch of a weighted sum
            of checkpoints is the weighted sum of their sketches.
        n_parameters: number of floating-point values in the checkpoint.
        nan_weights: number of those that are NaN. Infinite ones do not count: masks of attention hold them.
        format: version of the columns, :data:`FORMAT`, :data:`WITHOUT_STREAMS` or :data:`WITHOUT_FOLLOWED`.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    statistics: Array
    maps: NDArray[np.float16]
    sketch: Array
    n_parameters: int
    nan_weights: int = 0
    format: int = FORMAT

    @classmethod
    def of_tensors(
        cls,
        names: Sequence[str],
        shapes: Sequence[tuple[int, ...]],
        features: Array,
        sketch: Array,
        n_parameters: int,
        nan_weights: int = 0,
        version: int = FORMAT,
    ) -> Fingerprint:
        """Keep what a fingerprint keeps of columns that are known of every tensor.

        Args:
            names: of the tensors.
            shapes: of the tensors.
            features: ``(tensors, FEATURES)`` finite.
            sketch: ``(SKETCH,)`` finite.
            n_parameters: as :attr:`n_parameters`.
            nan_weights: as :attr:`nan_weights`.
            version: as :attr:`format`.

        Returns:
            The fingerprint; rows of several tensors are averages over them.
        """
        kept = _kept(tuple(names), tuple(shapes))
        statistics = np.asarray(features[:, :_N_STATISTICS], dtype=np.float32)
        if len(kept.groups) < len(names):
            # Averages over neighbours: every statistic of one role is a number of one kind.
            statistics = np.stack([statistics[list(group)].mean(axis=0) for group in kept.groups])
        maps = features[[kept.groups[row][-1] for row in kept.answering], _MAPS].astype(np.float16)
        return cls(tuple(names), tuple(shapes), statistics, maps, sketch, n_parameters, nan_weights, version)

    @property
    def kept(self) -> KeptRows:
        """Which rows there are, and which of them answer."""
        return _kept(self.names, self.shapes)

    @property
    def answering(self) -> tuple[int, ...]:
        """Rows that :attr:`maps` belong to."""
        return self.kept.answering

    @property
    def kinds(self) -> tuple[str, ...]:
        """Name and shape of each row, ``layers.0.weight:32x16``; of several tensors the shape is the first one's."""
        return _kinds(self.names, self.shapes)

    @property
    def features(self) -> Array:
        """``(rows, FEATURES)`` all sections side by side, zero where a row keeps no product and no answers."""
        table = np.zeros((len(self.statistics), FEATURES), dtype=np.float32)
        table[:, :_N_STATISTICS] = self.statistics
        table[list(self.answering), _MAPS] = self.maps
        return table

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
    def is_wired(self) -> bool:
        """Whether it may follow the network in another way than earlier formats did."""
        return self.format > WITHOUT_STREAMS and _is_wired(self.names, self.shapes)

    @property
    def is_outdated(self) -> bool:
        """Whether it may be another one if it were taken now: what it says cannot be compared with newer ones."""
        return self.format < FORMAT

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
        return _signature(tuple(names), tuple(map(tuple, shapes)), version)

    @property
    def tensor_kinds(self) -> frozenset[str]:
        """Kinds of tensors: names without their numbers, and how many dimensions they have, ``layers.#.weight (2)``."""
        pairs = zip(self.names, self.shapes, strict=True)
        return frozenset(f"{_DIGITS.sub('#', name)} ({len(shape)})" for name, shape in pairs)

    def to_bytes(self) -> bytes:
        """Return the fingerprint as bytes: JSON headers and compressed arrays; no pickle."""
        named = json.dumps({"names": self.names, "shapes": self.shapes}, separators=(",", ":")).encode()
        planes = self.statistics.astype("<f4").T.copy().view(np.uint8).reshape(-1, 4).T  # like bytes side by side
        parts = [
            zlib.compress(named),
            zlib.compress(planes.tobytes()),
            _compress(self.maps.astype("<f2").tobytes() + self.sketch.astype("<f4").tobytes()),
        ]
        header = json.dumps(
            {
                "format": FORMAT,
                "columns": self.format,
                "n_parameters": self.n_parameters,
                "parts": [len(part) for part in parts],
                **({"nan_weights": self.nan_weights} if self.nan_weights else {}),
            }
        ).encode()
        return struct.pack("<I", len(header)) + header + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Fingerprint:
        """Read what :meth:`to_bytes` wrote.

        Args:
            data: the bytes, of this format version or of one before.

        Returns:
            The fingerprint, equal to the one that was written. Of an earlier format it is what is kept now.

        Raises:
            CatalogueError: the bytes are damaged or of another format version.
        """
        header, body = header_of(data)
        try:
            names, shapes = _shared(tuple(header["names"]), tuple(tuple(s) for s in header["shapes"]))
            n_parameters, nan_weights = int(header["n_parameters"]), int(header.get("nan_weights", 0))
            if "parts" not in header:
                features, sketch = _unbounded(zlib.decompress(body), len(names))
                version = _version(min(header["format"], WITHOUT_STREAMS), names, shapes)
                return cls.of_tensors(names, shapes, features, sketch, n_parameters, nan_weights, version)
            kept, middle = _kept(names, shapes), header["parts"][1]
            planes = np.frombuffer(zlib.decompress(body[:middle]), dtype=np.uint8).reshape(4, -1)
            statistics = planes.T.copy().view("<f4").reshape(_N_STATISTICS, len(kept.groups)).T
            rest = zlib.decompress(body[middle:])
            end = 2 * len(kept.answering) * _N_MAPS
            return cls(
                names=names,
                shapes=shapes,
                statistics=np.ascontiguousarray(statistics, dtype=np.float32),
                maps=np.frombuffer(rest[:end], dtype="<f2").reshape(-1, _N_MAPS).astype(np.float16),
                sketch=np.frombuffer(rest[end:], dtype="<f4").reshape(SKETCH).astype(np.float32),
                n_parameters=n_parameters,
                nan_weights=nan_weights,
                format=_version(int(header["format"]), names, shapes),
            )
        except DAMAGED as error:
            raise damaged(error) from error


@lru_cache(maxsize=256)
def _signature(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], version: int) -> str:
    listing = json.dumps(sorted(zip(names, shapes, strict=True)), separators=(",", ":"))
    if version > WITHOUT_FOLLOWED and any(map(is_followed, names)):
        listing += f" followed since format {WITHOUT_FOLLOWED + 1}"
    if version > WITHOUT_STREAMS and is_wired_anew(names, shapes):
        listing += f" wired since format {WITHOUT_STREAMS + 1}"
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _is_wired(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> bool:
    return is_wired_anew(names, shapes)


@lru_cache(maxsize=256)
def _version(version: int, names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> int:
    """The format of kept columns; of networks of which every format sees the same, the newest."""
    return version if is_outdated(version, names, shapes) else FORMAT


def _unbounded(body: bytes, n: int) -> tuple[Array, Array]:
    """Columns and sketch of a format that kept all of every tensor."""
    first, second = 4 * n * _N_STATISTICS, 4 * n * _N_STATISTICS + 2 * n * _N_MAPS
    statistics = np.frombuffer(body[:first], dtype="<f4").reshape(n, _N_STATISTICS)
    maps = np.frombuffer(body[first:second], dtype="<f2").reshape(n, _N_MAPS)
    features = np.concatenate([statistics, maps.astype(np.float32)], axis=1)
    return features, np.frombuffer(body[second:], dtype="<f4").reshape(SKETCH).astype(np.float32)


@lru_cache(maxsize=256)
def _shared(
    names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """The same names and shapes; checkpoints of one architecture share the first ones that came."""
    return names, shapes


@lru_cache(maxsize=256)
def _kept(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> KeptRows:
    return kept_rows(names, tuple(map(len, shapes)))


@lru_cache(maxsize=256)
def _kinds(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    kept = _kept(names, shapes)
    first = (shapes[group[0]] for group in kept.groups)
    return tuple(f"{name}:{'x'.join(map(str, shape))}" for name, shape in zip(kept.names, first, strict=True))


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
        rows.append(row)
    features = np.stack(rows) if rows else np.zeros((0, FEATURES), dtype=np.float32)
    return Fingerprint.of_tensors(names, shapes, features, sketch.astype(np.float32), n_parameters, nan_weights)


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
