"""A checkpoint is assessed by where it lies among those that the map knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.optimize.latent.predict_checkpoint import assess, measured_at_ends, stack_embeddings, usable
from epsopt.optimize.latent.search import known_latents, learned_latents, search
from epsopt.optimize.objectives import Objective
from epsopt.optimize.proposals.past_runs import past_runs
from epsopt.zoo.fingerprints.fingerprint import fingerprint

from ...conftest import network_weights, synthetic  # noqa: TID252


def test_a_known_checkpoint_is_trusted_and_its_own_nearest(fitted, zoo):
    train, checkpoints = zoo
    (found,) = assess(fitted[0], checkpoints, [train.fingerprints[7]])
    assert found.nearest.sha256 == checkpoints[7].sha256
    assert found.nearest.distance == pytest.approx(0.0, abs=1e-4)
    assert found.trusted
    assert found.known_architecture
    assert all(found.low[n] <= found.point[n] <= found.high[n] for n in train.metric_names)


def test_a_past_run_is_its_last_checkpoint_that_the_map_knows(fitted, zoo):
    surrogate, checkpoints = fitted[0], zoo[1]
    past = past_runs(surrogate, checkpoints)
    assert [r.name for r in past] == sorted({c.run for c in checkpoints})
    last = [i for i, c in enumerate(checkpoints) if c.epoch == 5]
    for run, i in zip(past, last, strict=True):
        assert torch.equal(run.z, surrogate.memory.latents[i])
        assert run.metrics == checkpoints[i].metrics


def test_metrics_of_another_architecture_are_refused_with_the_reason(fitted, zoo):
    other = fingerprint([("layer.weight", torch.randn(7, 3)), ("layer.bias", torch.randn(7))])
    found = assess(fitted[0], zoo[1], [other, zoo[0].fingerprints[7]])
    assert not found[0].known_architecture
    assert "architecture" in found[0].refused
    assert "tested on no architecture that" in found[0].refused
    assert all(np.isnan(v) for part in (found[0].point, found[0].low, found[0].high) for v in part.values())
    assert found[1].refused is None
    assert all(np.isfinite(v) for v in found[1].point.values())


def test_a_checkpoint_far_outside_of_the_zoo_is_refused(fitted, zoo):
    weights = {k: 1e6 * w for k, w in network_weights(7).items()}
    (found,) = assess(fitted[0], zoo[1], [fingerprint(weights.items(), network_weights(0).get)])
    assert found.known_architecture
    assert "never tested so far out" in found.refused
    assert not found.trusted


def test_no_region_goes_around_checkpoints_whose_values_were_set_aside(fitted, zoo):
    surrogate, checkpoints = fitted[0], zoo[1]
    lost = [i for i, c in enumerate(checkpoints) if c.run_id == 2]
    memory = surrogate.memory
    latents, metrics, far_out = memory.latents.clone(), memory.metrics.clone(), torch.zeros_like(memory.far_out)
    latents[lost] += 1e3
    metrics[lost], far_out[lost] = torch.nan, True
    marked = replace(surrogate, memory=replace(memory, latents=latents, metrics=metrics, far_out=far_out))
    z, known = learned_latents(marked, checkpoints)
    assert len(z) == len(known) == 65
    assert {c.run_id for c in known} == set(range(14)) - {2}
    assert len(known_latents(marked, checkpoints)[1]) == 70
    assert len(learned_latents(surrogate, checkpoints)[1]) == 70
    found = search(marked, checkpoints, (Objective("coverage", maximize=True),), limit=20)
    assert all(float((a.z - latents[lost].float()).norm(dim=1).min()) > 100.0 for a in found.answers)


def test_every_checkpoint_of_a_run_like_the_others_is_predicted(fitted, zoo):
    prints = [fingerprint(synthetic(run, 3)[0].items(), network_weights(0).get) for run in range(20, 32)]
    assert [found.refused for found in assess(fitted[0], zoo[1], prints)] == [None] * 12


def test_nothing_is_predicted_of_weights_that_are_nan(fitted, zoo):
    weights = network_weights(0)
    weights["net.0.weight"][0, :] = torch.nan
    (found,) = assess(fitted[0], zoo[1], [fingerprint(weights.items(), network_weights(0).get)])
    assert found.refused == "5 of its 124 weights are NaN"
    assert all(np.isnan(v) for v in (*found.point.values(), *found.low.values(), *found.high.values()))


def test_metrics_that_only_ends_of_runs_have_are_named(zoo):
    checkpoints = [
        replace(c, metrics={**c.metrics, "test": 0.5 if c.epoch == 5 else None, "early": 1.0 if c.epoch < 3 else None})
        for c in zoo[1]
    ]
    assert measured_at_ends(checkpoints, ["coverage", "test", "early", "unknown"]) == ["test"]
    ends = [c for c in checkpoints if c.epoch == 5]
    assert measured_at_ends(ends, ["coverage", "test"]) == [], "where runs have one checkpoint, that is where all is"


def test_an_embedding_that_the_map_cannot_use_counts_as_none(fitted, zoo):
    surrogate, train = fitted[0], zoo[0]
    right = train.embeddings[0]
    assert usable(right, surrogate)
    odd = [np.full_like(right, np.nan), right[:3], np.ones((7,), dtype=np.float32), None]
    assert not any(usable(e, surrogate) for e in odd)
    stacked = stack_embeddings([*odd, right], surrogate)
    assert np.isnan(stacked[:4]).all(), "though most are of another shape than the map's"
    np.testing.assert_array_equal(stacked[4], right)
