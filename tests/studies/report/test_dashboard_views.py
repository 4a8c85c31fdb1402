from __future__ import annotations

import json
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import optuna
from optuna.trial import TrialState
from optuna_dashboard._note import get_note, get_note_from_system_attrs

from epsopt.optimize.space import Parameter, Space
from epsopt.studies import record_proposals, take_proposal
from epsopt.studies.optuna_io.stored_trials import proposed_trials
from epsopt.studies.optuna_io.trial_leases import finish
from epsopt.studies.project.project import Project
from epsopt.studies.report import dashboard_views
from epsopt.studies.report.dashboard_views import keep_fresh, refresh_views
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import CatalogueError

from ..fakes import COVERAGE, DIST_CORR, FakeProposal  # noqa: TID252

SPACE = Space((Parameter("lr", "float", 0.0, 1.0),))
TWO = (COVERAGE, DIST_CORR)
MEASURED = {"coverage": 0.85, "dist_corr": 0.8}


def catalogue_of(*checkpoints):
    return SimpleNamespace(checkpoints=lambda: list(checkpoints), get_artifact=lambda *_: None)


def proposed(tmp_path, url, storage):
    """Two proposals, the first of which was trained; and the checkpoints that there are."""
    project = Project("p", tmp_path / "epsopt.toml", tmp_path / "runs", url, TWO, {}, SPACE, None, tmp_path)
    old = Checkpoint(1, 1, "old", "/old/1.pt", "x", 1, {"coverage": 0.5, "dist_corr": 0.5}, {"lr": 0.9}, "s", 1, 9)
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal({"lr": i / 10}) for i in range(2)])
    taken = take_proposal(storage, "p", SPACE, worker="w")
    said = {f"measured.{n}": v for n, v in MEASURED.items()} | {"checkpoints": [{"epoch": 1}]}
    said["path"] = str(tmp_path / "runs" / "proposal_000" / "last.pt")
    finish(storage, taken.trial_id, TrialState.COMPLETE, list(MEASURED.values()), said)
    folder = tmp_path / "runs" / "proposal_000"
    folder.mkdir(parents=True)
    (folder / "stdout.txt").write_text("epoch 1\nepoch 2: loss *0.5*\x1b[0m\n")
    path = str(folder / "last.pt")
    new = replace(old, id=2, run_id=2, run="proposal_000", path=path, sha256="y", metrics=MEASURED)
    return project, (old, new)


def note_of(storage, number):
    trial = next(t for t in proposed_trials(storage, "p") if t.number == number)
    study = storage.get_study_id_from_name("p/proposals")
    return get_note_from_system_attrs(storage.get_study_system_attrs(study), trial._trial_id)


def test_every_proposal_says_why_and_what_was_predicted_measured_and_printed(tmp_path, url, storage):
    project, checkpoints = proposed(tmp_path, url, storage)
    refresh_views(project, storage, catalogue_of(*checkpoints))
    trained, waiting = note_of(storage, 0)["body"], note_of(storage, 1)["body"]
    assert trained.startswith("# Proposal 0: trained")
    assert "a variation of run-001" in trained
    assert "| `coverage` | 0.9 (0.8 to 1) | 0.85 |" in trained
    assert "    epoch 2: loss *0.5*" in trained
    assert "\x1b" not in trained
    assert "`epsopt explore`" in trained
    assert waiting.startswith("# Proposal 1: waiting")
    assert "| `coverage` | 0.9 (0.8 to 1) |  |" in waiting
    assert "| `lr` | `0.1` |" in waiting


def test_a_proposal_that_was_trained_names_the_files_of_its_checkpoint_once(tmp_path, url, storage):
    project, checkpoints = proposed(tmp_path, url, storage)
    named = []
    for _ in range(2):
        refresh_views(project, storage, catalogue_of(*checkpoints))
        study = storage.get_study_system_attrs(storage.get_study_id_from_name("p/proposals"))
        named.append({key: json.loads(v) for key, v in study.items() if key.startswith("dashboard:artifacts:")})
    trial = next(t for t in proposed_trials(storage, "p") if t.number == 0)
    assert {key.split(":")[2] for key in named[0]} == {str(trial._trial_id)}
    assert {v["filename"] for v in named[0].values()} == {"config.json", "trajectory.svg", "output.txt"}
    assert named[0] == named[1]


def test_the_study_of_proposals_answers_what_its_reader_asks(tmp_path, url, storage):
    project, checkpoints = proposed(tmp_path, url, storage)
    refresh_views(project, storage, catalogue_of(*checkpoints))
    note = get_note(optuna.load_study(study_name="p/proposals", storage=storage))
    for question in ("Did the proposed runs help?", "Can the intervals be trusted?", "What to run next?"):
        assert f"**{question}**" in note
    assert "epsopt work" in note


def test_what_has_not_changed_is_not_written_again(tmp_path, url, storage):
    project, checkpoints = proposed(tmp_path, url, storage)
    for _ in range(2):
        refresh_views(project, storage, catalogue_of(*checkpoints))
    assert [note_of(storage, i)["version"] for i in range(2)] == [1, 1]
    taken = take_proposal(storage, "p", SPACE, worker="w")
    finish(storage, taken.trial_id, TrialState.FAIL, None, {"failure": "out of memory"})
    refresh_views(project, storage, catalogue_of(*checkpoints))
    assert [note_of(storage, i)["version"] for i in range(2)] == [1, 2]
    assert note_of(storage, 1)["body"].startswith("# Proposal 1: failed")


def test_without_proposals_there_are_runs_and_no_study_of_proposals(tmp_path, url, storage):
    project = Project("p", tmp_path / "epsopt.toml", tmp_path / "runs", url, TWO, {}, SPACE, None, tmp_path)
    only = Checkpoint(1, 1, "old", "/old/1.pt", "x", 1, MEASURED, {"lr": 0.9}, "s", 1, 9)
    refresh_views(project, storage, catalogue_of(only))
    assert set(optuna.get_all_study_names(storage)) == {"p/runs", "p/runs/coverage", "p/runs/dist_corr"}
    refresh_views(replace(project, objectives=()), storage, catalogue_of(only))


def test_an_open_dashboard_looks_again_and_says_once_what_stops_it(monkeypatch):
    monkeypatch.setattr(dashboard_views, "EVERY", 0.001)
    ended, looks, warnings = Event(), [], []

    def refresh():
        looks.append(1)
        if len(looks) == 4:
            ended.set()
        if len(looks) > 1:
            raise CatalogueError("the database is gone")

    keep_fresh(refresh, ended, warnings.append)
    assert len(looks) == 4
    assert warnings == ["what the dashboard shows is not up to date: the database is gone"]
