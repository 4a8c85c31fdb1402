"""The way between two checkpoints: its ends are the checkpoints, and off the map it says so."""

from __future__ import annotations

import pytest
import torch

from epsopt.optimize.latent.interpolation import along, linear_metrics, shares, straight
from epsopt.zoo.errors import UsageError


def test_the_way_is_straight_even_and_ends_where_it_should():
    a, b = torch.randn(64), torch.randn(64)
    way = straight(a, b, 11)
    assert torch.equal(way[0], a)
    assert torch.equal(way[-1], b)
    steps = way.diff(dim=0)
    torch.testing.assert_close(steps, ((b - a) / 10).expand_as(steps), atol=1e-5, rtol=1e-4)
    assert shares(11)[3] == pytest.approx(0.3)
    with pytest.raises(UsageError, match="at least 2"):
        straight(a, b, 1)


def test_predictions_along_a_way_are_the_maps_and_its_ends_are_known(fitted, zoo):
    surrogate, checkpoints = fitted[0], zoo[1]
    latents = surrogate.memory.latents
    way = along(surrogate, checkpoints, straight(latents[9], latents[64], 5))
    whole = surrogate.predict(torch.stack([s.z for s in way]))
    assert [s.share for s in way] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for i, step in enumerate(way):
        assert list(step.point.values()) == pytest.approx(whole.point[i].tolist())
        assert all(step.low[n] <= step.point[n] <= step.high[n] for n in step.point)
    assert way[0].nearest.sha256 == checkpoints[9].sha256
    assert way[-1].nearest.sha256 == checkpoints[64].sha256
    assert way[0].trusted
    assert way[-1].trusted


def test_a_point_far_from_everything_is_not_trusted(fitted, zoo):
    latents = fitted[0].memory.latents
    far = along(fitted[0], zoo[1], torch.stack([latents[0], latents[0] + 100.0]))
    assert [s.trusted for s in far] == [True, False]


def test_linear_metrics_leave_out_what_was_not_measured():
    rows = linear_metrics({"a": 0.0, "b": None}, {"a": 1.0, "b": 2.0}, ["a", "b", "c"], 3)
    assert rows == [
        {"a": 0.0, "b": None, "c": None},
        {"a": 0.5, "b": None, "c": None},
        {"a": 1.0, "b": None, "c": None},
    ]
