"""Results show themselves in a notebook: as tables, with strangers' names as text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from epsopt.optimize import Objective, RunForecast, Target, search

EVIL = "<script>alert(1)</script>"


def test_results_show_themselves_as_tables(zoo, fitted):
    checkpoints, (surrogate, validation) = zoo[1], fitted
    found = search(surrogate, checkpoints, [Objective("coverage", True)], [Target("coverage", 0.5)], limit=2)
    shown = found._repr_html_()
    assert "predicted answer" in shown
    assert "coverage 0.5" in shown
    answer = found.answers[0]._repr_html_()
    assert f"{found.answers[0].point['coverage']:.4g}" in answer
    assert found.answers[0].nearest[0].run in answer
    checkpoint = checkpoints[0]._repr_html_()
    assert "run_00, epoch 1" in checkpoint
    assert "lr" in checkpoint
    table = validation._repr_html_()
    assert "held out" in table
    assert "Careful: only 14 runs" in table


def test_a_forecast_shows_itself_too():
    numbers = np.array([0.5, 0.7])
    forecast = RunForecast(
        np.zeros((3, 2)), numbers - 0.1, numbers, numbers + 0.1, {"coverage": "stack", "structure": "curve"}, {}, None,
        0.5, 10.0, None,
    )  # fmt: skip
    shown = forecast._repr_html_()
    assert "0.4 to 0.6" in shown
    assert "50% of which are done" in shown


def test_names_are_text(zoo):
    evil = replace(zoo[1][0], run=EVIL, path=EVIL, metrics={EVIL: 1.0}, hyperparameters={EVIL: EVIL})
    assert "<script" not in evil._repr_html_()
