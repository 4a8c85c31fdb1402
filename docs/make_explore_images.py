"""Draw the pictures of the page to explore from a finished demo.

    python docs/make_explore_images.py demo-out

Needs Debian's chromium. The page is the one that `epsopt explore` serves, on what was measured and predicted there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"
LOOK = "#across=metric:coverage&up=metric:dist_corr"
VIEWS = {  # name: (width, height, scheme, what is asked)
    "explore": (1280, 900, "light", "details"),
    "explore-dark": (1280, 900, "dark", "details"),
    "explore-search": (1280, 900, "light", "search"),
    "explore-search-dark": (1280, 900, "dark", "search"),
    "explore-interpolate": (1280, 900, "light", "way"),
    "explore-interpolate-dark": (1280, 900, "dark", "way"),
    "explore-select": (1280, 900, "light", "select"),
    "explore-select-dark": (1280, 900, "dark", "select"),
    "explore-propose": (1280, 900, "light", "propose"),
    "explore-propose-dark": (1280, 900, "dark", "propose"),
    "explore-800": (800, 1150, "light", "search"),
    "explore-800-dark": (800, 1150, "dark", "details"),
}
ASKED = {
    "details": "&colour=epoch",
    "search": "&colour=epoch&target.coverage=0.95&target.dist_corr=0.8",
    "way": "&colour=hyperparameter:encoder",
    "select": "&colour=width:dist_corr&paths=selected",
    "propose": "&colour=front",
}


def main() -> None:
    command = [Path(sys.executable).parent / "epsopt", "explore", "--port", "0"]
    server = subprocess.Popen(command, cwd=sys.argv[1], stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline() if server.stdout else ""
        url = re.search(r"http://\S+", line)
        if url is None:
            sys.exit(f"epsopt explore did not start: {line}")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium",
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
            )
            for name, (width, height, scheme, asked) in VIEWS.items():
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.set_default_timeout(0)
                page.goto(url.group() + LOOK + ASKED[asked])
                page.wait_for_selector("body[data-ready]")
                {"details": details, "search": search, "way": way, "select": select, "propose": propose}[asked](page)
                page.screenshot(path=str(IMAGES / f"{name}.png"))
                page.close()
                print(f"wrote {name}.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()


def details(page: Page) -> None:
    """Open the last checkpoint of the run that has most checkpoints on the front."""
    heading = page.locator("#runs thead button", has_text="on the front")
    heading.click()
    page.locator("#runs tbody tr").first.get_by_role("button", name="details").click()
    page.wait_for_selector("#neighbours")
    hide = """folder => document.querySelectorAll('#path, #python').forEach((e) => {
        e.textContent = e.textContent.replaceAll(folder, '~/demo-out'); })"""
    page.evaluate(hide, str(Path(sys.argv[1]).resolve()))  # the folder of the machine that made it is left out


def search(page: Page) -> None:
    """Search the map for the targets of the address."""
    page.get_by_role("button", name="Search the map").click()
    page.wait_for_selector("#answers tbody tr, #answers article")
    page.evaluate("document.querySelector('#details').closest('details').open = false")


def select(page: Page) -> None:
    """Draw a box over the upper right part of the measured front."""
    place = page.locator("#front .canvases").bounding_box()
    if place is None:
        sys.exit("the page has no plot of measured metrics")
    page.mouse.move(place["x"] + 0.45 * place["width"], place["y"] + 0.05 * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + 0.85 * place["width"], place["y"] + 0.55 * place["height"], steps=4)
    page.mouse.up()


def propose(page: Page) -> None:
    """Ask for two runs to train next."""
    for part in ("details", "targets"):
        page.evaluate("part => { document.getElementById(part).closest('details').open = false }", part)
    page.locator("#side summary", has_text="Propose").click()
    page.fill("#how-many", "2")
    page.get_by_role("button", name="Propose", exact=True).click()
    page.wait_for_selector("#proposed article")


def way(page: Page) -> None:
    """Go from the last checkpoint of one run to that of another."""
    for run, end in (("run_005", "from"), ("run_019", "to")):
        page.locator("#runs tbody tr", has_text=run).get_by_role("button", name="details").click()
        page.get_by_role("button", name=f"Interpolate {end} here").click()
    page.wait_for_selector("#share")
    for _ in range(9):
        page.locator("#share").press("ArrowRight")
    for part in ("details", "targets"):
        page.evaluate("part => { document.getElementById(part).closest('details').open = false }", part)
    page.locator("#trust summary").click()


if __name__ == "__main__":
    main()
