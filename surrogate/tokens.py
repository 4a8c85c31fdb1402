"""Fingerprints as tokens: one vector per block, standardised block by block, ready for attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.fingerprints import FEATURES, Fingerprint

_CLIP = 6.0  # standard deviations: a block unlike any seen before must not throw the network off
_COMPONENTS = 32  # per block; the rest of its columns' variance is noise at a few hundred checkpoints


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of checkpoints as padded token sequences.

    Attributes:
        values: ``(n, blocks, components)`` float32, zero in the padding.
        layouts: ``(n,)`` int64; which row of ``kinds`` each checkpoint's blocks follow.
        kinds: ``(layouts, blocks)`` int64; which known kind each block is, 0 = none of them, -1 = padding.
    """

    values: torch.Tensor
    layouts: torch.Tensor
    kinds: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device) -> Tokens:
        """Return the same tokens on a device."""
        return Tokens(self.values.to(device), self.layouts.to(device), self.kinds.to(device))

    def take(self, rows: torch.Tensor) -> Tokens:
        """Return the given rows."""
        return Tokens(self.values[rows], self.layouts[rows], self.kinds)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Standardises each known kind of block (a name and shape) and keeps its principal components.

    Blocks of an unknown kind (another architecture) are treated as the average block is, kind 0.

    Attributes:
        kinds: names of the known kinds; kind ``i`` of a token is ``kinds[i - 1]``.
        mean: ``(1 + kinds, FEATURES)``.
        scale: ``(1 + kinds, FEATURES)``; infinite for columns that never vary.
        basis: ``(1 + kinds, FEATURES, components)``; scaled so that every component has unit variance at most.
    """

    kinds: tuple[str, ...]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    basis: NDArray[np.float32]

    @property
    def components(self) -> int:
        """Length of a token's vector."""
        return int(self.basis.shape[2])

    def __call__(self, fingerprints: Sequence[Fingerprint]) -> Tokens:
        """Turn ``n`` fingerprints into tokens."""
        index = {name: i + 1 for i, name in enumerate(self.kinds)}
        blocks = max((len(f.names) for f in fingerprints), default=0)
        n = len(fingerprints)
        kinds = np.full((n, blocks), -1, dtype=np.int64)
        values = np.zeros((n, blocks, self.components), dtype=np.float32)
        places: dict[int, list[tuple[int, int]]] = {}
        for row, fingerprint in enumerate(fingerprints):
            for column, name in enumerate(_kinds(fingerprint)):
                kind = index.get(name, 0)
                kinds[row, column] = kind
                places.setdefault(kind, []).append((row, column))
        for kind, where in places.items():
            rows, columns = np.array(where).T
            raw = np.stack([fingerprints[r].features[c] for r, c in where])
            standard = np.clip((raw - self.mean[kind]) / self.scale[kind], -_CLIP, _CLIP)
            values[rows, columns] = standard @ self.basis[kind]
        # Few architectures, many checkpoints: the kinds are kept once per architecture.
        layouts, which = np.unique(kinds, axis=0, return_inverse=True)
        return Tokens(torch.from_numpy(values), torch.from_numpy(which.reshape(-1)), torch.from_numpy(layouts))


def fit_tokenizer(fingerprints: Sequence[Fingerprint]) -> Tokenizer:
    """Learn the standardisation and the principal components of every kind of block in a zoo."""
    raw: dict[str, list[NDArray[np.float32]]] = {}
    for fingerprint in fingerprints:
        for row, name in enumerate(_kinds(fingerprint)):
            raw.setdefault(name, []).append(fingerprint.features[row])
    kinds = tuple(sorted(raw))
    pooled = np.concatenate([np.stack(raw[k][:: max(1, len(raw[k]) // 32)]) for k in kinds])
    tables = [pooled, *(np.stack(raw[k]) for k in kinds)]
    mean = np.zeros((len(tables), FEATURES), dtype=np.float32)
    scale = np.ones((len(tables), FEATURES), dtype=np.float32)
    basis = np.zeros((len(tables), FEATURES, _COMPONENTS), dtype=np.float32)
    for i, table in enumerate(tables):
        mean[i] = table.mean(axis=0)
        std = table.std(axis=0)
        # Relative to the column's size: rounding noise in a constant column must not be blown up to unit variance.
        scale[i] = np.where(std > 1e-5 * (1.0 + np.abs(mean[i])), std, np.inf)
        basis[i] = _principal(np.clip((table - mean[i]) / scale[i], -_CLIP, _CLIP))
    return Tokenizer(kinds, mean, scale, basis)


def _kinds(fingerprint: Fingerprint) -> list[str]:
    return [
        f"{name}:{'x'.join(map(str, shape))}" for name, shape in zip(fingerprint.names, fingerprint.shapes, strict=True)
    ]


def _principal(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, FEATURES) -> (FEATURES, components): leading eigenvectors, each divided by its component's deviation."""
    n = len(table)
    rows = table if n <= 1024 else table[np.linspace(0, n - 1, 1024).astype(np.int64)]
    values, vectors = np.linalg.eigh(rows @ rows.T / len(rows))
    order = np.argsort(values)[::-1][:_COMPONENTS]
    values, vectors = values[order], vectors[:, order]
    out = np.zeros((table.shape[1], _COMPONENTS), dtype=np.float32)
    # Components below a thousandth of the largest are left out: scaled up they would be noise.
    keep = values > 1e-3 * max(float(values[0]), 1e-12)
    directions = rows.T @ vectors[:, keep] / np.sqrt(values[keep] * len(rows))
    # Half-way between raw and whitened, so that large components still weigh more.
    out[:, : int(keep.sum())] = directions / np.sqrt(np.sqrt(values[keep]))
    return out
