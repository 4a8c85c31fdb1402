"""Take pictures of what commands print: python docs/make_terminal_pictures.py FOLDER.

FOLDER gets two projects of the usual kinds, with their runs: a CNN from scratch (Lightning under Hydra) and fine-tunes
of an MLP from one base (argparse and a YAML file). Those that are there already are used again. Every command is run in
a pseudo-terminal of 80 and of 120 columns; what it prints goes to FOLDER/pictures, as a text and as an SVG.
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

WIDTHS = (80, 120)
# RUN is any run, TARGETS are out of reach of most checkpoints; what is recorded would be in the next command's way.
COMMANDS = [
    "doctor", "runs", "pareto", "pareto --details", "nearest RUN", "nearest no-such-run", "predict FILE",
    "trajectory RUN", "cluster", "interpolate RUN OTHER --steps 4", "search TARGETS -n 4 --no-record",
    "sample TARGETS -n 5", "init-from TARGETS -n 2", "propose -n 3", "report", "work --dry-run", "check",
]  # fmt: skip
_ENDED = "\x1e"  # between commands, on standard output

_SEVERAL = """
import sys
import epsopt.cli.progress
from epsopt.cli.main import main
epsopt.cli.progress.DELAY = 1e9  # pictures are of what is left when a command has ended
for line in sys.argv[2].split("\\n"):
    sys.argv = ["epsopt", *line.split(" ")]
    try:
        main()
    except SystemExit:
        pass
    sys.stdout.flush(), sys.stderr.flush()
    print(%r, flush=True)
"""


def main() -> None:
    """Make the projects and the pictures."""
    from tests.cli.foreign_projects import finetune_runs, hydra_runs

    folder = Path(sys.argv[1]).resolve()
    wanted = sys.argv[2:] or COMMANDS
    for name, train, options in (
        ("hydra", lambda f: hydra_runs(f, 30, 8), []),
        ("finetunes", lambda f: finetune_runs(f, 40, 6), ["--evaluate", "measure:evaluate"]),
    ):
        project = folder / name
        if not (project / "epsopt.db").exists():
            project.mkdir(parents=True, exist_ok=True)
            runs = train(project)
            for line in (["init", runs.name, *options], ["ingest"], ["fit"]):
                subprocess.run(
                    [sys.executable, "-c", "from epsopt.cli.main import main; main()", *line], cwd=project, check=True
                )
        for width in WIDTHS:
            for command, text in take(project, wanted, width):
                save(
                    folder / "pictures" / name,
                    f"{re.sub(r'[^a-z]+', '-', command.lower()).strip('-')}-{width}",
                    text,
                    width,
                )


def take(project: Path, commands: list[str], width: int) -> list[tuple[str, str]]:
    """Run commands in a pseudo-terminal of a width; return each with what it printed, escapes and all."""
    files = sorted(
        f
        for f in project.rglob("*")
        if f.suffix in (".pt", ".ckpt") and f.is_relative_to(project) and "base" not in f.parts
    )
    names = _runs(project)
    stands_for = {
        "RUN": names[0],
        "OTHER": names[-1],
        "FILE": str(files[7].relative_to(project)),
        "TARGETS": _targets(project),
    }
    lines = ["\t".join(" ".join(stands_for.get(word, word) for word in c.split()).split("\t")) for c in commands]
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    program = [sys.executable, "-c", _SEVERAL % _ENDED, "", "\n".join(lines)]
    with subprocess.Popen(
        program, cwd=project, stdout=child, stderr=child, env={**environment, "TERM": "xterm-256color"}
    ) as running:
        os.close(child)
        printed = b""
        with contextlib.suppress(OSError):  # Linux ends a terminal whose other end is closed with an error
            while piece := os.read(parent, 1 << 16):
                printed += piece
        running.wait()
    os.close(parent)
    texts = printed.decode(errors="replace").replace("\r\n", "\n").split(_ENDED)
    return [(line, text.lstrip("\n")) for line, text in zip(lines, texts, strict=False)]


def _runs(project: Path) -> list[str]:
    """Names of the runs, as commands take them."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", "from epsopt.cli.main import main; main()", "runs", "--state", "past", "--json"],
        cwd=project, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [r["run"] for r in json.loads(done.stdout)["runs"]]


def _targets(project: Path) -> str:
    """A target that about every tenth checkpoint meets, as an option."""
    from epsopt.cli.options import spelling
    from epsopt.studies import load_project
    from epsopt.zoo import Catalogue

    found = load_project(project / "epsopt.toml")
    objective = found.objectives[-1]
    with Catalogue(found.storage) as catalogue:
        values = sorted(v for c in catalogue.checkpoints() if (v := c.metrics.get(objective.name)) is not None)
    value = values[int(len(values) * (0.9 if objective.maximize else 0.1))]
    return f"--target-{spelling(objective.name)} {value:.3g}"


def save(folder: Path, name: str, text: str, width: int) -> None:
    """Write what a command printed as a text and as an SVG."""
    from rich.console import Console
    from rich.text import Text

    folder.mkdir(parents=True, exist_ok=True)
    visible = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)
    (folder / f"{name}.txt").write_text(visible)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(Text.from_ansi(text))
    (folder / f"{name}.svg").write_text(console.export_svg(title="epsopt"))
    print(f"{shlex.quote(str(folder / name))}: {len(visible.splitlines())} lines")


if __name__ == "__main__":
    main()
