"""A command parses its options, makes one call and prints: no function of `cli/` is longer than a page.

The lines of a function are those from its ``def`` to its last statement. The signature, the docstring (the help text
of a command), comments and blank lines count; decorators, in which click declares the options, do not.
"""

from __future__ import annotations

import ast
from pathlib import Path

from epsopt.cli.main import COMMANDS

CLI = Path(__file__).parents[2] / "cli"
MOST = 60
"""Lines of a function."""


def _is_command(decorator: ast.expr) -> bool:
    """Whether a decorator is ``click.command`` or ``click.group``, called or not."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Attribute) and called.attr in ("command", "group")


def commands(source: str) -> list[ast.FunctionDef]:
    """Return the functions of a module that click makes commands of."""
    return [
        node for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and any(map(_is_command, node.decorator_list))
    ]  # fmt: skip


def n_lines(function: ast.FunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_every_command_is_found():
    found = [f.name for path in CLI.glob("*.py") for f in commands(path.read_text("utf-8"))]
    assert len(found) > len(COMMANDS), "each command, and the group that they are in"


def test_no_function_of_the_command_line_is_longer_than_60_lines():
    found = {
        (path.name, node.name): n_lines(node)
        for path in CLI.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert found
    assert {name: n for name, n in found.items() if n > MOST} == {}


def test_decorators_do_not_count_and_all_else_does():
    source = """\
@click.command(
    "x"
)
@common
def command(
    a,
):
    'Help.'

    # why
    a()
"""
    (found,) = commands(source)
    assert n_lines(found) == 7
    assert not commands("@click.option('-x')\ndef decorate():\n    pass\n")
