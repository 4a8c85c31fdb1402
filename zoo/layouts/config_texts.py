"""Read configurations that programs write as text: ``NAME: VALUE`` lines, JSON, argparse's Namespace, Python."""

from __future__ import annotations

import ast
import re
from typing import Any

from epsopt.zoo.layouts.side_file_reader import SideError, parse_json
from epsopt.zoo.reading.plain_values import number_or_text

BYTES = 1 << 20
_LINE = re.compile(r"\s*(?:-{1,2})?([^\W\d][\w./-]*)\s*[:=]\s*(.*?)\s*(?:\[default: .*\]\s*)?")
_RULE = re.compile(r"\s*(?:[#;].*|[-=*_ ]*|-{3,}[\w ]*-{3,})\s*")
"""Lines that say nothing: empty ones, comments, and what divides or titles a list of options."""
_NAMESPACE = re.compile(r"\s*(?:args\s*[:=]\s*)?Namespace\(", re.IGNORECASE)


def parse_config_text(text: str) -> dict[str, Any]:
    """Return the hyperparameters that a text lists.

    Raises:
        SideError: some line is no ``NAME: VALUE``.
    """
    if text.lstrip().startswith("{"):
        tree = parse_json(text)
        return tree if isinstance(tree, dict) else {}
    if _NAMESPACE.match(text):
        return _of_namespace(text)
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if _RULE.fullmatch(line):
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise SideError(f"line {number} is no NAME: VALUE, so no hyperparameter is read from it")
        found[parts[1]] = number_or_text(parts[2].strip("\"'"))
    return found


def parse_python_config(text: str) -> dict[str, Any]:
    """Return what a configuration in Python assigns, as MMEngine writes one out: plain values, lists and ``dict(…)``.

    Nothing is run: a value that is anything else is left out.

    Raises:
        SideError: it is no Python.
    """
    try:
        body = ast.parse(text).body
        pairs = [
            (t.id, s.value) for s in body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
        ]
        values = {name: _plain(value) for name, value in pairs if not name.startswith("_")}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SideError("it is no configuration in Python, so no hyperparameter is read from it") from error
    return {name: value for name, value in values.items() if value is not _UNKNOWN and name not in _OF_PLACES}


_UNKNOWN = object()
_OF_PLACES = frozenset(("work_dir", "log_level", "resume", "load_from", "launcher"))
"""What such a configuration says of where and how it is run."""


def _plain(node: ast.expr) -> Any:
    """Return the value of an expression; a placeholder for one that is no plain value."""
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            held = {k.arg: _plain(k.value) for k in keywords if k.arg is not None}
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            held = {k.value: _plain(v) for k, v in pairs if isinstance(k, ast.Constant) and isinstance(k.value, str)}
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [value for item in items if (value := _plain(item)) is not _UNKNOWN]
        case _:
            try:
                value = ast.literal_eval(node)
            except (ValueError, TypeError):
                return _UNKNOWN
            return value if isinstance(value, str | bool | int | float | None) else _UNKNOWN
    return {name: value for name, value in held.items() if value is not _UNKNOWN}


def _of_namespace(text: str) -> dict[str, Any]:
    """Return the arguments in ``Namespace(lr=0.1, name='a')``; nothing is evaluated but plain values."""
    try:
        call = ast.parse(text[text.index("(") - len("Namespace") :].strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SideError("it begins as a Namespace of argparse does, and is none") from error
    if not isinstance(call, ast.Call):
        raise SideError("it begins as a Namespace of argparse does, and is none")
    found = {}
    for keyword in call.keywords:
        if keyword.arg is not None:
            try:
                found[keyword.arg] = ast.literal_eval(keyword.value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                found[keyword.arg] = ast.unparse(keyword.value)
    return found
