"""Text and tables as HTML, safe whatever names a stranger's runs have."""

from __future__ import annotations

import html
from collections.abc import Sequence

from epsopt.zoo.reading.text import visible


def escaped(text: str) -> str:
    """Make text safe for HTML and for Plotly's labels, which are HTML too: it shows as it is, whatever is in it."""
    return html.escape(visible(text))


def html_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its caption; all texts are plain.

    Args:
        caption: above it.
        heads: of the columns.
        rows: cells, as many as heads. All but the first column are numbers.
    """
    head = "".join(f'<th scope="col">{escaped(h)}</th>' for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escaped(c)}</td>" for c in row) + "</tr>\n" for row in rows)
    return (
        f"<table><caption>{escaped(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>"
        "</table>\n"
    )
