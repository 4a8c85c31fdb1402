"""`epsopt propose`, `work` and `report` together, with a training program that takes no time."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from epsopt.zoo import Catalogue

from .conftest import QUICK, Project, call, check

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "fake_training.py"
START = ["--init-from", "{init_from}"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory, project) -> Project:
    """A project of this module's own that can train, into a runs folder of its own."""
    folder = tmp_path_factory.mktemp("loop") / "project"
    shutil.copytree(project.folder.with_name("untouched"), folder)
    text = (folder / "epsopt.toml").read_text()
    kept = text[: text.index("# How one run is launched")]
    runs = f"runs = {json.dumps(str(project.runs))}"
    assert runs in kept
    command = ["{python}", "-I", "-S", str(PROGRAM), "--out", "{out}"]
    for name, table in tomllib.loads(text)["space"].items():
        pair = [f"--{name}", f"{{{name}}}"]
        command += [pair] if "active_when" in table else pair
    train = f"[train]\ncommand = {json.dumps([*command, START])}\n"
    (folder / "epsopt.toml").write_text(kept.replace(runs, 'runs = "new"') + train)
    return Project(folder, folder / "new")


@pytest.fixture(scope="module")
def proposed(mine) -> list[dict]:
    """Three proposals, queued."""
    result = mine("propose", "-n", "3", "--json")
    assert result.status == 0, result.err
    return result.document["proposals"]


def trials(mine: Project) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{mine.folder / 'epsopt.db'}"
    return optuna.load_study(study_name="small/proposals", storage=storage).trials


def cache(function):
    """Propose once: what is looked at is how it is written."""
    kept: list = []

    def once(*arguments, **options):
        if not kept:
            kept.append(function(*arguments, **options))
        return kept[0]

    return once


def configs(documents) -> list[dict]:
    return [{**d["fixed"], **d["params"]} for d in documents]


def test_proposals_are_queued_with_the_next_numbers_and_never_made_twice(mine, proposed):
    assert [p["number"] for p in proposed] == [0, 1, 2]
    kept = mine("propose", "-n", "3", "--json", "--no-record").document["proposals"]
    assert [p["number"] for p in kept] == [None] * 3
    assert [Path(p["command"][5]).name for p in kept] == ["proposal_003", "proposal_004", "proposal_005"]
    assert not [p for p in kept if p["params"] in [q["params"] for q in proposed]]
    assert len(trials(mine)) == 3


def says(text: str, proposal: dict) -> bool:
    """Whether a line says what is predicted of a proposal, and why it was chosen."""
    ends = [f"{n} {p['value']:.4g} [{p['low']:.4g}, {p['high']:.4g}]" for n, p in proposal["predicted"].items()]
    near = proposal["nearest_runs"][0]
    parts = [*ends, "(90% intervals)", f"joins the front with probability {proposal['joins_front']:.2f}",
             f"nearest run {near['run']} ({near['distance']:.2f})", proposal["reason"]]  # fmt: skip
    return len(parts) > 4 and all(part in text for part in parts)


def test_every_format_says_the_same(mine, proposed, monkeypatch):
    from epsopt.studies.worker import proposals as proposing

    monkeypatch.setattr(proposing, "propose_next", cache(proposing.propose_next))
    asked = ["propose", "-n", "2", "--no-record"]
    wanted = mine(*asked, "--json").document["proposals"]
    results = {form: mine(*asked, "--format", form) for form in ("yaml", "csv", "hydra", "shell")}
    said = {form: result.out for form, result in results.items()}
    assert configs(yaml.safe_load(said["yaml"])) == configs(wanted)
    for kept, proposal in zip(yaml.safe_load(said["yaml"]), wanted, strict=True):
        assert all(kept[n] == proposal[n] for n in ("joins_front", "nearest_runs", "reason", "predicted"))
    for row, config in zip(csv.DictReader(io.StringIO(said["csv"])), configs(wanted), strict=True):
        written = {n: str(v) for n, v in config.items()}
        assert {n: row[n] for n in config} == written
        predictions = ("pre", "low", "high", "joins_front", "nearest_run", "reason")
        assert all(row[n] == "" for n in row.keys() - config.keys() if not n.startswith(predictions))
    for row, proposal in zip(csv.DictReader(io.StringIO(said["csv"])), wanted, strict=True):
        assert float(row["joins_front"]) == proposal["joins_front"]
        assert row["reason"] == proposal["reason"]
        for i, near in enumerate(proposal["nearest_runs"], 1):
            assert row[f"nearest_run.{i}"] == near["run"]
            assert float(row[f"nearest_run.{i}.distance"]) == near["distance"]
        assert len(proposal["nearest_runs"]) == 3
    beside = [line for line in results["hydra"].err.splitlines() if line.startswith("predicted: ")]
    assert all(says(line, proposal) for line, proposal in zip(beside, wanted, strict=True))
    assert "predicted" not in results["csv"].err + results["shell"].err
    for line, config in zip(said["hydra"].splitlines(), configs(wanted), strict=True):
        overrides = OverridesParser.create().parse_overrides(shlex.split(line))
        assert {o.key_or_group: o.value() for o in overrides} == config
    shell = said["shell"].splitlines()
    for text, proposal in zip(shell[::2], wanted, strict=True):
        assert text.startswith("# predicted: ")
        assert says(text.removeprefix("# "), proposal)
    for line, proposal in zip(shell[1::2], wanted, strict=True):
        words = shlex.split(line)
        assert words[-len(proposal["command"]) :] == [*proposal["command"][:-1], proposal["command"][-1] + ")"] or (
            words[-len(proposal["command"]) :] == proposal["command"]
        )


def test_the_optuna_format_queues_trials_that_any_script_can_take(copy, mine, proposed):
    other = copy(mine)
    said = other("propose", "-n", "1", "--format", "optuna")
    assert said.out == "small/proposals\t3\n"
    assert said.err.startswith("proposal 3, predicted: ")
    assert "joins the front with probability" in said.err
    storage = f"sqlite:///{other.folder / 'epsopt.db'}"
    study = optuna.load_study(study_name="small/proposals", storage=storage)
    taken = study.ask({"lr": optuna.distributions.FloatDistribution(1e-9, 10, log=True)})
    assert taken.params["lr"] == proposed[0]["params"]["lr"]
    assert "leave --no-record out" in other("propose", "--format", "optuna", "--no-record").err


def test_work_trains_what_is_queued_and_report_says_what_came_of_it(mine, proposed, tmp_path):
    planned = mine("work", "--dry-run", "--json")
    check("work", planned.document)
    assert [r["command"] for r in planned.document["would_run"]] == [p["command"] for p in proposed]
    before = mine("report")
    assert "waiting" in before.out
    worked = mine("work", "--json", "--learn-after", "0")
    assert worked.status == 0, worked.err
    check("work", worked.document)
    assert [r["state"] for r in worked.document["runs"]] == ["complete"] * 3
    assert all(Path(r["folder"], "stdout.txt").is_file() for r in worked.document["runs"])
    report = mine("report", "--json", "--html", tmp_path / "report.html")
    check("report", report.document)
    measured = {p["number"]: p["measured"]["coverage"] for p in report.document["proposals"]}
    assert measured == {r["number"]: r["metrics"]["coverage"] for r in worked.document["runs"]}
    assert [a["n"] for a in report.document["accuracy"] if a["metric"] == "coverage"] == [3]
    assert len(report.document["hypervolume"]["over_time"]) == 4
    page = (tmp_path / "report.html").read_text()
    assert "plotly" in page
    assert '<script src="http' not in page
    table = mine("report").out
    assert "measurements lay in their 90% intervals" in " ".join(table.split())
    title = next(i for i, line in enumerate(table.splitlines()) if line.rstrip().endswith(":"))
    assert not table.splitlines()[title + 1].strip(), "a blank line parts the title from its table"
    assert all(len(line) <= 80 for line in table.splitlines())
    idle = mine("work")
    assert (idle.status, idle.out) == (0, "Nothing was queued.\n")


def test_a_learner_learns_what_came_back_and_queues_what_was_asked_for_once(copy, mine, monkeypatch):
    from epsopt.studies import surrogate_store as maps
    from epsopt.studies.worker.refit_service import Task, learn

    other = copy(mine)
    fit_map, fits = maps.fit_map, []
    monkeypatch.setattr(maps, "fit_map", lambda *a, **k: fits.append(1) or fit_map(*a, **k, recipe=QUICK))
    task = Task(str(other.folder / "epsopt.toml"), f"sqlite:///{other.folder / 'epsopt.db'}", propose=2)
    before = len(trials(other))
    learn(task)
    assert (len(fits), len(trials(other)) - before) == (0, 2), "proposals wait for no fit"
    learn(replace(task, propose=0))
    learn(replace(task, propose=0))
    learn(task)
    assert (len(fits), len(trials(other)) - before) == (1, 2)


def test_proposals_wait_for_no_fit_and_need_no_map(copy, mine, monkeypatch):
    from epsopt.studies import surrogate_store as maps
    from epsopt.studies.worker import refit_service as learning

    other = copy(mine)
    url = f"sqlite:///{other.folder / 'epsopt.db'}"
    monkeypatch.setattr(maps, "load_map", lambda _: pytest.fail("it would wait for a map"))
    monkeypatch.setattr(learning, "lease", lambda *_, **__: pytest.fail("it would wait for a fit"))
    before = len(trials(other))
    learning.learn(learning.Task(str(other.folder / "epsopt.toml"), url, propose=3))
    assert len(trials(other)) == before + 3


def test_a_report_says_what_further_epochs_are_expected_to_add_when_asked(mine, proposed):
    plain = mine("report", "--json").document
    assert plain["remaining"] is None
    found = mine("report", "--further", "10", "--json")
    assert found.status == 0, found.err
    check("report", found.document)
    remaining = found.document["remaining"]
    assert remaining["epochs"] == 10
    assert 0.0 <= remaining["low"] <= remaining["gain"] <= remaining["high"]
    assert remaining["volume"] > 0.0
    assert "10 further epochs are expected to add" in " ".join(mine("report", "--further", "10").out.split())
    assert mine("report", "--further", "0").status == 2


def test_a_project_without_runs_begins_with_random_ones(copy, mine):
    from epsopt.studies.worker.refit_service import Task, learn

    other = copy(mine)
    url = f"sqlite:///{other.folder / 'new.db'}"
    Catalogue(url).close()
    learn(Task(str(other.folder / "epsopt.toml"), url, propose=4))
    worked = other("work", "-n", "4", "--storage", url, "--json", "--learn-after", "0")
    assert [r["state"] for r in worked.document["runs"]] == ["complete"] * 4
    assert len({json.dumps(r["params"]) for r in worked.document["runs"]}) == 4
    report = other("report", "--storage", url, "--json").document
    check("report", report)
    assert [p["predicted"] for p in report["proposals"]] == [{}] * 4
    assert report["hypervolume"]["over_time"][-1] == report["hypervolume"]["after"]
    assert other("report", "--storage", url).status == 0


def test_what_keeps_a_learner_from_learning_is_said_in_one_sentence(tmp_path):
    from epsopt.studies.worker.refit_service import BackgroundLearner

    learner = BackgroundLearner(tmp_path / "epsopt.toml", f"sqlite:///{tmp_path / 'none.db'}")
    learner.start(2)
    while learner.is_proposing():
        time.sleep(0.1)
    assert "epsopt.toml: there is no such project file" in learner.proposal_failure()


def test_reuse_needs_a_place_for_the_start_and_then_starts_from_the_front(copy, mine, proposed):
    other = copy(mine)
    for p in mine("propose", "-n", "2", "--reuse", "--no-record", "--json").document["proposals"]:
        if p["init_from"] is not None:
            assert Path(p["init_from"]).is_file()
            assert p["command"][-2:] == ["--init-from", p["init_from"]]
            assert "front" in p["reason"]
            break
    else:
        pytest.fail("none starts from a checkpoint")
    file = other.folder / "epsopt.toml"
    file.write_text(file.read_text().replace(json.dumps(START), '"--epochs", "1"'))
    refused = other("propose", "--reuse")
    assert refused.status == 2
    assert '["--init-from", "{init_from}"]' in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["work", "--until-idle", "--forever"], "contradict"), (["work", "--stale-after", "1"], "stale-after")],
)
def test_what_makes_no_sense_is_one_sentence(mine, arguments, words):
    result = mine(*arguments)
    assert result.status == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1


def test_a_demo_of_other_options_is_not_silently_taken_for_this_one(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".epsopt-demo").write_text('{"runs": 36, "proposals": 6, "seed": 0}')
    result = call(tmp_path, "demo", "--out", "d", "--seed", "3")
    assert result.status == 2
    assert "--seed 0, not 3" in result.err
    assert (tmp_path / "d" / ".epsopt-demo").read_text() == '{"runs": 36, "proposals": 6, "seed": 0}'


def test_a_demo_keeps_the_options_that_it_was_begun_with(tmp_path):
    from epsopt.cli.demo import prepare_folder

    options = {"runs": 10, "proposals": 1, "seed": 2}
    assert prepare_folder(tmp_path / "d", False, options, options) == options
    others = {"runs": 36, "proposals": 6, "seed": 0}
    assert prepare_folder(tmp_path / "d", False, others, {}) == options
    assert prepare_folder(tmp_path / "d", False, others, {"seed": 2}) == options
    assert prepare_folder(tmp_path / "d", True, others, {}) == others


HOSTILE = [
    "; touch X", "$(touch X)", "a b", "--flag", "1e-3", "no", "true", "null", "", "ü", "a,b", "[1]", "{a: 1}", "${x}",
    "\\${q}", "a\\", "\\'", "a=b", "'\"", "line\nbreak", "0x1f", "~", "%", "#", "a: b", "- a",
]  # fmt: skip


class Hostile:
    fixed: dict = {}  # noqa: RUF012
    point: dict = {}  # noqa: RUF012
    init_from = probability = None
    low = high = point
    joins_front, nearest_runs, reason = 0.5, (("run: 1", 0.1),), "no: reason"

    def __init__(self, value: str) -> None:
        self.params = {"x": value, "n": 1, "y": 1e-05, "flag": True}


@pytest.mark.parametrize("form", ["hydra", "shell", "csv"])
@pytest.mark.parametrize("study", ["p/proposals", None])
def test_who_runs_proposals_himself_reads_on_standard_error_that_they_are_queued_too(form, study, tmp_path, capsys):
    from epsopt.cli.propose import explain_proposals
    from epsopt.optimize import Space
    from epsopt.studies.project.project import Project
    from epsopt.studies.worker.proposals import ProposalBatch

    proposed, space = ProposalBatch((Hostile("x"),), (3,), Space(()), 1), Space(())
    project = Project("p", tmp_path / "epsopt.toml", tmp_path, "sqlite://", (), {}, space, None, tmp_path)
    explain_proposals(form, proposed, project, study, 0.9)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("add --no-record" in " ".join(err.split())) == (form != "csv" and study is not None)
    explain_proposals("csv", proposed, replace(project, space=None), study, 0.9)
    assert "inferred from 1 past run;" in " ".join(capsys.readouterr().err.split())


def test_hostile_texts_come_through_every_format_as_they_are(tmp_path):
    from epsopt.studies.export import as_csv, as_hydra, as_shell, as_yaml, in_words

    proposals = [Hostile(v) for v in HOSTILE]
    assert [p["params"] for p in yaml.safe_load(as_yaml(proposals, range(len(proposals))))] == [
        p.params for p in proposals
    ]
    assert [r["x"] for r in csv.DictReader(io.StringIO(as_csv(proposals, range(len(proposals)))))] == HOSTILE
    for p in proposals:
        (line,) = [as_hydra([p])]
        overrides = OverridesParser.create().parse_overrides(shlex.split(line))
        read = OmegaConf.create({o.key_or_group: o.value() for o in overrides})
        assert dict(OmegaConf.to_container(read, resolve=True)) == p.params
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    hostile = Hostile("x")
    hostile.nearest_runs, hostile.reason = (("run\n\r$(touch X)", 0.1),), "no\n touch X; \\\ntouch X \\"
    comments = in_words([hostile], [3], 0.9)
    (comment,) = comments
    assert comment == (
        "proposal 3, predicted: joins the front with probability 0.50; nearest run run\\x0a\\x0d$(touch X) (0.10); "
        "no\\x0a touch X; \\\\x0atouch X \\"
    )
    text = as_shell([[sys.executable, "-I", "-S", "-c", code, *HOSTILE]], tmp_path, comments)
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout) == HOSTILE
    assert not (tmp_path / "X").exists()
