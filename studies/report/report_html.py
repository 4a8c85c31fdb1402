"""The report as one HTML page: predicted against measured, and hypervolume over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from epsopt.figures.calibrations import Comparison, calibration
from epsopt.figures.volumes import hypervolume
from epsopt.optimize.objectives import Objective
from epsopt.studies.pages import html_page
from epsopt.studies.report.report import LoopReport
from epsopt.zoo.html_text import escaped, html_table

if TYPE_CHECKING:
    import plotly.graph_objects as go


def comparisons(report: LoopReport, objectives: Sequence[Objective]) -> list[Comparison]:
    """Return what was predicted of each proposal beside what it measured, metric by metric."""
    out = []
    for objective in objectives:
        for p in report.measured():
            found = p.compared(objective.name)
            if found is not None:
                label = f"proposal {p.number}" + ("" if p.step is None else f", a {p.step.kind}")
                out.append(Comparison(objective.name, label, *found))
    return out


def report_figures(report: LoopReport, objectives: Sequence[Objective]) -> list[go.Figure]:
    """Draw predicted against measured for each objective, and how the front grew; empty where nothing was measured.

    Args:
        report: of the loop.
        objectives: the metrics that count.
    """
    figures = []
    if compared := comparisons(report, objectives):
        level = max(p.level for p in report.measured())
        figures.append(calibration(compared, level, title="Proposed runs: predicted before, and measured"))
    if report.hypervolumes:
        figures.append(hypervolume({"hypervolume": report.hypervolumes}))
    return figures


def page_html(
    title: str,
    lines: Sequence[str],
    figures: Sequence[go.Figure],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]] | None = None,
) -> str:
    """Return the page as HTML; it needs nothing else, not even a network.

    Args:
        title: of the page.
        lines: sentences above the pictures.
        figures: the pictures, if there is anything to draw.
        tables: above the pictures, too, by their captions: headers and rows; all but the first column are numbers.
    """
    said = "".join(f"<p>{escaped(line)}</p>\n" for line in lines)
    shown = "".join(html_table(caption, heads, rows) for caption, (heads, rows) in (tables or {}).items())
    return html_page(
        title, f"<main><h1>{escaped(title)}</h1>\n{said}{shown}", parts=[*figures, "</main>"], style=_STYLE
    )


_STYLE = (
    "main{max-width:1100px;margin:2em auto;padding:0 1em}p{margin:.4em 0}"
    "table{border-collapse:collapse;margin:1.4em 0}caption{text-align:left;white-space:nowrap;margin-bottom:.4em}"
    "th,td{text-align:right;padding:.2em .9em;font-variant-numeric:tabular-nums}th{border-bottom:1px solid #8a96a3}"
    "th:first-child,td:first-child{text-align:left;padding-left:0}td{border-bottom:1px solid #8a96a355}"
)
