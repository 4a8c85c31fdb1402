"""The WSGI application behind the page: data once, answers on demand, changes only where they are allowed."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from epsopt.studies.explore import what_if
from epsopt.studies.explore.page import STATIC, index
from epsopt.studies.explore.snapshot import Snapshot
from epsopt.studies.explore.view import View, view
from epsopt.zoo.errors import EpsoptError, UsageError

logger = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The page's scripts are files of this server; nothing is inline, nothing is evaluated, nothing else is reached."""
READ_ONLY = "epsopt explore only shows: 'epsopt explore --allow-writes' lets you queue proposals and make answers"
TARGET = "target."
_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
_LONGEST = 4096  # characters of a query: a target for each of a hundred metrics


@dataclass(frozen=True)
class _Body:
    data: bytes
    kind: str
    status: HTTPStatus = HTTPStatus.OK


class ExploreApplication:
    """Answers a browser's requests about one snapshot; threads may call it at once.

    Args:
        snapshot: the catalogue and the map.
        allow_writes: whether proposals may be queued and answers of the search made.
        shown: the page's data, where it is put together already.
    """

    def __init__(self, snapshot: Snapshot, *, allow_writes: bool = False, shown: View | None = None) -> None:
        self.snapshot = snapshot
        self.allow_writes = allow_writes
        shown = view(snapshot) if shown is None else shown
        hook = snapshot.project.evaluate is not None
        about = {**shown.about, "server": True, "writes": allow_writes, "evaluates": hook}
        self._kept = {
            "/": _Body(index(about["project"]).encode(), "text/html; charset=utf-8"),
            "/about.json": _json(about),
            "/data.bin": _Body(shown.data, "application/octet-stream"),
            "/files.json": _json(shown.files),
            **{f"/static/{name}": _Body(data, kind) for name, (data, kind) in STATIC.items()},
        }
        self._answers: dict[tuple[str, str], Callable[[dict[str, str]], Any]] = {
            ("GET", "/neighbours"): lambda q: what_if.neighbours(snapshot, _whole(q, "row")),
            ("GET", "/embedding"): lambda q: what_if.embedding(snapshot, _whole(q, "row")),
            ("GET", "/search"): lambda q: what_if.answers(snapshot, _targets(q)),
            ("GET", "/way"): lambda q: what_if.way(snapshot, _whole(q, "from"), _whole(q, "to")),
            ("GET", "/proposals"): lambda q: what_if.next_runs(snapshot, _targets(q), n=_whole(q, "n", 4)),
        }
        if allow_writes:
            self._answers["POST", "/proposals"] = lambda q: what_if.next_runs(
                snapshot, _targets(q), n=_whole(q, "n", 4), record=True
            )
            self._answers["POST", "/make"] = lambda q: what_if.make_answer(snapshot, _targets(q), _whole(q, "answer"))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        body = self._answer(environ)
        headers = [("Content-Type", body.kind), ("Content-Length", str(len(body.data))), *_HEADERS]
        start_response(f"{body.status.value} {body.status.phrase}", headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body.data]

    def _answer(self, environ: dict[str, Any]) -> _Body:
        path, method = environ.get("PATH_INFO") or "/", str(environ.get("REQUEST_METHOD", "GET"))
        reading = "GET" if method == "HEAD" else method
        if path in self._kept and reading == "GET":
            return self._kept[path]
        answer = self._answers.get((reading, path))
        if answer is None:
            known = path in self._kept or any(path == other for _, other in self._answers)
            status = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
            return _error(f"epsopt explore has no {method} {path}"[:200], status)
        try:
            return _json(answer(_query(str(environ.get("QUERY_STRING", "")))))
        except EpsoptError as error:
            return _error(str(error), HTTPStatus.BAD_REQUEST)
        except Exception as error:
            logger.exception("%s %s", method, path)
            message = f"unexpected {type(error).__name__}: {error} (this is a defect; the terminal shows where)"
            return _error(message, HTTPStatus.INTERNAL_SERVER_ERROR)


def _json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> _Body:
    data = json.dumps(what_if.finite(value), separators=(",", ":"), allow_nan=False).encode()
    return _Body(data, "application/json", status)


def _error(text: str, status: HTTPStatus) -> _Body:
    return _json({"error": text}, status)


def _query(text: str) -> dict[str, str]:
    if len(text) > _LONGEST:
        raise UsageError(f"the request has {len(text)} characters, expected at most {_LONGEST}")
    found = parse_qs(text, keep_blank_values=True)
    twice = next((name for name, values in found.items() if len(values) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice")
    return {name: values[0] for name, values in found.items()}


def _whole(query: dict[str, str], name: str, default: int | None = None) -> int:
    text = query.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"{name}: expected a whole number, got {text!r}")
    return int(text)


def _targets(query: dict[str, str]) -> dict[str, float]:
    wanted = {}
    for name, text in query.items():
        if name.startswith(TARGET):
            try:
                wanted[name.removeprefix(TARGET)] = float(text)
            except ValueError:
                wanted[name.removeprefix(TARGET)] = math.nan
    return wanted
