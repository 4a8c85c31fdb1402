"""The notebook does what the README does, on a project: every cell runs, and every figure shows."""

from __future__ import annotations

import contextlib
import importlib.util
import json

import plotly.graph_objects as go
import pytest

from epsopt import figures

from .texts import ROOT


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "docs" / "make_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells():
    return json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_what_its_script_writes(maker):
    assert ["".join(c["source"]) for c in cells()] == maker.CELLS
    assert [c["cell_type"] == "code" for c in cells()] == [maker.is_code(text) for text in maker.CELLS]


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs_and_shows_what_it_makes(project, maker):
    drawn, tables, names = [], [], {}
    with contextlib.chdir(project.folder):
        for cell in cells():
            if cell["cell_type"] == "code":
                value = maker.run("".join(cell["source"]), names)
                drawn += [value] if isinstance(value, go.Figure) else []
                tables += [value] if not isinstance(value, go.Figure) and hasattr(value, "_repr_html_") else []
    assert len(drawn) >= 11
    assert all(len(figure.data) > 0 for figure in drawn)
    assert {type(t).__name__ for t in tables} >= {"Validation", "SearchResult", "Answer"}


def test_the_notebook_shows_each_figure_of_a_project():
    code = "\n".join("".join(c["source"]) for c in cells() if c["cell_type"] == "code")
    for name in set(figures.__all__) - {"Comparison", "dark"}:
        assert f"figures.{name}" in code, name
    outputs = [o for c in cells() for o in c.get("outputs", [])]
    assert sum("image/png" in o["data"] for o in outputs) >= 11, "run docs/make_notebook.py PROJECT"
