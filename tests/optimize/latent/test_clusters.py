from __future__ import annotations

import numpy as np
import pytest

from epsopt.optimize.latent.clusters import DOUBTFUL, STABLE, cluster
from epsopt.optimize.space import Parameter, Space
from epsopt.zoo.errors import EmptyCatalogue, UsageError

SPACE = Space(
    (
        Parameter("lr", "float", 0.0, 10.0),
        Parameter("mode", "categorical", choices=("a", "b", "c")),
        Parameter("noise", "float", 0.0, 1.0),
        Parameter("only_a", "float", 0.0, 1.0, active_when=("mode", ("a",))),
    )
)


def three_groups(seed: int = 0) -> tuple[np.ndarray, list[dict]]:
    rng = np.random.default_rng(seed)
    which = np.repeat([0, 1, 2], [12, 9, 6])
    centres = np.array([[0.0, 0.0, 0.0, 0.0], [10.0, 0.0, 0.0, 0.0], [0.0, 10.0, 0.0, 0.0]])
    points = centres[which] + rng.standard_normal((len(which), 4))
    configs = [{"lr": 3.0 * w + rng.random(), "mode": "abc"[w], "noise": rng.random()} for w in which]
    for config in configs[:12]:
        config["only_a"] = 0.5
    return points, configs


def test_groups_that_are_there_are_found_and_stable() -> None:
    points, configs = three_groups()
    found = cluster(points, configs, SPACE, last_step=0.1)
    assert [sorted(g.members) for g in found.groups] == [list(range(12)), list(range(12, 21)), list(range(21, 27))]
    assert all(g.stability > STABLE for g in found.groups)
    assert found.silhouette > 0.5
    for g in found.groups:
        rows = list(g.members)
        mean = np.linalg.norm(points[rows][:, None] - points[rows][None], axis=2).mean(axis=1)
        assert rows[int(mean.argmin())] == g.medoid == rows[0]


def test_a_lone_run_is_no_group() -> None:
    points, configs = three_groups()
    # One far from everything, and two that only have each other.
    points = np.vstack([points, np.full(4, 60.0), np.full((2, 4), -30.0)])
    found = cluster(points, [*configs, {}, {}, {}], SPACE, last_step=0.1)
    assert found.unclustered == (27, 28, 29)
    assert [len(g.members) for g in found.groups] == [12, 9, 6]


def test_groups_that_are_not_there_are_unstable() -> None:
    points = np.random.default_rng(0).standard_normal((40, 16))
    found = cluster(points, [{}] * 40, None, last_step=0.0, groups=5)
    assert np.mean([g.stability for g in found.groups]) < DOUBTFUL
    assert found.silhouette < 0.25


def test_hyperparameters_that_make_the_groups_are_named_and_noise_is_not() -> None:
    points, configs = three_groups()
    found = cluster(points, configs, SPACE, last_step=0.1)
    assert {d.name for d in found.differences} == {"lr", "mode"}
    assert all(0.5 < d.effect <= 1.0 for d in found.differences)


def test_redundant_runs_all_lie_within_a_last_step_of_each_other() -> None:
    points, configs = three_groups()
    points[5] = points[4] + 0.01
    points[6] = points[4] - 0.01
    points[20] = points[19] + 0.04
    found = cluster(points, configs, SPACE, last_step=0.2)
    assert found.redundant == ((4, 5, 6), (19, 20))


def test_too_few_runs_or_too_many_groups_are_said() -> None:
    points, configs = three_groups()
    with pytest.raises(EmptyCatalogue, match="at least 6"):
        cluster(points[:5], configs[:5], SPACE, last_step=0.1)
    with pytest.raises(UsageError, match="2 to 13"):
        cluster(points, configs, SPACE, last_step=0.1, groups=14)
