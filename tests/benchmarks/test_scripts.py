from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
# fake_training.py begins to train where others define functions: tests of the worker start it.
SCRIPTS = sorted({p.stem for p in FOLDER.glob("*.py")} - {"fake_training"})


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_still_imports_what_it_needs(name):
    assert importlib.import_module(name).__doc__
