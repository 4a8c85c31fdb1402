"""A checkpoint's anchor embeddings, predicted and real, flattened to pictures.

Predicted and real points always share one projection, learned from
the real ones where there are some, so that what differs in the picture differs in the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

Floats = NDArray[np.float64]

_RIM = 1.0 - 1e-5
_NEIGHBOURS = 30.0  # t-SNE's perplexity, where there are enough anchors for it


@dataclass(frozen=True, eq=False)
class Preview:
    """Embeddings and their pictures.

    Attributes:
        predicted: ``(anchors, dim)``.
        real: ``(anchors, dim)``, or None.
        pca: ``(anchors, 2)`` of each that there is, by ``"predicted"`` and ``"real"``.
        tsne: likewise.
        disc: likewise, in the unit disc: directions by two components, radii as in the ball; None when the embeddings
            do not lie in a ball.
        explained: share of the variance that the two principal components hold.
        cosine: mean cosine of predicted and real point; None without real ones.
        distance_correlation: Spearman's correlation of their pairwise distances; None without real ones.
    """

    predicted: Floats
    real: Floats | None
    pca: dict[str, Floats]
    tsne: dict[str, Floats]
    disc: dict[str, Floats] | None
    explained: float
    cosine: float | None
    distance_correlation: float | None


def preview(predicted: Floats, real: Floats | None = None, *, ball: bool = False, seed: int = 0) -> Preview:
    """Project embeddings to the plane.

    Args:
        predicted: ``(anchors, dim)``, at least three anchors.
        real: ``(anchors, dim)`` of the same anchors, if known; finite.
        ball: whether the space is the Poincare ball (the zoo's real embeddings all have norms below 1); predicted
            points beyond it are drawn at its rim.
        seed: of t-SNE.
    """
    predicted = np.asarray(predicted, dtype=np.float64)
    real = None if real is None else np.asarray(real, dtype=np.float64)
    sets = {"predicted": predicted} if real is None else {"real": real, "predicted": predicted}
    flat, explained = _principal(sets)
    disc = None
    if ball:
        tangents, _ = _principal({name: _to_tangent(points) for name, points in sets.items()}, centred=False)
        disc = {name: _to_disc(tangents[name], points) for name, points in sets.items()}
    stacked = np.concatenate(list(sets.values()))
    perplexity = min(_NEIGHBOURS, (len(stacked) - 1) / 3.0)
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(stacked)
    tsne = dict(zip(sets, np.split(placed.astype(np.float64), len(sets)), strict=True))
    cosine = correlation = None
    if real is not None:
        norms = np.linalg.norm(real, axis=1) * np.linalg.norm(predicted, axis=1)
        cosine = float(((real * predicted).sum(axis=1) / np.maximum(norms, 1e-12)).mean())
        correlation = float(spearmanr(pdist(real), pdist(predicted)).statistic)
    return Preview(predicted, real, flat, tsne, disc, explained, cosine, correlation)


def _principal(sets: dict[str, Floats], *, centred: bool = True) -> tuple[dict[str, Floats], float]:
    first = next(iter(sets.values()))
    if not centred:
        directions = np.linalg.svd(first, full_matrices=False)[2][:2]
        return {name: points @ directions.T for name, points in sets.items()}, float("nan")
    fitted = PCA(2).fit(first)
    return {name: fitted.transform(points) for name, points in sets.items()}, float(
        fitted.explained_variance_ratio_.sum()
    )


def _to_tangent(points: Floats) -> Floats:
    """Logarithmic map of the Poincare ball at its centre (up to a factor of two)."""
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.maximum(norms, 1e-12) * np.arctanh(np.minimum(norms, _RIM)))


def _to_disc(plane: Floats, points: Floats) -> Floats:
    """The direction of the plane's points, at the radius that the points have in the ball."""
    lengths = np.linalg.norm(plane, axis=1, keepdims=True)
    radii = np.minimum(np.linalg.norm(points, axis=1, keepdims=True), _RIM)
    return np.asarray(plane / np.maximum(lengths, 1e-12) * radii)
