from __future__ import annotations

import warnings

import numpy as np

from epsopt.optimize.forecast.conformal_residuals import Misses


def test_past_misses_are_drawn_for_a_forecast_far_from_all_past_ones_without_a_warning():
    rng = np.random.default_rng(0)
    runs = np.repeat(np.arange(8), 3)
    misses = Misses(
        progress=np.tile([0.2, 0.5, 0.8], 8),
        forecasts=rng.normal(size=(24, 2)),
        misses=0.1 * rng.normal(size=(24, 2)),
        runs=runs,
        stretch=np.ones((8, 2)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = misses.draw(0.5, np.array([4.0, -4.0]), 200, 0)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn.mean(axis=0) - [4.0, -4.0]).max() < 0.2
