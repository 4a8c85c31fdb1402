"""Text and tables as HTML, safe whatever names a stranger's runs have."""

from __future__ import annotations

import html
from collections.abc import Sequence

from epsopt.zoo.reading.text import visible

_SENTENCE = 28  # characters: a number with its interval is shorter


def escaped(text: str) -> str:
    """Make text safe for HTML and for Plotly's labels, which are HTML too: it shows as it is, whatever is in it."""
    return html.escape(visible(text))


def html_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its caption; all texts are plain.

    Args:
        caption: above it.
        heads: of the columns.
        rows: cells, as many as heads. All but the first column are numbers; one that has a sentence in it gets the
            class ``words``.
    """
    worded = {i for row in rows for i, text in enumerate(row) if i and len(text) > _SENTENCE}

    def cell(kind: str, text: str, column: int) -> str:
        words = ' class="words"' if column in worded else ""
        return f"<{kind}{words}>{escaped(text)}</{kind.split(maxsplit=1)[0]}>"

    head = "".join(cell('th scope="col"', h, i) for i, h in enumerate(heads))
    body = "".join("<tr>" + "".join(cell("td", c, i) for i, c in enumerate(row)) + "</tr>\n" for row in rows)
    above = f"<caption>{escaped(caption)}</caption>\n" if caption else ""
    above += f"<thead><tr>{head}</tr></thead>\n" if any(heads) else ""
    return f"<table>{above}<tbody>\n{body}</tbody></table>\n"
