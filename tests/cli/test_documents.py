"""Every --json prints exactly one document, and it is what its schema in docs/schemas says."""

from __future__ import annotations

import json
import shutil

import jsonschema
import pytest

from .conftest import QUICK, SCHEMAS, Project, check


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda p: p.stem)
def test_schemas_are_valid_and_strict(path):
    schema = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False


def test_every_command_has_a_schema():
    from epsopt.cli.main import COMMANDS

    assert {p.stem for p in SCHEMAS.glob("*.json")} == set(COMMANDS)


NAMES = ("init", "ingest", "predict", "search", "pareto", "nearest", "propose", "trajectory", "cluster", "sample")


def cases(project):
    file = project.runs / "run_000" / "epoch_003.pt"
    return {
        "init": ["init", project.runs, "--name", "small", "--minimize", "rad_hier"],
        "ingest": ["ingest"],
        "predict": ["predict", file],
        "search": ["search", "--target-coverage", "0.5"],
        "pareto": ["pareto"],
        "nearest": ["nearest", "run_000:2"],
        "propose": ["propose", "-n", "2", "--target-dist-corr", "0.5"],
        "trajectory": ["trajectory", "run_000", "--first", "2"],
        "cluster": ["cluster", "-k", "2"],
        "sample": ["sample", "--target-coverage", "0.5", "-n", "5"],
    }


@pytest.fixture(scope="module")
def used(tmp_path_factory, project):
    """A copy of the project: proposals are recorded in it."""
    folder = tmp_path_factory.mktemp("documents") / "project"
    shutil.copytree(project.folder.with_name("untouched"), folder)
    return Project(folder, project.runs)


@pytest.mark.parametrize("command", NAMES)
def test_the_document_fits_its_schema(used, command):
    result = used(*cases(used)[command], "--json")
    assert result.status == 0, result.err
    check(command, result.document)


def test_the_document_of_fit_fits_its_schema(fresh, copy, monkeypatch):
    from epsopt.studies import surrogate_store as maps

    fit_map = maps.fit_map
    monkeypatch.setattr(maps, "fit_map", lambda *a, **k: fit_map(*a, **k, recipe=QUICK))
    mine = copy(fresh)
    result = mine("fit", "--json")
    assert result.status == 0, result.err
    check("fit", result.document)
    assert result.document["fitted"]
    again = mine("fit", "--json")
    assert not again.document["fitted"]
    assert {**again.document, "fitted": True} == result.document
    table = mine("fit").out
    assert "current" in table
    assert "Careful: only 10 runs" in table
    assert all(len(line) <= 80 for line in table.splitlines())


def test_a_search_without_targets_or_record_fits_its_schema_too(project):
    result = project("search", "--no-record", "-n", "2", "--json")
    check("search", result.document)
    assert result.document["study"] is None
    assert len(result.document["answers"]) <= 2


def test_nothing_that_json_cannot_say_is_printed(project, tmp_path):
    import torch

    content = torch.load(project.runs / "run_000" / "epoch_003.pt", weights_only=True)
    content["metrics"]["coverage"] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    result = project("predict", tmp_path / "nan.pt", "--json")
    document = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    check("predict", document)
    assert document["predictions"][0]["measured"]["coverage"] is None


def test_format_json_is_the_same_as_json(project):
    as_format = project("propose", "-n", "1", "--no-record", "--format", "json").document
    assert as_format == project("propose", "-n", "1", "--no-record", "--json").document
