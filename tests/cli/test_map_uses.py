"""What a person sees of trajectories, groups, samples and embeddings."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from unittest import mock

import click
import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from epsopt.cli.main import COMMANDS, group
from epsopt.studies import surrogate_store as maps
from epsopt.studies.predict_files import predict_files
from epsopt.surrogate import fit
from epsopt.zoo import Catalogue
from epsopt.zoo.ingestion.ingest import read_fingerprints

from .conftest import EPOCHS, QUICK, check


def test_a_trajectory_says_what_is_forecast_and_what_was_measured(project):
    document = project("trajectory", "run_000", "--first", "2", "--json").document
    assert document["epochs"] == [1.0, 2.0]
    assert document["n_left_out"] == 1
    assert len(document["motion"]["speed"]) == 1
    measured = {m["name"]: m["measured"] for m in document["forecast"]["metrics"]}
    front = project("nearest", "run_001:3", "-k", "40", "--json").document["nearest"]
    assert measured == next(n["metrics"] for n in front if (n["run"], n["epoch"]) == ("run_000", 3))
    for m in document["forecast"]["metrics"]:
        assert m["low"] <= m["value"] <= m["high"]
        assert m["forecaster"] in m["errors"]
        assert sum(m["weights"].values()) == pytest.approx(1.0)
    assert "forecast, not measured" in project("trajectory", "run_000", "--first", "2").out


def test_of_a_run_that_is_over_what_it_measured_is_said_and_nothing_is_forecast(project):
    document = project("trajectory", "run_000", "--json").document
    check("trajectory", document)
    assert document["forecast"] is None
    others = project("nearest", "run_001:3", "-k", "40", "--json").document["nearest"]
    front = next(n["metrics"] for n in others if (n["run"], n["epoch"]) == ("run_000", 3))
    assert {m["name"]: (m["value"], m["epoch"]) for m in document["measured"]} == {
        n: (v, 3.0) for n, v in front.items()
    }
    earlier = project("trajectory", "run_000", "--epochs", "2", "--json").document
    assert {m["epoch"] for m in earlier["measured"]} == {2.0}
    assert project("trajectory", "run_000", "--epochs", "5", "--json").document["measured"] is None
    shown = project("trajectory", "run_000").out
    assert "measured, not forecast" in shown
    assert "interval" not in shown


def test_the_next_checkpoints_are_predicted_one_by_one(project):
    arguments = ("trajectory", "run_000", "--first", "2", "--ahead", "3")
    document = project(*arguments, "--json").document
    check("trajectory", document)
    ahead = document["ahead"]
    assert ahead["epochs"] == [3.0, 4.0, 5.0]
    assert ahead["longest"] == 3.0
    assert document["forecast"] is None
    for m in ahead["metrics"]:
        assert all(low <= v <= high for low, v, high in zip(m["low"], m["value"], m["high"], strict=True))
        assert m["forecaster"] in m["errors"]
    shown = project(*arguments).out
    assert "The next checkpoints (predicted" in shown
    assert "measured" in shown.partition("The next checkpoints")[2]
    assert "no past run went beyond epoch 3" in shown.replace("\n", " ")


def test_why_the_next_checkpoints_are_not_predicted_is_said(project):
    result = project("trajectory", "run_003", "--first", "0", "--ahead", "3")
    assert "the next checkpoints are not predicted" in result.err + result.out
    assert "no checkpoint yet" in result.err + result.out


def test_hyperparameters_alone_are_forecast_too(project):
    document = project("trajectory", "run_003", "--first", "0", "--json").document
    check("trajectory", document)
    assert document["motion"] is None
    assert document["forecast"]["progress"] == 0.0
    assert {m["forecaster"] for m in document["forecast"]["metrics"]} <= {
        "hyperparameters", "stack", "carry-forward", "linear extrapolation", "curve",
    }  # fmt: skip


def test_a_forecast_learns_nothing_from_the_run_itself(project):
    whole = project("trajectory", "run_002", "--first", "1", "--json").document["forecast"]
    assert whole["epochs"] == 3.0
    assert len({m["measured"] for m in whole["metrics"]} & {m["value"] for m in whole["metrics"]}) == 0


def test_an_unknown_run_is_named_with_the_nearest_one(project):
    result = project("trajectory", "rum_003")
    assert result.status == 2
    assert "did you mean run_003 or run_00" in result.err
    result = project("trajectory", "run_00")
    assert result.status == 2
    assert "run_00 may be one of 9 runs: run_000, run_001, run_002, run_003 and others" in result.err


def test_pictures_are_drawn_by_themselves(project, tmp_path):
    for name, arguments in {
        "path": ["trajectory", "run_000"],
        "ahead": ["trajectory", "run_000", "--first", "2", "--ahead", "2"],
        "groups": ["cluster", "-k", "2"],
    }.items():
        file = tmp_path / f"{name}.html"
        assert project(*arguments, "--picture", file).status == 0
        text = file.read_text(encoding="utf-8")
        assert "run_000" in text
        assert "<script src" not in text
    result = project("cluster", "-k", "2", "--picture", tmp_path / "groups.gif")
    assert result.status == 2
    assert ".html, .png or .svg" in result.err


PICTURES = {
    "pareto": ["pareto"],
    "search": ["search", "--target-coverage", "0.3", "--no-record"],
    "sample": ["sample", "--target-coverage", "0.3", "--probability", "0.05", "-n", "5"],
    "propose": ["propose", "-n", "2", "--no-record"],
    "interpolate": ["interpolate", "run_000", "run_001", "--steps", "3"],
    "nearest": ["nearest", "run_000"],
    "predict": ["predict", "{runs}/run_000"],
    "runs": ["runs", "--front"],
}
DRAWN_ELSEWHERE = {"cluster", "trajectory", "embed", "fit", "merge", "init-from"}
"""Commands with a picture of which other tests, here and in test_weights.py, look at it."""


def test_every_picture_of_a_command_is_tested():
    with_picture = {
        name for name in COMMANDS
        if any("--picture" in p.opts for p in group.get_command(click.Context(group), name).params)
    }  # fmt: skip
    assert with_picture == set(PICTURES) | DRAWN_ELSEWHERE


def test_nearest_rings_the_checkpoint_and_its_neighbours_on_the_map(project, tmp_path):
    drawn = []
    with mock.patch("epsopt.studies.pictures.save_picture", lambda figure, _: drawn.append(figure)):
        result = project("nearest", "run_000", "-k", "4", "--one-per-run", "--picture", tmp_path / "map.html", "--json")
    rings = {t.name: t for t in drawn[0].data if t.marker.symbol == "circle-open"}
    assert set(rings) == {f"run_000:{EPOCHS}", "its 4 nearest checkpoints"}
    named = {f"{n['run']}, epoch {n['epoch']}" for n in result.document["nearest"]}
    ringed = set(zip(rings["its 4 nearest checkpoints"].x, rings["its 4 nearest checkpoints"].y, strict=True))
    points = next(t for t in drawn[0].data if t.name.startswith("measured"))
    there = {
        text.partition("</b>")[0].removeprefix("<b>")
        for x, y, text in zip(points.x, points.y, points.hovertext, strict=True) if (x, y) in ringed
    }  # fmt: skip
    assert named <= there


def test_predictions_of_files_are_drawn_hollow_among_what_was_measured(project, tmp_path):
    drawn = []
    with mock.patch("epsopt.studies.pictures.save_picture", lambda figure, _: drawn.append(figure)):
        result = project("predict", project.runs / "run_000", "--picture", tmp_path / "front.html", "--json")
    hollow = [t for t in drawn[0].data if t.name.startswith("predicted")]
    assert len(hollow[0].x) == len(result.document["predictions"]) == EPOCHS
    assert hollow[0].marker.symbol == "diamond-open"
    assert "epoch_001" in hollow[0].hovertext[0]


@pytest.mark.parametrize("command", PICTURES)
def test_every_command_that_has_a_picture_draws_it(project, tmp_path, command):
    file = tmp_path / "p.html"
    arguments = [a.replace("{runs}", str(project.runs)) for a in PICTURES[command]]
    result = project(*arguments, "--picture", file)
    assert result.status == 0, result.err
    text = file.read_text(encoding="utf-8")
    assert "Plotly.newPlot" in text
    assert "<script src" not in text
    assert str(file) in "".join(result.out.split())
    (tmp_path / "mine.html").write_text("<html></html>")
    refused = project(*arguments, "--picture", tmp_path / "mine.html")
    assert refused.status == 2
    assert "--overwrite" in refused.err
    assert (tmp_path / "mine.html").read_text() == "<html></html>"


def test_a_fit_draws_held_out_runs_or_says_why_it_cannot(project, tmp_path):
    kept = project("fit", "--picture", tmp_path / "p.gif")
    assert (kept.status, "is saved as" in kept.err) == (2, True)
    with mock.patch("epsopt.studies.fit_maps.fit_maps") as fit_maps:
        with Catalogue(f"sqlite:///{project.folder / 'epsopt.db'}") as catalogue:
            fit_maps.return_value = (*maps.load_map(catalogue), maps.FitOutcome("current"), None)
        current = project("fit", "--picture", tmp_path / "p.html")
    assert current.status == 2
    assert "--from-scratch" in current.err
    assert not (tmp_path / "p.html").exists()


def test_the_former_name_of_the_option_works_and_says_todays(project, tmp_path):
    result = project("cluster", "-k", "2", "--save", tmp_path / "g.html")
    assert result.status == 0
    assert (tmp_path / "g.html").exists()
    assert "--picture now" in " ".join(result.err.split())
    both = project("cluster", "-k", "2", "--save", tmp_path / "a.html", "--picture", tmp_path / "b.html")
    assert both.status == 2
    assert "--save" not in project("cluster", "--help").out


def test_a_browser_draws_png_and_svg(project, tmp_path):
    from epsopt.studies.pictures import drawn_image

    if not any(map(shutil.which, ("chromium", "google-chrome"))):
        pytest.skip("there is neither Chromium nor Chrome")
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], name="</script><b>"), layout={"height": 300})
    assert drawn_image(figure, "png", "p.png").startswith(b"\x89PNG")
    assert drawn_image(figure, "svg", "p.svg").startswith(b"<svg")
    with (
        mock.patch("shutil.which", return_value=None),
        mock.patch.object(go.Figure, "to_image", side_effect=ValueError("x")),
    ):
        result = project("cluster", "-k", "2", "--picture", tmp_path / "p.png")
    assert result.status == 1
    assert "save it as .html" in " ".join(result.err.split())
    assert not (tmp_path / "p.png").exists()


def test_a_checkpoint_has_the_same_place_in_every_picture(project, tmp_path):
    drawn = []
    with mock.patch("epsopt.studies.pictures.save_picture", lambda figure, _: drawn.append(figure)):
        for arguments in (["trajectory", "run_000"], ["cluster", "-k", "2"], ["trajectory", "run_003"]):
            assert project(*arguments, "--picture", tmp_path / "map.html").status == 0
    path, groups, other = drawn
    (run,) = (t for t in path.data if t.name == "the run")
    ends = [(x, y) for t in groups.data for x, y, text in zip(t.x, t.y, t.text, strict=True) if "run_000," in text]
    assert ends == [pytest.approx((run.x[-1], run.y[-1]), abs=1e-5)], "drawn to six digits"
    assert path.layout.xaxis.title.text == groups.layout.xaxis.title.text
    assert "of the variance" in groups.layout.yaxis.title.text
    elsewhere = {(x, y) for x, y in zip(other.data[0].x, other.data[0].y, strict=True)}
    assert set(zip(run.x, run.y, strict=True)) <= elsewhere


def test_groups_name_every_run_once(project):
    document = project("cluster", "-k", "2", "--json").document
    named = [run for g in document["groups"] for run in g["runs"]] + document["unclustered"]
    assert len(named) == len(set(named)) == document["n_runs"]
    for g in document["groups"]:
        assert g["runs"][0] == g["medoid"]["run"]
    assert project("cluster", "-k", "40").status == 2


@pytest.fixture
def with_a_broken_run(project, copy, tmp_path):
    """The project after a run whose weights are all NaN, a copy of it, and one whose last weights are NaN came in."""
    mine = copy(project)
    for epoch in (1, 2, 3):
        content = torch.load(project.runs / "run_000" / f"epoch_{epoch:03}.pt", weights_only=True)
        weights = {n: torch.full_like(t, torch.nan) for n, t in content["model_state_dict"].items()}
        metrics = {n: v + 0.01 for n, v in content["metrics"].items()}
        for run in ("broken", "copied"):
            (tmp_path / "new" / run).mkdir(parents=True, exist_ok=True)
            torch.save(content | {"model_state_dict": weights}, tmp_path / "new" / run / f"epoch_{epoch:03}.pt")
        (tmp_path / "new" / "late").mkdir(exist_ok=True)
        late = {"model_state_dict": weights} if epoch == 3 else {"metrics": metrics}
        torch.save(content | late, tmp_path / "new" / "late" / f"epoch_{epoch:03}.pt")
    assert mine("ingest", tmp_path / "new").status == 0
    return mine


def test_no_use_of_the_map_takes_nan_weights_for_a_place_on_it(with_a_broken_run):
    mine = with_a_broken_run
    found = mine("search", "--no-record", "--json")
    assert found.document["n_unseen"] == 2, "a fit learns nothing from NaN weights"
    assert "2 checkpoints of the catalogue are not on the map yet" in " ".join(found.err.split())
    for arguments in (("trajectory", "broken"), ("trajectory", "broken", "--first", "2"), ("nearest", "broken:2")):
        result = mine(*arguments)
        assert (result.status, result.out) == (1, ""), arguments
        assert result.err.rstrip().endswith("weights are NaN")
    for arguments in (("interpolate", "run_001", "broken"), ("embed", "late")):
        result = mine(*arguments)
        assert (result.status, result.out) == (2, ""), arguments
        assert "weights are NaN" in " ".join(result.err.split())
    partly = mine("trajectory", "late", "--json")
    assert partly.document["epochs"] == [1.0, 2.0]
    assert "1 checkpoint of late left out of its path: weights are NaN" in " ".join(partly.err.split())
    grouped = mine("cluster", "-k", "2", "--json")
    said = " ".join(grouped.err.split())
    assert "7 checkpoints are left out, because their weights are NaN, of 3 runs: broken, copied, late" in said
    assert "2 checkpoints of the catalogue are not on the map yet" in said


def test_samples_say_that_they_are_predicted_and_targets_are_needed(project):
    assert "Predicted, not evaluated" in " ".join(
        project("sample", "--target-coverage", "0.3", "--probability", "0.05").out.split()
    )
    none = project("sample", "--target-rad-hier", "-7", "--target-coverage", "1")
    assert none.status == 0
    assert "No point of the trust region" in none.out
    assert "product over single targets" in " ".join(none.out.split())
    bare = project("sample")
    assert bare.status == 2
    assert "--target-coverage" in bare.err


@pytest.fixture
def embedded(project, copy):
    """The project with a map that has an embedding head of made-up embeddings: only their shape matters here."""
    mine = copy(project)
    with Catalogue(f"sqlite:///{mine.folder / 'epsopt.db'}") as catalogue:
        train = maps.training_set(catalogue)
        ball = 0.9 * np.random.default_rng(0).uniform(-0.5, 0.5, (1, 20, 4)).astype(np.float32)
        surrogate, validation = fit(replace(train, embeddings=np.repeat(ball, len(train), 0)), recipe=QUICK, folds=2)
        data, meta = surrogate.to_bytes()
        catalogue.put_artifact(
            "surrogate", "embedded", data, {**meta, "validation": asdict(replace(validation, held_out=None))}
        )
    return mine


def test_embeddings_are_previewed_even_where_only_predicted_ones_are_known(embedded, tmp_path):
    arrays = tmp_path / "embedding.npz"
    result = embedded("embed", "run_000:2", "--output", arrays, "--save", tmp_path / "e.html", "--json")
    assert result.status == 0, result.err
    check("embed", result.document)
    assert (result.document["anchors"], result.document["dimensions"], result.document["real"]) == (20, 4, False)
    assert np.load(arrays)["pca_predicted"].shape == (20, 2)
    assert "Only predicted embeddings" in embedded("embed", "run_000:2").out
    assert embedded("embed", "run_000", "--output", tmp_path / "e.csv").status == 2


def test_a_map_without_embeddings_says_how_to_get_them(project):
    result = project("embed", "run_000:2")
    assert result.status == 2
    assert "hooks.embed" in result.err


def test_a_checkpoint_that_only_its_run_places_in_a_lineage_has_it_in_predictions_too(project, copy, tmp_path):
    mine = copy(project)
    found = torch.load(project.runs / "run_000" / "epoch_001.pt", weights_only=True)
    first = {name: found[name] for name in ("model_state_dict", "metrics")}
    generator = torch.Generator().manual_seed(0)
    runs = tmp_path / "new" / "far"
    runs.mkdir(parents=True)
    for epoch in (1, 2, 3):  # each a step of twice its norm away from the one before
        torch.save(first | {"epoch": epoch}, runs / f"epoch_{epoch:03}.pt")
        moved = {
            n: t + 2.0 * t.norm() * (noise := torch.randn(t.shape, generator=generator)) / noise.norm()
            for n, t in first["model_state_dict"].items()
        }
        first = first | {"model_state_dict": moved}
    assert mine("ingest", tmp_path / "new").status == 0
    last = runs / "epoch_003.pt"
    with Catalogue(f"sqlite:///{mine.folder / 'epsopt.db'}") as catalogue:
        far = next(c for c in catalogue.checkpoints() if c.path == str(last))
        (by_weights,) = read_fingerprints([last], catalogue)
        (read,) = predict_files(catalogue, None, [last]).read
        (kept,) = catalogue.fingerprints([far.id])
    assert (by_weights.lineage, read.lineage) == (None, far.lineage_id)
    assert far.lineage_id is not None
    assert read.fingerprint.to_bytes() == kept.to_bytes() != by_weights.fingerprint.to_bytes()
