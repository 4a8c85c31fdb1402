"""Draw the pictures of the documentation from a finished demo.

    python docs/make_images.py demo-out

Needs Debian's chromium; everything drawn was measured or predicted in that demo.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from screenshot import draw, shoot

from epsopt import figures
from epsopt.optimize import Target, search
from epsopt.studies import load_map, load_project
from epsopt.zoo import Catalogue


def main() -> None:
    project = load_project(sys.argv[1])
    with Catalogue(project.storage) as catalogue:
        surrogate, _ = load_map(catalogue)
        checkpoints = catalogue.checkpoints()
    targets = [Target("coverage", 0.95)]
    result = search(surrogate, checkpoints, project.objectives, targets, limit=6)
    figure = figures.front(project.objectives, checkpoints, result.answers, targets)
    out = Path(__file__).parent / "images" / "front.png"
    draw(figure, out, 900, 460)
    report(Path(sys.argv[1]), out.parent)


def report(folder: Path, images: Path) -> None:
    """Shoot the first screen of the demo's report, light and dark."""
    epsopt = str(Path(sys.executable).parent / "epsopt")
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        subprocess.run([epsopt, "report", "--html", str(page), "--anonymous"], check=True, cwd=folder)
        for dark in (False, True):
            shoot(page, images / f"report{'-dark' if dark else ''}.png", 1000, 900, dark=dark)


if __name__ == "__main__":
    main()
