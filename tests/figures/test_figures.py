"""Figures: the same coordinates and marks everywhere, what is left out is counted, nothing needs WebGL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt import figures
from epsopt.optimize import Objective, Target, search
from epsopt.optimize.latent.clusters import cluster_runs
from epsopt.optimize.latent.interpolation import along, straight
from epsopt.zoo.errors import UsageError
from epsopt.zoo.layouts.parsed import RECOMBINED

COVERAGE, STRUCTURE = Objective("coverage", maximize=True), Objective("structure", maximize=True)
TWO = (COVERAGE, STRUCTURE)


@pytest.fixture(scope="module")
def drawn(zoo, fitted):
    """Each figure of a small zoo."""
    (_, checkpoints), (surrogate, validation) = zoo, fitted
    targets = [Target("coverage", 0.5)]
    answers = search(surrogate, checkpoints, TWO, targets, limit=3).answers
    found, shown, points = cluster_runs(surrogate, checkpoints, groups=2)
    z = surrogate.memory.latents
    steps = along(surrogate, checkpoints, straight(z[0], z[-1], 5))
    measured = [checkpoints[0].metrics, None, None, None, checkpoints[-1].metrics]
    way = figures.Way("A to B", [s.share for s in steps], steps, measured, [True, False, False, True, True])
    return {
        "map": figures.map(surrogate, checkpoints, colour="coverage", answers=answers),
        "groups": figures.groups(surrogate, found, shown, points),
        "front": figures.front(TWO, checkpoints, answers, targets),
        "sampling": figures.sampling(TWO, checkpoints, answers, targets),
        "interpolation": figures.interpolation([way], ["coverage", "structure"]),
        "calibration": figures.calibration(figures.held_out(surrogate, validation), 0.9),
        "hypervolume": figures.hypervolume({"hypervolume": [0.1, 0.2]}),
        "parallel": figures.parallel(TWO, checkpoints),
    }


def test_no_figure_needs_webgl_which_pages_that_forbid_code_from_texts_cannot_draw(drawn):
    assert {t.type for figure in drawn.values() for t in figure.data} == {"scatter"}


def test_no_figure_keeps_arrays_as_binary_which_older_copies_of_plotly_do_not_read(drawn):
    for name, figure in drawn.items():
        assert '"bdata"' not in figure.to_json(), name


def test_what_is_predicted_is_hollow_and_what_is_measured_is_filled(drawn):
    for name, figure in drawn.items():
        for trace in figure.data:
            if trace.mode is None or "markers" not in trace.mode or name == "calibration":
                continue
            hollow = str(trace.marker.symbol).endswith("-open")
            assert hollow == str(trace.name).startswith(("predicted", "sampled")), (name, trace.name)


def test_dark_figures_differ_in_dress_alone(drawn):
    for figure in drawn.values():
        dark = figures.dark(figure)
        assert dark.layout.paper_bgcolor != figure.layout.paper_bgcolor
        assert dark.layout.font.color != figure.layout.font.color
        assert dark.to_plotly_json()["data"] == figure.to_plotly_json()["data"]


def test_the_map_counts_what_it_does_not_show(zoo, fitted):
    checkpoints, surrogate = zoo[1], fitted[0]
    far = surrogate.memory.latents.clone()
    far[3] = 1e4
    figure = figures.map(replace(surrogate, memory=replace(surrogate.memory, latents=far)), checkpoints)
    said = " ".join(a.text for a in figure.layout.annotations)
    assert "of 70 lie outside the frame" in said
    assert "not on the map" not in said
    strangers = [replace(c, sha256="f" * 64, id=1000 + i) for i, c in enumerate(checkpoints[:2])]
    figure = figures.map(surrogate, [*checkpoints, *strangers])
    assert "2 not on the map" in " ".join(a.text for a in figure.layout.annotations)


def test_the_map_is_coloured_by_metrics_hyperparameters_and_epochs(zoo, fitted):
    checkpoints, surrogate = zoo[1], fitted[0]
    for colour in ("coverage", "lr", "epoch"):
        points = [t for t in figures.map(surrogate, checkpoints, colour=colour).data if t.marker.colorscale]
        assert len(points[0].x) == 70
    half = [replace(c, metrics=c.metrics if i % 2 else {}) for i, c in enumerate(checkpoints)]
    names = {t.name for t in figures.map(surrogate, half, colour="coverage").data}
    assert {"without coverage (35)", "measured (35)"} <= names
    with pytest.raises(UsageError, match="no checkpoint of the map has nothing"):
        figures.map(surrogate, checkpoints, colour="nothing")


def test_held_out_predictions_count_as_validation_does(zoo, fitted):
    surrogate, validation = fitted
    compared = figures.held_out(surrogate, validation)
    for metric in validation.metrics:
        mine = [c for c in compared if c.metric == metric.name]
        assert len(mine) == metric.n
        assert np.mean([c.inside for c in mine]) == pytest.approx(metric.coverage, abs=0.05)
    with pytest.raises(UsageError, match="--from-scratch"):
        figures.held_out(surrogate, replace(validation, held_out=None))


def test_what_cannot_be_drawn_is_said_in_one_sentence(zoo):
    checkpoints = zoo[1]
    for draw in (
        lambda: figures.front([], checkpoints),
        lambda: figures.calibration([], 0.9),
        lambda: figures.hypervolume({}),
        lambda: figures.hypervolume({"a": []}),
        lambda: figures.parallel(TWO, checkpoints[:1]),
        lambda: figures.interpolation([], ["coverage"]),
        lambda: figures.sampling([COVERAGE], checkpoints, [], []),
    ):
        with pytest.raises(UsageError):
            draw()


def test_a_run_without_a_hyperparameter_is_drawn_below_all_others(zoo):
    some = [replace(c, hyperparameters={"lr": 0.1 * (i + 1)} if i else {}, run_id=i) for i, c in enumerate(zoo[1][:4])]
    figure = figures.parallel([COVERAGE], some)
    lines = {t.hovertext.split(",")[0]: t.y[0] for t in figure.data[:-1]}
    assert min(t.y[0] for t in figure.data[:-1]) == 0.0
    assert "none" in {a.text for a in figure.layout.annotations}
    assert len(lines) >= 1


def test_merges_are_no_runs_and_an_absent_choice_lies_below_all_others(zoo):
    configs = [{"lr": 0.1, "mode": "b"}, {"lr": 0.2, "mode": "a"}, {"lr": 0.3}, {RECOMBINED: "x"}]
    some = [replace(c, hyperparameters=h, run_id=i) for i, (c, h) in enumerate(zip(zoo[1], configs, strict=False))]
    figure = figures.parallel([COVERAGE], some)
    assert len(figure.data) - 1 == 3, "one line a trained run"
    axis = list(figure.layout.xaxis.ticktext).index("mode")
    ticks = {a.text: a.y for a in figure.layout.annotations if a.x == axis}
    assert ticks == {"none": 0.0, "a": 0.5, "b": 1.0}


def test_methods_are_compared_by_their_means_with_quartiles():
    rng = np.random.default_rng(0)
    curves = {n: np.cumsum(rng.random((5, 20)), axis=1) for n in ("random", "gp", "epsopt")}
    figure = figures.hypervolume(curves, ours="epsopt")
    named = {t.name: t for t in figure.data if t.name}
    np.testing.assert_allclose(named["epsopt"].y, curves["epsopt"].mean(axis=0), rtol=1e-5)
    assert named["epsopt"].line.width > named["gp"].line.width
    assert torch.tensor(named["gp"].x).tolist() == list(range(20))


def test_upright_titles_of_a_matrix_fit_beside_their_planes(zoo):
    """Of three objectives a plane is 150 pixels high: a title of more than 18 characters reaches into the next one."""
    names = ["val/accuracy_new", "val/accuracy_of_the_old_task", "val/loss"]
    objectives = [Objective(n, maximize=n != "val/loss") for n in names]
    values = [1.0 - 10.0**-k for k in (1, 2, 3, 4)]
    values_of = [dict(zip(names, (0.1 * k, values[k], 0.3 * k), strict=True)) for k in range(4)]
    drawn = figures.front(objectives, [replace(c, metrics=m) for c, m in zip(zoo[1], values_of, strict=False)])
    titles = [a.title.text for a in drawn.select_yaxes() if a.title.text]
    assert len(titles) == 2
    assert all(len(line) <= 20 for title in titles for line in title.split("<br>")), titles
