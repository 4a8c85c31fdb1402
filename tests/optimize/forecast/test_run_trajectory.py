"""A run of an architecture that the map cannot speak of has a path, and no forecast."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from epsopt.optimize.forecast.run_trajectory import run_trajectory
from epsopt.optimize.latent.interpolation import along
from epsopt.surrogate import Surrogate
from epsopt.zoo.fingerprints.fingerprint import Fingerprint, fingerprint


@pytest.fixture(scope="module")
def surrogate(fitted) -> Surrogate:
    """A map that was tested on twenty architectures that it had not seen, with errors three times as large."""
    scores = torch.stack([3.0 * torch.linspace(0.1, 2.0, 20), torch.ones(20)])
    return replace(fitted[0], unseen_scores=(scores, scores))


def wider(seed: int) -> dict[str, torch.Tensor]:
    """Weights with the same parts as the zoo's networks, each one wider."""
    g = torch.Generator().manual_seed(seed)
    return {f"net.{i}.{part}": torch.randn(shape, generator=g) for i, part, shape in (
        (0, "weight", (9, 6)), (0, "bias", (9,)), (2, "weight", (4, 9)), (2, "bias", (4,)))}  # fmt: skip


def of_another_architecture(zoo, weights: dict[str, torch.Tensor]) -> tuple[list[object], list[Fingerprint]]:
    """The zoo with its last run's checkpoints of other weights."""
    train, checkpoints = zoo
    other = fingerprint(weights.items())
    last = checkpoints[-1].run_id
    changed = [replace(c, signature=other.signature) if c.run_id == last else c for c in checkpoints]
    prints = [other if c.run_id == last else p for c, p in zip(checkpoints, train.fingerprints, strict=True)]
    return changed, prints


def parts(zoo) -> set[str]:
    return set(zoo[0].fingerprints[0].tensor_kinds)


def forecast(surrogate, checkpoints, prints, with_prints=True):
    latents = surrogate.encode(prints)
    return run_trajectory(
        surrogate, checkpoints, latents, checkpoints[-1].run, fingerprints=prints if with_prints else None,
        first=3, total=5.0,
    )  # fmt: skip


def test_a_run_of_parts_that_no_known_architecture_has_is_not_forecast(surrogate, zoo):
    convolved = {**wider(0), "net.0.weight": torch.randn(9, 6, 3, 3)}
    found = forecast(surrogate, *of_another_architecture(zoo, convolved))
    assert found.forecast is None
    assert "tensors such as net.#.weight of 4 dimensions" in found.reason
    assert len(found.path) == 3


def test_a_run_of_another_width_is_forecast_by_a_map_that_was_tested_on_such(surrogate, fitted, zoo):
    checkpoints, prints = of_another_architecture(zoo, wider(0))
    assert set(prints[-1].tensor_kinds) <= parts(zoo)
    assert forecast(surrogate, checkpoints, prints).forecast is not None
    without = forecast(surrogate, checkpoints, prints, with_prints=False)
    assert without.forecast is None
    assert "without fingerprints nothing tells" in without.reason
    assert "tested on no architecture" in forecast(fitted[0], checkpoints, prints).reason


def test_the_way_between_checkpoints_of_an_unseen_architecture_is_as_wide_as_on_those_held_out(surrogate, zoo):
    z = surrogate.memory.latents[:2].float()
    known = along(surrogate, zoo[1], z)
    unseen = along(surrogate, zoo[1], z, unseen=True)
    for a, b in zip(known, unseen, strict=True):
        assert a.point == b.point
        assert all(b.high[n] - b.low[n] >= a.high[n] - a.low[n] for n in a.point)
    assert any(b.high[n] - b.low[n] > a.high[n] - a.low[n] for a, b in zip(known, unseen, strict=True) for n in a.point)
