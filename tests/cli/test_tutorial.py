"""What the tutorial shows below its command lines is what they print: docs/make_tutorial.py writes it there."""

from __future__ import annotations

import re
import shlex

import pytest

from epsopt.studies.surrogate_store import fit_map
from epsopt.zoo import Catalogue

from .conftest import QUICK, call
from .texts import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
LINES = [
    (line, shown)
    for block, shown in BLOCK.findall(re.sub(r"^```toml\n.*?^```\n", "", PAGE, flags=re.DOTALL | re.MULTILINE))
    for line in block.replace("\\\n", " ").splitlines()
]
UNMAPPED = LINES[1:3] + [pair for pair in LINES if pair[0] == "epsopt pareto"]
MAPPED = [pair for pair in LINES if pair[0].startswith(("epsopt search", "epsopt propose", "epsopt report"))]


def headings(text: str) -> set[str]:
    """Return the lines of a text that stand above a rule, with their numbers and the space between their words out."""
    lines = text.splitlines()
    above = [lines[i - 1] for i, line in enumerate(lines) if i and re.fullmatch(r"\s*─+\s*", line)]
    return {" ".join(re.sub(r"[\d.]+", "", line).split()) for line in above}


def check_headings(folder, lines):
    for line, shown in lines:
        result = call(folder, *shlex.split(line)[1:])
        assert result.status == 0, result.err
        found = headings(result.out)
        assert found, line
        assert found <= headings(shown), line


@pytest.fixture
def folder(runs, tmp_path):
    (tmp_path / "runs").symlink_to(runs)
    return tmp_path


def test_every_command_line_has_its_output_below_it():
    assert [line for line, shown in LINES if not shown] == [LINES[0][0]], "the sweep alone prints nothing"


def test_headings_are_those_that_are_printed(folder):
    assert len(UNMAPPED) == 3
    check_headings(folder, UNMAPPED)


@pytest.mark.slow
def test_headings_of_what_needs_a_map_are_those_that_are_printed(folder):
    check_headings(folder, UNMAPPED)
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue:
        fit_map(catalogue, objectives=["coverage", "dist_corr"], recipe=QUICK)
    assert len(MAPPED) == 3
    check_headings(folder, MAPPED)
