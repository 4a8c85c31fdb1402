"""Command lines and Python of the README and the docs, as they stand there."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_PROGRAMS = ("epsopt", "make", "python", "pip", ".venv/bin/")


@dataclass(frozen=True)
class Line:
    """A command line: where it stands, its arguments, and whether it stands in a block to be typed as it is."""

    file: str
    text: str
    block: bool

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


def command_lines() -> list[Line]:
    """Every command line, in the order of the files; what a sentence only names is no block."""
    found = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        name = str(file.relative_to(ROOT))
        for language, block in _FENCE.findall(text):
            if language in ("", "sh", "bash", "console"):
                lines = map(_command, block.replace("\\\n", " ").splitlines())
                found += [Line(name, line, True) for line in lines if line is not None]
        for code in _CODE.findall(_FENCE.sub("", text)):
            if (line := _command(code)) is not None:
                found.append(Line(name, line, False))
    # Blocks last: what a sentence names as well is still a line to be typed.
    return list({str(line): line for line in sorted(found, key=lambda line: line.block)}.values())


def _command(text: str) -> str | None:
    text = re.sub(r"^\$ |^[A-Z_]+=\S+ ", "", text.strip())
    return " ".join(shlex.join(shlex.split(text, comments=True)).split("\n")) if text.startswith(_PROGRAMS) else None


def snippets(wanted: str = "python") -> list[tuple[str, str]]:
    """Every block of a language, with the file that it stands in."""
    return [
        (f"{file.relative_to(ROOT)}, block {i}", textwrap.dedent(block))
        for file in FILES
        for i, (language, block) in enumerate(_FENCE.findall(file.read_text(encoding="utf-8")))
        if language == wanted
    ]
