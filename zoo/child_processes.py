"""How Python processes of ours begin: with the installed code only, never with code from the current folder.

``python -m`` and ``python -c`` have the current folder on their path, and an empty entry of ``PYTHONPATH`` means the
current folder too. A folder of runs is a stranger's, and a ``random.py`` or ``dill.py`` in it would be imported in
place of the standard one, or as the optional package that a library looks for.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# With gc.freeze the interpreter looks for no cycles in what was imported when it ends: half a second, with torch.
_BEGIN = (
    "import atexit, gc, json, runpy, sys; atexit.register(gc.freeze); "
    "module, path = sys.argv[1], json.loads(sys.argv[2]); del sys.argv[1:3]; "
    "sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]; "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as a program, as ``python -m`` does, without the current folder.

    It imports from where this process does, so that what a program of the user's put on ``sys.path`` is found.

    Args:
        module: its name.
        arguments: of the program.
    """
    return [sys.executable, "-P", "-c", _BEGIN, module, json.dumps(import_path()), *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the environment for such a command: this one's, with no entry of PYTHONPATH that is the current folder.

    Such an entry would be searched for ``sitecustomize`` before the first line of the program.

    Args:
        more: further variables.
    """
    variables = {**os.environ, **more}
    if "PYTHONPATH" in variables:
        entries = variables["PYTHONPATH"].split(os.pathsep)
        variables["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if not _is_working_directory(entry))
    return variables


def start(module: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a module as a program: with the installed code only, and one thread of numerical libraries.

    Args:
        module: its name, as for :func:`python_command`.
        arguments: of the program.
        options: of :class:`subprocess.Popen`, but for the environment.
    """
    variables = environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return subprocess.Popen(python_command(module, *arguments), env=variables, **options)


def import_path() -> list[str]:
    """Return ``sys.path`` without the current folder, unless that folder is where packages are installed."""
    installed = _installed()
    return [e for e in sys.path if not _is_working_directory(e) or (e and os.path.realpath(e) in installed)]


def leave_out_working_directory() -> None:
    """Take the current folder off ``sys.path``: for programs of ours, before they import anything large."""
    sys.path[:] = import_path()


@contextmanager
def safe_children() -> Iterator[None]:
    """Have libraries (joblib, plotly) start their processes as :func:`python_command` does, while the block runs.

    They take the environment as it is, so it is changed meanwhile; do not start a user's program in it.
    """
    changed = {**environment(), "PYTHONSAFEPATH": "1"}
    with environment_variables({n: changed[n] for n in ("PYTHONPATH", "PYTHONSAFEPATH") if n in changed}):
        yield


@contextmanager
def environment_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Have environment variables set while the block runs.

    Args:
        variables: values by name; afterwards each is what it was, or is not there.
    """
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def working_directory_last() -> Iterator[None]:
    """Have the current folder on ``sys.path``, after everything else, while the block runs: for a user's hook."""
    try:
        folder = str(Path.cwd())
    except FileNotFoundError:  # it was removed: there is nothing to import
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:  # the hook may have changed the path itself
            place = len(sys.path) - 1 - sys.path[::-1].index(folder)
            del sys.path[place]


def _is_working_directory(entry: str) -> bool:
    if not entry:
        return True
    try:
        return Path(entry).samefile(Path.cwd())
    except (OSError, ValueError):
        return False


def _installed() -> set[str]:
    """Folders that hold installed packages, and the one that epsopt was installed to."""
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    package = Path(__file__).resolve().parent.parent
    if package.name == "epsopt":
        folders.append(str(package.parent))
    return {os.path.realpath(folder) for folder in folders}
