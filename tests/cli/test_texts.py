"""What the README and the docs tell people to type works as it stands there."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import click
import numpy as np
import pytest
import torch

from epsopt.cli.main import COMMANDS, group
from epsopt.optimize import Curve
from epsopt.studies.project.project import check_text
from epsopt.studies.surrogate_store import load_map

from .texts import ROOT, command_lines, snippets

LINES = command_lines()
OURS = [
    line
    for line in LINES
    if line.arguments[0] == "epsopt"
    and len(line.arguments) > 1
    and line.text not in ("epsopt --version", "epsopt --help")
]
OTHERS = [line for line in LINES if line.arguments[0] != "epsopt"]

# What a line of the docs names, and the project of these tests has under another name.
STANDS_FOR = {
    "run_012": "run_001", "run_034:7": "run_002:2", "RUN": "run_001", "PATH": "runs/run_001/epoch_002.pt",
    "RUNS": "runs", "FILE.png": "file.html", "report.md": "report.html", "P": "0.05", "N": "2", "FILE": "file.html",
    "auto": "local",
}  # fmt: skip
NOT_RUN = {
    "init": "the project is set up by it, for all of these tests",
    "fit": "minutes of training; every test of this folder works on what it made",
    "work": "it trains real runs: test_work.py and test_loop.py run it",
    "embed": "it reads embeddings of a hook, which this project lacks: test_map_uses.py runs it",
    "merge": "it measures thirty merges with a hook: test_weights.py runs it",
    "dashboard": "it serves until it is interrupted: tests/studies/report/test_dashboard.py asks it",
    "explore": "it serves until it is interrupted: tests/cli/test_explore.py asks it, and has a page exported",
    "demo": "nine minutes of training: test_demo.py runs it",
}
NEEDS_A_HOOK = "--evaluate"  # measured with the project's own hook: test_weights.py
NEEDS_A_STORE = "s3://bucket/runs"  # test_many_machines.py has one


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


RUN = {
    tuple(line.arguments): line
    for line in sorted(OURS, key=lambda line: line.arguments[1] == "report")  # of what the others proposed
    if line.block
    and line.arguments[1] not in NOT_RUN
    and not {NEEDS_A_HOOK, NEEDS_A_STORE}.intersection(line.arguments)
}


@pytest.mark.slow
def test_every_command_line_of_a_block_runs(project, copy):
    mine = copy(project)
    (mine.folder / "runs").symlink_to(project.runs)
    for line in RUN.values():
        arguments = [STANDS_FOR.get(a, a) for a in line.arguments[1:]]
        result = mine(*arguments)
        assert result.status == 0, f"{line}: {result.err}"


def test_what_is_not_run_here_has_a_reason_that_still_holds():
    assert {line.arguments[1] for line in OURS if line.block} - {line.arguments[1] for line in RUN.values()} <= set(
        NOT_RUN
    )
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


@pytest.mark.parametrize(("place", "block"), snippets("toml"), ids=[place for place, _ in snippets("toml")])
def test_every_table_of_a_project_file_that_a_text_shows_is_valid(place, block):
    check_text(Path(place), block)


def test_the_train_command_that_init_proposes_is_valid_once_the_tutorials_edit_is_made(fresh):
    text = (fresh.folder / "epsopt.toml").read_text()
    before, mark, after = text.partition("# [train]\n")
    command, _, rest = after.partition("# ]\n")
    uncommented = "".join(line.removeprefix("# ") for line in command.splitlines(keepends=True))
    edited = f"{before}[train]\n{uncommented}]\n{rest}".replace('"train.py"', '"-m", "epsopt.demo.train"')
    project = check_text(Path("epsopt.toml"), edited)
    assert mark
    assert project.command is not None
    assert project.command[:5] == ("{python}", "-m", "epsopt.demo.train", "--out", "{out}")


@pytest.mark.parametrize(("place", "block"), snippets("json"), ids=[place for place, _ in snippets("json")])
def test_every_json_that_a_text_shows_is_json(place, block):
    assert json.loads(block), place


def _learned_before() -> dict[str, object]:
    """What the snippet of a training loop takes from its program: earlier runs, and the run under way."""
    better, worse = np.linspace(0.5, 0.9, 4), np.linspace(0.1, 0.3, 4)
    steps, rates = np.arange(1.0, 5.0), [10 ** (-4 + 0.3 * i) for i in range(10)]
    runs = [Curve({"lr": lr}, steps, np.column_stack([better, worse * i, -worse])) for i, lr in enumerate(rates)]
    return {
        "earlier_runs": runs,
        "config": {"lr": 1e-3},
        "epochs": [1.0, 2.0],
        "values": [[0.5, 0.1, 0.0], [0.6, 0.2, 0.1]],
    }


def _trains_by_itself() -> dict[str, object]:
    """What the snippet of a loop of one's own takes from its program: a base, training and measuring."""
    rng = np.random.default_rng(0)

    def train_epoch(weights, config):
        return {k: w + config["lr"] * rng.normal(size=w.shape) for k, w in weights.items()}

    def measure(weights):
        return np.array([1.0 / (1.0 + np.square(weights["a"]).mean()), np.abs(weights["b"]).mean()])

    return {"base": {"a": np.ones(8), "b": np.ones(4)}, "train_epoch": train_epoch, "measure": measure}


def _network_of_ones_own() -> dict[str, object]:
    """What the hook takes from its user's module: a network, and inputs."""
    mine = types.ModuleType("mine")
    mine.Net, mine.images = lambda: torch.nn.Linear(6, 3), torch.randn(80, 6)
    sys.modules["mine"] = mine
    return {}


def _adapter_and_inputs() -> dict[str, object]:
    """What the hook for adapters reads: a base model, token ids and, once it runs, an adapter of that base."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32_000, **shape))
    base.save_pretrained("base")
    torch.save(torch.randint(0, 32_000, (64, 5)), "sentences.pt")
    peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained("adapter")
    return {}


def _embeds_a_network(names: dict) -> None:
    answers = names["embed"](torch.nn.Linear(6, 3).state_dict())
    assert answers.shape == (64, 3)
    torch.testing.assert_close(answers.sum(dim=1), torch.ones(64))


def _embeds_an_adapter(names: dict) -> None:
    answers = names["embed"]("adapter")
    assert answers.shape == (64, 320)
    assert torch.isfinite(answers).all()


# What a snippet takes from the program around it, what that program then does with the snippet's names, and the names
# that stand for others in these tests.
AROUND = {
    "docs/howto/prune.md, block 2": _learned_before,
    "docs/howto/own-loop.md, block 0": _trains_by_itself,
    "docs/howto/predict-better.md, block 0": _network_of_ones_own,
    "docs/howto/predict-better.md, block 3": _adapter_and_inputs,
}
USED = {
    "docs/howto/predict-better.md, block 0": _embeds_a_network,
    "docs/howto/predict-better.md, block 3": _embeds_an_adapter,
}
SHORTER = {
    "from lightning.pytorch": "from pytorch_lightning",
    "spent < 60": "spent < 7",
    "path/or/name/of/the/base": "base",
}


# The quickstarts' programs are run by tests/docs/test_quickstarts.py, with the arguments that their pages give them.
PARTS = [(place, code) for place, code in snippets() if not place.startswith("docs/howto/quickstart-")]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "code"), PARTS, ids=[place for place, _ in PARTS])
def test_every_snippet_runs_on_a_project(place, code, project, copy, capsys):
    if "pytorch_lightning" in code or "lightning.pytorch" in code:
        pytest.importorskip("pytorch_lightning")
    mine = copy(project)
    (mine.folder / "runs").symlink_to(project.runs)
    if "/proposals" in code:
        assert mine("propose", "-n", "1").status == 0
    for given, short in SHORTER.items():
        code = code.replace(given, short)
    known = mock.patch("epsopt.studies.fit_map", lambda catalogue: (*load_map(catalogue), None), create=True)
    with contextlib.chdir(mine.folder), known:
        names = AROUND.get(place, dict)()
        exec(compile(code, place, "exec"), names)
        USED.get(place, len)(names)
    sys.modules.pop("mine", None)
    if place.startswith("README.md, block 2"):
        assert "coverage" in capsys.readouterr().out


def test_what_snippets_take_from_around_them_is_of_snippets_that_exist():
    assert AROUND.keys() | USED.keys() <= {place for place, _ in snippets()}
    for given in SHORTER:
        assert any(given in code for _, code in snippets()), given
