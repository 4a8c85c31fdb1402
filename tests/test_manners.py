"""What holds for every test: it waits for what happens, and it asks what a user could ask."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(path for path in HERE.rglob("*.py") if "__pycache__" not in path.parts)


def names(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def sleeps(tree: ast.AST, polls: bool = False) -> Iterator[ast.Call]:
    """Yield calls of ``time.sleep`` outside loops: those inside wait until something is there."""
    for node in ast.iter_child_nodes(tree):
        inside = polls or isinstance(node, ast.While | ast.For)
        if isinstance(node, ast.Call) and names(node.func) == "time.sleep" and not inside:
            yield node
        yield from sleeps(node, inside and not isinstance(node, ast.FunctionDef))


def test_the_rules_see_every_file():
    assert len(FILES) > 150


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERE)))
def test_no_test_sleeps_for_so_long_and_none_imports_a_private_name(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [f"line {call.lineno}" for call in sleeps(tree)] == [], "wait in a loop for what happens"
    private = [
        f"line {node.lineno}: {alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("epsopt")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert private == [], "ask what a user could ask, or give it a public name"
