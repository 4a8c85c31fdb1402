from __future__ import annotations

import numpy as np
import pytest

from epsopt.optimize.preview import _to_disc, _to_tangent, preview


def in_ball(n: int = 40, dim: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((n, dim))
    return points / np.linalg.norm(points, axis=1, keepdims=True) * rng.uniform(0.1, 0.95, (n, 1))


def test_a_perfect_prediction_lies_on_the_real_points() -> None:
    real = in_ball()
    found = preview(real.copy(), real, ball=True)
    assert found.cosine == pytest.approx(1.0)
    assert found.distance_correlation == pytest.approx(1.0)
    assert found.disc is not None
    for picture in (found.pca, found.disc):
        np.testing.assert_allclose(picture["predicted"], picture["real"])
    assert np.median(np.linalg.norm(found.tsne["predicted"] - found.tsne["real"], axis=1)) < 1.0


def test_a_wrong_prediction_is_seen_in_the_figures() -> None:
    real = in_ball()
    found = preview(real[np.random.default_rng(1).permutation(len(real))], real)
    assert found.distance_correlation == pytest.approx(0.0, abs=0.2)
    assert found.cosine == pytest.approx(0.0, abs=0.2)
    assert found.disc is None


def test_the_disc_holds_everything_and_keeps_hyperbolic_radii() -> None:
    found = preview(in_ball() * 1.5, in_ball(), ball=True)  # some predicted points lie beyond the ball
    assert found.disc is not None
    assert max(np.linalg.norm(p, axis=1).max() for p in found.disc.values()) < 1.0
    plane = in_ball(dim=2)
    np.testing.assert_allclose(_to_disc(_to_tangent(plane)), plane)
    assert preview(plane, ball=True).explained == pytest.approx(1.0)


def test_without_real_embeddings_only_the_predicted_ones_are_drawn() -> None:
    found = preview(in_ball())
    assert set(found.pca) == set(found.tsne) == {"predicted"}
    assert found.cosine is None
    assert found.pca["predicted"].shape == (40, 2)
