"""What the README and the docs tell people to type works as it stands there."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import subprocess
from unittest import mock

import click
import pytest

from epsopt.cli.main import COMMANDS, group
from epsopt.studies.surrogate_store import load_map

from .texts import ROOT, command_lines, snippets

LINES = command_lines()
OURS = [line for line in LINES if line.arguments[0] == "epsopt" and len(line.arguments) > 1]
OTHERS = [line for line in LINES if line.arguments[0] != "epsopt"]

# What a line of the docs names, and the project of these tests has under another name.
STANDS_FOR = {
    "run_012": "run_001", "run_034:7": "run_002:2", "RUN": "run_001", "PATH": "runs/run_001/epoch_002.pt",
    "RUNS": "runs", "FILE.png": "file.html", "P": "0.05", "N": "2", "FILE": "file.html",
}  # fmt: skip
NOT_RUN = {
    "init": "the project is set up by it, for all of these tests",
    "fit": "minutes of training; every test of this folder works on what it made",
    "work": "it trains real runs: test_work.py and test_loop.py run it",
    "merge": "it measures thirty mixtures with a hook: test_weights.py runs it",
    "dashboard": "it serves until it is interrupted: tests/studies/report/test_dashboard.py asks it",
    "demo": "seven minutes of training: test_demo.py runs it",
}
NEEDS_A_HOOK = "--evaluate"  # measured with the project's own hook: test_weights.py


def test_the_texts_name_commands_at_all():
    assert len(OURS) > 40
    assert {line.arguments[1] for line in OURS} >= {"init", "ingest", "fit", "search", "propose", "work", "report"}
    assert len(snippets()) >= 5


@pytest.mark.parametrize("line", OURS, ids=str)
def test_every_command_and_option_that_a_text_names_exists(line):
    name, *arguments = line.arguments[1:]
    assert name in COMMANDS, line
    command = group.get_command(click.Context(group), name)
    # A sentence may name an option alone, `epsopt propose --format`; a block is typed as it is.
    arguments = [STANDS_FOR.get(a, a) for a in arguments]
    try:
        command.make_context(name, list(arguments))
    except (click.MissingParameter, click.BadOptionUsage):
        assert not line.block, line
        spelled = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        assert {a for a in arguments if a.startswith("-")} <= spelled


RUN = [line for line in OURS if line.block and line.arguments[1] not in NOT_RUN and NEEDS_A_HOOK not in line.arguments]


@pytest.mark.slow
def test_every_command_line_of_a_block_runs(project, copy):
    mine = copy(project)
    (mine.folder / "runs").symlink_to(project.runs)
    for line in RUN:
        arguments = [STANDS_FOR.get(a, a) for a in line.arguments[1:]]
        result = mine(*arguments)
        assert result.status == 0, f"{line}: {result.err}"


def test_what_is_not_run_here_has_a_reason_that_still_holds():
    assert {line.arguments[1] for line in OURS if line.block} - {line.arguments[1] for line in RUN} <= set(NOT_RUN)
    assert NOT_RUN.keys() <= {line.arguments[1] for line in OURS} | {"demo"}


@pytest.mark.parametrize("line", [x for x in OTHERS if x.arguments[0] == "make"], ids=str)
def test_every_target_of_make_that_a_text_names_exists(line):
    if "=" in line.text or len(line.arguments) < 2:
        return
    made = subprocess.run(["make", "-n", *line.arguments[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "No rule to make target" not in made.stderr, line


@pytest.mark.parametrize("line", [x for x in OTHERS if x.arguments[0].startswith("python")], ids=str)
def test_every_script_and_module_that_a_text_names_exists(line):
    arguments = line.arguments[1:]
    if arguments[:1] == ["-m"]:
        assert importlib.util.find_spec(arguments[1]) is not None, line
    elif arguments and arguments[0].endswith(".py") and "/" in arguments[0]:
        assert (ROOT / arguments[0]).is_file(), line


@pytest.mark.parametrize("line", [x for x in OTHERS if x.arguments[0] == "pip"], ids=str)
def test_every_extra_that_a_text_names_exists(line):
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"epsopt\[(\w+)\]", line.text):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), line


@pytest.mark.parametrize(("place", "code"), snippets(), ids=[place for place, _ in snippets()])
def test_every_name_that_a_snippet_imports_is_public(place, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if not node.module.startswith("epsopt"):
                pytest.importorskip(node.module.partition(".")[0])
                continue
            module = importlib.import_module(node.module)
            for name in node.names:
                assert name.name in module.__all__, f"{place}: {name.name} is not public in {node.module}"


def test_the_readmes_python_runs_on_a_project(project, copy, capsys):
    mine = copy(project)
    (mine.folder / "runs").symlink_to(project.runs)
    known = mock.patch("epsopt.studies.fit_map", lambda catalogue: (*load_map(catalogue), None), create=True)
    readme = [code for place, code in snippets() if place.startswith("README.md")]
    assert len(readme) == 2
    with contextlib.chdir(mine.folder), known:
        for code in readme:
            exec(compile(code, "README.md", "exec"), {})
    assert "coverage" in capsys.readouterr().out
