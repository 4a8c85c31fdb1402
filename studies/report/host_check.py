"""A WSGI layer that lets only this machine's own pages use a server that knows no passwords.

optuna-dashboard has no authentication, and a DELETE with a foreign Origin and Host removed a study: any web page that
the user visits could do that, directly or after rebinding its name to 127.0.0.1. Its own page deletes a study, with
every prediction that was made before, at one click: so nothing but reading is let through unless edits are allowed.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


_READING = frozenset({"GET", "HEAD"})  # a test holds optuna-dashboard to it: none of its GETs writes
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""The dashboard's page reaches this server and nothing else; its bundle needs inline scripts and evaluation."""


_ONLY_SHOWS = "epsopt dashboard only shows: 'epsopt dashboard --allow-edits' lets you change and delete studies"


def guard(
    application: Application,
    host: str,
    *,
    allow_edits: bool = False,
    only_shows: str = _ONLY_SHOWS,
    policy: str = _POLICY,
) -> Application:
    """Wrap a WSGI application so that it answers only requests that were meant for it.

    A request must name this server in its Host header: a loopback name, an address (which, unlike a name,
    cannot be rebound), this machine's name, or ``host``. Its Origin, if any, must be that same server, and a
    browser must not say that another site sent it, unless it is just following a link. It must only read, unless
    edits are allowed. Answers must not be framed by other pages, and their pages reach nothing but this server.

    Args:
        application: what is guarded.
        host: name or address that the server listens on.
        allow_edits: whether requests that change something are let through, too.
        only_shows: the answer to such a request otherwise.
        policy: Content-Security-Policy of its pages; by default the dashboard's.
    """
    names = {"localhost", host.lower().strip("[]")}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    added = [("X-Frame-Options", "DENY"), ("Content-Security-Policy", policy)]

    def guarded(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        reason = _refusal(environ, names, loopback=is_loopback(host))
        if reason is None and not allow_edits and environ.get("REQUEST_METHOD") not in _READING:
            reason = only_shows
        if reason is not None:
            body = f"{reason}\n".encode()
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
            start_response("403 Forbidden", headers)
            return [body]

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, *added], *rest)

        return application(environ, start)

    return guarded


def is_loopback(host: str) -> bool:
    """Say whether a name or address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _refusal(environ: dict[str, Any], names: set[str], *, loopback: bool) -> str | None:
    host = environ.get("HTTP_HOST", "")
    if not _is_ours(host, names, str(environ.get("SERVER_PORT", "")), loopback=loopback):
        return f"epsopt does not answer for the host {host!r}: open the address that it printed"
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return f"epsopt does not take requests from {origin!r}"
    following = environ.get("HTTP_SEC_FETCH_MODE") == "navigate" and environ.get("REQUEST_METHOD") == "GET"
    if environ.get("HTTP_SEC_FETCH_SITE") in ("cross-site", "same-site") and not following:
        return "epsopt does not take requests from other sites"
    return None


def _is_ours(host: str, names: set[str], port: str, *, loopback: bool) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        name, given = parts.hostname, parts.port
    except ValueError:
        return False
    if not name or parts.netloc != host or parts.username is not None or parts.path or str(given or 80) != port:
        return False
    if name in names:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback
