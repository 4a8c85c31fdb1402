"""HTML pages that work without a network: the one place that turns figures and texts into one."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import TYPE_CHECKING, Any

from epsopt.studies.output_files import HTML_MARK
from epsopt.zoo.reading.text import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLOTLY_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    # Plotly's toolbar has a button that uploads the figure.
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendDataToCloud", "editInChartStudio"],
}
_SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.DOTALL)


def escaped(text: str) -> str:
    """Make text safe for HTML and for Plotly's labels, which are HTML too: it shows as it is, whatever is in it."""
    return html.escape(visible(text))


def html_page(title: str, body: str = "", figure: go.Figure | None = None, *, style: str = "", bar: bool = True) -> str:
    """Return a page that needs nothing else and reaches nothing else.

    Its Content-Security-Policy names each of the page's own scripts by its digest, so nothing that comes in with a
    name or a text runs, and no request leaves the page.

    Args:
        title: of the page, as plain text.
        body: HTML above the figure; whoever makes it has escaped it.
        figure: the figure, if there is one.
        style: CSS.
        bar: whether the figure has a toolbar.
    """
    picture = scripts = ""
    if figure is not None:
        from plotly.offline import get_plotlyjs

        picture = figure.to_html(
            full_html=False, include_plotlyjs=False, config={**PLOTLY_CONFIG, "displayModeBar": bar}
        )
        scripts = f"<script>{get_plotlyjs()}</script>\n"
    digests = " ".join(_digest(script) for script in _SCRIPT.findall(scripts + picture)) or "'none'"
    policy = (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{HTML_MARK}'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n{scripts}</head>\n"
        f"<body>\n{body}{picture}\n</body></html>\n"
    )


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
