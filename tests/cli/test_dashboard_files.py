"""The files that the dashboard shows with an answer: config, path and output of the checkpoint nearest to it."""

from __future__ import annotations

import io
import json
import shutil
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from bottle import HTTPError

from epsopt.cli.workspace import open_workspace
from epsopt.studies import dashboard_server
from epsopt.studies.report.checkpoint_artifacts import CheckpointArtifacts

from ..chromium import opened  # noqa: TID252
from .conftest import Project

pytestmark = pytest.mark.usefixtures("one_browser")


@pytest.fixture(scope="module")
def searched(project, tmp_path_factory):
    """A project whose search is recorded, and what the search said."""
    folder = shutil.copytree(project.folder.with_name("untouched"), tmp_path_factory.mktemp("searched") / "project")
    mine = Project(folder, project.runs)
    return mine, mine("search", "--target-coverage", "0.3", "--json").document


@pytest.fixture(scope="module")
def server(searched):
    workspace = open_workspace(SimpleNamespace(project=searched[0].folder / "epsopt.toml", storage=None))
    files = CheckpointArtifacts(workspace.catalogue, ("coverage",))
    with dashboard_server(workspace.storage, port=0, artifacts=files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, path):
    with urllib.request.urlopen(f"{server.url}{path}", timeout=60) as answer:
        return answer.read()


def trials(server, name):
    studies = json.loads(ask(server, "api/studies"))["study_summaries"]
    study = next(s["study_id"] for s in studies if s["study_name"] == name)
    return study, json.loads(ask(server, f"api/studies/{study}?after=0"))["trials"]


def test_each_answer_has_the_config_the_path_and_the_output_of_its_nearest_checkpoint(server, searched):
    _, said = searched
    study, found = trials(server, said["study"])
    assert len(found) == len(said["answers"]) > 0
    for trial, answer in zip(found, said["answers"], strict=True):
        near = answer["nearest"][0]
        files = {a["filename"]: a for a in trial["artifacts"]}
        assert set(files) == {"config.json", "trajectory.svg", "output.txt"}
        path = f"artifacts/{study}/{trial['trial_id']}/"
        config = json.loads(ask(server, path + files["config.json"]["artifact_id"]))
        assert config == near["hyperparameters"]
        picture = ask(server, path + files["trajectory.svg"]["artifact_id"]).decode()
        assert f"{near['run']}, epoch {near['epoch']} ringed" in picture
        assert "coverage" in picture
        assert ask(server, path + files["output.txt"]["artifact_id"])


def test_the_front_s_own_checkpoints_have_them_too(server, searched):
    project, _ = searched
    _, found = trials(server, "small/front")
    assert len(found) == len(project("pareto", "--json").document["front"])
    assert all(len(t["artifacts"]) == 3 for t in found)


def test_a_browser_shows_the_path_with_the_trial(server, searched):
    study, found = trials(server, searched[1]["study"])
    with opened() as page:
        page.page.goto(f"{server.url}dashboard/studies/{study}/trials?numbers=0")
        shown = page.page.locator(f"img[src*='/artifacts/{study}/{found[0]['trial_id']}/']")
        shown.wait_for()
        page.page.wait_for_function("e => e.complete && e.naturalWidth > 0", arg=shown.element_handle())
        for name in ("config.json", "output.txt"):
            page.page.get_by_text(name, exact=True).wait_for()
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert page.errors == []
    assert page.reached(server.url) == []


@pytest.mark.parametrize("name", ["01-00000000000000000000000000000000", "ff-00", "0"])
def test_a_file_of_no_checkpoint_is_not_found(server, searched, name):
    workspace = open_workspace(SimpleNamespace(project=searched[0].folder / "epsopt.toml", storage=None))
    with pytest.raises(HTTPError) as refused:
        CheckpointArtifacts(workspace.catalogue).open_reader(name)
    assert refused.value.status_code == 404
    study, found = trials(server, searched[1]["study"])
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(server, f"artifacts/{study}/{found[0]['trial_id']}/{name}")


def test_nothing_is_kept_that_is_uploaded_and_nothing_goes_with_a_study(searched):
    workspace = open_workspace(SimpleNamespace(project=searched[0].folder / "epsopt.toml", storage=None))
    files = CheckpointArtifacts(workspace.catalogue)
    with pytest.raises(HTTPError) as refused:
        files.write("01-00", io.BytesIO(b"x"))
    assert refused.value.status_code == 403
    before = searched[0].database()
    files.remove("01-00")
    assert searched[0].database() == before
