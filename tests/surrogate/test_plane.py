"""The plane of a map: where most checkpoints vary most, kept with the map, steady while the map grows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate import Surrogate, fit
from epsopt.surrogate.plane import fit_plane, turned
from epsopt.surrogate.refinement import condition_on_observations, refine

from ..conftest import QUICK  # noqa: TID252


def cloud(n: int = 200, seed: int = 0) -> torch.Tensor:
    scales = torch.tensor([0.1, 5.0, 0.2, 2.0, 0.1])
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)) * scales


def test_the_plane_holds_the_two_directions_of_most_variance() -> None:
    plane = fit_plane(cloud())
    assert np.abs(plane.axes[[1, 3], [0, 1]]).min() > 0.99
    np.testing.assert_allclose(plane.axes.T @ plane.axes, np.eye(2), atol=1e-12)
    spread = cloud().var(dim=0, unbiased=False)
    assert plane.explained == pytest.approx((spread[[1, 3]] / spread.sum()).tolist(), rel=0.02)
    assert plane.titles[0] == f"first axis ({plane.explained[0]:.0%} of the variance)"


def test_neither_order_nor_a_few_diverged_checkpoints_turn_the_plane() -> None:
    plane = fit_plane(cloud())
    far = torch.cat([cloud(), torch.full((8, 5), 1e4)])
    for other in (fit_plane(cloud().flip(0)), fit_plane(far)):
        np.testing.assert_allclose(other.coordinates(cloud()), plane.coordinates(cloud()), atol=1e-6)
    assert fit_plane(far).explained == pytest.approx(plane.explained)


def test_points_outside_of_the_frame_are_counted() -> None:
    far = torch.cat([cloud(), torch.full((8, 5), 1e4)])
    plane = fit_plane(far)
    outside = plane.outside(plane.coordinates(far))
    assert outside[-8:].all()
    assert outside.sum() <= 8 + 4
    assert plane.outside(np.array([[np.nan, 0.0]])).all()


@pytest.mark.parametrize("points", [torch.zeros(1, 3), torch.ones(4, 3), torch.arange(4.0)[:, None]])
def test_a_map_without_two_directions_has_a_plane_all_the_same(points: torch.Tensor) -> None:
    plane = fit_plane(points)
    assert np.isfinite(plane.coordinates(points)).all()
    assert plane.coordinates(points).shape == (len(points), 2)
    assert not plane.outside(plane.coordinates(points)).any()
    assert all(0.0 <= share <= 1.0 for share in plane.explained)


def test_a_plane_is_turned_back_to_where_checkpoints_lay() -> None:
    z, plane = cloud(), fit_plane(cloud())
    flipped = z[:, [3, 1, 2, 0, 4]] * torch.tensor([-1.0, -1, 1, 1, 1]) + 7.0
    back = turned(fit_plane(flipped), flipped, plane.coordinates(z))
    np.testing.assert_allclose(back.coordinates(flipped), plane.coordinates(z), atol=1e-4)
    assert turned(plane, z[:2], plane.coordinates(z[:2])) is plane, "two points say nothing of a mirror"


def test_a_map_brings_its_plane_along(fitted) -> None:
    surrogate = fitted[0]
    moved = replace(surrogate, projection=(surrogate.plane.centre + 1.0, surrogate.plane.axes[:, ::-1].copy()))
    again = Surrogate.from_bytes(*moved.to_bytes())
    np.testing.assert_array_equal(
        again.plane_coordinates(again.memory.latents), moved.plane_coordinates(surrogate.memory.latents)
    )
    assert again.plane.explained == moved.plane.explained


def test_a_map_that_was_kept_without_a_plane_has_the_one_that_its_fit_would_have_had(fitted) -> None:
    surrogate = fitted[0]
    bare = replace(surrogate)
    object.__setattr__(bare, "projection", None)
    again = Surrogate.from_bytes(*bare.to_bytes())
    z = surrogate.memory.latents
    np.testing.assert_allclose(again.plane_coordinates(z), surrogate.plane_coordinates(z), atol=1e-9)


def test_refining_and_longer_memory_keep_the_plane(zoo, fitted) -> None:
    train = zoo[0]
    early, validation = fitted
    rows = np.flatnonzero(train.runs < 11)
    keys = [early.memory.keys[i] for i in rows]
    memory = replace(
        early.memory,
        keys=tuple(keys),
        weights=tuple(early.memory.weights[i] for i in rows),
        head_rows=torch.arange(len(rows)),
        prediction_rows=torch.arange(len(rows)),
        **{n: getattr(early.memory, n)[rows] for n in ("latents", "metrics", "runs", "lineages", "far_out")},
    )
    before = replace(early, memory=memory, projection=None)
    after, _, change = refine(before, validation, train, trained_on="grown", recipe=QUICK)
    z = before.memory.latents
    np.testing.assert_array_equal(after.plane_coordinates(z), before.plane_coordinates(z))
    there = dict(zip(after.memory.keys, after.plane_coordinates(after.memory.latents), strict=True))
    was = before.plane_coordinates(z)
    moved = np.stack([there[k] for k in before.memory.keys]) - was
    assert np.sqrt((moved**2).sum(axis=1).mean()) < 2 * change.drift * np.sqrt((was.var(axis=0)).sum()) + 0.1
    longer = condition_on_observations(before, train)
    np.testing.assert_array_equal(longer.plane_coordinates(z), before.plane_coordinates(z))


@pytest.mark.slow
def test_a_map_that_is_fitted_anew_draws_known_checkpoints_near_where_they_were(zoo, fitted) -> None:
    before = fitted[0]
    anew, _ = fit(zoo[0].take(np.flatnonzero(zoo[0].runs > 1)), folds=2, recipe=QUICK, seed=5)
    aligned = anew.aligned_with(before)
    there = dict(zip(before.memory.keys, before.plane_coordinates(before.memory.latents), strict=True))
    was = np.stack([there[k] for k in anew.memory.keys])

    def moved(surrogate: Surrogate) -> float:
        return float(np.square(surrogate.plane_coordinates(surrogate.memory.latents) - was).sum(axis=1).mean())

    assert moved(aligned) <= moved(anew) + 1e-9
    now = aligned.plane_coordinates(aligned.memory.latents)
    assert np.corrcoef(now[:, 0], was[:, 0])[0, 1] > 0.8
    np.testing.assert_allclose(aligned.predict(aligned.memory.latents).point, anew.predict(anew.memory.latents).point)
