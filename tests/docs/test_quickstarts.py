"""The quickstart pages: each program runs as it stands there, with the real framework, and epsopt reads its runs."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from unittest import mock

import pytest

from tests.cli.conftest import call

ROOT = Path(__file__).parents[2]
PAGES = {p.stem.removeprefix("quickstart-"): p for p in sorted((ROOT / "docs" / "howto").glob("quickstart-*.md"))}
NEEDS = {
    "pytorch": ["torch"], "lightning": ["pytorch_lightning"], "hydra": ["hydra"],
    "huggingface": ["transformers", "accelerate"], "mlflow": ["mlflow"], "wandb": ["wandb"],
}  # fmt: skip
SEARCHED = {"huggingface": {"learning_rate", "weight_decay"}}
OBJECTIVES = {"huggingface": {"eval_acc", "eval_brier", "eval_loss"}}
COMMAND = {
    "pytorch": ["--out", "{out}", "--lr", "{lr}"],
    "lightning": ["--out", "{out}", "--lr", "{lr}", ["--max-epochs", "{epochs}"]],
    "hydra": ["hydra.run.dir={out}", "lr={lr}", "width={width}"],
    "huggingface": ["--output-dir", "{out}", "--learning-rate", "{learning_rate}", "--weight-decay"],
    "wandb": ["--out", "{out}", "--lr", "{lr}"],
}


def _blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for said, block in found if said == language]


def test_there_is_a_page_for_each_framework_and_the_menu_has_it():
    assert set(PAGES) == set(NEEDS)
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"howto/{page.name}" in menu for page in PAGES.values())


@pytest.mark.parametrize("name", NEEDS)
def test_five_lines_are_marked(name):
    (program,) = _blocks(PAGES[name], "python")
    assert re.findall(r"  # ([1-9])(?::|$)", program, re.MULTILINE) == list("12345")


def _run(folder: Path, line: str, *, alone: bool = False) -> None:
    """Run `python train.py ...` in this process, where the framework is imported already, or in one of its own."""
    program, script, *arguments = shlex.split(line)
    assert (program, script) == ("python", "train.py")
    if alone:
        bare = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        subprocess.run([sys.executable, script, *arguments], cwd=folder, env=bare, check=True, capture_output=True)
        return
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", [script, *arguments]),
        mock.patch.dict(os.environ, {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HYDRA_FULL_ERROR": "1"}),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        runpy.run_path(str(folder / script), run_name="__main__")


@pytest.mark.parametrize("name", NEEDS)
def test_a_program_runs_as_it_stands_there_and_is_read(name, tmp_path):
    for module in NEEDS[name]:
        pytest.importorskip(module, reason=f"{module} is not installed")
    page = PAGES[name]
    (tmp_path / "train.py").write_text(_blocks(page, "python")[0])
    launched, read = _blocks(page, "")
    try:
        for line in launched.splitlines():
            _run(tmp_path, line, alone=name == "mlflow")  # whose store is whatever another test made it
    finally:
        if name == "wandb":
            import wandb

            wandb.teardown()  # its own process writes the logs, and may be late: this waits for its end
    for line in read.splitlines():
        result = call(tmp_path, *shlex.split(line)[1:])
        assert result.status == 0, f"{line}: {result.err}"
    document = call(tmp_path, "doctor", "--json").document
    runs = 6 if name == "hydra" else 3
    assert (document["runs"], document["not_read"]) == (runs, [])
    assert document["checkpoints"] == runs * (2 if name == "huggingface" else 3)
    assert {p["name"] for p in document["parameters"]} == SEARCHED.get(name, {"lr", "width"})
    assert ("steps on" if name == "huggingface" else "epochs on") in call(tmp_path, "runs").out
    measured = {m["name"]: m["measured"] for m in document["metrics"] if m["role"] == "objective"}
    assert set(measured) == OBJECTIVES.get(name, {"val_acc", "val_brier"})
    assert set(measured.values()) == {document["checkpoints"]}
    said = tomllib.loads((tmp_path / "epsopt.toml").read_text()).get("train", {}).get("command", [])
    assert [item for item in COMMAND.get(name, []) if item not in said] == []
