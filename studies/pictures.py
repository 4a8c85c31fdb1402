"""Pictures as files: HTML that works offline, PNG and SVG drawn by a browser."""

from __future__ import annotations

import base64
import html
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from epsopt.studies.output_files import OutputFile
from epsopt.studies.pages import html_page
from epsopt.zoo.child_processes import safe_children
from epsopt.zoo.errors import EpsoptError

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTH, SCALE = 1000, 1.5
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_PATIENCE = 120.0  # seconds: a browser that starts for the first time on a busy machine
_DRAW = """
Plotly.newPlot(document.createElement("div"), %(figure)s).then(
  drawn => Plotly.toImage(drawn, {format: "%(form)s", width: %(width)d, height: %(height)d, scale: %(scale)s})
).then(url => { document.body.textContent = "drawn:" + url + ":end"; });
"""


def save_picture(figure: go.Figure, file: OutputFile) -> None:
    """Write a picture as ``.html`` (by itself, works offline) or as ``.png`` or ``.svg`` (needs a Chrome or Chromium).

    Args:
        figure: the picture.
        file: as :func:`epsopt.studies.output_files.output_file` checked it.

    Raises:
        UsageError: a file that is not epsopt's has come to be there.
        EpsoptError: there is no browser to draw with, or the file cannot be written.
    """
    ending = file.path.suffix.lower()
    if ending == ".html":
        title = html.unescape(str(figure.layout.title.text or "")) or "epsopt"
        file.write(html_page(title, figure=figure, bar=False).encode())
        return
    file.write(drawn_image(figure, ending[1:], str(file.named)))


def drawn_image(figure: go.Figure, form: str, named: str, scale: float = SCALE) -> bytes:
    """Draw a figure as a PNG or SVG file.

    Args:
        figure: the picture.
        form: ``"png"`` or ``"svg"``.
        named: the file, for errors.
        scale: pixels of a PNG for each of the figure's own, of which it is 1000 wide.

    Returns:
        The file's content.

    Raises:
        EpsoptError: there is neither kaleido nor a browser, or neither could draw it.
    """
    height = int(figure.layout.height or 480)
    try:
        with safe_children():
            return bytes(figure.to_image(form, width=WIDTH, height=height, scale=scale))
    except (OSError, ValueError, RuntimeError, ImportError) as error:  # whatever kaleido and its browser raise
        reason = str(error).strip().splitlines()[0]
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is not None:
        try:
            return _by_browser(browser, figure, form, height, scale)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason = f"{browser}: {str(error).strip().splitlines()[0][:120]}"
    raise EpsoptError(
        f"{named}: there is nothing to draw it with ({reason}): install Chrome or Chromium, or kaleido with "
        "pip install 'epsopt[images]', or save it as .html"
    )


def _by_browser(browser: str, figure: go.Figure, form: str, height: int, scale: float) -> bytes:
    """Have a browser without a window run Plotly's own export, and read the result from the page."""
    from plotly.offline import get_plotlyjs

    drawing = _DRAW % {
        # A name in a figure must not end the script.
        "figure": figure.to_json().replace("</", "<\\/"), "form": form, "width": WIDTH, "height": height,
        "scale": scale if form == "png" else 1,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="epsopt-") as folder:
        page = Path(folder) / "figure.html"
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><body><script>{get_plotlyjs()}</script><script>{drawing}</script>',
            encoding="utf-8",
        )
        command = [
            browser, "--headless", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            "--disable-background-networking", "--disable-sync",
            f"--user-data-dir={folder}/profile", "--virtual-time-budget=60000", "--dump-dom", page.as_uri(),
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chrome's sandbox does not start as root; the page is ours
            command.insert(1, "--no-sandbox")
        with safe_children():
            drawn = subprocess.run(
                command, capture_output=True, check=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL
            )
    _, found, rest = drawn.stdout.decode("utf-8", "replace").partition("drawn:data:image/")
    url, end, _ = rest.partition(":end")
    if not found or not end:
        raise ValueError("it drew nothing")
    head, _, content = html.unescape(url).partition(",")
    if "base64" in head:
        return base64.b64decode(content)
    from urllib.parse import unquote

    return unquote(content).encode()
