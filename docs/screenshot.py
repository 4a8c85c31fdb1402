"""A Plotly figure as a picture, by Debian's chromium."""

from __future__ import annotations

import tempfile
from pathlib import Path

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright


def draw(figure: go.Figure, out: Path, width: int, height: int) -> None:
    """Write a PNG of so many CSS pixels, at one and a half times the resolution."""
    with tempfile.TemporaryDirectory() as folder:
        page_file = Path(folder) / "figure.html"
        figure.write_html(page_file, include_plotlyjs=True, config={"displayModeBar": False})
        shoot(page_file, out, width, height)


def shoot(page_file: Path, out: Path, width: int, height: int, *, dark: bool = False) -> None:
    """Write a PNG of a page that holds a Plotly figure, as a light or a dark screen shows it."""
    out.parent.mkdir(exist_ok=True)
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
        )
        page = browser.new_page(
            viewport={"width": width, "height": height},
            device_scale_factor=1.5,
            color_scheme="dark" if dark else "light",
        )
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg")
        page.wait_for_timeout(500)
        page.screenshot(path=str(out))
        browser.close()
    print(f"wrote {out.name}")
