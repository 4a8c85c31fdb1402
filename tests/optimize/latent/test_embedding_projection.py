from __future__ import annotations

import numpy as np
import pytest

from epsopt.optimize.latent.embedding_projection import preview


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


def test_the_disc_holds_everything_at_its_own_radius() -> None:
    real = in_ball()
    found = preview(real * 1.5, real, ball=True)  # some predicted points lie beyond the ball
    assert found.disc is not None
    radii = {name: np.linalg.norm(points, axis=1) for name, points in found.disc.items()}
    np.testing.assert_allclose(radii["real"], np.linalg.norm(real, axis=1))
    assert radii["predicted"].max() < 1.0
    # In two dimensions nothing is lost but a rotation.
    plane = in_ball(dim=2)
    flat = preview(plane, ball=True).disc
    assert flat is not None
    np.testing.assert_allclose(flat["predicted"] @ flat["predicted"].T, plane @ plane.T, atol=1e-9)


def test_without_real_embeddings_only_the_predicted_ones_are_drawn() -> None:
    found = preview(in_ball())
    assert set(found.pca) == set(found.tsne) == {"predicted"}
    assert found.cosine is None
    assert found.pca["predicted"].shape == (40, 2)
