"""The page's own files, and the page as one file that needs no server."""

from __future__ import annotations

import base64
import json
import re
from importlib.resources import files
from typing import Any

import torch

from epsopt.studies.explore.snapshot import Snapshot
from epsopt.studies.explore.view import view
from epsopt.studies.explore.what_if import finite, neighbours
from epsopt.studies.output_files import HTML_MARK
from epsopt.studies.pages import digest
from epsopt.zoo.html_text import escaped

MODULES = (
    "text.js", "data.js", "colours.js", "scales.js", "state.js", "scatter.js", "table.js", "details.js", "targets.js",
    "way.js", "proposals.js", "trust.js", "main.js",
)  # fmt: skip
"""ES modules, each after those that it imports: in this order they are one script."""
MOST_WITH_NEIGHBOURS = 5000
"""Checkpoints of an exported file whose neighbours it holds: they are compared with all others."""
_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) )", re.MULTILINE)


def _read() -> tuple[str, dict[str, tuple[bytes, str]]]:
    folder = files("epsopt.studies.explore") / "static"
    body = (folder / "body.html").read_text(encoding="utf-8")
    names = [*MODULES, "explore.css"]
    return body, {name: ((folder / name).read_bytes(), _KINDS[name[name.rindex(".") :]]) for name in names}


BODY, STATIC = _read()


def index(project: str) -> str:
    """Return the page as the server serves it.

    Args:
        project: name of the project, any text.
    """
    return _page(
        project,
        '<link rel="stylesheet" href="static/explore.css">\n<script type="module" src="static/main.js"></script>',
    )


def exported(snapshot: Snapshot) -> bytes:
    """Return the page as one file: no server, no network, nothing that was not there when it was written.

    Its Content-Security-Policy names the one script and the one style sheet by their digests.

    Args:
        snapshot: the catalogue and the map.
    """
    shown = view(snapshot)
    script, style = bundle(), STATIC["explore.css"][0].decode()
    policy = (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    near = _neighbours(snapshot)
    about = finite({**shown.about, "server": False, "writes": False, "neighbours": near})
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>\n'
        f"{_embedded('about', _json(about))}{_embedded('files', _json(shown.files))}"
        f"{_embedded('data', base64.b64encode(shown.data).decode())}"
        f'<script type="module">{script}</script>'
    )
    return _page(shown.about["project"], head).encode()


def _neighbours(snapshot: Snapshot) -> list[dict[str, Any] | None] | None:
    """Return what the server would say of each checkpoint's neighbours; None where there are too many of them."""
    if len(snapshot.checkpoints) > MOST_WITH_NEIGHBOURS:
        return None
    placed = torch.isfinite(snapshot.latents).all(dim=1).tolist()
    return [neighbours(snapshot, row) if there else None for row, there in enumerate(placed)]


def bundle() -> str:
    """Return all modules as one script: no two of them have a name in common at their top."""
    text = "\n".join(STATIC[name][0].decode() for name in MODULES)
    return _EXPORT.sub("", _IMPORT.sub("", text))


def _page(project: str, head: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{HTML_MARK}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">\n'
        f"<title>{escaped(project)}: explore</title>\n{head}\n</head>\n<body>\n{BODY}</body></html>\n"
    )


def _json(value: Any) -> str:
    # "<" never reaches the page: neither "</script>" nor "<!--" can end what it stands in.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _embedded(name: str, text: str) -> str:
    return f'<script type="text/plain" id="{name}">{text}</script>\n'
