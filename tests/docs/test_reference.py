"""The reference of the site lists what is public: every public name, every command, every schema, every key."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("room", ["zoo", "surrogate", "optimize", "studies"])
def test_a_rooms_page_lists_exactly_its_public_names(room):
    page = (DOCS / "reference" / "api" / f"{room}.md").read_text(encoding="utf-8")
    listed = re.findall(rf"^::: epsopt\.{room}\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(importlib.import_module(f"epsopt.{room}").__all__)
