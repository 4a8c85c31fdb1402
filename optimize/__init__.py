"""Search on a fitted map: targets, Pareto fronts, latent search, nearest real checkpoints, proposals for the next runs.

Takes a surrogate and records of checkpoints, gives answers that name real checkpoints and their hyperparameters. It
knows no files, servers or terminals.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.optimize.inference import infer_space
    from epsopt.optimize.latent_search import ENGINES, Answer, SearchResult, search
    from epsopt.optimize.loop.curves import Curve
    from epsopt.optimize.loop.sampler import EpsilonSampler
    from epsopt.optimize.loop.stopping import Decision, Stopper
    from epsopt.optimize.neighbours import Neighbour, nearest
    from epsopt.optimize.pareto import Front, hypervolume, non_dominated
    from epsopt.optimize.proposals import PastRun, Proposal, past_runs, propose
    from epsopt.optimize.space import Parameter, Space
    from epsopt.optimize.targets import Objective, Target, meets, parse_targets

__all__ = [
    "ENGINES",
    "Answer",
    "Curve",
    "Decision",
    "EpsilonSampler",
    "Front",
    "Neighbour",
    "Objective",
    "Parameter",
    "PastRun",
    "Proposal",
    "SearchResult",
    "Space",
    "Stopper",
    "Target",
    "hypervolume",
    "infer_space",
    "meets",
    "nearest",
    "non_dominated",
    "parse_targets",
    "past_runs",
    "propose",
    "search",
]

# Loaded when first used (PEP 562): torch and BoTorch take seconds to import, and most commands need neither.
_HOMES = {
    "Answer": "latent_search",
    "Curve": "loop.curves",
    "Decision": "loop.stopping",
    "ENGINES": "latent_search",
    "EpsilonSampler": "loop.sampler",
    "Front": "pareto",
    "Neighbour": "neighbours",
    "Objective": "targets",
    "Parameter": "space",
    "PastRun": "proposals",
    "Proposal": "proposals",
    "SearchResult": "latent_search",
    "Space": "space",
    "Stopper": "loop.stopping",
    "Target": "targets",
    "hypervolume": "pareto",
    "infer_space": "inference",
    "meets": "targets",
    "nearest": "neighbours",
    "non_dominated": "pareto",
    "parse_targets": "targets",
    "past_runs": "proposals",
    "propose": "proposals",
    "search": "latent_search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
