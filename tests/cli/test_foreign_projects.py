"""Two projects of the usual kinds go through every step with no edit but the objectives; what is launched is whole."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

from epsopt.studies import load_project, open_storage, record_proposals
from epsopt.studies.optuna_io.queue import ProposalRecord
from epsopt.studies.surrogate_store import fit_map
from epsopt.surrogate import TrainingConfig
from epsopt.zoo import Catalogue

from .conftest import Project, call, check
from .foreign_projects import finetune_runs, hydra_runs

HYDRA_SEARCHED = {
    "data.noise", "label_smoothing", "model", "model.dropout", "optimizer", "optimizer.lr", "optimizer.momentum",
}  # fmt: skip


def _fitted(folder: Path) -> None:
    project = load_project(folder / "epsopt.toml")
    with Catalogue(project.storage) as catalogue:
        names = [o.name for o in project.objectives]
        fit_map(catalogue, bounds=project.bounds, objectives=names, recipe=TrainingConfig(steps=30, batch=16))


def _worked(folder: Path, runs: Path, *options: str) -> Project:
    """Everything from init to work, by commands alone; the map is a quick one."""
    assert call(folder, "init", runs.name, *options).status == 0
    result = call(folder, "ingest")
    assert result.status == 0, result.err
    _fitted(folder)
    assert call(folder, "propose", "-n", "1").status == 0
    result = call(folder, "work", "--learn-after", "0")
    assert result.status == 0, result.err
    assert "1 trained" in result.out, result.out
    return Project(folder, runs)


@pytest.fixture(scope="session")
def hydra(tmp_path_factory) -> Project:
    pytest.importorskip("hydra", reason="hydra-core is not installed")
    folder = tmp_path_factory.mktemp("hydra")
    return _worked(folder, hydra_runs(folder, runs=8, epochs=2))


@pytest.fixture(scope="session")
def finetunes(tmp_path_factory) -> Project:
    folder = tmp_path_factory.mktemp("finetunes")
    return _worked(folder, finetune_runs(folder, runs=8, epochs=2), "--evaluate", "measure:evaluate")


def _proposed(project: Project) -> list[dict]:
    return project("report", "--json").document["proposals"]


@pytest.mark.slow
def test_hydra_is_launched_with_every_hyperparameter_that_varied(hydra):
    written = tomllib.loads((hydra.folder / "epsopt.toml").read_text())
    assert set(written["space"]) == HYDRA_SEARCHED
    assert {n for n, table in written["space"].items() if table.get("log")} == {"optimizer.lr"}
    proposals = _proposed(hydra)
    assert [p["state"] for p in proposals] == ["complete"]
    for proposal in proposals:
        (out,) = hydra.runs.glob(f"proposal_{proposal['number']:03d}")
        config = yaml.safe_load((out / ".hydra" / "config.yaml").read_text())
        choices = yaml.safe_load((out / ".hydra" / "hydra.yaml").read_text())["hydra"]["runtime"]["choices"]
        assert config["trainer"]["max_epochs"] == 2, "as all past runs had it, whatever the default is"
        assert config["seed"] == proposal["number"]
        for name, value in proposal["params"].items():
            group, _, key = name.partition(".")
            found = choices[group] if name in ("model", "optimizer") else config[group][key] if key else config[group]
            assert found == pytest.approx(value), name


def test_fine_tunes_are_launched_with_every_hyperparameter_that_varied(finetunes):
    written = tomllib.loads((finetunes.folder / "epsopt.toml").read_text())
    assert written["lineage"] == {"base": "base/pretrained.pt"}
    assert set(written["space"]) == {"lr", "l2_to_base", "replay", "freeze"}
    for proposal in _proposed(finetunes):
        config = yaml.safe_load((finetunes.runs / f"proposal_{proposal['number']:03d}" / "config.yaml").read_text())
        assert {n: config[n] for n in proposal["params"]} == pytest.approx(proposal["params"])
        assert (config["epochs"], config["seed"]) == (2, proposal["number"])
    with Catalogue(f"sqlite:///{finetunes.folder / 'epsopt.db'}") as catalogue:
        (lineage,) = catalogue.lineages()
    assert (Path(lineage.reference_path).name, lineage.declared) == ("pretrained.pt", True)


@pytest.mark.parametrize("which", [pytest.param("hydra", marks=pytest.mark.slow), "finetunes"])
def test_runs_are_called_by_what_differs_and_tables_fit_the_terminal(which, request):
    project = request.getfixturevalue(which)
    for arguments in (
        ["pareto"],
        ["search", "--no-record", "-n", "4"],
        ["propose", "-n", "2", "--no-record"],
        ["report"],
    ):
        result = call(project.folder, *arguments)
        assert result.status == 0, result.err
        printed = [line for line in result.out.splitlines() if not re.match(r"\s*(saved|wrote|from)?\s*\S*/\S*$", line)]
        assert all(len(line) <= 80 for line in printed), max(printed, key=len)
        assert "version_0" not in "\n".join(printed), "which all runs have"
        assert "…" not in "\n".join(printed), "no name is cut"


@pytest.mark.parametrize(
    ("which", "slip"), [pytest.param("hydra", "08-99-99", marks=pytest.mark.slow), ("finetunes", "ft-99")]
)
def test_a_checkpoint_that_a_table_names_is_found_by_that_name(which, slip, request):
    project = request.getfixturevalue(which)
    first = project("pareto", "--json").document["front"][0]
    shown = re.search(r"(?m)^([\w-]+:\d+) ", project("pareto").out)[1]
    nearest = project("nearest", shown, "--json")
    assert nearest.status == 0, nearest.err
    assert nearest.document["checkpoint"].endswith(f":{first['epoch']}")
    assert project("trajectory", shown.partition(":")[0]).status == 0
    wrong = project("nearest", slip)
    assert wrong.status == 2
    assert "did you mean" in wrong.err


def test_runs_lists_past_runs_and_proposals_with_what_became_of_them(finetunes):
    document = finetunes("runs", "--json").document
    check("runs", document)
    states = {r["run"]: r["state"] for r in document["runs"]}
    assert list(states.values()).count("past") == 8
    assert {name: state for name, state in states.items() if state != "past"} == {
        "proposal_000": "complete",
    }  # fmt: skip
    front = {(c["run"], c["epoch"]) for c in finetunes("pareto", "--json").document["front"]}
    assert {(r["run"], epoch) for r in document["runs"] for epoch in r["on_front"]} == front
    for run in document["runs"]:
        assert (run["epoch"], run["checkpoints"]) == (2, 2)
        assert set(run["metrics"]) == {"new_acc", "old_acc", "train_loss"}
    trained = finetunes("runs", "--state", "trained").out
    assert "1 of 9 runs: 1 trained." in trained
    assert "ft-0" not in trained
    assert finetunes("runs", "--front").out.count("past") + finetunes("runs", "--front").out.count("trained") > 1
    wrong = finetunes("runs", "--state", "done")
    assert (wrong.status, "known: past, waiting, running, trained" in wrong.err) == (2, True)


def test_a_renamed_option_is_named_where_the_project_is_looked_at(finetunes, tmp_path):
    folder = shutil.copytree(finetunes.folder, tmp_path / "copy")
    script = folder / "train.py"
    script.write_text(script.read_text().replace('"--replay"', '"--share-of-old"'))
    said = "train.py is not seen to take --replay"
    assert said in call(folder, "doctor").out
    assert f"{said}, and the train command gives it" in " ".join(call(folder, "work", "--dry-run").err.split())
    assert "is not seen to take" not in finetunes("doctor").out


def test_a_proposal_that_waits_is_a_run_too(finetunes, tmp_path):
    folder = shutil.copytree(finetunes.folder, tmp_path / "copy")
    project = load_project(folder / "epsopt.toml")
    assert project.space is not None
    waits = ProposalRecord(project.space.low_discrepancy_sample(1, seed=1)[0])
    record_proposals(open_storage(project.storage), project.name, project.objectives, project.space, [waits])
    (run,) = (r for r in call(folder, "runs", "--json").document["runs"] if r["state"] == "waiting")
    assert (run["run"], run["proposal"], run["epoch"], run["checkpoints"]) == ("proposal_001", 1, None, 0)
    assert "proposal_001  waiting" in call(folder, "runs").out


def test_other_objectives_are_followed(finetunes, tmp_path):
    folder = shutil.copytree(finetunes.folder, tmp_path / "copy")
    file = folder / "epsopt.toml"
    text = file.read_text().replace(
        "[objectives.old_acc]", '[objectives.train_loss]\ndirection = "minimize"\n\n[objectives.old_acc]'
    )
    file.write_text(text)
    _fitted(folder)
    result = call(folder, "propose", "-n", "1")
    assert result.status == 0, result.err
    assert "the objectives are new_acc, train_loss, old_acc now" in " ".join(result.err.split())
    document = call(folder, "report", "--json").document
    assert [p["state"] for p in document["proposals"]] == ["complete", "waiting"]
    assert json.dumps(document)


@pytest.mark.slow
def test_the_doctor_says_what_is_searched_and_what_another_setting_decides(hydra):
    document = hydra("doctor", "--json").document
    check("doctor", document)
    assert {p["name"] for p in document["parameters"]} == HYDRA_SEARCHED
    assert {p["name"]: p["reason"] for p in document["hyperparameters_left_out"]}["lr"] == "optimizer.lr sets it"
    ready = {r["command"]: r["lacks"] for r in document["readiness"]}
    assert ready["fit"] == ready["propose"] == []
    assert "no hook measures weights" in ready["merge"]


def test_the_doctor_says_what_was_understood_and_what_each_command_needs(finetunes):
    check("doctor", finetunes("doctor", "--json").document)
    roles = {m["name"]: (m["role"], m["measured"]) for m in finetunes("doctor", "--json").document["metrics"]}
    assert roles["new_acc"][0] == "objective"
    assert roles["train_loss"][0] == "kept"
    printed = finetunes("doctor").out
    assert "They start from base/pretrained.pt." in printed
    assert "Ready: epsopt fit, epsopt propose, epsopt work, epsopt merge." in printed


def test_the_doctor_notices_a_hook_that_is_not_there(finetunes, copy):
    mine = copy(finetunes)
    file = mine.folder / "epsopt.toml"
    file.write_text(re.sub(r'(?m)^evaluate = "(.*)"', r'evaluate = "\1_of"', file.read_text()))
    printed = " ".join(mine("doctor").out.split())
    assert "epsopt merge: the evaluate hook" in printed
    assert "did you mean" in printed


def test_after_a_first_ingest_the_next_commands_are_named(finetunes, tmp_path):
    folder = tmp_path / "fresh"
    folder.mkdir()
    assert call(folder, "init", finetunes.runs).status == 0
    printed = " ".join(call(folder, "ingest").out.split())
    assert "Ready: epsopt fit, epsopt propose." in printed
    assert 'epsopt merge: no hook measures weights: [hooks] evaluate = "package.module:function"' in printed
    assert "epsopt work: there is no train command: [train] command = " in printed
