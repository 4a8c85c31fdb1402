"""A report as headings, sentences, tables and figures, and the same as one HTML page or as Markdown with pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from epsopt.studies.pages import html_page
from epsopt.studies.report.verdict import Verdict
from epsopt.zoo.html_text import escaped, html_table
from epsopt.zoo.reading.text import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: above it.
        heads: of the columns.
        rows: cells; all but the first column are numbers.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: its heading.
        lines: sentences below it.
        figures: by the name of their file.
        tables: below the figures.
    """

    title: str
    lines: Sequence[str] = ()
    figures: Mapping[str, go.Figure] | None = None
    tables: Sequence[Table] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self.lines or self.figures or any(t.rows for t in self.tables))


@dataclass(frozen=True)
class ReportDocument:
    """A report.

    Attributes:
        title: of it.
        verdicts: what a reader asks first.
        sections: in order; empty ones are left out.
    """

    title: str
    verdicts: Sequence[Verdict]
    sections: Sequence[Section]

    def with_texts(self, change: Callable[[str], str]) -> ReportDocument:
        """Return the same with every text changed; figures are left as they are.

        Args:
            change: from a text to what stands in its place.
        """
        return ReportDocument(
            change(self.title),
            [Verdict(v.question, change(v.answer), change(v.reason)) for v in self.verdicts],
            [
                replace(
                    s,
                    lines=[change(line) for line in s.lines],
                    tables=[Table(t.caption, t.heads, [[change(c) for c in row] for row in t.rows]) for t in s.tables],
                )
                for s in self.sections
            ],
        )

    def html(self) -> str:
        """Return one page that needs nothing else, not even a network."""
        parts: list[str | go.Figure] = []
        cards = "".join(
            f'<div class="card"><h2>{escaped(v.question)}</h2><p class="answer">{escaped(v.answer)}</p>'
            f"<p>{escaped(v.reason)}</p></div>\n"
            for v in self.verdicts
        )
        head = f'<main><h1>{escaped(self.title)}</h1>\n<div class="cards">\n{cards}</div>\n'
        for section in self.sections:
            if section.empty:
                continue
            paragraphs = "".join(f"<p>{escaped(line)}</p>\n" for line in section.lines)
            parts.append(f"<section><h2>{escaped(section.title)}</h2>\n{paragraphs}")
            for figure in (section.figures or {}).values():
                parts += ['<div class="figure">', figure, "</div>\n"]
            for table in section.tables:
                if table.rows:
                    parts.append(f'<div class="table">{html_table(table.caption, table.heads, table.rows)}</div>\n')
            parts.append("</section>\n")
        return html_page(self.title, head, parts=[*parts, "</main>"], style=_STYLE)

    def markdown(self, pictures: str) -> str:
        """Return the report as Markdown.

        Args:
            pictures: folder of the pictures ``NAME.png``, relative to the file.
        """
        lines = [f"# {_plain(self.title)}", ""]
        for v in self.verdicts:
            lines += [f"**{_plain(v.question)}** {_plain(v.answer)}. {_plain(v.reason)}", ""]
        for section in self.sections:
            if section.empty:
                continue
            lines += [f"## {_plain(section.title)}", ""]
            for line in section.lines:
                lines += [_plain(line), ""]
            for name in section.figures or {}:
                lines += [f"![{_plain(section.title)}]({pictures}/{name}.png)", ""]
            for table in section.tables:
                if not table.rows:
                    continue
                lines += [_plain(table.caption), "", "| " + " | ".join(map(_plain, table.heads)) + " |"]
                lines.append("|" + "---|" * len(table.heads))
                lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in table.rows]
                lines.append("")
        return "\n".join(lines)

    @property
    def pictures(self) -> dict[str, go.Figure]:
        """All figures by the name of their file."""
        return {name: figure for s in self.sections for name, figure in (s.figures or {}).items()}


def _plain(text: str) -> str:
    """Text as Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", visible(text))


_STYLE = """
main{max-width:1100px;margin:2em auto;padding:0 1em;line-height:1.45}
h1{font-size:1.5em;margin:0 0 .8em}section{margin-top:2.2em}section>h2{font-size:1.2em;margin:0 0 .4em}
p{margin:.4em 0;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:1fr 1fr;gap:1em}
.card{border:1px solid #8a96a366;border-radius:8px;padding:.8em 1em}
.card h2{font-size:.85em;font-weight:500;margin:0;opacity:.75}
.answer{font-size:1.15em;font-weight:600;margin:.2em 0}
.figure{margin:.8em 0;overflow-x:auto}.figure>div{min-width:580px}.table{overflow-x:auto;margin:1em 0}
table{border-collapse:collapse;font-size:.9em}
caption{text-align:left;white-space:nowrap;margin-bottom:.4em;font-weight:600}
th,td{text-align:right;padding:.25em .9em;font-variant-numeric:tabular-nums;vertical-align:top;white-space:nowrap}
th.words,td.words{text-align:left;white-space:normal;min-width:16em}
th{border-bottom:1px solid #8a96a3}td{border-bottom:1px solid #8a96a355}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal}
@media(max-width:700px){.cards{grid-template-columns:1fr}main{margin:1em auto}caption{white-space:normal}
table:has(.words){display:block}table:has(.words) :is(thead,tbody,caption){display:block}
table:has(.words) tr{display:flex;flex-wrap:wrap}table:has(.words) :is(th,td){flex:1 1 0;padding:.25em .3em}
table:has(.words) .words{flex-basis:100%;padding-left:0}.words:empty{display:none}}
@media print{main{max-width:none;margin:0}.card,.figure,tr{break-inside:avoid}section>h2{break-after:avoid}}
"""
