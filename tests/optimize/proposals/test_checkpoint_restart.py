"""Which configurations are weighed for runs that start from a checkpoint."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import torch

from epsopt.optimize.objectives import Objective
from epsopt.optimize.proposals import checkpoint_restart as reuse
from epsopt.optimize.proposals.checkpoint_restart import best_branches
from epsopt.optimize.proposals.proposals import PastRun, draw_candidates
from epsopt.optimize.space import Parameter, Space

SPACE = Space(tuple(Parameter(name, "float", 0.0, 1.0) for name in "abcd"))


def test_neighbours_of_the_front_are_weighed_with_every_start(monkeypatch) -> None:
    scorer = SimpleNamespace(objectives=(Objective("gain", maximize=True),))
    rng = np.random.default_rng(0)
    best = dict.fromkeys("abcd", 0.5)
    past = [PastRun(f"run {i}", c, torch.zeros(2), {"gain": 0.0}) for i, c in enumerate(SPACE.sample(8, rng))]
    past.append(PastRun("best", best, torch.zeros(2), {"gain": 1.0}))
    new, others = draw_candidates(SPACE, past, scorer, 4, rng, [])
    weighed: dict[str, list[float]] = {"one": [], "two": []}

    def far(branch: reuse.Branch) -> float:
        return float(np.linalg.norm(SPACE.encode([branch.config]) - SPACE.encode([best])))

    def improvement(_forecast, _scorer, branch, _front) -> float:
        weighed[branch.start.sha256].append(far(branch))
        return -far(branch) + 10.0

    monkeypatch.setattr(reuse, "known_latents", lambda _, starts: (torch.zeros(len(starts), 2), starts))
    monkeypatch.setattr(reuse, "_improvement", improvement)
    starts = [SimpleNamespace(sha256=name) for name in weighed]
    chosen = best_branches(SimpleNamespace(surrogate=None), scorer, SPACE, starts, [*new, *others], np.zeros((1, 1)), 2)
    for distances in weighed.values():
        assert sum(d < 0.3 for d in distances) >= 16, "neighbours"
        assert sum(d > 0.4 for d in distances) >= 16, "and others"
    nearest = min(itertools.chain(*weighed.values()))
    assert [far(b) for b in chosen] == [nearest, nearest]
    assert nearest < 0.15
