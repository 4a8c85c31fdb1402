"""A checkpoint is assessed by where it lies among those that the map knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epsopt.optimize.assess import assess
from epsopt.optimize.proposals import past_runs
from epsopt.zoo.fingerprints import fingerprint


def test_a_known_checkpoint_is_trusted_and_its_own_nearest(fitted, zoo):
    train, checkpoints = zoo
    (found,) = assess(fitted[0], checkpoints, [train.fingerprints[7]])
    assert found.nearest.sha256 == checkpoints[7].sha256
    assert found.nearest.distance == pytest.approx(0.0, abs=1e-4)
    assert found.trusted
    assert found.known_architecture
    assert all(found.low[n] <= found.point[n] <= found.high[n] for n in train.metric_names)


def test_another_architecture_is_said_to_be_unknown(fitted, zoo):
    other = fingerprint([("layer.weight", torch.randn(7, 3)), ("layer.bias", torch.randn(7))])
    (found,) = assess(fitted[0], zoo[1], [other])
    assert not found.known_architecture
    assert all(np.isfinite(v) for v in found.point.values())


def test_a_past_run_is_its_last_checkpoint_that_the_map_knows(fitted, zoo):
    surrogate, checkpoints = fitted[0], zoo[1]
    past = past_runs(surrogate, checkpoints)
    assert [r.name for r in past] == sorted({c.run for c in checkpoints})
    last = [i for i, c in enumerate(checkpoints) if c.epoch == 5]
    for run, i in zip(past, last, strict=True):
        assert torch.equal(run.z, surrogate.memory.latents[i])
        assert run.metrics == checkpoints[i].metrics
