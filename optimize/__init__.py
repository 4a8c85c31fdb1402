"""Search on a fitted map: targets, Pareto fronts, latent search, nearest real checkpoints, proposals for the next runs.

Takes a surrogate and records of checkpoints, gives answers that name real checkpoints and their hyperparameters. It
knows no files, servers or terminals.
"""

from epsopt.optimize.nearest import Neighbour, nearest
from epsopt.optimize.pareto import Front, hypervolume, non_dominated
from epsopt.optimize.propose import PastRun, Proposal, past_runs, propose
from epsopt.optimize.search import ENGINES, Answer, SearchResult, search
from epsopt.optimize.space import Parameter, Space, infer_space
from epsopt.optimize.targets import Objective, Target, meets, parse_targets

__all__ = [
    "ENGINES",
    "Answer",
    "Front",
    "Neighbour",
    "Objective",
    "Parameter",
    "PastRun",
    "Proposal",
    "SearchResult",
    "Space",
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
