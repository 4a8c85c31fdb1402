"""A WSGI layer with a style sheet for the dashboard's pages: long lines break, and links are legible in both themes.

An attribute would make a page wider than any window, and a link in a note is dark blue on black.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from epsopt.studies.report.host_check import Application, StartResponse

# optuna-dashboard (0.21) shows the attributes of a trial with `white-space: nowrap`, each on one line.
STYLE = (
    b"<style>main .MuiBox-root,main .MuiTypography-body1{white-space:normal!important}"
    b"main p,main li,main pre{overflow-wrap:anywhere}main pre{white-space:pre-wrap}"
    b"main a:not([class]){color:#1e88e5}</style>"
)
_END = b"</head>"


def break_lines(application: Application) -> Application:
    """Wrap a WSGI application so that long lines on its pages are broken.

    Args:
        application: whose HTML pages get a style sheet.
    """

    def broken(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        started: list[tuple[str, list[tuple[str, str]], tuple[Any, ...]]] = []

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            started.append((status, headers, rest))

        body = application(environ, start)
        status, headers, rest = started[-1]
        if not any(n.lower() == "content-type" and v.startswith("text/html") for n, v in headers):
            start_response(status, headers, *rest)
            return body
        text = b"".join(body).replace(_END, STYLE + _END, 1)
        kept = [(n, v) for n, v in headers if n.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(text)))], *rest)
        return [text]

    return broken
