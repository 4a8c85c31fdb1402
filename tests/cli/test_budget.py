"""`epsopt work --budget`: real programs, step after step, until so many epochs are spent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from epsopt.studies import open_storage
from epsopt.studies.optuna_io.queue import record_step
from epsopt.studies.project.project import load_project

from .conftest import Result, call, check
from .test_work import FILE

OPTIONS = ', ["--epochs", "{epochs}"], ["--init-from", "{init_from}"], ["--continue-from", "{resume_from}"]]'
HOOK = """
def evaluate(state):
    lr = float(state["weight"][0, 0]) - 1.0
    return {"coverage": 1.0 - lr / 10, "dist_corr": lr / 10}
"""


def project(folder: Path, more: str = OPTIONS) -> None:
    (folder / "epsopt.toml").write_text(FILE.replace("low = 0.0\nhigh = 10.0", "low = 0.0\nhigh = 1.0").replace(
        '"{lr}"]', f'"{{lr}}"{more}'))  # fmt: skip


@pytest.fixture
def young(tmp_path):
    """A project of which nothing was trained yet, whose program takes every option."""
    project(tmp_path)

    def run(*arguments: str) -> Result:
        return call(tmp_path, "work", *arguments)

    return run


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="young/proposals", storage=f"sqlite:///{folder / 'epsopt.db'}").trials


def written(folder: Path) -> int:
    return len(list((folder / "runs").glob("proposal_*/epoch_*")))


def epochs_passed(folder: Path) -> list[str]:
    """The epochs passed to each run's program."""
    given = [(Path(t.user_attrs["folder"]) / "argv").read_text().split("\0") for t in trials(folder)]
    return [words[words.index("--epochs") + 1] for words in given]


def test_a_budget_is_spent_to_the_last_epoch_and_every_run_says_what_it_was(young, tmp_path, monkeypatch):
    from epsopt.studies.schedule import scheduler_adapter as following

    result = young("--budget", "11", "--length", "4", "--json")
    assert result.status == 0, result.err
    check("work", result.document)
    assert result.document["budget"] == {"epochs": 11, "spent": 11, "merges": 0}
    assert written(tmp_path) == 11
    assert epochs_passed(tmp_path) == ["4", "4", "3"], "no run is passed more than is left"
    assert [r["step"]["kind"] for r in result.document["runs"]] == ["exploration"] * 3
    said = [t.user_attrs["step"] for t in trials(tmp_path)]
    assert [s["kind"] for s in said] == ["exploration"] * 3
    assert len({t.params["lr"] for t in trials(tmp_path)}) == 3
    monkeypatch.setattr(following, "SHORT_RUNS", 3)
    again = young("--budget", "3")
    assert "3 of 3 epochs spent" in again.out
    assert written(tmp_path) == 14, "the next command has a budget of its own"
    report = call(tmp_path, "report", "--json")
    check("report", report.document)


def test_two_runs_at_a_time_share_a_budget(young, tmp_path):
    result = young("--budget", "9", "--length", "4", "--jobs", "2", "--json")
    assert result.status == 0, result.err
    assert result.document["budget"]["spent"] == written(tmp_path) == 9


@pytest.mark.slow
def test_merges_are_steps_of_a_budget_too(young, tmp_path):
    (tmp_path / "budget_hooks.py").write_text(HOOK)
    with (tmp_path / "epsopt.toml").open("a") as file:
        file.write('[hooks]\nevaluate = "budget_hooks:evaluate"\n')
    result = young("--budget", "24", "--length", "3", "--json")
    assert result.status == 0, result.err
    check("work", result.document)
    spending = result.document["budget"]
    assert 23 < spending["spent"] <= 24
    assert len(list((tmp_path / "runs").glob("merged_*/*"))) == spending["merges"] == len(result.document["merges"])
    assert {r["step"]["kind"] for r in result.document["runs"]} >= {"exploration"}
    assert len(result.document["runs"]) > 4
    assert result.document["runs"][-1]["step"]["kind"] in ("run", "branch")
    assert result.document["runs"][-1]["step"]["predicted_gain"] > 0.0


def test_a_program_that_takes_no_epochs_is_stopped_when_the_budget_is_spent(young, tmp_path):
    project(tmp_path, ', "--epochs", "50", "--hold", "3"]')
    with (tmp_path / "epsopt.toml").open("a") as file:
        file.write('[hooks]\nevaluate = "budget_hooks:evaluate"\n')  # else the first ones would only be probes
    result = young("--budget", "3", "--length", "50", "--json", "--grace", "1")
    assert result.status == 0, result.err
    (run,) = result.document["runs"]
    assert (run["state"], run["failure"]) == ("pruned", "since the budget is spent")
    assert written(tmp_path) == 3


def test_what_waits_from_before_comes_first_and_gets_no_more_than_is_left(young, tmp_path):
    storage, known = open_storage(f"sqlite:///{tmp_path / 'epsopt.db'}"), load_project(tmp_path)
    plan = {"kind": "run", "predicted_gain": 0.5, "gain_per_epoch": 0.1, "cost": 5.0, "epochs": 5, "length": 5.0,
            "takes_epochs": True,
            "epochs_parameter": None, "short": False, "reference_point": [0.0, 0.0]}  # fmt: skip
    record_step(storage, "young", known.objectives, known.space, {"lr": 0.25}, None, {"step": plan})
    result = young("--budget", "2", "--json")
    assert result.status == 0, result.err
    assert [(r["params"], r["checkpoints"]) for r in result.document["runs"]] == [({"lr": 0.25}, 2)]
    assert trials(tmp_path)[0].user_attrs["epochs"] == 2


@pytest.mark.slow
def test_what_a_killed_worker_left_is_gone_on_with(young, tmp_path):
    project(tmp_path, ', "--hold", "3"' + OPTIONS)
    arguments = ["work", "--budget", "40", "--length", "30"]
    code = "from epsopt.cli.main import main; main()"
    log = (tmp_path / "log").open("wb")
    worker = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=tmp_path, stdout=log, stderr=log)
    while written(tmp_path) < 3 or not trials(tmp_path)[0].user_attrs.get("checkpoints"):  # until the study has it
        assert worker.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.2)
    worker.kill()
    worker.wait()
    log.close()
    project(tmp_path)
    before = written(tmp_path)
    with open_storage(f"sqlite:///{tmp_path / 'epsopt.db'}").engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    result = young("--budget", "5", "--json")
    assert result.status == 0, result.err
    assert "stopped answering; queued again as proposal 1" in result.document["failed_proposals"][0]
    first, again = trials(tmp_path)[:2]
    assert (first.state.name, again.user_attrs["retry_of"]) == ("FAIL", 0)
    assert again.user_attrs["step"] == first.user_attrs["step"]
    assert "resume_from" in again.user_attrs
    assert result.document["budget"]["spent"] == 5
    kept = Path(again.user_attrs["resume_from"])
    assert result.document["runs"][0]["checkpoints"] == 5
    assert (Path(again.user_attrs["folder"]) / f"epoch_{int(kept.stem[-3:]) + 1:03d}.safetensors").is_file()
    assert written(tmp_path) == before + 5


def test_a_budget_ends_when_the_targets_are_reached(young, tmp_path):
    wanted = ["--until-reached", "--target-coverage", "0.3", "--target-dist-corr", "0.05"]
    result = young("--budget", "40", "--length", "3", *wanted, "--json")
    assert result.status == 0, result.err
    assert result.document["reached"] is not None
    assert result.document["budget"]["spent"] < 40
    missed = young("--budget", "3", *wanted[:-1], "9", "--json")
    assert missed.status == 1
    assert missed.document["budget"]["spent"] == 3
    assert "no measured checkpoint meets all of coverage 0.3, dist_corr 9 yet" in " ".join(missed.err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "0"], "0 is not in the range"),
        (["--budget", "5"], "say it with --length EPOCHS"),
        (["--budget", "5", "--merges", "2"], "--budget and --merges contradict each other"),
        (["--budget", "5", "--reuse"], "--budget and --reuse contradict each other"),
        (["--budget", "5", "--forever"], "--budget and --forever contradict each other"),
        (["--budget", "5", "--until-idle"], "--budget and --until-idle contradict each other"),
        (["--budget", "5", "--prune-below", "0.1"], "--budget and --prune-below contradict each other"),
        (["--budget", "5", "--learn-after", "4"], "--budget and --learn-after contradict each other"),
        (["--length", "5"], "where there is a --budget"),
        (["--stop-worth", "0.5"], "--stop-worth"),
    ],
)
def test_what_contradicts_a_budget_is_one_sentence_and_trains_nothing(young, tmp_path, arguments, words):
    result = young(*arguments)
    assert result.status == 2
    assert words in " ".join(result.err.split())
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_number_of_runs_bounds_a_budget(young, tmp_path):
    result = young("--budget", "40", "--length", "2", "-n", "2", "--json")
    assert result.document["budget"]["spent"] == 4
    assert len(result.document["runs"]) == 2


def test_a_dry_run_says_how_many_epochs_what_is_queued_would_have(young, tmp_path):
    storage, known = open_storage(f"sqlite:///{tmp_path / 'epsopt.db'}"), load_project(tmp_path)
    plan = {"kind": "exploration", "predicted_gain": 0.0, "gain_per_epoch": 0.0, "cost": 7.0, "epochs": 7,
            "length": 9.0, "takes_epochs": True, "epochs_parameter": None,
            "short": False, "reference_point": [0.0, 0.0]}  # fmt: skip
    record_step(storage, "young", known.objectives, known.space, {"lr": 0.25}, None, {"step": plan})
    (planned,) = young("--dry-run", "--json").document["would_run"]
    assert planned["command"][-2:] == ["--epochs", "7"]
    assert json.dumps(planned)


def test_a_hyperparameter_called_epochs_says_how_long_a_run_is(young, tmp_path):
    project(tmp_path, ', "--epochs", "{epochs}"]')
    with (tmp_path / "epsopt.toml").open("a") as file:
        file.write('[space.epochs]\ntype = "int"\nlow = 2\nhigh = 4\n')
    result = young("--budget", "9", "--length", "7", "--json")
    assert result.status == 0, result.err
    assert epochs_passed(tmp_path) == ["4", "4", "1"], "within its range, and no more than is left"
    assert [t.params["epochs"] for t in trials(tmp_path)] == [4, 4, 2]
    assert [r["step"]["epochs"] for r in result.document["runs"]] == [4, 4, 1]
    assert written(tmp_path) == 9


def test_the_worker_is_given_the_budget_its_stopper_the_targets_and_its_learner_where_it_ends(young, monkeypatch):
    from epsopt.studies.prune import budget_pruner as worth
    from epsopt.studies.schedule import scheduler_client as asking
    from epsopt.studies.worker import worker

    given = {}
    monkeypatch.setattr(worker.Worker, "work", lambda self: given.update(worker=self) or [])
    assert young("--budget", "7", "--length", "3", "--target-coverage", "0.9").status == 0
    working = given["worker"]
    assert isinstance(working.pruner, worth.BudgetPruner)
    assert [(t.name, t.value) for t in working.pruner.targets] == [("coverage", 0.9)]
    assert isinstance(working.learner, asking.StepAsker)
    assert (working.learner.task.until, working.learner.task.length) == (7.0, 3)
    assert (working.budget.epochs, working.orders.learn_after) == (7, 0)
