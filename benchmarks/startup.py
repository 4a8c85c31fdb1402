"""How long the commonest commands take to answer, against the start of Python: python benchmarks/startup.py PROJECT.

PROJECT is a folder with epsopt.toml, a catalogue, a map and proposals. With --before PYTHON, the interpreter of another
checkout answers the same commands on a copy of the project. Figures are processor seconds of the whole process, the
least of several starts in turn, divided by those of `python -c pass`: ratios depend less on the machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = (
    "--help", "init RUNS", "ingest", "doctor", "runs", "pareto", "nearest RUN", "trajectory RUN", "report",
    "work --dry-run",
)  # fmt: skip
_CALL = "import sys; from epsopt.cli.main import main; sys.argv[0] = 'epsopt'; main()"
_LOADED = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\nLOADED " + " ".join(m for m in ("torch", "botorch") if m in sys.modules)))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--before", metavar="PYTHON", help="interpreter of the checkout to compare with")
    parser.add_argument("--times", type=int, default=5, help="starts of each command")
    given = parser.parse_args()
    pythons = {"now": sys.executable} | ({"before": given.before} if given.before else {})
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(shutil.copytree(given.project, Path(place) / name, symlinks=True)) for name in pythons}
        stands_for = _names(folders["now"])
        bare = min(_seconds([sys.executable, "-c", "pass"], Path(place))[0] for _ in range(given.times))
        print(f"least of {given.times} starts, in units of `python -c pass` (* loads torch)\n")
        print(f"{'command':<18}" + "".join(f"{name:>10}" for name in reversed(pythons)))
        for command in COMMANDS:
            words = [stands_for.get(word, word) for word in command.split()]
            if words[0] == "init":
                words += ["--project", "again.toml", "--force"]
            figures = {}
            for name, python in pythons.items():
                tried = [_seconds([python, "-c", _LOADED + _CALL, *words], folders[name]) for _ in range(given.times)]
                known = all(status == 0 for _, status, _ in tried)
                mark = "*" if "torch" in tried[0][2] else " "
                figures[name] = f"{min(s for s, _, _ in tried) / bare:.1f}{mark}" if known else "- "
            print(f"{command:<18}" + "".join(f"{figures[name]:>10}" for name in reversed(pythons)), flush=True)


def _names(project: Path) -> dict[str, str]:
    """Stand-ins of the commands: the folder of runs, and the name of one."""
    from epsopt.studies import load_project
    from epsopt.zoo import Catalogue

    found = load_project(project / "epsopt.toml")
    with Catalogue(f"sqlite:///{project / 'epsopt.db'}") as catalogue:
        return {"RUNS": str(found.runs), "RUN": catalogue.runs()[0].name}


def _seconds(program: list[str], folder: Path) -> tuple[float, int, str]:
    """Return a program's processor seconds, its exit status, and which heavy modules it had loaded."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = done.stderr.rpartition("LOADED ")[2].split("\n")[0] if "LOADED " in done.stderr else ""
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.returncode, loaded


if __name__ == "__main__":
    main()
