"""What a report says of predictions over time, and of the runs that were left to finish."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from epsopt.cli.loop_tables import front_sentences, show_proposals, show_steps
from epsopt.cli.report import (
    control_run_sentences,
    count_sentences,
    drift_sentences,
    joining_sentences,
    other_objectives,
    report_document,
    wait_sentences,
)
from epsopt.cli.report_page import write_page
from epsopt.optimize.objectives import Objective, measured_table
from epsopt.optimize.pareto import non_dominated
from epsopt.optimize.space import Parameter, Space
from epsopt.studies import record_proposals, record_runs, take_proposal
from epsopt.studies.optuna_io.changed_objectives import follow_objectives
from epsopt.studies.optuna_io.queue import ProposalRecord, proposal_attributes, record_step
from epsopt.studies.optuna_io.stored_trials import proposed_trials
from epsopt.studies.optuna_io.trial_leases import finish, release
from epsopt.studies.output_files import output_file
from epsopt.studies.project.project import Project
from epsopt.studies.report.gain_report import StepsOfKind
from epsopt.studies.report.report import loop_report
from epsopt.studies.schedule.budget import MeasuredMerge, StepPlan
from epsopt.studies.schedule.study_snapshot import StudySnapshot
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import EmptyCatalogue, UsageError
from epsopt.zoo.layouts.parsed import RECOMBINED

from ...sweeps import sweep  # noqa: TID252
from ..fakes import COVERAGE, DIST_CORR, FakeProposal  # noqa: TID252

SPACE = Space((Parameter("lr", "float", 0.0, 1.0),))
TWO = (COVERAGE, DIST_CORR)


@pytest.fixture
def report(tmp_path, url, storage):
    """Ten runs: the first five miss their intervals, the last five hold; two of them would have been stopped."""
    project = Project("p", tmp_path / "epsopt.toml", tmp_path / "runs", url, TWO, {}, SPACE, None, tmp_path)
    old = Checkpoint(1, 1, "old", "/old/1.pt", "x", 1, {"coverage": 0.5, "dist_corr": 0.5}, {}, "s", 1, 9)
    checkpoints = [old]
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal({"lr": i / 10}) for i in range(10)])
    for i in range(10):
        taken = take_proposal(storage, "p", SPACE, worker="w")
        measured = {"coverage": 0.3 if i < 5 else 0.85, "dist_corr": 0.8}
        control_share = {"control.probability": 0.04, "control.checkpoints": 1} if i in (2, 9) else {}
        said = {f"measured.{n}": v for n, v in measured.items()} | control_share | {"checkpoints": [1, 2]}
        said |= {"idle_seconds": 0.2 * i} if i else {}  # the first was run by another program
        finish(storage, taken.trial_id, TrialState.COMPLETE, list(measured.values()), said)
        for epoch in (1, 2):
            grown = {n: v * epoch / 2 + (0.01 if i == 9 else 0.0) for n, v in measured.items()}
            path = str(tmp_path / "runs" / f"proposal_{i:03d}" / f"{epoch}.pt")
            checkpoints.append(
                replace(old, id=10 * i + epoch + 10, run_id=i + 2, run=f"proposal_{i:03d}", path=path, metrics=grown)
            )
    return loop_report(project, storage, checkpoints)


def test_the_intervals_of_the_first_runs_are_set_beside_those_of_the_last(report):
    assert drift_sentences(report) == [
        "coverage over time: 0 of the first 5 inside, mean error 0.6; 5 of the last 5, 0.05.",
        "dist_corr over time: 5 of the first 5 inside, mean error 0; 5 of the last 5, 0.",
    ]


def test_runs_that_were_left_to_finish_hold_the_forecasts_to_account(report):
    assert [(a.number, a.probability, a.joined) for a in report.control_runs] == [(2, 0.04, False), (9, 0.04, True)]
    assert control_run_sentences(report) == [
        "Control runs, which the pruner would have pruned: 2; 1 of them reached the front after all (0.1 expected)."
    ]
    assert report_document(report)["control_runs"][1] == {"number": 9, "probability": 0.04, "joined": True}


def test_the_page_has_what_the_terminal_shows_of_every_proposal(report, tmp_path):
    file = output_file(tmp_path / "page.html", (".html",), "a report")
    write_page(file, "p", report, report.objectives, ["The project file names other objectives now."])
    page = (tmp_path / "page.html").read_text()
    assert "The project file names other objectives now." in page
    rows = page.partition("as predicted before they were trained and as measured after</caption>")[2].split("<tr>")
    heads, (predicted, measured) = rows[1], rows[2:4]
    assert "coverage" in heads
    assert "hyperparameters, and why" in heads
    assert ">predicted</td><td>0.900 [" in predicted
    assert "lr 0" in predicted
    assert ">measured</td><td>0.300</td>" in measured
    assert page.count(">measured</td>") == len(report.proposals)


def test_how_long_slots_were_empty_before_launches_is_reported(report):
    assert wait_sentences(report) == [
        "Before a launch its slot was empty for 1.0 s in the median, 1.8 s at most (9 launches)."
    ]
    assert report_document(report)["idle_seconds"] == pytest.approx([0.2 * i for i in range(1, 10)])
    assert wait_sentences(replace(report, proposals=report.proposals[:1])) == []
    assert "at most (1 launch)." in wait_sentences(replace(report, proposals=report.proposals[:2]))[0]


def test_one_proposal_is_one_proposal(report):
    assert count_sentences(replace(report, proposals=report.proposals[:1])) == ["1 proposal: 1 trained."]


def step_plan(kind: str, epochs: int = 2, predicted: float = 0.1) -> StepPlan:
    return StepPlan(kind, predicted, 0.1, float(epochs), epochs, 4.0, True, None, False, (0.0, 0.0))


# kind, epochs that it is to have, epochs that it had, coverage at its end, how it ended
STEPS = (
    ("exploration", 2, 2, 0.5, TrialState.COMPLETE),
    ("run", 4, 4, 0.9, TrialState.COMPLETE),  # inside its interval
    ("branch", 2, 2, 0.3, TrialState.COMPLETE),  # outside
    ("branch", 2, 1, 0.1, TrialState.PRUNED),  # stopped early: outside too, but not to be compared
    ("run", 4, 2, 0.2, TrialState.COMPLETE),  # the budget was spent: neither
    ("branch", 2, 0, 0.0, None),  # still trains
)


@pytest.fixture
def stepped(tmp_path, url, storage):
    """Six steps of a budget and two merges."""
    project = Project("p", tmp_path / "epsopt.toml", tmp_path / "runs", url, TWO, {}, SPACE, None, tmp_path)
    old = Checkpoint(1, 1, "old", "/old/1.pt", "x", 1, {"coverage": 0.5, "dist_corr": 0.5}, {}, "s", 1, 9)
    checkpoints = [old]
    for i, (kind, epochs, taken, coverage, state) in enumerate(STEPS):
        known = {} if kind == "exploration" else {"coverage": 0.85, "dist_corr": 0.5}
        expected = ProposalRecord(
            {"lr": i / 10}, known, {n: v - 0.1 for n, v in known.items()}, {n: v + 0.1 for n, v in known.items()},
            joins_front=None if kind == "exploration" else 0.8, nearest_runs=[("old", 0.3)], reason=f"because of {i}",
        )  # fmt: skip
        said = {"step": step_plan(kind, epochs).to_json(), **proposal_attributes(expected, 0.9)}
        record_step(storage, "p", TWO, SPACE, {"lr": i / 10}, None, said)
        trial = take_proposal(storage, "p", SPACE, worker="w")
        measured = {"coverage": coverage, "dist_corr": 0.5}
        curve = [{"epoch": e, "path": "", "metrics": measured} for e in range(1, taken + 1)]
        attributes = {f"measured.{n}": v for n, v in measured.items()} | {"checkpoints": curve}
        if state is not None:
            values = list(measured.values()) if state == TrialState.COMPLETE else None
            finish(storage, trial.trial_id, state, values, attributes)
        path = str(tmp_path / "runs" / f"proposal_{i:03d}" / "last.pt")
        more = replace(old, id=10 + i, run_id=i + 2, run=f"proposal_{i:03d}", path=path, metrics=measured)
        checkpoints += [more] * bool(taken)
    merges = [MeasuredMerge(0.2, 0.0, 0.5, 1.0), MeasuredMerge(0.3, 0.1, 0.5, 1.0)]
    return loop_report(project, storage, checkpoints, merges)


def test_the_realized_gain_of_each_kind_of_step_stands_beside_the_predicted_one(stepped, capsys):
    assert [(s.kind, s.count) for s in stepped.steps] == [("exploration", 1), ("run", 2), ("branch", 2), ("merge", 2)]
    look, run, branch, merge = stepped.steps
    assert look == StepsOfKind("exploration", 1, 2.0, None, 0.0)
    assert (run.epochs, run.predicted_gain) == (6.0, pytest.approx(0.15)), (
        "half of the second one's epochs were paid for"
    )
    assert run.realized_gain == pytest.approx(0.4 * 0.5)
    assert (branch.epochs, branch.predicted_gain, branch.realized_gain) == (3.0, pytest.approx(0.15), 0.0)
    assert merge == StepsOfKind("merge", 2, 1.0, 0.5, 0.1)
    show_steps(stepped)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "step count epochs predicted gain realized gain".split() in lines
    assert ["exploration", "1", "2", "-", "0.000"] in lines
    assert ["run", "2", "6", "0.150", "0.200"] in lines
    assert ["merge", "2", "1", "0.500", "0.100"] in lines
    assert report_document(stepped)["steps"][3] == {
        "kind": "merge", "count": 2, "epochs": 1.0, "predicted_gain": 0.5, "realized_gain": 0.1
    }  # fmt: skip


def test_only_steps_that_ended_where_it_was_predicted_are_compared(stepped, capsys):
    coverage = next(a for a in stepped.accuracy if a.name == "coverage")
    assert (coverage.n, coverage.inside) == (2, 1)
    assert coverage.error == pytest.approx((0.05 + 0.55) / 2)
    assert [[a.n for a in step if a.name == "coverage"] for step in stepped.over_time] == [[0], [1], [2], [2]]
    document = report_document(stepped)
    assert [p["compared"] for p in document["proposals"]] == [False, True, True, False, False, False]
    assert joining_sentences(stepped) == [
        "Of 2 predicted steps that went to their end, 1.6 were expected to join the front; 1 did."
    ]
    show_proposals(stepped, TWO)
    shown = capsys.readouterr().out
    assert shown.count("measured  ") == 5
    assert shown.count("  after 2 epochs  ") == 1, "less than the four that the prediction is of"
    assert "stopped early" in shown


def test_a_step_s_prediction_and_reason_are_in_the_document_and_the_table(stepped, capsys):
    first, second = report_document(stepped)["proposals"][:2]
    assert (first["predicted"], first["joins_front"], first["reason"]) == ({}, None, "because of 0")
    assert second["predicted"]["coverage"]["value"] == 0.85
    assert (second["joins_front"], second["reason"]) == (0.8, "because of 1")
    assert second["nearest_runs"] == [{"run": "old", "distance": 0.3}]
    assert second["step"] == {"kind": "run", "predicted_gain": 0.1, "realized_gain": pytest.approx(0.2), "epochs": 4.0}
    assert report_document(stepped)["proposals"][5]["step"] is None, "it has not ended"
    show_proposals(stepped, TWO)
    shown = capsys.readouterr().out
    assert "1: because of 1\n  added 0.2 to the hypervolume in 4 epochs\n" in shown
    assert "2: because of 2\n  added nothing to the hypervolume in 2 epochs\n" in shown
    assert "4: because of 4\n  added nothing to the hypervolume in 2 of 4 epochs\n" in shown


def test_what_was_likely_to_join_the_front_stands_beside_what_did(stepped, capsys):
    assert stepped.joined == {1}
    show_proposals(stepped, TWO)
    shown = capsys.readouterr().out
    assert "in 4 epochs\n  was predicted to join the front with P 0.80, and is on the front\n" in shown
    assert shown.count("was predicted to join the front with P 0.80, and is not on the front") == 2
    assert shown.count("was predicted to join") == 3, "not of what did not end by itself, nor of what had no prediction"


def test_a_run_that_widened_the_front_and_was_beaten_since_is_said_to_have_joined(report, capsys):
    assert report.widened == {5, 9}
    assert 5 not in report.joined
    proposals = tuple(replace(p, joins_front=0.8) for p in report.proposals)
    show_proposals(replace(report, proposals=proposals), TWO)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("with P 0.80, and joined it, and has been beaten since") == 1
    assert shown.count("with P 0.80, and is not on the front") == 8, "of equals the first one joined"


def test_the_page_has_the_steps_and_their_predictions(stepped, tmp_path):
    write_page(output_file(tmp_path / "page.html", (".html",), "a report"), "p", stepped, TWO)
    page = (tmp_path / "page.html").read_text()
    assert "<caption>Steps of the budget: predicted and realized gain in hypervolume</caption>" in page
    assert "<td>run</td><td>2</td><td>6</td><td>0.150</td><td>0.200</td>" in page
    assert "proposal 1, a run" in page
    assert "inside its interval" in page
    assert '"name":"outside"' in page


def test_an_interrupted_step_counts_once_with_the_epochs_of_all_its_attempts(tmp_path, url, storage):
    project = Project("p", tmp_path / "epsopt.toml", tmp_path / "runs", url, TWO, {}, SPACE, None, tmp_path)
    old = Checkpoint(1, 1, "old", "/old/1.pt", "x", 1, {"coverage": 0.5, "dist_corr": 0.5}, {}, "s", 1, 9)
    record_step(storage, "p", TWO, SPACE, {"lr": 0.1}, None, {"step": step_plan("run", 3).to_json()})
    taken = take_proposal(storage, "p", SPACE, worker="w")
    storage.set_trial_user_attr(taken.trial_id, "checkpoints", [{"epoch": 1, "path": "/a/1.pt", "metrics": {}}])
    release(storage, storage.get_study_id_from_name("p/proposals"), taken.trial_id, "interrupted")
    assert loop_report(project, storage, [old]).steps == (), "it is queued again, and has not ended"
    taken = take_proposal(storage, "p", SPACE, worker="w")
    curve = [{"epoch": e, "path": "", "metrics": {}} for e in (2, 3)]
    finish(storage, taken.trial_id, TrialState.COMPLETE, [0.8, 0.5], {"checkpoints": curve})
    paths = [str(tmp_path / "runs" / f"proposal_{i:03d}" / "x.pt") for i in (0, 1)]
    mine = [
        replace(old, id=2 + i, run=f"{i}", path=path, metrics={"coverage": 0.7 + i / 10, "dist_corr": 0.5})
        for i, path in enumerate(paths)
    ]
    assert [t.state.name for t in proposed_trials(storage, "p")] == ["FAIL", "COMPLETE"]
    assert loop_report(project, storage, [old, *mine]).steps == (StepsOfKind("run", 1, 3.0, 0.1, pytest.approx(0.15)),)


FOUR = (*TWO, Objective("loss", maximize=False), Objective("f1", maximize=True))
REACHED = {"coverage": 0.9, "dist_corr": 0.6, "loss": 0.2, "f1": 0.8}


def stepped_for(objectives, folder, url, storage):
    """One step of a budget, taken and measured, of a project with these objectives."""
    project = Project("p", folder / "epsopt.toml", folder / "runs", url, objectives, {}, SPACE, None, folder)
    start = {"coverage": 0.5, "dist_corr": 0.5, "loss": 0.5, "f1": 0.5}
    old = Checkpoint(1, 1, "old", "/old/1.pt", "x", 1, start, {}, "s", 1, 9)
    names = [o.name for o in objectives]
    worst = tuple(0.0 if o.maximize else 1.0 for o in objectives)
    step = replace(step_plan("run", 4), reference_point=worst).to_json()
    predicted = {n: REACHED[n] for n in names}
    expected = ProposalRecord({"lr": 0.5}, predicted, predicted, predicted)
    record_step(
        storage, "p", objectives, SPACE, {"lr": 0.5}, None, {"step": step, **proposal_attributes(expected, 0.9)}
    )
    trial = take_proposal(storage, "p", SPACE, worker="w")
    said = {f"measured.{n}": v for n, v in REACHED.items()}
    said |= {"checkpoints": [{"epoch": e, "path": "", "metrics": REACHED} for e in range(1, 5)]}
    finish(storage, trial.trial_id, TrialState.COMPLETE, [REACHED[n] for n in names], said)
    path = str(folder / "runs" / "proposal_000" / "last.pt")
    new = replace(old, id=10, run_id=2, run="proposal_000", path=path, sha256="y", metrics=REACHED)
    return project, [old, new]


# One objective and many, more than before, fewer, and as many.
MADE_FOR_AND_NOW = [(2, 3), (4, 1), (1, 4), (1, 1), (2, 2)]
MADE_FOR_AND_NOW += [pair for pair in itertools.product(range(1, 5), repeat=2) if pair not in MADE_FOR_AND_NOW]


@pytest.mark.parametrize(("made_for", "now"), sweep(MADE_FOR_AND_NOW, quick=5, several=True))
def test_a_report_is_on_the_objectives_that_its_proposals_were_made_for(tmp_path, url, storage, made_for, now):
    project, checkpoints = stepped_for(FOUR[:made_for], tmp_path, url, storage)
    later = replace(project, objectives=FOUR[:now])
    report = loop_report(later, storage, checkpoints)
    assert report.objectives == FOUR[:made_for]
    assert len(report.gain.reference) == made_for
    gained = 0.4 if made_for == 1 else 0.9 * 0.6 - 0.25 if made_for == 2 else None
    assert report.steps[0].realized_gain > 0.0
    assert gained is None or report.steps[0].realized_gain == pytest.approx(gained)
    assert report == loop_report(project, storage, checkpoints) or made_for != now
    said = " ".join(other_objectives(report, later))
    assert ("take the proposals over to them" in said) == (made_for != now)
    show_proposals(report, report.objectives)
    write_page(output_file(tmp_path / "page.html", (".html",), "a report"), "p", report, report.objectives)


def test_merges_are_reported_before_anything_was_proposed(tmp_path, url, storage):
    project, (old, new) = stepped_for(FOUR[:2], tmp_path, url, storage)
    project = replace(project, name="another")
    with pytest.raises(EmptyCatalogue, match="no proposals yet"):
        loop_report(project, storage, [old, new])
    merge = replace(new, hyperparameters={RECOMBINED: True})
    report = loop_report(project, storage, [old, merge])
    assert (report.proposals, report.merged) == ((), (merge,))
    first, second, _ = front_sentences(report)
    assert first.startswith("Hypervolume of the measured front: ")
    assert "proposed" not in first
    assert second.startswith("Merged checkpoints, measured, not trained: ")
    write_page(output_file(tmp_path / "page.html", (".html",), "a report"), "p", report, report.objectives)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_runs_are_recorded_and_checkpoints_compared_in_one_to_four_objectives(tmp_path, url, storage, k):
    _, checkpoints = stepped_for(FOUR[:2], tmp_path, url, storage)
    assert record_runs(storage, "p", FOUR[:2], checkpoints).changed
    assert record_runs(storage, "p", FOUR[:k], checkpoints).changed == (k != 2)
    table = measured_table([c.metrics for c in checkpoints], FOUR[:k])
    assert non_dominated(table, [o.maximize for o in FOUR[:k]]).indices.tolist() == [1]


def test_a_budget_goes_on_with_the_objectives_that_it_began_with(tmp_path, url, storage):
    project, _ = stepped_for(TWO, tmp_path, url, storage)
    with Catalogue(url) as catalogue, pytest.raises(UsageError, match="were made for coverage, dist_corr, and the"):
        StudySnapshot.read(replace(project, objectives=FOUR[:3]), storage, catalogue)


def test_a_report_after_other_objectives_keeps_predictions_and_epochs(tmp_path, url, storage):
    project, checkpoints = stepped_for(TWO, tmp_path, url, storage)
    follow_objectives(storage, "p", FOUR[:3])
    report = loop_report(replace(project, objectives=FOUR[:3]), storage, checkpoints)
    assert report.objectives == FOUR[:3]
    assert report.proposals[0].compared("coverage") is not None
    (step,) = report.steps
    assert (step.kind, step.count, step.epochs, step.predicted_gain, step.realized_gain) == ("run", 1, 4.0, 0.0, 0.0)
    with Catalogue(url) as catalogue:
        StudySnapshot.read(replace(project, objectives=FOUR[:3]), storage, catalogue)
