"""A small zoo that the demo trains for real, in a project that is set up by the commands themselves."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import pytest
import torch

from epsopt.cli.main import main
from epsopt.demo.base import base_path, ensure_base
from epsopt.demo.sweep import plan_runs, sweep
from epsopt.studies.surrogate_store import fit_map
from epsopt.surrogate import TrainingConfig
from epsopt.zoo import Catalogue

from ..once import once  # noqa: TID252

RUNS, EPOCHS = 9, 3
QUICK = TrainingConfig(steps=30, batch=16)
SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Project:
    folder: Path
    runs: Path

    def __call__(self, *arguments: str | Path) -> Result:
        return call(self.folder, *arguments)

    def database(self) -> list[str]:
        """Everything that the database holds, as text."""
        with contextlib.closing(sqlite3.connect(self.folder / "epsopt.db")) as connection:
            return sorted(connection.iterdump())


def call(folder: Path, *arguments: str | Path) -> Result:
    """Run the command line in this process, as `epsopt ARGUMENTS` in a folder."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["epsopt", *map(str, arguments)]),
        mock.patch.dict("os.environ", {"COLUMNS": "80"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    return Result(status, out.getvalue(), err.getvalue())


def check(command: str, document: Any) -> None:
    """Hold a document to its schema."""
    schema = json.loads((SCHEMAS / f"{command}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)


@pytest.fixture(autouse=True, scope="session")
def _no_word_of_waits():
    """What a command says on standard error must not depend on how fast the machine is."""
    with mock.patch("epsopt.cli.progress.DELAY", 3600.0):
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    def make(folder: Path) -> None:
        ensure_base(base_path(folder / "runs"), epochs=1)
        assert sweep(plan_runs(folder / "runs", RUNS, seed=1, epochs=EPOCHS), jobs=1) == 0

    return once(tmp_path_factory, "runs", make) / "runs"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory, runs) -> Project:
    """A project with a catalogue and no map; not to be written to."""

    def make(folder: Path) -> None:
        (folder / "project").mkdir()
        assert call(folder / "project", "init", runs, "--name", "small", "--minimize", "rad_hier").status == 0
        assert call(folder / "project", "ingest").status == 0

    return Project(once(tmp_path_factory, "fresh", make) / "project", runs)


@pytest.fixture(scope="session")
def project(tmp_path_factory, fresh) -> Project:
    """A project with a map; tests that count what is recorded take a copy."""

    def make(folder: Path) -> None:
        shutil.copytree(fresh.folder, folder / "untouched")
        with Catalogue(f"sqlite:///{folder / 'untouched' / 'epsopt.db'}") as catalogue:
            fit_map(catalogue, bounds={"coverage": (0.0, 1.0)}, recipe=QUICK)

    mapped = tmp_path_factory.mktemp("mapped")
    untouched = shutil.copytree(once(tmp_path_factory, "mapped", make) / "untouched", mapped / "untouched")
    return Project(shutil.copytree(untouched, mapped / "project"), fresh.runs)


@pytest.fixture
def copy(tmp_path) -> Callable[[Project], Project]:
    def made(of: Project) -> Project:
        untouched = of.folder.with_name("untouched")
        shutil.copytree(untouched if untouched.exists() else of.folder, tmp_path / "project")
        return Project(tmp_path / "project", of.runs)

    return made
