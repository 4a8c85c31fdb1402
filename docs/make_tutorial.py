"""Write what the tutorial's commands print into the tutorial: python docs/make_tutorial.py FOLDER.

FOLDER, which is not there yet and gives the project its name, is where they run, for about ten minutes on two cores. A
block of command lines of docs/tutorial.md is followed by what they print, in a block of the language `text`, shortened
where it is long.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("tutorial.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.DOTALL | re.MULTILINE)
EPSOPT = "from epsopt.cli.main import main; main()"
MOST, FIRST, LAST = 18, 13, 3
"""Lines of output that are shown whole; of more, the first and the last ones."""


def main() -> None:
    """Run every block of the page in order, and write the page with what was printed."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda found: found[0] if found[1] else _with_output(found[2], folder), text))


def _with_output(block: str, folder: Path) -> str:
    shown = []
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("epsopt propose"):
            name_the_program(folder / "epsopt.toml")
        shown.append(shortened(run(folder, line)))
    output = "\n".join(text for text in shown if text)
    return f"```\n{block}```\n" + (f"\n```text\n{output}```\n" if output else "")


def run(folder: Path, line: str) -> str:
    """Run a command line in a folder; return what it writes to standard output."""
    program, *arguments = shlex.split(line)
    command = [sys.executable, *(["-c", EPSOPT] if program == "epsopt" else []), *arguments]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONWARNINGS": "ignore"}
    print(f"$ {line}", flush=True)
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.replace(str(folder), "~/tutorial").replace(sys.executable, "python")


def shortened(text: str) -> str:
    """Return a text with its middle left out, if it is long."""
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    if len(lines) > MOST:
        lines[FIRST:-LAST] = ["…"]
    return "".join(f"{line}\n" for line in lines)


def name_the_program(file: Path) -> None:
    """Make the edit that the page asks for: the train command without its comment signs, of the demo's program."""
    before, mark, after = file.read_text(encoding="utf-8").partition("# [train]\n")
    if mark:
        command, _, rest = after.partition("# ]\n")
        lines = "".join(line.removeprefix("# ") for line in command.splitlines(keepends=True))
        lines = lines.replace('"train.py"', '"-m", "epsopt.demo.train"')
        file.write_text(f"{before}[train]\n{lines}]\n{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
