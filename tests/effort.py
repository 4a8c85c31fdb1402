"""How much effort a fit or a search takes in the tests: constants that say how long it learns and how much it weighs.

Users get more of it, and a test of how good the outcome is asks for that with the fixture `whole_effort`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

LITTLE = {
    "epsopt.optimize.acquisition.ehvi.SAMPLES": 16,
    "epsopt.optimize.forecast.base_forecasters.TREES": 20,
    "epsopt.optimize.forecast.learning_curve_gp.STEPS": 25,
    "epsopt.optimize.gp.ITERATIONS": 20,
    "epsopt.optimize.latent.engines.bayesian.PICKS": 2,
    "epsopt.optimize.merge.lineage_gp.STEPS": 12,
    "epsopt.optimize.merge.lineage_search.CANDIDATES": 256,
    "epsopt.optimize.merge.simplex_gp.CANDIDATES": 256,
    "epsopt.optimize.merge.simplex_gp.FIT_STEPS": 15,
    "epsopt.optimize.merge.weight_space_gp.CANDIDATES": 128,
    "epsopt.optimize.merge.weight_space_gp.STEPS": 12,
    "epsopt.optimize.proposals.proposals.CONFIGS": 16,
    "epsopt.optimize.proposals.proposals.LOCAL": 64,
    "epsopt.optimize.proposals.proposals.RANDOM": 96,
    "epsopt.optimize.proposals.warm_start.CONFIGS": 24,
    "epsopt.optimize.schedule.remaining_gain.SAMPLES": 32,
    "epsopt.optimize.schedule.run_acquisition.NEIGHBOURS": 64,
    "epsopt.optimize.schedule.run_acquisition.RANDOM": 96,
    "epsopt.optimize.schedule.run_acquisition.REFINED": 32,
    "epsopt.optimize.schedule.selection_calibration.SAMPLES": 32,
    "epsopt.surrogate.baselines.ROUNDS": 60,
    "epsopt.surrogate.relevance.STEPS": 15,
    "epsopt.surrogate.training.STEPS": 60,
}


@contextlib.contextmanager
def effort(constants: dict[str, int]) -> Iterator[None]:
    """Give constants other values while the block runs."""
    with contextlib.ExitStack() as stack:
        for name, value in constants.items():
            stack.enter_context(mock.patch(name, value))
        yield
