"""`epsopt propose` as it chooses: by a map of the past runs' checkpoints, and g(h(x))."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from replay import Prediction
from replay_tables import Recorded, Table

from epsopt.optimize.objectives import Objective
from epsopt.optimize.proposals.proposals import PastRun, propose
from epsopt.optimize.schedule.run_acquisition import Candidate
from epsopt.surrogate import fit


def proposals(of: Table, past: Sequence[str], measured: NDArray[np.float64], count: int, seed: int) -> list[Prediction]:
    """Fit a map to the checkpoints of past runs, and propose."""
    assert isinstance(of, Recorded)
    zoo = of.zoo
    rows = np.flatnonzero(np.isin(zoo.run_names, [*past, "base"]))
    part = zoo.take(rows)
    surrogate = fit(part.train, bounds=dict(of.bounds))[0]
    latents = dict(zip(surrogate.memory.keys, surrogate.memory.latents, strict=True))
    runs = []
    for name, curve in ((r.name, r.curve) for r in of.past(len(past))):
        last = max((i for i, n in enumerate(part.run_names) if n == name), key=lambda i: part.epochs[i])
        metrics = dict(zip(part.train.metric_names, part.train.metrics[last].tolist(), strict=True))
        runs.append(PastRun(name, curve.config, latents[part.train.keys[last]].double(), dict(metrics)))
    names = [o.name for o in of.objectives]
    objectives: list[Objective] = list(of.objectives)
    found = propose(surrogate, of.space, runs, objectives, n=count, seed=seed, measured=measured)
    return [
        Prediction(
            Candidate(p.params, of.origin, of.length), "propose", [p.low[n] for n in names], [p.high[n] for n in names],
            p.joins_front,
        )
        for p in found
    ]  # fmt: skip
