"""Whether the functions that a project names as its hooks are there, without importing what they are written in."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from epsopt.zoo.reading.hook_names import hook_parts, no_such_function


def lack_of_hook(spec: str, kind: str, folder: Path) -> str | None:
    """Say in one sentence why a hook will not be found; None: it is there, or only an import would tell.

    Args:
        spec: ``package.module:function``, or ``package.module:key=value``, which is the function of the hook's kind.
        kind: ``evaluate``, ``calibrate`` or ``embed``.
        folder: of the project file; the current one is looked at as well.
    """
    module, wanted, _ = hook_parts(spec, kind)
    if not module or not wanted:
        return None
    file = _file_of(module, folder)
    if file is None:
        first = module.partition(".")[0]
        if _is_importable(first) or any((home / first).is_dir() for home in _homes(folder)):
            return None
        return f"the {kind} hook {spec!r}: there is no module {module} in {folder}, and no such package is installed"
    names = _names_in(file)
    if names is None or wanted in names:
        return None
    return no_such_function(spec, kind, sorted(names))


def _homes(folder: Path) -> list[Path]:
    return list(dict.fromkeys((Path.cwd(), folder)))


def _file_of(module: str, folder: Path) -> Path | None:
    """The file of a module beside the project; None: it is not there."""
    place = Path(*module.split("."))
    candidates = (home / last for home in _homes(folder) for last in (place.with_suffix(".py"), place / "__init__.py"))
    return next((file for file in candidates if file.is_file()), None)


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _names_in(file: Path) -> set[str] | None:
    """Names that a module binds; None: it cannot be read, or what it binds is only known once it runs."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any(a.name == "*" for a in node.names):
                return None
            names |= {a.asname or a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return None if names & {"__getattr__"} else names
