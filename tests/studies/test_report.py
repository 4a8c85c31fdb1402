"""What a report says of predictions over time, and of the runs that were left to finish."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from epsopt.cli.report import _audits, _document, _over_time, _waits
from epsopt.optimize.space import Parameter, Space
from epsopt.studies import record_proposals, take_proposal
from epsopt.studies.loop.claims import finish
from epsopt.studies.loop.report import loop_report
from epsopt.studies.project.file import Project
from epsopt.zoo.records import Checkpoint

from .fakes import COVERAGE, DIST_CORR, FakeProposal

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
        audit = {"audit.probability": 0.04, "audit.checkpoints": 1} if i in (2, 9) else {}
        said = {f"measured.{n}": v for n, v in measured.items()} | audit | {"checkpoints": [1, 2]}
        said |= {"waited": 0.2 * i} if i else {}  # the first was run by another program
        finish(storage, taken.trial_id, TrialState.COMPLETE, list(measured.values()), said)
        for epoch in (1, 2):
            grown = {n: v * epoch / 2 + (0.01 if i == 9 else 0.0) for n, v in measured.items()}
            path = str(tmp_path / "runs" / f"proposal_{i:03d}" / f"{epoch}.pt")
            checkpoints.append(
                replace(old, id=10 * i + epoch + 10, run_id=i + 2, run=f"proposal_{i:03d}", path=path, metrics=grown)
            )
    return loop_report(project, storage, checkpoints)


def test_the_intervals_of_the_first_runs_are_set_beside_those_of_the_last(report):
    assert _over_time(report) == [
        "coverage over time: 0 of the first 5 inside, mean error 0.6; 5 of the last 5, 0.05.",
        "dist_corr over time: 5 of the first 5 inside, mean error 0; 5 of the last 5, 0.",
    ]


def test_runs_that_were_left_to_finish_hold_the_forecasts_to_account(report):
    assert [(a.number, a.probability, a.joined) for a in report.audits] == [(2, 0.04, False), (9, 0.04, True)]
    assert _audits(report) == ["Hopeless, but left to finish: 2; 1 of them reached the front after all (0.1 expected)."]
    assert _document(report)["audits"][1] == {"number": 9, "probability": 0.04, "joined": True}


def test_how_long_slots_were_empty_before_launches_is_told(report):
    assert _waits(report) == ["Before a launch its slot was empty for 1.0 s in the median, 1.8 s at most (9 launches)."]
    assert _document(report)["waits"] == pytest.approx([0.2 * i for i in range(1, 10)])
    assert _waits(replace(report, proposals=report.proposals[:1])) == []
