"""The report as one HTML page: predicted against measured, coverage and hypervolume over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from epsopt.optimize.objectives import Objective
from epsopt.studies.optuna_io.study_figure import FONT, FRONT, MEASURED, PREDICTED
from epsopt.studies.pages import escaped, html_page
from epsopt.studies.report.report import LoopReport

if TYPE_CHECKING:
    import plotly.graph_objects as go

INSIDE, OUTSIDE = FRONT, PREDICTED
_FEW = 10


def report_figure(report: LoopReport, objectives: Sequence[Objective]) -> go.Figure:
    """Draw one plot of predicted against measured per objective; below, what the intervals held and the front's growth.

    Args:
        report: with at least one proposal whose run ended.
        objectives: the metrics that count.
    """
    from plotly.subplots import make_subplots

    columns = max(len(objectives), 2)
    titles = [escaped(f"{o.name}: predicted and measured") for o in objectives]
    figure = make_subplots(
        rows=2,
        cols=columns,
        row_heights=[0.58, 0.42],
        vertical_spacing=0.16,
        horizontal_spacing=0.09,
        subplot_titles=[*titles, *[""] * (columns - len(titles)), "share of measurements inside", "front over time"],
    )
    for column, objective in enumerate(objectives, 1):
        _predicted_against_measured(figure, report, objective.name, column)
    _coverage(figure, report, objectives)
    _growth(figure, report)
    figure.update_layout(
        template="plotly_white",
        font={"family": FONT, "size": 12, "color": "#24313f"},
        height=760,
        margin={"l": 65, "r": 30, "t": 50, "b": 60},
        legend={"orientation": "h", "x": 0, "y": -0.1, "xanchor": "left", "yanchor": "top"},
    )
    return figure


def _predicted_against_measured(figure: go.Figure, report: LoopReport, name: str, column: int) -> None:
    import plotly.graph_objects as go

    both = [(p, c[-1]) for p in report.measured() if (c := p.compared(name)) is not None]
    if not both:
        return
    done, values = [p for p, _ in both], [v for _, v in both]
    inside = [p.low[name] <= v <= p.high[name] for p, v in both]
    for held, label, colour in ((True, "inside its interval", INSIDE), (False, "outside", OUTSIDE)):
        mine = [(p, v) for p, v, i in zip(done, values, inside, strict=True) if i == held]
        if not mine:
            continue
        figure.add_trace(
            go.Scatter(
                x=[v for _, v in mine],
                y=[p.point[name] for p, _ in mine],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [p.high[name] - p.point[name] for p, _ in mine],
                    "arrayminus": [p.point[name] - p.low[name] for p, _ in mine],
                    "thickness": 1.2,
                    "width": 3,
                },
                mode="markers",
                name=label,
                legendgroup=label,
                showlegend=all(trace.legendgroup != label for trace in figure.data),
                marker={"color": colour, "size": 8},
                hovertext=[
                    f"proposal {p.number}"
                    + ("" if p.step is None else f", a {escaped(p.step.kind)}")
                    + f"<br>measured {v:.4g}, predicted {p.point[name]:.4g}"
                    for p, v in mine
                ],
                hoverinfo="text",
            ),
            row=1,
            col=column,
        )
    ends = [*values, *(p.low[name] for p in done), *(p.high[name] for p in done)]
    span = [min(ends), max(ends)]
    line = {"color": MEASURED, "dash": "dot", "width": 1.2}
    diagonal = go.Scatter(x=span, y=span, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    figure.add_trace(diagonal, row=1, col=column)
    figure.update_xaxes(title_text="measured", row=1, col=column)
    figure.update_yaxes(title_text="predicted before", row=1, col=column)


def _coverage(figure: go.Figure, report: LoopReport, objectives: Sequence[Objective]) -> None:
    import plotly.graph_objects as go

    colours = ("#2e8b57", "#8e6bbf", "#c09020", "#5f6b7a")  # none of them says inside or outside above
    for i, objective in enumerate(objectives):
        steps = [next((a for a in step if a.name == objective.name), None) for step in report.over_time]
        shares = [None if a is None or not a.n else a.inside / a.n for a in steps]
        figure.add_trace(
            go.Scatter(
                x=list(range(1, len(shares) + 1)), y=shares, mode="lines+markers", name=escaped(objective.name),
                line={"color": colours[i % len(colours)], "width": 1.8}, marker={"size": 5},
            ),
            row=2, col=1,
        )  # fmt: skip
    levels = {p.level for p in report.measured()}
    for level in levels:
        figure.add_hline(level, line={"color": MEASURED, "dash": "dot", "width": 1.2}, row=2, col=1)
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", row=2, col=1)
    whole = {"dtick": 1} if len(report.over_time) <= _FEW else {}  # there is no half of a run
    figure.update_xaxes(title_text="runs measured so far", rangemode="tozero", row=2, col=1, **whole)


def _growth(figure: go.Figure, report: LoopReport) -> None:
    import plotly.graph_objects as go

    runs = len(report.hypervolumes)
    if not runs:
        return
    figure.add_trace(
        go.Scatter(
            x=[*range(runs), runs - 0.5], y=[*report.hypervolumes, report.hypervolumes[-1]],  # the last step shows, too
            mode="lines", name="hypervolume",
            line={"color": FRONT, "width": 2, "shape": "hv"}, showlegend=False,
        ),
        row=2, col=2,
    )  # fmt: skip
    figure.update_xaxes(title_text="proposed runs", row=2, col=2)
    figure.update_yaxes(title_text="hypervolume", row=2, col=2)


def page_html(
    title: str,
    lines: Sequence[str],
    figure: go.Figure | None,
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]] | None = None,
) -> str:
    """Return the page as HTML; it needs nothing else, not even a network.

    Args:
        title: of the page.
        lines: sentences above the picture.
        figure: the picture, if there is anything to draw.
        tables: above the picture, too, by their captions: headers and rows; all but the first column are numbers.
    """
    said = "".join(f"<p>{escaped(line)}</p>\n" for line in lines)
    told = "".join(_table(caption, heads, rows) for caption, (heads, rows) in (tables or {}).items())
    return html_page(title, f"<h1>{escaped(title)}</h1>\n{said}{told}", figure, style=_STYLE)


_STYLE = (
    f"body{{font-family:{FONT};color:#24313f;max-width:1100px;margin:2em auto;padding:0 1em}}p{{margin:.4em 0}}"
    "table{border-collapse:collapse;margin:1.4em 0}caption{text-align:left;white-space:nowrap;margin-bottom:.4em}"
    "th,td{text-align:right;padding:.2em .9em;font-variant-numeric:tabular-nums}th{border-bottom:1px solid #24313f}"
    "th:first-child,td:first-child{text-align:left;padding-left:0}td{border-bottom:1px solid #e3e8ee}"
)


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escaped(h)}</th>' for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escaped(c)}</td>" for c in row) + "</tr>\n" for row in rows)
    return (
        f"<table><caption>{escaped(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>"
        "</table>\n"
    )
