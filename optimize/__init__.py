"""Search on a fitted map: targets, Pareto fronts, latent search, nearest real checkpoints, proposals for the next runs.

Takes a surrogate and records of checkpoints, gives answers that name real checkpoints and their hyperparameters. It
knows no files, servers or terminals.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.optimize.clusters import Clustering, cluster
    from epsopt.optimize.inference import infer_space
    from epsopt.optimize.latent_search import ENGINES, Answer, SearchResult, search
    from epsopt.optimize.loop.choice import Candidate, Start
    from epsopt.optimize.loop.curves import Curve, OnWay
    from epsopt.optimize.loop.expectation import Expected, expect
    from epsopt.optimize.loop.mixing import Mixture, WeightSpace, on_way
    from epsopt.optimize.loop.policy import Known, Policy, Step
    from epsopt.optimize.loop.sampler import EpsilonSampler
    from epsopt.optimize.loop.stopping import Decision, Stopper
    from epsopt.optimize.neighbours import Neighbour, nearest
    from epsopt.optimize.outlook import Outlook, RunForecast, fit_outlook
    from epsopt.optimize.pareto import Front, hypervolume, non_dominated
    from epsopt.optimize.proposals import PastRun, Proposal, past_runs, propose
    from epsopt.optimize.sampling import RegionSample, sample_region
    from epsopt.optimize.space import Parameter, Space
    from epsopt.optimize.targets import Objective, Target, meets, parse_targets
    from epsopt.optimize.trajectory import RunPath, motion, run_paths

__all__ = [
    "ENGINES",
    "Answer",
    "Candidate",
    "Clustering",
    "Curve",
    "Decision",
    "EpsilonSampler",
    "Expected",
    "Front",
    "Known",
    "Mixture",
    "Neighbour",
    "Objective",
    "OnWay",
    "Outlook",
    "Parameter",
    "PastRun",
    "Policy",
    "Proposal",
    "RegionSample",
    "RunForecast",
    "RunPath",
    "SearchResult",
    "Space",
    "Start",
    "Step",
    "Stopper",
    "Target",
    "WeightSpace",
    "cluster",
    "expect",
    "fit_outlook",
    "hypervolume",
    "infer_space",
    "meets",
    "motion",
    "nearest",
    "non_dominated",
    "on_way",
    "parse_targets",
    "past_runs",
    "propose",
    "run_paths",
    "sample_region",
    "search",
]

# Loaded when first used (PEP 562): torch and BoTorch take seconds to import, and most commands need neither.
_HOMES = {
    "Answer": "latent_search",
    "Candidate": "loop.choice",
    "Clustering": "clusters",
    "Curve": "loop.curves",
    "Decision": "loop.stopping",
    "ENGINES": "latent_search",
    "EpsilonSampler": "loop.sampler",
    "Expected": "loop.expectation",
    "Front": "pareto",
    "Known": "loop.policy",
    "Mixture": "loop.mixing",
    "Neighbour": "neighbours",
    "Objective": "targets",
    "OnWay": "loop.curves",
    "Outlook": "outlook",
    "Parameter": "space",
    "PastRun": "proposals",
    "Policy": "loop.policy",
    "Proposal": "proposals",
    "RegionSample": "sampling",
    "RunForecast": "outlook",
    "RunPath": "trajectory",
    "SearchResult": "latent_search",
    "Space": "space",
    "Start": "loop.choice",
    "Step": "loop.policy",
    "Stopper": "loop.stopping",
    "Target": "targets",
    "WeightSpace": "loop.mixing",
    "cluster": "clusters",
    "expect": "loop.expectation",
    "fit_outlook": "outlook",
    "hypervolume": "pareto",
    "infer_space": "inference",
    "meets": "targets",
    "motion": "trajectory",
    "nearest": "neighbours",
    "non_dominated": "pareto",
    "on_way": "loop.mixing",
    "parse_targets": "targets",
    "past_runs": "proposals",
    "propose": "proposals",
    "run_paths": "trajectory",
    "sample_region": "sampling",
    "search": "latent_search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
