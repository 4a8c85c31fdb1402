from __future__ import annotations

import numpy as np
import pytest
import torch

from epsopt.optimize import Objective, Target
from epsopt.optimize.latent.region_sampling import sample_region
from epsopt.optimize.latent.trust_region import trust_region
from epsopt.surrogate.nearest import distances
from epsopt.zoo.errors import UsageError

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))
TARGETS = (Target("coverage", 0.8), Target("structure", 0.4))


def test_samples_meet_the_targets_inside_the_trust_region_and_name_real_checkpoints(zoo, fitted) -> None:
    surrogate = fitted[0]
    found = sample_region(surrogate, zoo[1], OBJECTIVES, TARGETS, n=20)
    assert len(found.points) == 20
    region = trust_region(surrogate.memory.latents, np.array([c.run_id for c in zoo[1]]))
    assert bool(region.contains(torch.stack([p.z for p in found.points])).all())
    paths = {c.path for c in zoo[1]}
    for p in found.points:
        assert p.probability is not None
        assert p.probability >= 0.5
        assert p.point["coverage"] > 0.8 - 0.05
        assert p.low["structure"] <= p.point["structure"] <= p.high["structure"]
        assert {n.path for n in p.nearest} <= paths
        assert p.nearest[0].distance <= found.radius
    assert 0.0 < found.share < 1.0


def test_real_checkpoints_near_the_samples_do_meet_the_targets(zoo, fitted) -> None:
    # Measured truth: where the map says both targets hold, the nearest real checkpoints mostly hold them.
    found = sample_region(fitted[0], zoo[1], OBJECTIVES, TARGETS, n=30)
    near = [p.nearest[0].metrics for p in found.points]
    met = np.mean([m["coverage"] >= 0.8 and m["structure"] >= 0.4 for m in near])
    anywhere = np.mean([c.metrics["coverage"] >= 0.8 and c.metrics["structure"] >= 0.4 for c in zoo[1]])
    assert met > 0.6
    assert met > 2 * anywhere


def test_samples_lie_further_apart_than_chance_puts_them(zoo, fitted) -> None:
    few = sample_region(fitted[0], zoo[1], OBJECTIVES, TARGETS, n=10)
    many = sample_region(fitted[0], zoo[1], OBJECTIVES, TARGETS, n=500)
    rng = np.random.default_rng(0)
    z = torch.stack([p.z for p in many.points])
    between = [
        float(distances(part, part).fill_diagonal_(torch.inf).min(dim=1).values.median())
        for part in (z[torch.from_numpy(rng.permutation(len(z))[:10])] for _ in range(10))
    ]
    assert few.spacing > max(between)


def test_one_seed_samples_the_same_and_nothing_is_made_up_where_nothing_meets(zoo, fitted) -> None:
    one, two = (sample_region(fitted[0], zoo[1], OBJECTIVES, TARGETS, n=5, seed=3) for _ in range(2))
    assert all(torch.equal(a.z, b.z) for a, b in zip(one.points, two.points, strict=True))
    none = sample_region(fitted[0], zoo[1], OBJECTIVES, [Target("structure", 30.0)], n=5)
    assert none.points == ()
    assert none.best < 0.5


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [((), {}, "at least one"), (TARGETS, {"n": 0}, "at least 1"), (TARGETS, {"probability": 1.0}, "between 0 and 1")],
)
def test_senseless_requests_are_refused(zoo, fitted, targets, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        sample_region(fitted[0], zoo[1], OBJECTIVES, targets, **options)
