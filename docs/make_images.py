"""Draw the pictures of the documentation from a finished demo.

    python docs/make_images.py demo-out

Needs Debian's chromium; everything drawn was measured or predicted in that demo.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

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
    out.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as browsers:
        page_file = Path(folder) / "front.html"
        figure.write_html(page_file, include_plotlyjs=True, config={"displayModeBar": False})
        browser = browsers.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
        )
        page = browser.new_page(viewport={"width": 900, "height": 460}, device_scale_factor=1.5)
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg")
        page.wait_for_timeout(500)
        page.screenshot(path=str(out))
        browser.close()
    print(f"wrote {out.name}")


if __name__ == "__main__":
    main()
