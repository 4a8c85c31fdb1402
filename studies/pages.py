"""HTML pages that work without a network: the one place that turns figures and texts into one."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from epsopt.figures.style import DARK, FONT, LIGHT
from epsopt.studies.output_files import HTML_MARK
from epsopt.zoo.html_text import escaped

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


def _css(colour: str) -> str:
    """A colour as browsers write it back: ``#24313f`` is ``rgb(36, 49, 63)``."""
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


# Only text in the common ink turns light: labels keep colours of their own.
PAGE_STYLE = f"""
:root{{color-scheme:light dark}}
body{{font-family:{FONT};color:{LIGHT["text"]};background:{LIGHT["paper"]};margin:0}}
@media screen and (prefers-color-scheme:dark){{
body{{color:{DARK["text"]};background:{DARK["paper"]}}}
.js-plotly-plot text[style*="{_css(LIGHT["text"])}"]{{fill:{DARK["text"]}!important}}
.js-plotly-plot .gridlayer path,.js-plotly-plot .zerolinelayer path{{stroke:{DARK["grid"]}!important}}
.js-plotly-plot .annotation .bg{{fill:{DARK["paper"]}!important}}
.js-plotly-plot .legend .bg{{fill-opacity:0!important}}
}}
@media print{{.modebar{{display:none!important}}}}
"""


def html_page(
    title: str,
    body: str = "",
    figure: go.Figure | None = None,
    *,
    parts: Sequence[str | go.Figure] = (),
    style: str = "",
    bar: bool = True,
) -> str:
    """Return a page that needs nothing else and reaches nothing else, light or dark as its reader's screen is.

    Its Content-Security-Policy names each of the page's own scripts by its digest, so nothing that comes in with a
    name or a text runs, and no request leaves the page.

    Args:
        title: of the page, as plain text.
        body: HTML above the figure; whoever makes it has escaped it.
        figure: the figure, if there is one.
        parts: what follows, HTML and figures in their order.
        style: CSS besides the common one.
        bar: whether figures have a toolbar.
    """
    pieces: list[str] = [body]
    drawn = 0
    for part in (*(() if figure is None else (figure,)), *parts):
        if isinstance(part, str):
            pieces.append(part)
            continue
        drawn += 1
        pieces.append(_drawn(part, bar))
    picture, scripts = "".join(pieces[1:]), ""
    if drawn:
        from plotly.offline import get_plotlyjs

        scripts = f"<script>{get_plotlyjs()}</script>\n"
    digests = " ".join(digest(script) for script in _SCRIPT.findall(scripts + picture)) or "'none'"
    policy = (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{HTML_MARK}'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title>\n<style>{PAGE_STYLE}{style}</style>\n{scripts}</head>\n"
        f"<body>\n{body}{picture}\n</body></html>\n"
    )


def _drawn(figure: go.Figure, bar: bool) -> str:
    """A figure as HTML, through which the page's own background shows."""
    import plotly.graph_objects as go

    clear = go.Figure(figure)
    clear.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
    return str(
        clear.to_html(
            full_html=False, include_plotlyjs=False,
            config={**PLOTLY_CONFIG, **({} if bar else {"displayModeBar": False}), "responsive": True},
        )
    )  # fmt: skip


def digest(script: str) -> str:
    """Return what a Content-Security-Policy names a script or a style sheet by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
