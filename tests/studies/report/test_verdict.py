"""The report's verdict: four questions, answered from what was measured, and the same without names."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from epsopt.cli.report_page import MapOfReport, data_digest, provenance, report_files, write_page
from epsopt.optimize.forecast.evaluation import Accuracy, FrontGain
from epsopt.optimize.objectives import Objective
from epsopt.studies.output_files import output_file
from epsopt.studies.project.project import Project
from epsopt.studies.report.anonymous import anonymous
from epsopt.studies.report.report import LoopReport, ProposalOutcome
from epsopt.studies.report.verdict import verdicts
from epsopt.surrogate.validation import MetricValidation, Validation
from epsopt.zoo import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

TWO = (Objective("coverage", maximize=True), Objective("loss", maximize=False))


def checkpoint(i: int, run: str, coverage: float, loss: float) -> Checkpoint:
    path = f"/home/ada/secret project/{run}/{i}.pt"
    return Checkpoint(i, i, run, path, f"{i:064x}", 3, {"coverage": coverage, "loss": loss}, {"lr": 0.1}, "s", 1, 9)


def outcome(number: int, state: str = "complete", coverage: float | None = 0.8) -> ProposalOutcome:
    measured = None if state != "complete" else {"coverage": coverage, "loss": 0.3}
    return ProposalOutcome(
        number=number, params={"lr": 0.1}, point={"coverage": 0.8, "loss": 0.3}, low={"coverage": 0.7, "loss": 0.2},
        high={"coverage": 0.9, "loss": 0.4}, level=0.9, measured=measured, path=None, state=state, init_from=None,
        retry_of=None, failure=None, finished=datetime(2026, 1, 1 + number, tzinfo=UTC), checkpoints=3, joins_front=0.4,
        nearest_runs=(("first run", 0.1),), reason="a variation of first run",
    )  # fmt: skip


@pytest.fixture
def report() -> LoopReport:
    """Two proposals, one of which moved the front; nothing waits."""
    old = (checkpoint(1, "first run", 0.5, 0.5), checkpoint(2, "corner", 0.95, 0.9))
    new = (checkpoint(3, "proposal_000", 0.8, 0.3), checkpoint(4, "proposal_001", 0.4, 0.6))
    return LoopReport(
        (outcome(0), outcome(1, coverage=0.4)), FrontGain(0.2, 0.3, (0.0, 1.0), (0,)), FrontGain(0.3, 0.3, (0, 1), ()),
        (Accuracy("coverage", 0.2, 1, 2), Accuracy("loss", 0.0, 2, 2)), (), (0.2, 0.3, 0.3), old, new, objectives=TWO,
    )  # fmt: skip


def answers(report: LoopReport, validation: Validation | None = None, n_unseen: int = 0) -> list[str]:
    return [v.answer for v in verdicts(report, TWO, validation, n_unseen)]


def test_the_four_answers_say_what_was_measured(report):
    found = verdicts(report, TWO, None)
    assert [v.answer for v in found] == ["Yes", "Too few runs to tell", "proposal_000, epoch 3", "epsopt propose"]
    assert "grew by 50.0%" in found[0].reason
    assert "1 of 2 proposed runs is on it" in found[0].reason
    assert "coverage: 1 of 2 inside" in found[1].reason
    assert "coverage 0.8, loss 0.3" in found[2].reason


def test_a_loop_that_moved_nothing_is_reported_as_such(report):
    still = replace(report, gain=FrontGain(0.2, 0.2, (0.0, 1.0), ()))
    assert answers(still)[0] == "No"
    assert answers(replace(report, gain=None, new=()))[0] == "Not known yet"


def test_intervals_that_hold_too_little_are_not_trusted(report):
    def judged(inside: int, n: int) -> str:
        return answers(replace(report, accuracy=(Accuracy("coverage", 0.1, inside, n),)))[1]

    assert judged(18, 20) == "Yes, so far"
    assert judged(8, 20) == "No, they are too narrow"
    assert judged(3, 3) == "Too few runs to tell"
    assert judged(0, 4) == "No, they are too narrow"
    held = Validation((MetricValidation("loss", 0.1, 0.2, 0.1, 0.88, 0.1, 0.2, 40),), 0.9, 5, 20, 100, None, None, 1.0)
    untested = verdicts(replace(report, accuracy=()), TWO, held)[1]
    assert untested.answer == "Not tested yet"
    assert "at least 88% (loss)" in untested.reason


def test_the_next_step_is_what_waits_or_what_is_missing(report):
    def then(*states: str, volumes: tuple[float, ...] = (), n_unseen: int = 0) -> str:
        some = tuple(outcome(i, s) for i, s in enumerate(states))
        return answers(replace(report, proposals=some, hypervolumes=volumes), None, n_unseen)[3]

    assert then("running", "waiting") == "Wait"
    assert then("complete", "waiting") == "epsopt work"
    assert then("complete", n_unseen=3) == "epsopt fit, then epsopt propose"
    assert then(*["complete"] * 6, volumes=(0.2, *[0.3] * 6)) == "Widen the space, or stop"
    assert then(*["complete"] * 6, volumes=(0.2, *[0.3] * 5, 0.4)) == "epsopt propose"


def test_one_objective_has_a_best_checkpoint_and_none_measured_has_none(report):
    one = verdicts(replace(report, gain=None), TWO[:1], None)[2]
    assert one.answer == "corner, epoch 3"
    nothing = replace(report, old=(), new=(), gain=None)
    assert verdicts(nothing, TWO, None)[2].answer == "None yet"


def test_the_page_begins_with_the_verdict_and_can_be_sent(report, tmp_path):
    file = tmp_path / "page.html"
    write_page(output_file(file, (".html",), "a report"), "p", report, TWO, about=[("epsopt", "1.2")])
    page = file.read_text()
    assert len(page) < 6_000_000
    body = page.partition("</head>")[2]
    order = [
        "Did the proposed runs help?",
        "The front",
        "Proposals",
        "Did the intervals hold?",
        "Where this comes from",
    ]
    places = [body.index(f">{text}<") for text in order]
    assert places == sorted(places)
    assert "default-src 'none'" in page
    assert "@media print" in page
    assert "max-width:700px" in page


def test_the_page_says_what_it_was_made_from(report, tmp_path):
    project = Project("p", tmp_path / "epsopt.toml", tmp_path, "sqlite:///none.db", tuple(TWO))
    rows = dict(provenance(project, report, MapOfReport(), "epsopt report", {TWO[0].name: 0.9}))
    assert list(rows) == ["epsopt", "written", "command", "objectives", "targets", "checkpoints", "data"]
    assert rows["targets"] == f"{TWO[0].name} ≥ 0.9, of the last search"
    assert dict(provenance(project, report, MapOfReport(), "epsopt report"))["targets"] == "none"
    everything = [*report.old, *report.new]
    digest = data_digest(everything)
    assert rows["data"].startswith(digest)
    moved = [replace(c, path="/elsewhere.pt") for c in reversed(everything)]
    assert data_digest(moved) == digest, "neither order nor place counts"
    assert data_digest([*everything[1:], replace(everything[0], metrics={})]) != digest


def test_an_anonymous_page_names_no_run_file_or_project(report, tmp_path):
    for name, form in (("a.html", "html"), ("a.md", "md")):
        with Catalogue(f"sqlite:///{tmp_path / 'c.db'}") as catalogue:
            files = report_files(tmp_path / name, None, catalogue, overwrite=False)
        assert bool(files.pictures) == (form == "md")
    file = output_file(tmp_path / "page.html", (".html",), "a report")
    about = [("command", "epsopt report --project '/home/ada/secret project/epsopt.toml'")]
    write_page(file, "moonshot", report, TWO, about=about, shown=MapOfReport(), nameless=True)
    page = file.path.read_text().partition("<body>")[2]
    for name in ("first run", "corner", "proposal_000", "moonshot", "ada", "secret"):
        assert not re.search(rf"\b{name}\b", page), name
    assert "run 3, epoch 3" in page
    assert "coverage" in page
    _, change = anonymous(report, "p")
    assert change("from /home/ada/x.pt, s3://bucket/key or C:\\runs\\x.pt.") == "from (a file), (a file) or (a file)."
    assert change("epochs 3/4 of run-1") == "epochs 3/4 of run-1"
    assert change("failed: no /home/ada/secret project/corner/2.pt here") == "failed: no (a file) here"
    assert change("command 'my runs/a b.pt' in runs/a.pt") == "command (a file) in (a file)"


def test_a_report_is_a_page_or_markdown(tmp_path):
    with Catalogue(f"sqlite:///{tmp_path / 'c.db'}") as catalogue:
        with pytest.raises(UsageError, match=r"\.html, \.htm, \.md or \.markdown"):
            report_files(tmp_path / "report.pdf", None, catalogue, overwrite=False)
        with pytest.raises(UsageError, match=r"\.md or \.markdown"):
            report_files(tmp_path / "report.html", "md", catalogue, overwrite=False)
    assert not (tmp_path / "report_files").exists()
