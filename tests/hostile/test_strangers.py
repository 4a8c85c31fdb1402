"""Code in the current folder does not run, whichever of our processes starts there: only a hook is imported from it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from epsopt.studies.background_process import Helper
from epsopt.studies.worker.training_process import Launch, Training
from epsopt.surrogate import side_by_side
from epsopt.zoo import child_processes
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import recombination
from epsopt.zoo.errors import HookError
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.reading import pool

from ..sweeps import sweep  # noqa: TID252
from .strangers import FIRED, write_strangers

HOOKS = """
import torch
import part_of_the_hook
def embed(state):
    import imported_late
    return torch.ones(2, 3)
def evaluate(state):
    import imported_late
    return {"loss": 1.0}
"""


@pytest.fixture
def strange(tmp_path, canary, monkeypatch) -> Iterator[Path]:
    """The current folder: strangers, and two checkpoints."""
    canary.unlink(missing_ok=True)
    monkeypatch.setattr(pool, "SHARED", {})
    folder = tmp_path / "runs"
    folder.mkdir()
    for i in range(2):
        w = torch.eye(3) + 0.01 * i
        torch.save({"model": {"w": w}, "metrics": {"loss": 1.0 + i}, "epoch": i}, folder / f"epoch_{i}.pt")
    write_strangers(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}{tmp_path}{os.pathsep}.")  # an empty entry is the current folder too
    yield folder
    for shared in pool.SHARED.values():
        shared.close()


def fired(canary: Path) -> str:
    return canary.read_text() if canary.exists() else ""


def test_the_strangers_do_fire_where_python_is_left_to_itself(strange, canary):
    subprocess.run([sys.executable, "-m", "epsopt.cli.main"], capture_output=True, check=False)
    assert fired(canary)


def test_reading_runs_nothing_of_the_folder_that_is_read(strange, canary, tmp_path):
    program = [sys.executable, "-P", "-c", "from epsopt.cli.main import main; main()"]
    options = ["--storage", f"sqlite:///{tmp_path / 'epsopt.db'}"]
    clean = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*program, "ingest", ".", *options], env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 checkpoints" in done.stdout
    assert not fired(canary)


def test_a_hook_is_imported_from_the_folder_and_nothing_else_is(strange, canary, tmp_path):
    for name, text in (("my_hooks", HOOKS), ("part_of_the_hook", ""), ("imported_late", "")):
        (strange / f"{name}.py").write_text(text)
    with (
        Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue,
        WeightDecoder("my_hooks:evaluate") as decoder,
    ):
        assert not ingest(catalogue, strange, embed="my_hooks:embed", jobs=1).failed
        checkpoints = catalogue.checkpoints()
        assert len(checkpoints) == 2
        decoded = decoder.decode(recombination(checkpoints, [[0.5, 0.5]]))
        assert decoder.measure(decoded) == {"loss": 1.0}
    assert not fired(canary)


def test_what_an_installed_hook_imports_late_does_not_come_from_the_folder(strange, canary, tmp_path, monkeypatch):
    (tmp_path / "installed_hooks.py").write_text("def embed(state):\n    import only_here\n")
    (strange / "only_here.py").write_text(FIRED)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with (
        Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue,
        pytest.raises(HookError, match=r"installed_hooks:embed.*No module named 'only_here'"),
    ):
        ingest(catalogue, strange, embed="installed_hooks:embed", jobs=1)
    assert not fired(canary)


@pytest.mark.parametrize(
    "module", sweep(["epsopt.studies.schedule.scheduler_service", "epsopt.studies.worker.refit_service"])
)
def test_a_process_in_the_background_runs_nothing_of_the_folder(strange, canary, module):
    helper = Helper(module)
    helper.close()  # nothing is asked of it: it imports all that it needs, and ends
    helper.wait()
    assert helper.failure() is None
    assert not fired(canary)


NETWORKS = """
import sys
from epsopt.surrogate import cross_validation, training
def where(*_):
    return list(sys.path)
training._trained = where
training.load_network = lambda _, state: state
cross_validation.held_out = where
cross_validation.from_all_rows = lambda parts, *_: parts
for path in [*training.train_many([(None, None)] * 2, None, 0), *cross_validation.predict_held_out([0, 0], 1)[0]]:
    assert not {"", ".", sys.argv[1]} & set(path), path
"""


def test_training_networks_runs_nothing_of_the_folder(strange, canary, tmp_path):
    (tmp_path / "networks.py").write_text(NETWORKS)
    environment = child_processes.environment(JOBLIB_MULTIPROCESSING="1")
    command = child_processes.python_command("networks", str(strange))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not fired(canary)


def test_what_stands_beside_a_training_program_runs_nothing_of_the_folder(strange, canary, tmp_path):
    (tmp_path / "out").mkdir()
    training = Training(Launch((sys.executable, "-I", "-S", "-c", "pass"), tmp_path / "out", strange))
    assert training.close() == 0
    assert not fired(canary)


def test_a_training_program_has_the_path_that_python_gives_it(strange, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    (tmp_path / "out").mkdir()
    (strange / "mine.py").write_text("")
    training = Training(Launch((sys.executable, "-S", "-c", "import mine"), tmp_path / "out", strange))
    assert training.close() == 0


DEMO = """
import sys
from pathlib import Path
from epsopt.demo import sweep
if __name__ == "__main__":  # two processes, and runs that fail at once: their base is not there
    outcomes = list(sweep._outcomes(sweep.plan_runs(Path(sys.argv[1]), 2, seed=0), jobs=2))
    assert [type(outcome).__name__ for _, outcome in outcomes] == ["BadOptionError"] * 2, outcomes
"""


@pytest.mark.slow
def test_the_demo_trains_with_nothing_of_the_folder(strange, canary, tmp_path):
    (tmp_path / "demo_runs.py").write_text(DEMO)
    command = child_processes.python_command("demo_runs", str(tmp_path / "demo"))
    done = subprocess.run(command, env=child_processes.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not fired(canary)


def test_the_current_folder_is_on_no_path_but_where_packages_are(strange, canary, tmp_path, monkeypatch):
    from epsopt.cli.main import main

    installed = str(Path(torch.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["", str(strange), ".", *sys.path])
    monkeypatch.setattr(sys, "argv", ["epsopt", "--version"])
    main()
    assert not {"", ".", str(strange)} & set(sys.path)
    monkeypatch.chdir(installed)
    monkeypatch.setattr(child_processes.site, "getsitepackages", lambda: [installed])
    assert installed in child_processes.import_path()


def test_a_folder_that_is_gone_is_no_failure(strange, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "" not in child_processes.import_path()
    with child_processes.working_directory_last():
        pass


def test_libraries_start_their_processes_in_the_same_way_for_as_long_as_needed(strange, monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    with child_processes.safe_children():
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert "." not in os.environ["PYTHONPATH"].split(os.pathsep)
    assert dict(os.environ) == before
    assert side_by_side.safe_children is child_processes.safe_children
