"""Draw the pictures of the documentation from a finished demo.

    python docs/make_images.py demo-out

Needs Debian's chromium; everything drawn was measured or predicted in that demo.
"""

from __future__ import annotations

import sys
from pathlib import Path

from screenshot import draw

from epsopt.optimize import Target, search
from epsopt.studies import load_map, load_project, pareto_figure
from epsopt.zoo import Catalogue


def main() -> None:
    project = load_project(sys.argv[1])
    with Catalogue(project.storage) as catalogue:
        surrogate, _ = load_map(catalogue)
        checkpoints = catalogue.checkpoints()
    targets = [Target("coverage", 0.95)]
    result = search(surrogate, checkpoints, project.objectives, targets, limit=6)
    figure = pareto_figure(project.objectives, checkpoints, result.answers, targets)
    if figure is None:
        sys.exit("the project has fewer than two objectives: there is nothing to draw")
    out = Path(__file__).parent / "images" / "front.png"
    draw(figure, out, 900, 460)


if __name__ == "__main__":
    main()
