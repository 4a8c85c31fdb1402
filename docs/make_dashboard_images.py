"""Draw the pictures of the Optuna dashboard from a finished demo.

    python docs/make_dashboard_images.py demo-out

Needs Debian's chromium. The pages are those that `epsopt dashboard` serves there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH, HEIGHT, LONG = 1280, 1080, 1440
VIEWS = {  # name: (end of the study's name, page of the study, text that is there once it is drawn)
    "dashboard-runs": ("/runs/dist_corr", "", "Hyperparameter Importance"),
    "dashboard-search": ("/search ", "", "The checkpoint map"),
    "dashboard-answer": ("/search ", "/trials?numbers=0", "trajectory.svg"),
    "dashboard-proposal": ("/proposals", "/trials?numbers=0", "What it printed last:"),
    "dashboard-note": ("/search ", "/note", "none of them was evaluated"),
}
SCROLLED = {"dashboard-search": "The checkpoint map"}
"""Text that the page is scrolled to."""


def main() -> None:
    command = [Path(sys.executable).parent / "epsopt", "dashboard", "--port", "0"]
    server = subprocess.Popen(command, cwd=sys.argv[1], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = server.stdout.readline() if server.stdout else ""
        url = re.search(r"http://\S+", line)
        if url is None:
            sys.exit(f"epsopt dashboard did not start: {line}")
        with urlopen(f"{url.group()}api/studies") as answer:  # noqa: S310 - the server that was started above
            studies = {s["study_name"]: s["study_id"] for s in json.load(answer)["study_summaries"]}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium",
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
            )
            for name, (end, part, text) in VIEWS.items():
                study = max(number for known, number in studies.items() if end in known)
                for scheme in ("light", "dark"):
                    address = f"{url.group()}dashboard/studies/{study}{part}"
                    shoot(browser, address, text, f"{name}{'-dark' if scheme == 'dark' else ''}", scheme)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def shoot(browser: Browser, address: str, text: str, name: str, scheme: str) -> None:
    """Write a picture of a page once a text is on it and nothing more is asked for."""
    height = LONG if "answer" in name else HEIGHT
    page = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme=scheme)
    page.goto(address)
    page.get_by_text(text).locator("visible=true").first.wait_for()
    page.wait_for_load_state("networkidle")
    if name.removesuffix("-dark") in SCROLLED:
        page.get_by_text(text).locator("visible=true").first.scroll_into_view_if_needed()
        page.mouse.wheel(0, 390)
    hide(page)
    page.wait_for_timeout(1500)
    page.screenshot(path=str(IMAGES / f"{name}.png"))
    page.close()
    print(f"wrote {name}.png")


def hide(page: Page) -> None:
    """Leave the folder of the machine that made the demo out of the picture."""
    script = """folder => {
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(folder, '~/demo-out');
    }"""
    page.evaluate(script, str(Path(sys.argv[1]).resolve()))


if __name__ == "__main__":
    main()
