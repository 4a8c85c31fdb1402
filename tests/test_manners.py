"""What holds for every test: it waits for what happens, and it asks what a user could ask."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# Names of torch and Optuna, which have no public one: what a file may hold, and what a trial or a range is by itself.
# A name such as _repr_html_ is what a protocol asks for.
THEIRS = frozenset({
    "_contains", "_exit", "_metadata", "_rebuild_from_type_v2", "_rebuild_tensor_v2", "_run_exitfuncs", "_shutdown",
    "_suggest", "_tensor", "_trial_id", "_typed_storage", "_utils",
})  # fmt: skip
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


def private_reads(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield private attributes that are read of anything but the object itself, and those that are replaced."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and names(node.func).rpartition(".")[2] in ("setattr", "getattr", "delattr"):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield from ((node.lineno, text.rpartition(".")[2]) for text in texts[:1])


def test_the_rules_see_every_file():
    assert len(FILES) > 150


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERE)))
def test_no_test_sleeps_for_so_long_and_none_uses_a_private_name(path):
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
    read = [
        f"line {line}: {name}"
        for line, name in private_reads(tree)
        if name.startswith("_") and not name.endswith("_") and name not in THEIRS
    ]
    assert read == [], "ask what a user could ask, or give it a public name"


@pytest.mark.parametrize(
    ("text", "seen"),
    [("a._b", ["_b"]), ("self._b", []), ("monkeypatch.setattr(a, '_b', 1)", ["_b"]), ("f('_b')", []), ("a.b()", [])],
)
def test_the_rules_see_what_is_read_of_others(text, seen):
    assert [name for _, name in private_reads(ast.parse(text)) if name.startswith("_")] == seen
