"""`epsopt work` with targets, in a project that begins with no runs at all."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from epsopt.cli.work_output import summarise
from epsopt.studies import open_storage, record_proposals, take_proposal
from epsopt.studies.optuna_io.queue import ProposalRecord
from epsopt.studies.optuna_io.trial_leases import finish
from epsopt.studies.project.project import load_project
from epsopt.studies.worker.run_worker import Spending
from epsopt.zoo import Catalogue, ingest

from .conftest import Result, call, check

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "fake_training.py"
FILE = f"""
[project]
name = "young"
runs = "runs"
[objectives.coverage]
direction = "maximize"
bounds = [0.0, 1.0]
[objectives.dist_corr]
direction = "maximize"
[space.lr]
type = "float"
low = 0.0
high = 10.0
[train]
command = ["{{python}}", "-I", "-S", {json.dumps(str(PROGRAM))}, "--out", "{{out}}", "--lr", "{{lr}}"]
"""


@pytest.fixture
def young(tmp_path):
    """A project of which nothing was trained yet; coverage is 1 - lr / 10, dist_corr the rest."""
    (tmp_path / "epsopt.toml").write_text(FILE)

    def run(*arguments: str) -> Result:
        return call(tmp_path, *arguments)

    return run


def states(folder: Path) -> list[str]:
    study = optuna.load_study(study_name="young/proposals", storage=f"sqlite:///{folder / 'epsopt.db'}")
    return [t.state.name for t in study.trials]


def test_work_ends_when_the_targets_are_reached_and_says_by_which_checkpoint(young, tmp_path):
    asked = ("work", "-n", "8", "--learn-after", "0", "--until-reached", "--target-coverage", "0.3")
    result = young(*asked, "--target-dist-corr", "0.4", "--json")
    assert result.status == 0, result.err
    check("work", result.document)
    document = result.document
    reached = document["reached"]
    assert document["targets"] == [{"name": "coverage", "value": 0.3}, {"name": "dist_corr", "value": 0.4}]
    assert reached["metrics"]["coverage"] >= 0.3
    assert reached["metrics"]["dist_corr"] >= 0.4
    assert Path(reached["path"]).is_file()
    assert reached["run"] == document["runs"][-1]["run"]
    assert len(document["runs"]) < 8
    assert "WAITING" in states(tmp_path), "what was not needed stays queued"
    again = young(*asked)
    assert again.status == 0
    assert f"The targets are reached by {reached['run']}:1, as measured: coverage" in again.out
    assert "Nothing was left to do." in again.out


def test_random_runs_are_as_many_as_it_takes_to_learn_from_and_one_more_while_they_run(young, tmp_path):
    from epsopt.studies.worker.refit_service import Task, learn

    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    assert len(json.loads(young("work", "-n", "3", "--learn-after", "0", "--json").out)["runs"]) == 3
    eight = Task(str(tmp_path / "epsopt.toml"), url, propose=8)
    learn(eight)
    learn(eight)
    assert states(tmp_path).count("WAITING") == 5
    while take_proposal(open_storage(url), "young", load_project(tmp_path).space, worker="w") is not None:
        pass
    learn(eight)
    assert states(tmp_path).count("WAITING") == 1, "so that programs run until it is known where those before end"


def test_targets_that_are_not_reached_are_an_error_after_the_work(young):
    result = young("work", "-n", "2", "--learn-after", "0", "--until-reached", "--target-dist-corr", "5", "--json")
    assert result.status == 1
    check("work", result.document)
    assert result.document["reached"] is None
    assert len(result.document["runs"]) == 2
    assert "no measured checkpoint meets dist_corr 5 yet" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target-accuracy", "0.9"], ["known are --target-coverage, --target-dist-corr"]),
        (["--target-covrage", "0.9"], ["did you mean --target-coverage?"]),
        (["--target-coverage", "1.5"], ["1.5 is impossible"]),
        (["--until-reached"], ["--target-NAME"]),
    ],
)
def test_a_target_that_makes_no_sense_trains_nothing(young, tmp_path, arguments, words):
    result = young("work", "-n", "1", *arguments)
    assert result.status == 2
    assert all(word in " ".join(result.err.split()) for word in words)
    assert not (tmp_path / "runs").exists()


def test_what_keeps_the_learner_from_proposing_is_printed_besides_the_document(young, monkeypatch):
    monkeypatch.setattr(
        "epsopt.studies.worker.refit_service.BackgroundLearner.proposal_failure", lambda _: "no such hook"
    )
    result = young("work", "-n", "1", "--json")
    check("work", result.document)  # the note is on standard error, and no part of the document
    assert "note: nothing could be proposed: no such hook" in result.err


def test_runs_can_be_merged_whatever_the_ids_of_their_processes_are(tmp_path, monkeypatch):
    for run, process in enumerate((32_760, 310, 311)):  # process IDs began at 1 again meanwhile
        (out := tmp_path / "runs" / f"run_{run}").mkdir(parents=True)
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        monkeypatch.setattr("sys.argv", [str(PROGRAM), "--out", str(out), "--lr", str(4.0 * run)])
        runpy.run_path(str(PROGRAM))
    monkeypatch.undo()
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        ingest(catalogue, tmp_path / "runs", jobs=1)
        assert len(catalogue.checkpoints()) == 3
        assert len({c.lineage_id for c in catalogue.checkpoints()}) == 1


MIXING_HOOK = """
def evaluate(state):
    lr = float(state["weight"][0, 0]) - 1.0
    return {"coverage": 1.0 - lr / 10, "dist_corr": lr / 10}
def broken(state):
    raise ValueError("no such layer")
"""


@pytest.mark.slow  # test_scheduler_service.py measures merges, test_scheduler_adapter.py has a hook that fails
@pytest.mark.parametrize("function", ["broken", "evaluate"])
def test_merges_are_measured_in_the_background_and_what_came_of_it_is_printed(young, tmp_path, function):
    (tmp_path / "work_hooks.py").write_text(MIXING_HOOK)
    with (tmp_path / "epsopt.toml").open("a") as file:
        file.write(f'[hooks]\nevaluate = "work_hooks:{function}"\n')
    result = young("work", "-n", "3", "--learn-after", "3", "--merges", "2", "--json")
    assert result.status == 0, result.err
    check("work", result.document)
    messages = result.document["merges"]
    if function == "broken":
        assert "no merge was measured: the evaluate hook 'work_hooks:broken'" in messages[0]
        assert "no such layer" in messages[0]
    mixed = list((tmp_path / "runs").glob("merged_*/*/*.safetensors"))
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        known = {Path(c.path) for c in catalogue.checkpoints()}
    assert known.issuperset(mixed)
    assert bool(mixed) == any("joined the front, hypervolume" in text for text in messages)
    report = young("report", "--json").document
    check("report", report)
    assert report["merges"]["count"] == len(mixed), "merges are counted apart from what was trained"
    assert report["merges"]["before"] == report["hypervolume"]["after"] <= report["merges"]["after"]


def test_mixing_in_the_loop_needs_a_hook_and_a_learner(young, tmp_path):
    result = young("work", "-n", "1", "--merges", "2")
    assert result.status == 2
    assert "--merges measures every merged checkpoint, which needs a hook" in " ".join(result.err.split())
    assert "leave out --learn-after 0" in young("work", "-n", "1", "--merges", "2", "--learn-after", "0").err
    assert not (tmp_path / "runs").exists()


def queue(folder: Path, *rates: float) -> optuna.storages.RDBStorage:
    """Queue proposals."""
    storage, known = open_storage(f"sqlite:///{folder / 'epsopt.db'}"), load_project(folder)
    record_proposals(storage, "young", known.objectives, known.space, [ProposalRecord({"lr": rate}) for rate in rates])
    return storage


def test_a_dry_run_says_of_each_queued_proposal_what_would_run_be_dropped_or_end_the_work(young, tmp_path):
    study = optuna.load_study(study_name="young/proposals", storage=queue(tmp_path, 2.0))
    for params in ({}, {"lr": 12.0}, {"lr": 3.0}):
        study.enqueue_trial(params)
    study.enqueue_trial({"lr": 4.0}, user_attrs={"init_from": "/x.pt"})
    study.enqueue_trial({"lr": 5.0})
    planned = young("work", "--dry-run")
    assert planned.status == 1, "as the command itself would end"
    lines = planned.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["0", "1", "2", "3"]
    assert [line.split()[-1] for line in (lines[0], lines[3])] == ["2.0", "3.0"]
    assert lines[1] == "1: would be dropped: it lacks lr, which is active in it: {}"
    assert lines[2] == "2: would be dropped: it has lr = 12.0, expected a value of [0.0, 10.0]"
    assert "cannot be launched: train.command has no place for the checkpoint /x.pt" in planned.err
    result = young("work", "--dry-run", "--json")
    check("work", result.document)
    assert (result.document["would_stop"]["number"], result.document["would_ask"]) == (4, 0)
    document = young("work", "--dry-run", "-n", "2", "--json").document
    check("work", document)
    assert [r["number"] for r in document["would_run"]] == [0, 3], "what is dropped is none of the two"
    assert [r["number"] for r in document["would_be_refused"]] == [1, 2]
    assert (document["would_stop"], document["would_ask"]) == (None, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "'epsopt propose' queues proposals"),
        (["-n", "6"], "Nothing is queued: 6 proposals would be asked for and trained."),
        (["-n", "1"], "Nothing is queued: 1 proposal would be asked for and trained."),
        (["-n", "6", "--until-idle"], "'epsopt propose' queues proposals"),
        (["--forever"], "proposals would be asked for, again and again"),
        (["--budget", "30", "--length", "3"], "one step after the other would be chosen until 30 epochs are spent."),
        (["--until-reached", "--target-coverage", "0.9"], "proposals would be asked for, again and again"),
    ],
)
def test_a_dry_run_with_an_empty_queue_says_what_the_same_command_would_do(young, arguments, words):
    result = young("work", "--dry-run", *arguments)
    assert result.status == 0, result.err
    assert words in " ".join(result.out.split())


def test_a_dry_run_refuses_what_the_same_command_would_refuse(young):
    assert "how long is a whole run?" in young("work", "--dry-run", "--budget", "30").err


def test_a_dry_run_asks_for_the_runs_that_the_queue_does_not_give(young, tmp_path):
    queue(tmp_path, 2.0, 3.0)
    result = young("work", "--dry-run", "-n", "6")
    assert result.out.splitlines()[-1] == "Then 4 proposals would be asked for and trained."
    assert young("work", "--dry-run", "-n", "6", "--json").document["would_ask"] == 4


def test_targets_that_are_met_leave_a_dry_run_nothing_to_run(young, tmp_path):
    queue(tmp_path, 2.0)
    assert young("work", "-n", "1").status == 0
    queue(tmp_path, 3.0)
    result = young("work", "--dry-run", "--until-reached", "--target-coverage", "0.5")
    assert "meets the targets already" in " ".join(result.out.split())


def test_where_the_search_space_has_none_of_the_queue_the_work_says_so_and_what_to_do(young, tmp_path):
    queue(tmp_path, 2.0, 3.0)
    (tmp_path / "epsopt.toml").write_text(FILE.replace("space.lr", "space.rate").replace("{lr}", "{rate}"))
    for arguments in (["--dry-run"], []):
        result = young("work", *arguments)
        assert result.status == 1
        assert "the search space has none of the 2 queued proposals" in " ".join(result.err.split())
        assert "'epsopt propose' queues new ones" in " ".join(result.err.split())
        assert result.out.count("lacks rate, which is active in it") == 2
    assert not (tmp_path / "runs").exists()
    asks = young("work", "-n", "1", "--dry-run")
    assert (asks.status, asks.out.splitlines()[-1]) == (
        0,
        "Nothing is queued: 1 proposal would be asked for and trained.",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reuse"], "--reuse is for runs that are asked for, and none is"),
        (["-n", "1", "--until-idle", "--reuse"], "--reuse is for runs that are asked for, and none is"),
        (["-n", "1", "--reuse"], 'add a list such as ["--init-from", "{init_from}"] to train.command'),
    ],
)
def test_starts_that_nothing_could_come_of_are_refused_before_anything_is_trained(young, tmp_path, arguments, words):
    result = young("work", *arguments)
    assert result.status == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_report_of_nothing_but_failures_says_why_they_failed(young, tmp_path):
    storage = queue(tmp_path, 2.0, 3.0)
    for why in ("exit status 3: lr is no good", "exit status 4: <nor> is this"):
        taken = take_proposal(storage, "young", load_project(tmp_path).space, worker="w")
        finish(storage, taken.trial_id, TrialState.FAIL, None, {"failure": why})
    Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}").close()
    report = young("report", "--html", "page.html")
    assert report.status == 0, report.err
    assert "failed, exit status 3: lr is no good" in report.out
    assert "Nothing is measured yet with every objective, so there is no front." in report.out
    page = (tmp_path / "page.html").read_text()
    assert "2 proposals: 2 failed." in page
    assert "<td>failed, exit status 4: &lt;nor&gt; is this</td><td>1</td>" in page
    document = young("report", "--json").document
    check("report", document)
    assert [p["state"] for p in document["proposals"]] == ["fail", "fail"]
    assert document["proposals"][0]["failure"] == "exit status 3: lr is no good"
    assert (document["hypervolume"], document["merges"]["after"]) == (None, None)


def test_what_is_measured_in_part_makes_no_front_and_hides_no_failure(young, tmp_path):
    file = tmp_path / "epsopt.toml"
    file.write_text(file.read_text().replace("dist_corr]", "latency]"))
    queue(tmp_path, 2.0)
    assert young("work", "--learn-after", "0").status == 0
    report = young("report")
    assert report.status == 0, report.err
    assert "failed, its last checkpoint has no finite latency" in " ".join(report.out.split())
    assert "so there is no front" in report.out
    assert young("report", "--json").document["hypervolume"] is None


def test_a_budget_that_went_into_merges_is_not_said_to_have_found_nothing_queued(capsys):
    summarise([], None, Spending(12, 3.0, 6), None)
    assert capsys.readouterr().out == "No run was trained; 3 of 12 epochs spent, merges measured: 6.\n"
    summarise([], None, Spending(1, 0.0, 0), None)
    assert capsys.readouterr().out == "Nothing was queued; 0 of 1 epoch spent.\n"


def test_the_targets_are_passed_to_the_learner_and_to_the_pruner(young, tmp_path, monkeypatch):
    from epsopt.studies.prune import catalogue_pruner as stopping
    from epsopt.studies.worker import refit_service as learning
    from epsopt.studies.worker import worker

    messages = {}
    monkeypatch.setattr(worker.Worker, "work", lambda self: messages.update(worker=self) or [])
    assert young("work", "-n", "1", "--prune-below", "0.05", "--target-coverage", "0.9").status == 0
    learner, pruner = messages["worker"].learner, messages["worker"].pruner
    assert isinstance(learner, learning.BackgroundLearner)
    assert learner.task.targets == {"coverage": 0.9}
    assert isinstance(pruner, stopping.CataloguePruner)
    assert [(t.name, t.value) for t in pruner.options["targets"]] == [("coverage", 0.9)]
    assert messages["worker"].goal is None


def test_what_is_passed_to_the_learner_becomes_constraints_of_the_proposals(young, tmp_path, monkeypatch):
    from epsopt.studies.worker import proposals as proposing
    from epsopt.studies.worker.refit_service import Task, learn

    asked = []
    assert young("work", "--dry-run").status == 0
    Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}").close()
    monkeypatch.setattr(proposing, "lacking", lambda *_: 0)
    monkeypatch.setattr(proposing, "propose_next", lambda *a, **_: asked.extend(a[4]))
    learn(Task(str(tmp_path / "epsopt.toml"), f"sqlite:///{tmp_path / 'epsopt.db'}", 2, targets={"coverage": 0.9}))
    assert [(t.name, t.value) for t in asked] == [("coverage", 0.9)]
