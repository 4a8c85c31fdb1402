"""--target-NAME VALUE: for every metric of the catalogue, with one sentence for whatever is wrong."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target-coverage", "2"], "2 is impossible, coverage lies between 0 and 1"),
        (["--target-nonsense", "1"], "known are --target-coverage, --target-dist-corr, --target-rad-hier"),
        (["--target-dist-cor", "1"], "did you mean --target-dist-corr?"),
        (["--target-coverage"], "needs a value"),
        (["--target-coverage", "much"], "expected a number, got 'much'"),
        (["--target-coverage", "nan"], "finite"),
        (["--target-coverage", "1", "--target-coverage=1"], "given twice"),
        (["--target-dist-corr", "1", "--target-dist_corr", "1"], "given twice"),
        (["--target", "coverage"], "--target-NAME VALUE"),
        (["--sed", "1"], "--seed"),
        (["--level", "1.5"], "0<x<1"),
        (["-n", "0"], "0 is not in the range"),
    ],
)
@pytest.mark.parametrize("command", ["search", "propose"])
def test_bad_usage_gets_one_sentence_and_status_2(project, command, arguments, said):
    result = project(command, *arguments)
    assert result.status == 2
    assert said in result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["--target-rad-hier", "-0.7"], ["--target-rad-hier=-0.7"], ["--target-rad_hier", "-.7"]]
)
def test_a_negative_target_is_a_value(project, arguments):
    result = project("search", *arguments, "--no-record", "-n", "1", "--json")
    assert result.status == 0, result.err
    assert result.document["targets"] == [{"name": "rad_hier", "value": -0.7}]


def test_a_metric_without_direction_is_asked_for(project, copy):
    mine = copy(project)
    file = mine.folder / "epsopt.toml"
    text = file.read_text()
    start = text.index("[objectives.rad_hier]")
    file.write_text(text[:start] + text[text.index("[space.") :])
    result = mine("search", "--target-rad-hier", "-0.1")
    assert result.status == 2
    assert "which way is rad_hier better" in result.err
    assert "epsopt fit" not in result.err, "the map has learned it"


def test_an_objective_that_no_checkpoint_has_is_named(project, copy):
    mine = copy(project)
    file = mine.folder / "epsopt.toml"
    file.write_text(file.read_text() + '\n[objectives.speed]\ndirection = "maximize"\n')
    result = mine("pareto")
    assert result.status == 2
    assert "objectives.speed" in result.err


def test_every_answer_meets_likely_targets_first(project):
    document = project("search", "--target-coverage", "0.2", "--no-record", "--json").document
    chances = [a["probability"] for a in document["answers"]]
    assert chances == sorted(chances, reverse=True)


def test_an_unknown_engine_lists_the_known_ones(project):
    result = project("search", "--engine", "magic")
    assert result.status == 2
    assert "'gradient', 'botorch', 'optuna'" in result.err


@pytest.mark.parametrize("engine", ["botorch", "optuna"])
def test_other_engines_answer(project, engine):
    result = project("search", "--engine", engine, "--no-record", "-n", "2", "--json")
    assert result.status == 0, result.err
    assert result.document["engine"] == engine
    assert result.document["answers"]
