"""--help answers at once: nothing heavy is imported before a command runs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import epsopt
from epsopt.cli.main import COMMANDS

from .conftest import call

START = "import sys; from epsopt.cli.main import main"
HEAVY = ("torch", "optuna", "rich", "numpy", "sqlalchemy", "pydantic", "pandas", "botorch")


def test_importing_the_commands_imports_nothing_heavy():
    modules = ["epsopt.cli.main", *(f"epsopt.cli.{name.replace('-', '_')}" for name in COMMANDS)]
    program = f"import {', '.join(modules)}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_imports_nothing_heavy_so_that_it_answers_at_once():
    loaded = f"sys.stderr.write(str([m for m in {HEAVY} if m in sys.modules]))"
    program = f"{START}; import atexit; atexit.register(lambda: {loaded}); sys.argv = ['epsopt', '--help']; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: epsopt ")
    assert done.stderr == "[]"


def test_the_package_says_its_version_and_imports_nothing_for_it():
    program = f"import epsopt, sys; print(epsopt.__version__, [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [version("epsopt"), "[]"]


def test_the_command_says_the_version_of_the_package(tmp_path):
    assert call(tmp_path, "--version").out.split()[-1] == epsopt.__version__
    with pytest.raises(AttributeError, match="'nothing_of_that_name'"):
        epsopt.nothing_of_that_name  # noqa: B018


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(tmp_path, command):
    result = call(tmp_path, command, "--help")
    assert result.status == 0
    assert result.out.startswith(f"Usage: epsopt {command} ")
    assert "--json" in result.out
    assert all(len(line) <= 88 for line in result.out.splitlines())


def test_a_misspelt_command_is_guessed(tmp_path):
    result = call(tmp_path, "serch")
    assert result.status == 2
    assert "did you mean 'search'?" in result.err


def test_the_dashboard_ends_with_status_0_on_ctrl_c(project):
    import json
    import signal
    import urllib.request

    from .conftest import check

    # A background job inherits an ignored Ctrl-C; a user at a terminal does not.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heard}; {START}; sys.argv = ['epsopt', 'dashboard', '--port', '0', '--json']; main()"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=project.folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, "it ended before it listened"
            text += line
        document = json.loads(text)
        check("dashboard", document)
        with urllib.request.urlopen(document["url"]) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
