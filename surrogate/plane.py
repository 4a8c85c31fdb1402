"""The plane that a person sees of a map: one per map, kept with it, the same in every picture.

It is spanned by the two directions of z along which most checkpoints vary most (principal components). A refined map
keeps the plane of the map before; a map that is fitted anew turns its own so that known checkpoints lie as near as
possible to where they lay (orthogonal Procrustes, Schönemann 1966).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

Floats = NDArray[np.float64]

_FAR = 6.0  # median distances from the middle: a diverged checkpoint would turn the plane towards itself
_TAIL = 0.005  # share of checkpoints beyond each side of the frame
_MARGIN = 0.06  # of the frame's width
_ORDINALS = ("first", "second")


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane through the latent space, and the frame in which most checkpoints of a map lie.

    Attributes:
        centre: ``(latent,)`` the point of z, finite, whose coordinates are (0, 0).
        axes: ``(latent, 2)`` orthonormal directions.
        explained: share of the variance of z along each axis, 0 to 1; far-out checkpoints do not count.
        low: lower ends of the frame along both axes.
        high: upper ends.
    """

    centre: Floats
    axes: Floats
    explained: tuple[float, float]
    low: tuple[float, float]
    high: tuple[float, float]

    def coordinates(self, z: Tensor | Floats) -> Floats:
        """Project points of the latent space to the plane.

        Args:
            z: ``(n, latent)``; NaN gives NaN.

        Returns:
            ``(n, 2)`` coordinates, in units of z.
        """
        points = z.detach().double().cpu().numpy() if isinstance(z, Tensor) else np.asarray(z, dtype=np.float64)
        return np.asarray((points - self.centre) @ self.axes)

    def outside(self, coordinates: Floats) -> NDArray[np.bool_]:
        """Return which points lie outside the frame, so that whoever cuts them off can say how many.

        Args:
            coordinates: ``(n, 2)``, from :meth:`coordinates`; NaN counts as outside.

        Returns:
            ``(n,)`` booleans.
        """
        return np.asarray(~((coordinates >= self.low) & (coordinates <= self.high)).all(axis=1))

    @property
    def titles(self) -> tuple[str, str]:
        """Titles of both axes, with their shares of the variance."""
        first, second = (
            f"{name} axis ({share:.0%} of the variance)" for name, share in zip(_ORDINALS, self.explained, strict=True)
        )
        return first, second


def fit_plane(latents: Tensor) -> Plane:
    """Find the plane along which most checkpoints vary most.

    Args:
        latents: ``(n, latent)`` encoded checkpoints, finite, at least one. The plane depends on nothing else, and not
            on their order beyond rounding.

    Returns:
        The plane; of fewer than two dimensions that vary, further axes are coordinate axes.
    """
    points = latents.detach().double().cpu().numpy()
    usual = points[_usual(points)]
    centre = usual.mean(axis=0)
    _, directions = np.linalg.eigh((usual - centre).T @ (usual - centre))
    axes = directions[:, ::-1][:, :2]
    if axes.shape[1] < 2:
        axes = np.concatenate([axes, np.zeros((len(axes), 1))], axis=1)
    # A direction's sign is arbitrary: its largest component is positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]] + 1e-300)
    return plane_of(centre, axes, latents)


def plane_of(centre: Floats, axes: Floats, latents: Tensor) -> Plane:
    """Return a given plane with the shares and the frame of a map's checkpoints.

    Args:
        centre: ``(latent,)``.
        axes: ``(latent, 2)``.
        latents: ``(n, latent)`` encoded checkpoints, finite, at least one.

    Returns:
        The plane.
    """
    points = latents.detach().double().cpu().numpy()
    usual = points[_usual(points)]
    varied = (usual - usual.mean(axis=0)) @ axes
    whole = float(((usual - usual.mean(axis=0)) ** 2).sum())
    first, second = ((varied**2).sum(axis=0) / whole).tolist() if whole > 0.0 else (0.0, 0.0)
    low, high = np.quantile((usual - centre) @ axes, (_TAIL, 1.0 - _TAIL), axis=0)
    margin = np.maximum(_MARGIN * (high - low), 1e-6)
    ends = [(float(a), float(b)) for a, b in (low - margin, high + margin)]
    return Plane(centre, axes, (first, second), *ends)


def turned(plane: Plane, latents: Tensor, before: Floats) -> Plane:
    """Turn a plane in itself so that checkpoints lie as near as possible to where they lay in another map's plane.

    Args:
        plane: that of the new map.
        latents: ``(n, latent)`` the checkpoints that both maps know, as the new one encodes them.
        before: ``(n, 2)`` their coordinates in the other map's plane.

    Returns:
        The plane, rotated, mirrored and shifted, its shares and frame those of these checkpoints; itself for fewer
        than three of them.
    """
    points = latents.detach().double().cpu().numpy()
    keep = _usual(points) & _usual(before)
    if keep.sum() < 3:
        return plane
    now, then = plane.coordinates(points)[keep], before[keep]
    rotation, _ = orthogonal_procrustes(now - now.mean(axis=0), then - then.mean(axis=0))
    axes = plane.axes @ rotation
    return plane_of(points[keep].mean(axis=0) - axes @ then.mean(axis=0), axes, latents)


def _usual(points: Floats) -> NDArray[np.bool_]:
    """Rows of ``(n, d)`` that are not many times as far from the middle as most."""
    away = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    usual = away <= _FAR * np.median(away)
    return np.asarray(usual if usual.any() else np.ones(len(points), dtype=np.bool_))


def shared_rows(keys: tuple[str, ...], others: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return rows of the checkpoints that two maps know, in the first's order, as indices into each."""
    place = {key: i for i, key in enumerate(others)}
    pairs = [(i, place[key]) for i, key in enumerate(keys) if key in place]
    both = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
