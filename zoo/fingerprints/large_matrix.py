"""A large matrix on a GPU: what a fingerprint asks of it, as :mod:`.block_statistics` answers on the processor.

The same quantities, the same random probes, sums in double precision. What the two answer differs by the rounding of
single precision alone (tests/zoo/fingerprints/test_large_matrix.py; benchmarks/gpu.py has the figures).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.zoo.fingerprints.block_statistics import (
    DIRECT,
    LARGEST,
    SAMPLE,
    describe,
    leading_values,
    probes_for,
    relative_to,
)
from epsopt.zoo.fingerprints.moments import Moments
from epsopt.zoo.fingerprints.sketch import SKETCH, SketchPlan

Array = NDArray[np.float32]

LARGE = 1 << 22
"""Values from which on a matrix is worth the way to a GPU: 16 MB."""

_TOGETHER = 1 << 25  # values that are looked at in double precision at a time: 256 MB


class LargeMatrix:
    """A tensor on a GPU.

    Args:
        tensor: of at least two dimensions and any floating-point type, none of them empty; it is copied to the device.
        device: of the GPU.

    Attributes:
        values: the tensor in single precision, on the device.
    """

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        self.values = tensor.detach().to(device).float()

    @property
    def matrix(self) -> Tensor:
        """``(rows, columns)`` view of the values."""
        return self.values.reshape(len(self.values), -1)

    def statistics(self, most: float = np.inf) -> tuple[Array, float]:
        """Return what :func:`epsopt.zoo.fingerprints.block_statistics.statistics` does; errors, too, are the same."""
        matrix, n = self.matrix, self.values.numel()
        row_squares = torch.cat([part.square().sum(dim=1) for part in _pieces(matrix)])
        energy = float(row_squares.sum())
        if not energy <= most:
            raise OverflowError(f"the sum of a block's squares is {energy:.3g}, expected at most {most:.3g}")
        mean = sum(float(part.sum()) for part in _pieces(matrix)) / n
        powers = torch.zeros(4, dtype=torch.float64, device=matrix.device)
        column_squares = torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device)
        for part in _pieces(matrix):
            column_squares += part.square().sum(dim=0)
            magnitude = part.abs().sum()
            away = part - mean
            squares = away.square()
            powers += torch.stack([squares.sum(), (squares * away).sum(), squares.square().sum(), magnitude])
        sample = matrix.reshape(-1)[:: 1 if n <= SAMPLE else n // SAMPLE + 1]
        described = describe(
            Moments.of(n, mean, *powers.tolist()), _here(sample), _here(row_squares), _here(column_squares),
            _singular_values(matrix), energy,
        )  # fmt: skip
        return described, energy

    def clip(self) -> int:
        """Let NaN and infinite weights count as zero, larger ones as the largest; return how many were NaN."""
        broken = int(torch.isnan(self.values).sum())
        self.values = _clipped(self.values)
        return broken

    def delta(self, squares: float, base: Tensor) -> Array:
        """Return what :func:`epsopt.zoo.fingerprints.block_statistics.delta` does.

        Args:
            squares: sum of this matrix's squares.
            base: the reference, of the same shape; it is copied to the device, too large weights are clipped.
        """
        reference = LargeMatrix(base, self.values.device)
        former = reference._squares()
        if not former <= LARGEST**2:
            reference.clip()
            former = reference._squares()
        pairs = zip(_pieces(self.matrix), _pieces(reference.matrix), strict=True)
        across = sum(float((mine * others).sum()) for mine, others in pairs)
        reference.values = torch.sub(self.values, reference.values, out=reference.values)
        described, energy = reference.statistics()
        return relative_to(described, energy, squares, former, across)

    def sketch(self, name: str) -> NDArray[np.float64]:
        """Return what :func:`epsopt.zoo.fingerprints.sketch.sketch_of` does."""
        plan, flat = SketchPlan(name), self.values.reshape(-1)
        signs = torch.from_numpy(plan.signs).to(flat.device)
        out = torch.zeros(SKETCH, dtype=torch.float64, device=flat.device)
        for start, length in plan.parts(len(flat)):
            part = flat[start : start + length * SKETCH]
            repeats = -(-len(part) // len(signs)) + 1
            signed = part * signs.repeat(repeats)[plan.first_sign : plan.first_sign + len(part)]
            full = len(part) // length
            out[:full] += signed[: full * length].reshape(full, length).sum(dim=1, dtype=torch.float64)
            if full * length < len(part):
                out[full] += signed[full * length :].sum(dtype=torch.float64)
        return plan.placed(out.cpu().numpy())

    def _squares(self) -> float:
        return sum(float(part.square().sum()) for part in _pieces(self.matrix))


def large_times(matrix: Tensor, right: Array) -> Array:
    """Return ``matrix @ right`` of a matrix on a device and ``(columns, k)`` here: ``(rows, k)``."""
    return _here(matrix @ torch.from_numpy(np.ascontiguousarray(right)).to(matrix.device))


def _pieces(matrix: Tensor) -> Iterator[Tensor]:
    """Give all rows in double precision, some at a time."""
    height = max(1, _TOGETHER // matrix.shape[1])
    for start in range(0, len(matrix), height):
        yield matrix[start : start + height].double()


def _clipped(values: Tensor) -> Tensor:
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clamp(-LARGEST, LARGEST)


def _singular_values(matrix: Tensor) -> Array:
    """Leading singular values, by the steps of :mod:`.block_statistics` and with its probes."""
    rows, columns = matrix.shape
    tall = rows > columns
    if min(rows, columns) <= DIRECT:
        return leading_values(_here(matrix.T @ matrix if tall else matrix @ matrix.T))
    probe = torch.from_numpy(np.array(probes_for(max(rows, columns)))).to(matrix.device)
    begun = matrix.T @ probe if tall else matrix.T @ (matrix @ probe)
    basis, _ = torch.linalg.qr(matrix.T @ (matrix @ begun) if tall else matrix @ begun)
    small = matrix @ basis if tall else matrix.T @ basis
    return leading_values(_here(small.T @ small))


def _here(values: Tensor) -> Array:
    found: Array = values.float().cpu().numpy()
    return found
